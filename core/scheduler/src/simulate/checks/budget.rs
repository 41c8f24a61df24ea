//! No decision takes more tasks of a job away from its users than the job allows, and updates go in their order.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{
    Desired, Domain, JobId, Kind, MachineId, MachineRecord, Millis, Record, RolloutRecord,
    RolloutState, Stage, TaskId, TaskRecord, TaskState, Timestamp,
};

use crate::simulate::controller::STOP_LIMITS;
use crate::{Event, JobState, Op, RolloutOrder, State, StopRate, Txn, serves};

/// A task at the new version that fails so often in a row has failed its update.
const FAILURES_TO_FAIL: u32 = 3;

/// A job of which a decision stops tasks that serve.
pub(in crate::simulate) struct Disturbed {
    job: JobId,
    indexes: BTreeSet<u32>,
    /// Those that had to leave, whoever else is down.
    due: BTreeSet<u32>,
    recreated: bool,
    /// When its update last made progress, and how long a task may take from then on to become healthy.
    hopeless_after: Option<(Timestamp, Millis)>,
}

impl Disturbed {
    /// Whether a task that is asked to end counts against the budget of its job.
    pub(in crate::simulate) fn counts(&self, task: &TaskId) -> bool {
        self.job == task.job && !self.recreated && self.indexes.contains(&task.index)
    }
}

/// The jobs that a decision disturbs, seen before it is applied.
pub(in crate::simulate) fn disturbed(
    state: &State,
    txns: &[Txn],
    now: Timestamp,
) -> Vec<Disturbed> {
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
    let drains = txns.iter().flat_map(|txn| &txn.ops);
    let drains: BTreeMap<&MachineId, &MachineRecord> = drains
        .filter_map(|op| match op {
            Op::Put(Record::Machine(row)) => Some((&row.id, row)),
            _ => None,
        })
        .collect();
    let disturbed = stopped.into_iter().map(|(job, indexes)| {
        let (due, indexes) = indexes
            .into_iter()
            .partition(|index| leaves_for_good(state, &drains, (job, *index), now));
        Disturbed {
            job: job.clone(),
            indexes,
            due,
            recreated: changes_kind(state, txns, job),
            hopeless_after: state.job(job).and_then(|job| {
                let rollout = job.row().rollout.as_ref()?;
                Some((rollout.progress_at, job.spec().rollout.deadline))
            }),
        }
    });
    disturbed.collect()
}

/// Whether the newest task of an index is on a machine that is to be empty before it could end later: the deadline of a
/// drain goes over every budget, also that of a drain which only this decision begins.
fn leaves_for_good(
    state: &State,
    drains: &BTreeMap<&MachineId, &MachineRecord>,
    (job, index): (&JobId, u32),
    now: Timestamp,
) -> bool {
    let found = state
        .job(job)
        .and_then(|job| Some((job, job.latest(index)?)));
    let Some((job, row)) = found else {
        return false;
    };
    let machine = row.machine.as_ref();
    let machine = machine.and_then(|id| drains.get(id).copied().or_else(|| state.machine(id)));
    let deadline = machine.and_then(|machine| machine.drain.as_ref()?.deadline);
    let stop = &job.spec_of(row).stop;
    deadline.is_some_and(|deadline| {
        let lead = stops_take(state, drains, &row.id.job, deadline);
        now.plus(lead + stop.drain + stop.grace) >= deadline
    })
}

/// How long it takes at the most to stop all that has to leave by a deadline, and what of it is of one job.
fn stops_take(
    state: &State,
    drains: &BTreeMap<&MachineId, &MachineRecord>,
    job: &JobId,
    deadline: Timestamp,
) -> Millis {
    let due = state.machines().filter(|machine| {
        let machine = drains.get(&machine.id).copied().unwrap_or(machine);
        let drain = machine.drain.as_ref();
        drain.is_some_and(|drain| drain.deadline.is_some_and(|other| other <= deadline))
    });
    let (mut all, mut of_job) = (0, 0);
    for row in due.flat_map(|machine| state.tasks_on(&machine.id)) {
        all += 1;
        of_job += u64::from(row.id.job == *job);
    }
    let seconds = |stops: u64, rate: StopRate| Millis(stops * 1000 / u64::from(rate.per_second));
    seconds(all, STOP_LIMITS.total).max(seconds(of_job, STOP_LIMITS.job))
}

/// A paused update stops nothing, unless this decision is that it goes on.
pub(in crate::simulate) fn pauses(
    state: &State,
    event: &Event,
    txns: &[Txn],
) -> Result<(), String> {
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        let Op::Put(Record::Task(row)) = op else {
            continue;
        };
        let rollout = state
            .job(&row.id.job)
            .and_then(|job| job.row().rollout.as_ref());
        let paused = rollout.is_some_and(|rollout| rollout.state == RolloutState::Paused);
        // Another version takes its place, and begins an update of its own.
        let mut ops = txns.iter().flat_map(|txn| &txn.ops);
        let replaced = ops
            .any(|op| matches!(op, Op::Put(Record::Version(version)) if version.job == row.id.job));
        let resumed = matches!(
            event,
            Event::Rollout { job, order: RolloutOrder::Resume, .. } if *job == row.id.job
        );
        let paused = paused && !replaced && !resumed;
        let before = state.task(&row.id).map(|before| before.desired);
        let stops = before == Some(Desired::Run) && row.desired == Desired::Stop;
        if paused && stops && row.reason.starts_with("makes way for") {
            return Err(format!("{} makes way in a paused update", row.id));
        }
    }
    Ok(())
}

/// Tasks that make way in an update are in the part of the fleet that its stage is, and where tasks beyond the wanted
/// number were started, those serve in place of all that are down. Counted anew, without the words of the decisions.
pub(in crate::simulate) fn makes_way(
    state: &State,
    txns: &[Txn],
    disturbed: &[Disturbed],
    now: Timestamp,
) -> Result<(), String> {
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        let Op::Put(Record::Task(row)) = op else {
            continue;
        };
        let made = row.desired == Desired::Stop && row.reason.starts_with("makes way for");
        let one = disturbed.iter().find(|one| one.job == row.id.job);
        let Some(one) =
            one.filter(|one| made && !one.recreated && one.indexes.contains(&row.id.index))
        else {
            continue;
        };
        let Some(job) = state.job(&row.id.job) else {
            continue;
        };
        if let Some(rollout) = &job.row().rollout {
            within_its_stage(state, job, rollout, row)?;
            let placed = placed_with_it(job, txns);
            surged(job, rollout, one, &placed, now)?;
        }
    }
    Ok(())
}

/// Tasks that a decision places which are to be away from others of their job: they may have their place because one of
/// those goes.
fn placed_with_it<'a>(job: &JobState, txns: &'a [Txn]) -> BTreeSet<&'a TaskId> {
    let spec = job.spec();
    let particular = !spec.spread.is_empty() || !spec.anti_affinity.is_empty();
    let ops = txns.iter().flat_map(|txn| &txn.ops);
    let placed = ops.filter_map(|op| match op {
        Op::Put(Record::Task(row)) if row.state == TaskState::Starting => Some(&row.id),
        _ => None,
    });
    placed.filter(|_| particular).collect()
}

fn within_its_stage(
    state: &State,
    job: &JobState,
    rollout: &RolloutRecord,
    row: &TaskRecord,
) -> Result<(), String> {
    let stage = job.spec().rollout.stages.get(rollout.stage as usize);
    let Some(Stage::Within(part)) = stage.filter(|_| !rollout.rollback) else {
        return Ok(());
    };
    let place = |machine: Option<&MachineId>| {
        let machine = state.machine(machine?)?;
        match part {
            Domain::Machine => Some(machine.id.to_string()),
            _ => Some(machine.facts.rack.clone()),
        }
    };
    match place(row.machine.as_ref()) == place(rollout.origin.as_ref()) {
        true => Ok(()),
        false => Err(format!(
            "{} makes way on {:?} in a stage of one {} around {:?}",
            row.id,
            row.machine,
            part.as_str(),
            rollout.origin
        )),
    }
}

fn surged(
    job: &JobState,
    rollout: &RolloutRecord,
    one: &Disturbed,
    placed: &BTreeSet<&TaskId>,
    now: Timestamp,
) -> Result<(), String> {
    let wanted = job.wanted();
    let extra = |row: &&TaskRecord| {
        let beyond = row.id.index >= wanted && row.id.index < wanted + rollout.surge;
        let before = !placed.contains(&row.id);
        beyond && before && row.version == rollout.to && row.desired == Desired::Run
    };
    let extras: Vec<&TaskRecord> = job.tasks().filter(extra).collect();
    // One that has failed is waited for no longer, and may be down beside the others.
    let failed = |row: &TaskRecord| {
        let hopeless = one.hopeless_after.is_some_and(|(progress, deadline)| {
            let ill = row.healthy_since.filter(|_| row.healthy == Some(false));
            let since = progress.max(row.created_at);
            now.since(ill.map_or(since, |ill| ill.max(since))) > deadline
        });
        let gate = job.spec_of(row).rollout.healthy_for;
        let since = row.healthy_since.filter(|_| serves(job, row));
        let settled = since.is_some_and(|since| now.since(since) >= gate);
        row.version == rollout.to && !settled && (row.failures >= FAILURES_TO_FAIL || hopeless)
    };
    let placed = extras
        .iter()
        .filter(|row| row.machine.is_some() && !row.state.is_terminal() && !failed(row));
    if rollout.state != RolloutState::Running || placed.count() == 0 {
        return Ok(());
    }
    let up = extras.iter().filter(|row| serves(job, row)).count();
    let down = job.indexes().filter(|index| {
        let latest = job.latest(*index);
        let counts = !latest.is_some_and(|row| serves(job, row) || failed(row));
        counts && !one.due.contains(index)
    });
    let down: Vec<u32> = down.collect();
    match down.len() > up {
        true => Err(format!(
            "{} has {up} tasks more, and these are down: {}",
            job.row().id,
            describe(job, &down)
        )),
        false => Ok(()),
    }
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
pub(in crate::simulate) fn budget(state: &State, disturbed: &[Disturbed]) -> Result<(), String> {
    for one in disturbed.iter().filter(|one| !one.recreated) {
        let Some(job) = state.job(&one.job).filter(|job| !job.row().stopped) else {
            continue;
        };
        let spec = job.spec();
        // Tasks that are too many may all go at once.
        let wanted: BTreeSet<u32> = job.indexes().collect();
        let surplus_only = one.indexes.is_disjoint(&wanted);
        let wanted = wanted.difference(&one.due).copied();
        if surplus_only || spec.kind == Kind::Batch {
            continue;
        }
        let serving = |index: &u32| job.latest(*index).is_some_and(|row| serves(job, row));
        let down: Vec<u32> = wanted.filter(|index| !serving(index)).collect();
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
