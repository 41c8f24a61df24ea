//! What must hold after every step, after every recovery, and in the end.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{
    Desired, JobId, Kind, MachineId, MachineRecord, MachineState, Record, TaskId, TaskRecord,
    TaskState, Timestamp,
};

use super::client::Client;
use super::controller::Durable;
use crate::unsettled::overlooked;
use crate::{JobState, Op, State, Txn, serves};

/// A job of which a decision stops tasks that serve.
pub(super) struct Disturbed {
    job: JobId,
    indexes: BTreeSet<u32>,
    recreated: bool,
}

/// The jobs that a decision disturbs, seen before it is applied.
pub(super) fn disturbed(state: &State, txns: &[Txn]) -> Vec<Disturbed> {
    let mut stopped: BTreeMap<&JobId, BTreeSet<u32>> = BTreeMap::new();
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        match op {
            Op::Put(Record::Task(row))
                if row.desired == Desired::Stop && was_serving(state, row) =>
            {
                stopped.entry(&row.id.job).or_default().insert(row.id.index);
            }
            _ => {}
        }
    }
    let disturbed = stopped.into_iter().map(|(job, indexes)| Disturbed {
        job: job.clone(),
        indexes,
        recreated: changes_kind(state, txns, job),
    });
    disturbed.collect()
}

fn was_serving(state: &State, row: &TaskRecord) -> bool {
    let job = state.job(&row.id.job);
    let before = job.and_then(|job| Some((job, job.task(row.id.index, row.id.incarnation)?)));
    // One that the same decision learnt to be unhealthy serves nobody any more.
    before.is_some_and(|(job, before)| serves(job, before) && row.healthy == before.healthy)
}

fn changes_kind(state: &State, txns: &[Txn], job: &JobId) -> bool {
    let kind = state.job(job).map(|job| job.spec().kind);
    let mut ops = txns.iter().flat_map(|txn| &txn.ops);
    ops.any(|op| matches!(op, Op::Put(Record::Version(row)) if row.job == *job && Some(row.spec.kind) != kind))
}

/// No update takes down more tasks than its job allows.
pub(super) fn budget(state: &State, disturbed: &[Disturbed]) -> Result<(), String> {
    for one in disturbed.iter().filter(|one| !one.recreated) {
        let Some(job) = state.job(&one.job).filter(|job| !job.row().stopped) else {
            continue;
        };
        let spec = job.spec();
        // Tasks that are too many may all go at once.
        let surplus_only = one.indexes.iter().all(|index| *index >= job.wanted());
        if surplus_only || spec.kind == Kind::Batch {
            continue;
        }
        let serving = |index: &u32| job.latest(*index).is_some_and(|row| serves(job, row));
        let down: Vec<u32> = (0..job.wanted()).filter(|index| !serving(index)).collect();
        if down.len() > spec.rollout.max_unavailable as usize {
            return Err(format!(
                "an update of {} took down {:?}; {} may be down, and these are: {}",
                one.job,
                one.indexes,
                spec.rollout.max_unavailable,
                describe(job, &down)
            ));
        }
    }
    Ok(())
}

/// The newest rows of some indexes in words.
fn describe(job: &JobState, indexes: &[u32]) -> String {
    let rows = indexes.iter().filter_map(|index| job.latest(*index));
    let rows = rows.map(|row| {
        format!(
            "{} {} v{} healthy={:?} {}",
            row.id, row.state, row.version, row.healthy, row.reason
        )
    });
    rows.collect::<Vec<_>>().join(", ")
}

/// What must hold of the rows that a decision wrote.
pub(super) fn written(state: &State, txns: &[Txn]) -> Result<(), String> {
    let mut machines = BTreeSet::new();
    let mut placed: BTreeMap<&JobId, BTreeSet<&TaskId>> = BTreeMap::new();
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        let Op::Put(Record::Task(row)) = op else {
            continue;
        };
        one_live(state, row)?;
        lost_with_reason(state, row)?;
        if row.state == TaskState::Starting {
            placed.entry(&row.id.job).or_default().insert(&row.id);
        }
        machines.extend(row.machine.iter());
    }
    for (job, placed) in &placed {
        if let Some(job) = state.job(job) {
            where_they_may(state, job, placed)?;
        }
    }
    machines
        .into_iter()
        .try_for_each(|machine| capacity(state, machine))
}

/// Tasks that were just placed are where their spec lets them be. Counted anew, without the allocator's own words.
fn where_they_may(state: &State, job: &JobState, placed: &BTreeSet<&TaskId>) -> Result<(), String> {
    let live = job
        .tasks()
        .filter(|row| !row.state.is_terminal() && row.desired == Desired::Run);
    let live: Vec<(&TaskRecord, &MachineRecord)> = live
        .filter_map(|row| Some((row, state.machine(row.machine.as_ref()?)?)))
        .collect();
    for (row, machine) in live.iter().filter(|(row, _)| placed.contains(&row.id)) {
        let spec = job.spec_of(row);
        let mut labels = spec.requires.labels.iter();
        if labels.any(|(key, value)| machine.facts.labels.get(&key.0) != Some(value)) {
            return Err(format!(
                "{} is on {}, which it may not be",
                row.id, machine.id
            ));
        }
        let apart = spec
            .anti_affinity
            .iter()
            .any(|wish| wish.job == row.id.job.name);
        let beside = live
            .iter()
            .find(|(other, place)| other.id != row.id && place.id == machine.id);
        if let Some((other, _)) = beside.filter(|_| apart) {
            return Err(format!(
                "{} shares {} with {}",
                row.id, machine.id, other.id
            ));
        }
        for spread in &spec.spread {
            let rack = |(_, machine): &(&TaskRecord, &MachineRecord)| machine.facts.rack.clone();
            let old = live.iter().filter(|(row, _)| !placed.contains(&row.id));
            let old: BTreeSet<String> = old.map(rack).collect();
            let all: BTreeSet<String> = live.iter().map(rack).collect();
            let needed = spread.at_least.min(spec.replicas) as usize;
            if all.len() < needed.min(old.len() + placed.len()) {
                return Err(format!(
                    "the tasks of {} are in {} racks only",
                    row.id.job,
                    all.len()
                ));
            }
        }
    }
    Ok(())
}

fn one_live(state: &State, row: &TaskRecord) -> Result<(), String> {
    let Some(job) = state.job(&row.id.job) else {
        return Err(format!("{} belongs to no job", row.id));
    };
    let rows = job.of_index(row.id.index);
    let live = rows.filter(|row| !row.state.is_terminal()).count();
    match live > 1 {
        true => Err(format!(
            "{live} tasks of {}.{} live",
            row.id.job, row.id.index
        )),
        false => Ok(()),
    }
}

/// Only what happened to its machine makes a task lost: no agent or controller that begins anew does.
fn lost_with_reason(state: &State, row: &TaskRecord) -> Result<(), String> {
    let machine = row.machine.as_ref().and_then(|id| state.machine(id));
    let moved_on = machine.is_some_and(|machine| machine.epoch > row.machine_epoch);
    match row.state == TaskState::Lost && !moved_on {
        true => Err(format!("{} was lost, and its machine was not", row.id)),
        false => Ok(()),
    }
}

/// The live tasks of a machine fit on it, and share no port.
fn capacity(state: &State, machine: &MachineId) -> Result<(), String> {
    let rows = state.tasks_on(machine);
    let here = rows.filter_map(|row| Some((state.job(&row.id.job)?, row)));
    let Some(host) = state.machine(machine) else {
        return Err(format!("tasks are on {machine}, which does not exist"));
    };
    let (mut cpu, mut memory, mut disk, mut bandwidth) = (0, 0, 0, 0);
    let mut ports = BTreeSet::new();
    for (job, row) in here {
        let resources = &job.spec_of(row).resources;
        cpu += resources.cpu.0;
        memory += resources.memory.0;
        disk += resources.disk.0;
        bandwidth += resources.bandwidth.0;
        if let Some(port) = row.ports.values().find(|port| !ports.insert(**port)) {
            return Err(format!("{} shares port {port} of {machine}", row.id));
        }
    }
    let capacity = &host.capacity;
    let over = [
        (cpu, capacity.cpu.0),
        (memory, capacity.memory.0),
        (disk, capacity.disk.0),
        (bandwidth, capacity.bandwidth.0),
    ];
    match over.into_iter().any(|(held, whole)| held > whole) {
        true => Err(format!("{machine} holds more than it has")),
        false => Ok(()),
    }
}

/// The state is what its durable rows say.
pub(super) fn fold(state: &State, durable: &Durable) -> Result<(), String> {
    let rows: BTreeMap<_, _> = state.records().map(|row| (row.key(), row)).collect();
    for (key, row) in &durable.rows {
        match rows.get(key) {
            Some(ours) if ours == row => {}
            Some(_) => return Err(format!("the state and the store differ in {key}")),
            None => return Err(format!("the state lacks {key}")),
        }
    }
    match rows.keys().find(|key| !durable.rows.contains_key(key)) {
        Some(key) => Err(format!("the store lacks {key}")),
        None => Ok(()),
    }
}

/// Nothing is due for a job that a tick does not look at.
pub(super) fn settled(state: &State, now: Timestamp) -> Result<(), String> {
    match overlooked(state, now) {
        Some(id) => Err(format!(
            "something is due for {id}, and no tick looks at it"
        )),
        None => Ok(()),
    }
}

/// The index of the machines agrees with the rows.
pub(super) fn index(state: &State) -> Result<(), String> {
    let machines: Vec<MachineId> = state.machines().map(|row| row.id.clone()).collect();
    let fresh = State::from_records(state.records());
    for machine in machines {
        if state.reserved_on(&machine) != fresh.reserved_on(&machine) {
            return Err(format!("what is held on {machine} was miscounted"));
        }
        capacity(state, &machine)?;
    }
    Ok(())
}

/// Nothing that was granted is forgotten.
pub(super) fn promises(state: &State, client: &Client) -> Result<(), String> {
    for (id, promise) in &client.promised {
        let Some(job) = state.job(id) else {
            return Err(format!("{id} was granted and is gone"));
        };
        if job.row().version < promise.version {
            return Err(format!(
                "{id} was granted version {} and is at {}",
                promise.version,
                job.row().version
            ));
        }
        if client.open.is_none() && **job.spec() != promise.spec {
            return Err(format!("{id} is not as it was granted"));
        }
        if client.open.is_none() && job.row().stopped != promise.stopped {
            return Err(format!(
                "{id} was stopped, or not stopped, against what was granted"
            ));
        }
    }
    Ok(())
}

/// Everything is as it is wanted.
pub(super) fn converged(state: &State) -> Result<(), String> {
    if let Some(lost) = state.machines().find(|row| row.state == MachineState::Lost) {
        return Err(format!("{} is back and counts as lost", lost.id));
    }
    state.jobs().try_for_each(job_converged)
}

/// A task in a few words.
fn standing(task: &TaskRecord) -> String {
    format!(
        "{} {} at version {}, healthy {:?} since {:?}, {}",
        task.id,
        task.state,
        task.version,
        task.healthy,
        task.healthy_since.map(|since| since.to_string()),
        task.reason
    )
}

fn job_converged(job: &JobState) -> Result<(), String> {
    let row = job.row();
    if let Some(rollout) = &row.rollout {
        let tasks: Vec<String> = job
            .tasks()
            .filter(|task| !task.state.is_terminal())
            .map(standing)
            .collect();
        return Err(format!(
            "the update of {} to version {} is {:?} in stage {} since {}: {} its tasks: {}",
            row.id,
            rollout.to,
            rollout.state,
            rollout.stage,
            rollout.stage_started_at,
            rollout.reason,
            tasks.join(", ")
        ));
    }
    for task in job.tasks().filter(|task| !task.state.is_terminal()) {
        if task.id.index >= job.wanted() {
            return Err(format!("{} is {} and not wanted", task.id, task.state));
        }
    }
    for index in 0..job.wanted() {
        let Some(task) = job.latest(index) else {
            return Err(format!("{}.{index} never began", row.id));
        };
        let done = job.spec().kind == Kind::Batch && task.state == TaskState::Done;
        let serving = serves(job, task) && task.version == row.version;
        if !done && !serving {
            return Err(format!(
                "{} is {} at version {} of {}: {}",
                task.id, task.state, task.version, row.version, task.reason
            ));
        }
    }
    let stable = row.stopped || row.stable_version == row.version;
    match stable {
        true => Ok(()),
        false => Err(format!(
            "{} does not count as stable at version {}",
            row.id, row.version
        )),
    }
}
