//! What must hold after every step, after every recovery, and in the end.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{
    Desired, Domain, JobId, Kind, MachineId, MachineRecord, MachineState, Millis, Record,
    RecordKey, RolloutRecord, RolloutState, RunOutcome, Stage, TaskId, TaskRecord, TaskState,
    Timestamp,
};

use super::client::Client;
use super::controller::{Durable, STOP_LIMITS};
use super::coverage::Budget;
use crate::unsettled::overlooked;
use crate::{
    Event, JobState, Op, Request, RolloutOrder, State, StopRate, Txn, outage, serves, steadiness,
};

/// What waits for a job has started and is healthy so long after.
const STARTED_WITHIN: Millis = Millis::minutes(5);

/// A task at the new version that fails so often in a row has failed its update.
const FAILURES_TO_FAIL: u32 = 3;

/// How long a stop may be held back because others come first.
const STOP_HELD_BACK_MAX: Millis = Millis::seconds(20);

/// Counts how fast tasks are stopped, without the limiter's own words: what was stopped drains away at the allowed
/// rate, and what has not drained yet is never more than may be stopped at once.
#[derive(Debug, Default)]
pub(super) struct StopMeter {
    total: Level,
    jobs: BTreeMap<JobId, Level>,
}

#[derive(Debug, Default)]
struct Level {
    stops: f64,
    at: u64,
}

impl Level {
    /// With one more stop.
    fn next(&self, rate: StopRate, at: u64) -> f64 {
        let drained = (at - self.at) as f64 / 1000.0 * f64::from(rate.per_second);
        (self.stops - drained).max(0.0) + 1.0
    }

    fn is_full(&self, rate: StopRate, at: u64) -> bool {
        self.next(rate, at) > f64::from(rate.burst) + 0.001
    }

    fn add(&mut self, whose: &str, rate: StopRate, at: u64) -> Result<(), String> {
        let is_full = self.is_full(rate, at);
        self.stops = self.next(rate, at);
        self.at = at;
        match is_full {
            true => Err(format!(
                "{:.1} tasks of {whose} were stopped where {} may be at once",
                self.stops, rate.burst
            )),
            false => Ok(()),
        }
    }
}

impl StopMeter {
    /// Counts the tasks that a decision asks to end, before it is applied.
    pub(super) fn count(&mut self, state: &State, txns: &[Txn], at: u64) -> Result<(), String> {
        for op in txns.iter().flat_map(|txn| &txn.ops) {
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let stops = |before: &&TaskRecord| {
                before.desired == Desired::Run
                    && before.machine.is_some()
                    && !before.state.is_terminal()
            };
            if row.desired == Desired::Run || state.task(&row.id).filter(stops).is_none() {
                continue;
            }
            let job = self.jobs.entry(row.id.job.clone()).or_default();
            job.add("a job", STOP_LIMITS.job, at)
                .map_err(|what| format!("{}: {what}", row.id.job))?;
            self.total.add("all jobs", STOP_LIMITS.total, at)?;
        }
        Ok(())
    }

    /// Why the tasks that a decision was to stop run on, once those are counted that it stops.
    pub(super) fn held_back<'a>(
        &self,
        tasks: impl Iterator<Item = &'a TaskId>,
        at: u64,
    ) -> BTreeSet<Budget> {
        let all = self.total.is_full(STOP_LIMITS.total, at);
        let reasons = tasks.map(|task| {
            let level = self.jobs.get(&task.job);
            match level.is_some_and(|level| level.is_full(STOP_LIMITS.job, at)) {
                true => Budget::StopsOfJob,
                false if all => Budget::StopsOfAll,
                false => Budget::StopsAtFirst,
            }
        });
        reasons.collect()
    }
}

/// Counts how fast the tasks of lost machines are replaced while a large part of the fleet is lost. Counted anew,
/// without the words of the decisions.
#[derive(Debug, Default)]
pub(super) struct Pace {
    level: f64,
    at: Option<Timestamp>,
    /// The most tasks that one machine had.
    largest: f64,
    /// What was given up so far: a commit that fails is decided on again.
    counted: BTreeSet<TaskId>,
}

/// How long the replacement may stand still and make up for it afterwards.
const PACE_SLACK_SECONDS: f64 = 8.0;

impl Pace {
    /// Counts the tasks that a decision gives up, before it is applied.
    pub(super) fn count(
        &mut self,
        state: &State,
        txns: &[Txn],
        now: Timestamp,
    ) -> Result<(), String> {
        // Whatever ends an outage or begins one, and whatever gives up a task, is written by a decision.
        if txns.is_empty() {
            return Ok(());
        }
        let (mut gone, mut all) = (0, 0);
        for row in state.machines() {
            let lost = row.state == MachineState::Lost;
            let lately = lost && now.since(row.changed_at) < outage::WINDOW;
            gone += usize::from(lately);
            all += usize::from(lately || !lost);
        }
        if gone < outage::MACHINES_MIN || gone * 100 < outage::SHARE_PERCENT * all {
            *self = Pace::default();
            return Ok(());
        }
        let rate = all as f64 / 10.0;
        let passed = self.at.map_or(0.0, |at| now.since(at).0 as f64 / 1000.0);
        self.level = (self.level - passed * rate).max(0.0);
        self.at = Some(now);
        let mut on: BTreeMap<&MachineId, f64> = BTreeMap::new();
        for op in txns.iter().flat_map(|txn| &txn.ops) {
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let lived = |before: &&TaskRecord| {
                !before.state.is_terminal() && before.desired == Desired::Run
            };
            let given_up = row.state == TaskState::Lost
                && row.reason.starts_with("its machine was lost")
                && state.task(&row.id).filter(lived).is_some();
            let machine = row.machine.as_ref().filter(|_| given_up);
            if let Some(machine) = machine.filter(|_| self.counted.insert(row.id.clone())) {
                *on.entry(machine).or_default() += 1.0;
            }
        }
        self.largest = on.values().copied().fold(self.largest, f64::max);
        self.level += on.values().sum::<f64>();
        match self.level > self.largest + rate * PACE_SLACK_SECONDS {
            true => Err(format!(
                "{:.1} tasks are replaced at once although {gone} of {all} machines are lost",
                self.level
            )),
            false => Ok(()),
        }
    }
}

/// Tasks that a decision gives to a machine that keeps going away, seen before it is applied, with the machines that
/// could have taken them.
pub(super) fn on_unsteady(
    state: &State,
    txns: &[Txn],
    now: Timestamp,
) -> Vec<(TaskId, Request, Vec<MachineId>)> {
    let ops = txns.iter().flat_map(|txn| &txn.ops);
    let placed = ops.filter_map(|op| match op {
        Op::Put(Record::Task(row)) if row.state == TaskState::Starting => Some(row),
        _ => None,
    });
    let fresh = placed.filter(|row| {
        let before = state.task(&row.id);
        before.is_none_or(|before| before.machine.is_none() && before.meant_for.is_none())
    });
    let unsteady = fresh.filter(|row| {
        let machine = row.machine.as_ref().and_then(|id| state.machine(id));
        machine.is_some_and(|machine| steadiness::is_unsteady(machine, now))
    });
    let found = unsteady.filter_map(|row| {
        let mut ops = txns.iter().flat_map(|txn| &txn.ops);
        let written = ops.find_map(|op| match op {
            Op::Put(Record::Version(it)) if it.job == row.id.job && it.version == row.version => {
                Some(&it.spec)
            }
            _ => None,
        });
        let spec = || Some(state.job(&row.id.job)?.spec_of(row));
        let request = Request::of(written.or_else(spec)?);
        let steady = state.machines().filter(|machine| {
            machine.takes_tasks()
                && !steadiness::is_unsteady(machine, now)
                && machine.ailments.is_empty()
                && has_room(state, machine, &request)
        });
        let steady = steady.map(|machine| machine.id.clone());
        Some((row.id.clone(), request, steady.collect()))
    });
    found.collect()
}

/// Nothing is on a machine that keeps going away while a better one has room, as far as nothing else speaks against
/// that one.
pub(super) fn steadier(
    state: &State,
    placed: &[(TaskId, Request, Vec<MachineId>)],
    now: Timestamp,
) -> Result<(), String> {
    let mut rows = state.jobs().flat_map(|job| job.tasks());
    if placed.is_empty() || rows.any(|row| row.meant_for.is_some() && row.machine.is_none()) {
        return Ok(());
    }
    for (task, request, better) in placed {
        let Some((job, row)) = state
            .job(&task.job)
            .and_then(|job| Some((job, state.task(task)?)))
        else {
            continue;
        };
        let spec = job.spec_of(row);
        let plain = spec.kind != Kind::Daemon
            && spec.requires.labels.is_empty()
            && spec.spread.is_empty()
            && spec.anti_affinity.is_empty()
            && job.row().rollout.is_none()
            && !job.tasks().any(steadiness::has_failed);
        let mut better = better.iter().filter_map(|id| state.machine(id));
        let found = better.find(|machine| {
            let steady = !steadiness::is_unsteady(machine, now);
            steady && machine.takes_tasks() && has_room(state, machine, request)
        });
        if let Some(machine) = found.filter(|_| plain) {
            return Err(format!(
                "{task} is on a machine that keeps going away, and {} has room",
                machine.id
            ));
        }
    }
    Ok(())
}

/// Whether a machine has room for one more.
pub(super) fn has_room(state: &State, machine: &MachineRecord, request: &Request) -> bool {
    let held = state.reserved_on(&machine.id);
    let whole = &machine.capacity;
    let ports = u32::from(whole.port_last - whole.port_first) + 1;
    held.cpu + request.cpu <= whole.cpu
        && held.memory + request.memory <= whole.memory
        && held.disk + request.disk <= whole.disk
        && held.bandwidth + request.bandwidth <= whole.bandwidth
        && held.ports + request.ports <= ports
}

/// A job of which a decision stops tasks that serve.
pub(super) struct Disturbed {
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
    pub(super) fn counts(&self, task: &TaskId) -> bool {
        self.job == task.job && !self.recreated && self.indexes.contains(&task.index)
    }
}

/// The jobs that a decision disturbs, seen before it is applied.
pub(super) fn disturbed(state: &State, txns: &[Txn], now: Timestamp) -> Vec<Disturbed> {
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
pub(super) fn pauses(state: &State, event: &Event, txns: &[Txn]) -> Result<(), String> {
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

/// Nothing is left to run on a machine that was to be empty by now, unless the controller has only just begun: it may stop
/// nothing at first.
pub(super) fn drained(state: &State, age: Millis, now: Timestamp) -> Result<(), String> {
    if age < STOP_HELD_BACK_MAX {
        return Ok(());
    }
    for machine in state.machines() {
        let deadline = machine.drain.as_ref().and_then(|drain| drain.deadline);
        let over = deadline.is_some_and(|end| end.plus(STOP_HELD_BACK_MAX) < now);
        if !over || machine.state == MachineState::Lost {
            continue;
        }
        let mut rows = state.tasks_on(&machine.id);
        if let Some(row) = rows.find(|row| row.desired == Desired::Run) {
            return Err(format!(
                "{} stays on {}, which was to be empty",
                row.id, machine.id
            ));
        }
    }
    Ok(())
}

/// Tasks that make way in an update are in the part of the fleet that its stage is, and where tasks beyond the wanted
/// number were started, those serve in place of all that are down. Counted anew, without the words of the decisions.
pub(super) fn makes_way(
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

/// Tasks that a decision gives a machine, and those that it asks to leave theirs, seen before it is applied.
pub(super) struct Changed {
    placed: BTreeSet<TaskId>,
    /// Those that go once the others have their place: such a task was there when theirs was looked for.
    leaving: Vec<TaskRecord>,
    /// Those that were to end before the others have their place, and that the limiter lets run on for now.
    held_back: BTreeSet<TaskId>,
}

/// The tasks that a decision asks to end.
pub(super) fn stopping(txns: &[Txn]) -> BTreeSet<TaskId> {
    let ops = txns.iter().flat_map(|txn| &txn.ops);
    let stopping = ops.filter_map(|op| match op {
        Op::Put(Record::Task(row)) if row.state == TaskState::Stopping => Some(row.id.clone()),
        _ => None,
    });
    stopping.collect()
}

impl Changed {
    /// The tasks that the limiter lets run on for now.
    pub(super) fn held_back(&self) -> impl Iterator<Item = &TaskId> {
        self.held_back.iter()
    }

    /// What a decision changes, given what it would have stopped but for the limiter.
    pub(super) fn of(state: &State, txns: &[Txn], mut asked: BTreeSet<TaskId>) -> Changed {
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
pub(super) fn written(state: &State, txns: &[Txn], changed: &Changed) -> Result<(), String> {
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
            // Tasks that leave, and those whose stop was held back, left before others were placed or after that.
            let too_few = |with_leaving: bool, with_held_back: bool| {
                let counted = live
                    .iter()
                    .filter(|(row, _)| with_held_back || !changed.held_back.contains(&row.id));
                let (new, old): (Vec<_>, Vec<_>) =
                    counted.partition(|(row, _)| placed.contains(&row.id));
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
            let orders = [(true, true), (true, false), (false, true), (false, false)];
            if orders
                .into_iter()
                .all(|(leaving, held)| too_few(leaving, held))
            {
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
pub(super) fn promises_of_room(
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

/// After a tick nothing of a batch job has run for longer than a try may, and no run is due.
///
/// A controller that has only just begun may stop nothing at first.
pub(super) fn on_time(state: &State, age: Millis, now: Timestamp) -> Result<(), String> {
    let timed = |job: &&JobState| {
        let mut versions = job.versions();
        job.spec().schedule.is_some() || versions.any(|version| version.spec.timeout.is_some())
    };
    for job in state.jobs().filter(timed) {
        let running = job.tasks().filter(|row| row.state == TaskState::Running);
        let mut late = running.filter(|row| {
            let timeout = job.spec_of(row).timeout;
            let end = row
                .started_at
                .zip(timeout)
                .map(|(began, timeout)| began.plus(timeout + STOP_HELD_BACK_MAX));
            end.is_some_and(|end| end < now)
        });
        if let Some(task) = late.next().filter(|_| age >= STOP_HELD_BACK_MAX) {
            return Err(format!(
                "{} has run for too long, and nobody minds",
                task.id
            ));
        }
        let runs = job
            .row()
            .runs
            .as_ref()
            .filter(|_| job.spec().schedule.is_some());
        let next = runs
            .filter(|_| !job.row().stopped)
            .and_then(|runs| runs.next_at);
        if next.is_some_and(|next| next < now) {
            return Err(format!(
                "a run of {} is due, and did not begin",
                job.row().id
            ));
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

/// Every job in the store has the version that it wants.
pub(super) fn versions(durable: &Durable) -> Result<(), String> {
    for row in durable.rows.values() {
        if let Record::Job(row) = row
            && !durable
                .rows
                .contains_key(&RecordKey::Version(row.id.clone(), row.version))
        {
            return Err(format!("the store holds {} without its version", row.id));
        }
    }
    Ok(())
}

/// The state is what its durable rows say.
pub(super) fn fold(state: &State, durable: &Durable) -> Result<(), String> {
    // Keys are unique: where every durable row is held as it is, as many rows mean the same rows.
    let same = durable.rows.values().all(|row| state.holds(row));
    if same && state.len() == durable.rows.len() {
        return Ok(());
    }
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
    let mut held: BTreeMap<MachineId, Request> = BTreeMap::new();
    for job in state.jobs() {
        for (machine, reserved) in job.tasks().filter_map(|row| job.reservation(row)) {
            held.entry(machine).or_default().add(&Request {
                cpu: reserved.cpu,
                memory: reserved.memory,
                disk: reserved.disk,
                ports: reserved.ports.len() as u32,
                bandwidth: reserved.bandwidth,
            });
        }
    }
    for row in state.machines() {
        let counted = held.get(&row.id).copied().unwrap_or_default();
        if state.reserved_on(&row.id) != counted {
            return Err(format!("what is held on {} was miscounted", row.id));
        }
        capacity(state, &row.id)?;
    }
    Ok(())
}

/// Nothing that was granted is forgotten.
pub(super) fn promises(state: &State, client: &Client) -> Result<(), String> {
    let mut jobs = client.promised.keys();
    jobs.try_for_each(|id| promise(state, client, id))
}

/// Nothing that was granted is forgotten by a decision, once it is applied.
pub(super) fn promises_of(state: &State, client: &Client, txns: &[Txn]) -> Result<(), String> {
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        match op {
            Op::Put(Record::Job(row)) => promise(state, client, &row.id)?,
            Op::Delete(RecordKey::Job(id)) => promise(state, client, id)?,
            _ => {}
        }
    }
    Ok(())
}

/// What was granted of a job is so, if anything was.
fn promise(state: &State, client: &Client, id: &JobId) -> Result<(), String> {
    let Some(promise) = client.promised.get(id) else {
        return Ok(());
    };
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
    // An update that failed may take itself back.
    let taken_back = job.current().by == "the update itself";
    if client.open.is_none() && **job.spec() != promise.spec && !taken_back {
        return Err(format!("{id} is not as it was granted"));
    }
    if client.open.is_none() && job.row().stopped != promise.stopped {
        return Err(format!(
            "{id} was stopped, or not stopped, against what was granted"
        ));
    }
    Ok(())
}

/// Everything is as it is wanted.
pub(super) fn converged(state: &State, now: Timestamp) -> Result<(), String> {
    if let Some(lost) = state.machines().find(|row| row.state == MachineState::Lost) {
        return Err(format!("{} is back and counts as lost", lost.id));
    }
    let mut jobs = state.jobs().filter(|job| !waits_for_runs(state, job, now));
    jobs.try_for_each(job_converged)?;
    state.jobs().try_for_each(|job| on_each_machine(state, job))
}

/// Whether a job waits, itself or through another one, for one with a schedule of which no run succeeded, or one only just
/// did: runs may take longer than the time between them.
fn waits_for_runs(state: &State, job: &JobState, now: Timestamp) -> bool {
    job.spec().depends_on.iter().any(|name| {
        let id = JobId::new(job.row().id.namespace.clone(), name.clone());
        state.job(&id).is_some_and(|before| {
            let barren = before.spec().schedule.is_some() && !has_long_succeeded(before, now);
            barren || waits_for_runs(state, before, now)
        })
    })
}

/// Whether a run succeeded so long ago that those who waited for it have started.
fn has_long_succeeded(job: &JobState, now: Timestamp) -> bool {
    let mut runs = job.row().runs.iter().flat_map(|runs| &runs.newest);
    runs.any(|run| {
        let ended = run.ended_at.filter(|_| run.outcome == RunOutcome::Done);
        ended.is_some_and(|at| now.since(at) > STARTED_WITHIN)
    })
}

/// Every machine that is to have a task of a daemon has it.
fn on_each_machine(state: &State, job: &JobState) -> Result<(), String> {
    if job.spec().kind != Kind::Daemon || job.row().stopped {
        return Ok(());
    }
    let labels = &job.spec().requires.labels;
    let mut targets = state.machines().filter(|machine| {
        let mut labels = labels.iter();
        machine.takes_tasks()
            && labels.all(|(key, value)| machine.facts.labels.get(&key.0) == Some(value))
    });
    let served = |machine: &MachineRecord| {
        let mut tasks = job.tasks();
        tasks.any(|row| serves(job, row) && row.machine.as_ref() == Some(&machine.id))
    };
    match targets.find(|machine| !served(machine)) {
        Some(machine) => Err(format!("{} lacks its task of {}", machine.id, job.row().id)),
        None => Ok(()),
    }
}

/// A task in a few words.
fn standing(task: &TaskRecord) -> String {
    format!(
        "{} {} on {:?} at version {}, healthy {:?} since {:?}, {}",
        task.id,
        task.state,
        task.machine.as_ref().map(MachineId::as_str),
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
    if job.spec().schedule.is_some() {
        return Ok(());
    }
    for index in job.indexes() {
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
