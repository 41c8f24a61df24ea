//! What a decision went through, as the rows before and after it show.

use std::collections::BTreeSet;

use tw_model::{
    Desired, JobRecord, Kind, MachineRecord, MachineState, Record, RolloutRecord, RolloutState,
    TaskRecord, TaskReport, TaskState, Timestamp,
};

use super::checks::Disturbed;
use super::coverage::{Budget, Coverage};
use crate::lifecycle::{TaskEvent, Transition, transition};
use crate::{Event, JobState, Op, State, Txn, serves};

/// Counts what a decision writes, before it is applied.
pub(super) fn written(
    coverage: &mut Coverage,
    state: &State,
    event: &Event,
    txns: &[Txn],
    now: Timestamp,
) {
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        match op {
            Op::Put(Record::Machine(row)) => machine(coverage, state, row),
            Op::Put(Record::Task(row)) => {
                task(coverage, state, row);
                offers(coverage, state, row, now);
                life(coverage, state, event, row);
            }
            Op::Put(Record::Job(row)) => update(coverage, state, row),
            Op::Put(Record::Event(row)) => match row.kind.as_str() {
                "rollout.stage" if row.message.contains(" in one ") => {
                    coverage.count("stages that are parts of the fleet");
                }
                "rollout.done" => coverage.count("updates done"),
                "run.done" => coverage.count("runs done"),
                "run.failed" => coverage.count("runs failed"),
                "run.skipped" => coverage.count("runs skipped"),
                "run.replaced" => coverage.count("runs replaced"),
                "run.missed" => coverage.count("runs missed"),
                "task.stopping" if row.message.starts_with("makes room for") => {
                    coverage.count("tasks that made room");
                }
                _ => {}
            },
            _ => {}
        }
    }
}

fn machine(coverage: &mut Coverage, state: &State, row: &MachineRecord) {
    let spared = state
        .machine(&row.id)
        .is_some_and(MachineRecord::spares_tasks);
    if row.spared_until.is_some() {
        coverage.count("machines waited for in an outage");
        if !spared {
            coverage.hit(Budget::OutagePace);
        }
    } else if row.state == MachineState::Up && spared {
        coverage.count("machines back in an outage");
    }
}

fn task(coverage: &mut Coverage, state: &State, row: &TaskRecord) {
    let before = state
        .task(&row.id)
        .map_or(TaskState::Pending, |row| row.state);
    let beyond = |job: &JobState| row.id.index >= job.wanted();
    let begun = row.state == TaskState::Starting && before == TaskState::Pending;
    if begun && state.job(&row.id.job).is_some_and(beyond) {
        coverage.count("tasks beyond the wanted number");
    }
    if before != row.state {
        *coverage.transitions.entry((before, row.state)).or_default() += 1;
    }
}

/// Counts the operations that wait for an application, and those that did so for too long.
fn offers(coverage: &mut Coverage, state: &State, row: &TaskRecord, now: Timestamp) {
    let Some((job, before)) = state
        .job(&row.id.job)
        .and_then(|job| Some((job, state.task(&row.id)?)))
    else {
        return;
    };
    let operation = |row: &TaskRecord| row.offer.as_ref().map(|offer| offer.operation);
    if row.offer.is_some() && operation(row) != operation(before) {
        coverage.hit(Budget::Application);
    }
    let control = job.spec_of(before).task_control.as_ref();
    let unanswered = before.offer.as_ref().zip(control);
    let overruled = unanswered.is_some_and(|(offer, control)| {
        offer.approved.is_none() && now >= offer.since.plus(control.deadline)
    });
    let stops = before.desired == Desired::Run && row.desired == Desired::Stop;
    if stops && overruled && asked_by(row).is_some() {
        coverage.hit(Budget::ApplicationDeadline);
    }
}

/// Counts the events of the table that lead from a task's row before to the one after: what its agent has reported, and
/// what else must have happened.
fn life(coverage: &mut Coverage, state: &State, event: &Event, after: &TaskRecord) {
    let found = state.job(&after.id.job);
    let found = found.and_then(|job| Some((job, state.task(&after.id)?)));
    let mut events = Vec::new();
    if let Some((job, before)) = found {
        let returned = after.machine_epoch > before.machine_epoch;
        match (is_out_of_reach(before), is_out_of_reach(after)) {
            (false, true) => events.push(TaskEvent::OutOfReach),
            (true, false) if returned => events.push(TaskEvent::BackInReach),
            _ => {}
        }
        let kind = job.spec_of(before).kind;
        let reports = news(event, before).into_iter();
        events.extend(reports.map(|one| TaskEvent::of(&one.phase, kind, before.overdue)));
    }
    let began = found.map_or(TaskState::Pending, |(_, before)| before.state);
    let reached = events
        .iter()
        .fold(began, |state, event| follow(state, *event));
    let overdue = found.is_some_and(|(_, before)| before.overdue);
    events.extend(match (reached, after.state) {
        (reached, after) if reached == after => None,
        (TaskState::Pending, TaskState::Starting) => Some(TaskEvent::Placed),
        (_, TaskState::Lost) => Some(TaskEvent::MachineLost),
        (_, TaskState::Stopping) if after.overdue && !overdue => Some(TaskEvent::TimedOut),
        (_, TaskState::Stopping) | (TaskState::Pending, TaskState::Done) => {
            Some(TaskEvent::StopAsked)
        }
        _ => None,
    });
    let mut state = began;
    for event in events {
        if let Transition::To(to, _) = transition(state, event) {
            *coverage.events.entry((state, event)).or_default() += 1;
            state = to;
        }
    }
}

/// The state that follows an event.
fn follow(state: TaskState, event: TaskEvent) -> TaskState {
    match transition(state, event) {
        Transition::To(to, _) => to,
        Transition::Nothing | Transition::Refused(_) => state,
    }
}

/// What an event reports of a task that its row does not say yet, in the order in which it happened.
fn news<'a>(event: &'a Event, before: &TaskRecord) -> Vec<&'a TaskReport> {
    // What an agent says when it registers is the newest there is, whatever its number.
    let (reports, all): (&[TaskReport], bool) = match event {
        Event::Reports { reports, .. } => (reports, false),
        Event::AgentRegistered { reports, .. } => (reports, true),
        _ => (&[], false),
    };
    let ours = reports.iter().filter(|report| report.task == before.id);
    let mut news: Vec<&TaskReport> = ours
        .filter(|report| all || report.seq > before.report_seq)
        .collect();
    news.sort_by_key(|report| report.seq);
    news
}

/// Whether a task's row says that its machine is silent.
fn is_out_of_reach(row: &TaskRecord) -> bool {
    let reason = &row.reason;
    reason.starts_with("its machine is out of reach")
        || reason.starts_with("its machine was lost together with many others")
}

/// Counts what became of an update.
fn update(coverage: &mut Coverage, state: &State, row: &JobRecord) {
    let before = state
        .job(&row.id)
        .and_then(|job| job.row().rollout.as_ref());
    let halted = |rollout: &RolloutRecord| rollout.state == RolloutState::Halted;
    let Some(after) = &row.rollout else {
        return;
    };
    let halts = halted(after) && !before.is_some_and(halted);
    if halts {
        coverage.count("updates halted");
    }
    let taken_back = after.rollback && before.is_some_and(|before| !before.rollback);
    if taken_back && !after.reason.starts_with("asked for") {
        coverage.count("updates taken back");
        coverage.hit(Budget::Failures);
    } else if halts && !after.reason.starts_with("aborted by") {
        coverage.hit(Budget::Failures);
    }
}

/// Counts the budgets that a decision used up, once it is applied.
pub(super) fn used_up(
    coverage: &mut Coverage,
    state: &State,
    disturbed: &[Disturbed],
    txns: &[Txn],
) {
    let tasks = txns.iter().flat_map(|txn| &txn.ops);
    let tasks = tasks.filter_map(|op| match op {
        Op::Put(Record::Task(row)) => Some(row),
        _ => None,
    });
    let mut used_up = BTreeSet::new();
    for row in tasks {
        let Some(job) = state.job(&row.id.job) else {
            continue;
        };
        if row.state == TaskState::Starting && has_all_extras(job, row) {
            used_up.insert((&row.id.job, Budget::Surge));
        }
        let mut disturbed = disturbed.iter();
        let counted = disturbed.any(|one| one.counts(&row.id));
        let spent = counted && row.desired == Desired::Stop && is_spent(job);
        if let Some(budget) = spent.then(|| asked_by(row)).flatten() {
            used_up.insert((&row.id.job, budget));
        }
    }
    used_up
        .into_iter()
        .for_each(|(_, budget)| coverage.hit(budget));
}

/// Whether as many tasks of a job are down as may be.
fn is_spent(job: &JobState) -> bool {
    let spec = job.spec();
    let serving = |index: &u32| job.latest(*index).is_some_and(|row| serves(job, row));
    let down = job.indexes().filter(|index| !serving(index)).count();
    spec.kind != Kind::Batch && down >= spec.rollout.max_unavailable as usize
}

/// Whether a task is the last that an update may run beside the wanted ones.
fn has_all_extras(job: &JobState, row: &TaskRecord) -> bool {
    let (wanted, surge) = (
        job.wanted(),
        job.row().rollout.as_ref().map_or(0, |it| it.surge),
    );
    let extra = |row: &TaskRecord| {
        row.id.index >= wanted && row.desired == Desired::Run && row.machine.is_some()
    };
    let live = job
        .tasks()
        .filter(|row| extra(row) && !row.state.is_terminal());
    extra(row) && surge > 0 && live.count() >= surge as usize
}

/// The budget in whose name a task is asked to end.
fn asked_by(row: &TaskRecord) -> Option<Budget> {
    let reasons = [
        ("makes way for", Budget::Update),
        ("its machine is being drained", Budget::Drain),
        ("its machine goes into maintenance", Budget::Maintenance),
        ("makes room for", Budget::Preemption),
    ];
    let mut reasons = reasons.into_iter();
    let found = reasons.find(|(words, _)| row.reason.starts_with(words));
    found.map(|(_, budget)| budget)
}
