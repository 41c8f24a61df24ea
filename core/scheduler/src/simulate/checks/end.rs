//! Once nothing goes wrong any more, everything comes to be as it is wanted.

use tw_model::{
    JobId, Kind, MachineId, MachineRecord, MachineState, Millis, RunOutcome, TaskRecord, TaskState,
    Timestamp,
};

use crate::{JobState, State, serves};

/// What waits for a job has started and is healthy so long after.
const STARTED_WITHIN: Millis = Millis::minutes(5);

/// Everything is as it is wanted.
pub(in crate::simulate) fn converged(state: &State, now: Timestamp) -> Result<(), String> {
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
