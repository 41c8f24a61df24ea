//! Tasks are stopped no faster than they may be, and in time.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{
    Desired, JobId, MachineState, Millis, Record, TaskId, TaskRecord, TaskState, Timestamp,
};

use crate::simulate::controller::STOP_LIMITS;
use crate::simulate::coverage::Budget;
use crate::{JobState, Op, State, StopRate, Txn};

/// How long a stop may be held back because others come first.
const STOP_HELD_BACK_MAX: Millis = Millis::seconds(20);

/// Counts how fast tasks are stopped, without the limiter's own words: what was stopped drains away at the allowed
/// rate, and what has not drained yet is never more than may be stopped at once.
#[derive(Debug, Default)]
pub(in crate::simulate) struct StopMeter {
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
    pub(in crate::simulate) fn count(
        &mut self,
        state: &State,
        txns: &[Txn],
        at: u64,
    ) -> Result<(), String> {
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
    pub(in crate::simulate) fn held_back<'a>(
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

/// Nothing is left to run on a machine that was to be empty by now, unless the controller has only just begun: it may stop
/// nothing at first.
pub(in crate::simulate) fn drained(
    state: &State,
    age: Millis,
    now: Timestamp,
) -> Result<(), String> {
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

/// After a tick nothing of a batch job has run for longer than a try may, and no run is due.
///
/// A controller that has only just begun may stop nothing at first.
pub(in crate::simulate) fn on_time(
    state: &State,
    age: Millis,
    now: Timestamp,
) -> Result<(), String> {
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
