//! What must hold of the rows that a decision wrote.

use std::collections::BTreeSet;

use tw_model::{Desired, Kind, MachineId, MachineRecord, Record, TaskId, TaskRecord, TaskState};

use crate::{JobState, Op, State, Txn};

/// No update runs more tasks beyond the wanted number than its job allows.
fn not_too_many(job: &JobState) -> Result<(), String> {
    let (wanted, spec) = (job.wanted(), job.spec());
    let beyond = job.tasks().filter(|row| {
        row.id.index >= wanted && row.desired == Desired::Run && row.state == TaskState::Starting
    });
    // One that was there before took on the version, which did not concern it, and its stop is held back.
    let version = job.current();
    let new = beyond
        .filter(|row| row.version == version.version && row.created_at >= version.at)
        .count();
    match new > spec.rollout.max_surge as usize && !job.row().stopped {
        true => Err(format!(
            "{new} tasks of {} start that nobody wants",
            job.row().id
        )),
        false => Ok(()),
    }
}

/// Tasks that a decision gives a machine, and those that it asks to leave theirs, seen before it is applied.
pub(in crate::simulate) struct Changed {
    placed: BTreeSet<TaskId>,
    /// Those that go once the others have their place: such a task was there when theirs was looked for.
    leaving: Vec<TaskRecord>,
    /// Those that were to end before the others have their place, and that the limiter lets run on for now.
    held_back: BTreeSet<TaskId>,
}

/// The tasks that a decision asks to end.
pub(in crate::simulate) fn stopping(txns: &[Txn]) -> BTreeSet<TaskId> {
    let ops = txns.iter().flat_map(|txn| &txn.ops);
    let stopping = ops.filter_map(|op| match op {
        Op::Put(Record::Task(row)) if row.state == TaskState::Stopping => Some(row.id.clone()),
        _ => None,
    });
    stopping.collect()
}

impl Changed {
    /// The tasks that the limiter lets run on for now.
    pub(in crate::simulate) fn held_back(&self) -> impl Iterator<Item = &TaskId> {
        self.held_back.iter()
    }

    /// What a decision changes, given what it would have stopped but for the limiter.
    pub(in crate::simulate) fn of(
        state: &State,
        txns: &[Txn],
        mut asked: BTreeSet<TaskId>,
    ) -> Changed {
        if !asked.is_empty() {
            let admitted = stopping(txns);
            asked.retain(|task| !admitted.contains(task));
        }
        let mut changed = Changed {
            placed: BTreeSet::new(),
            leaving: Vec::new(),
            held_back: asked,
        };
        for op in txns.iter().flat_map(|txn| &txn.ops) {
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let before = state.task(&row.id);
            let had_place = before.is_some_and(|before| before.machine.is_some());
            let wanted = before.is_some_and(|before| before.desired == Desired::Run);
            let moves = row.comes_back || row.reason.starts_with("makes way for");
            match row.state {
                TaskState::Starting if !had_place => {
                    changed.placed.insert(row.id.clone());
                }
                TaskState::Stopping if wanted && moves => changed.leaving.push((**row).clone()),
                _ => {}
            }
        }
        changed
    }
}

/// What must hold of the rows that a decision wrote.
pub(in crate::simulate) fn written(
    state: &State,
    txns: &[Txn],
    changed: &Changed,
) -> Result<(), String> {
    let mut machines = BTreeSet::new();
    let mut starting = BTreeSet::new();
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        let Op::Put(Record::Task(row)) = op else {
            continue;
        };
        one_live(state, row)?;
        gives_way_to_higher(state, row)?;
        lost_with_reason(state, row)?;
        if row.state == TaskState::Starting {
            starting.insert(&row.id.job);
        }
        machines.extend(row.machine.iter());
    }
    for job in starting {
        if let Some(job) = state.job(job) {
            where_they_may(state, job, changed)?;
            in_turn(job)?;
            one_a_machine(job)?;
            not_too_many(job)?;
        }
    }
    machines
        .into_iter()
        .try_for_each(|machine| capacity(state, machine))
}

/// Tasks that were just placed are where their spec lets them be. Counted anew, without the allocator's own words.
fn where_they_may(state: &State, job: &JobState, changed: &Changed) -> Result<(), String> {
    let placed = &changed.placed;
    let leaving = changed.leaving.iter();
    let leaving = leaving.filter(|row| row.id.job == job.row().id);
    let leaving: BTreeSet<&String> = leaving
        .filter_map(|row| Some(&state.machine(row.machine.as_ref()?)?.facts.rack))
        .collect();
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
            let needed = spread.at_least.min(spec.replicas) as usize;
            // Tasks that leave, and those whose stop was held back, left before others were placed or after that; those of
            // other versions, which say themselves how they are spread, came before or after that.
            let is_other =
                |other: &TaskRecord| placed.contains(&other.id) && other.version != row.version;
            let too_few = |with_leaving: bool, with_held_back: bool, with_others: bool| {
                let counted = live.iter().filter(|(row, _)| {
                    (with_held_back || !changed.held_back.contains(&row.id))
                        && (with_others || !is_other(row))
                });
                let (new, old): (Vec<_>, Vec<_>) =
                    counted.partition(|(row, _)| placed.contains(&row.id) && !is_other(row));
                let mut all = if with_leaving {
                    leaving.clone()
                } else {
                    BTreeSet::new()
                };
                all.extend(old.iter().map(|(_, machine)| &machine.facts.rack));
                let had = all.len();
                all.extend(new.iter().map(|(_, machine)| &machine.facts.rack));
                all.len() < needed.min(had + new.len())
            };
            let mut orders = (0..8).map(|order| (order & 1 == 0, order & 2 == 0, order & 4 == 0));
            if orders.all(|(leaving, held, others)| too_few(leaving, held, others)) {
                let racks: Vec<String> = live
                    .iter()
                    .map(|(row, machine)| {
                        let fresh = if placed.contains(&row.id) { "now " } else { "" };
                        format!("{} {fresh}in {}", row.id, machine.facts.rack)
                    })
                    .collect();
                return Err(format!(
                    "the tasks of {} are in fewer than {needed} racks: {}",
                    row.id.job,
                    racks.join(", ")
                ));
            }
        }
    }
    Ok(())
}

/// No more tasks of a batch job run than may at the same time, and those of one run.
fn in_turn(job: &JobState) -> Result<(), String> {
    let live = job
        .tasks()
        .filter(|row| !row.state.is_terminal() && row.machine.is_some());
    let live: Vec<&TaskRecord> = live.collect();
    let most = job
        .versions()
        .filter_map(|version| version.spec.parallelism)
        .max();
    if most.is_some_and(|most| live.len() > most as usize) {
        return Err(format!(
            "{} tasks of {} run at the same time",
            live.len(),
            job.row().id
        ));
    }
    let wanted = live.iter().filter(|row| row.desired == Desired::Run);
    let runs: BTreeSet<u64> = wanted.map(|row| row.run).collect();
    match runs.len() > 1 {
        true => Err(format!(
            "tasks of the runs {runs:?} of {} run together",
            job.row().id
        )),
        false => Ok(()),
    }
}

/// No machine has two tasks of a daemon.
fn one_a_machine(job: &JobState) -> Result<(), String> {
    let daemons = job.tasks().filter(|row| {
        let live = !row.state.is_terminal() && row.desired == Desired::Run;
        live && job.spec_of(row).kind == Kind::Daemon
    });
    let mut machines = BTreeSet::new();
    let mut placed = daemons.filter_map(|row| row.machine.as_ref());
    match placed.find(|machine| !machines.insert(*machine)) {
        Some(machine) => Err(format!("{machine} has two tasks of {}", job.row().id)),
        None => Ok(()),
    }
}

/// Who is asked to make room has a lower priority than whoever it is for.
fn gives_way_to_higher(state: &State, row: &TaskRecord) -> Result<(), String> {
    let asked = row
        .reason
        .strip_prefix("makes room for ")
        .filter(|_| row.state == TaskState::Stopping);
    let higher = asked.and_then(|text| text.rsplit(' ').next()?.parse::<u32>().ok());
    let own = state.job(&row.id.job).map(|job| job.spec_of(row).priority);
    match higher.zip(own).is_some_and(|(higher, own)| own >= higher) {
        true => Err(format!("{} was to make room for its equal or less", row.id)),
        false => Ok(()),
    }
}

/// Room that is promised to a waiting task is there once those have ended that were asked to, unless someone of higher
/// priority has taken it: nobody of lower priority was placed into it.
pub(in crate::simulate) fn promises_of_room(
    state: &State,
    txns: &[Txn],
    changed: &Changed,
) -> Result<(), String> {
    let ops = txns.iter().flat_map(|txn| &txn.ops);
    let placed = ops.filter_map(|op| match op {
        Op::Put(Record::Task(row)) if row.state == TaskState::Starting => {
            Some((row.as_ref(), state.job(&row.id.job)?))
        }
        _ => None,
    });
    let fresh = placed.filter(|(row, own)| {
        changed.placed.contains(&row.id) && own.spec_of(row).kind != Kind::Daemon
    });
    let fresh: Vec<(&TaskRecord, &JobState)> = fresh.collect();
    if fresh.is_empty() {
        return Ok(());
    }
    let claims = state
        .jobs()
        .flat_map(|job| job.tasks().map(move |row| (job, row)));
    let claims = claims.filter(|(job, row)| {
        row.state == TaskState::Pending && job.spec_of(row).kind != Kind::Daemon
    });
    let claims = claims.filter_map(|(job, row)| Some((job, row, row.meant_for.as_ref()?)));
    let claims: Vec<_> = claims.collect();
    for (placed, own) in fresh {
        for (job, row, machine) in &claims {
            let lower = own.spec().priority < job.spec().priority;
            if !lower || placed.machine.as_ref() != Some(*machine) {
                continue;
            }
            let held = state
                .tasks_on(machine)
                .filter(|row| row.desired == Desired::Run);
            let held =
                held.filter_map(|row| Some(state.job(&row.id.job)?.spec_of(row).resources.cpu.0));
            let whole = state
                .machine(machine)
                .map_or(0, |machine| machine.capacity.cpu.0);
            let free = whole.saturating_sub(held.sum());
            if free < job.spec_of(row).resources.cpu.0 {
                return Err(format!(
                    "{} took room on {machine} that was promised to {}",
                    placed.id, row.id
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
pub(super) fn capacity(state: &State, machine: &MachineId) -> Result<(), String> {
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
