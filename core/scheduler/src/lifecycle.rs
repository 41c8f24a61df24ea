//! A task's life as one table: what each event does in each state, and which side effects follow.

use tw_model::{Desired, Exit, Kind, Phase, Remedy, TaskRecord, TaskState, Timestamp};

/// What can happen to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskEvent {
    /// The allocator found a machine.
    Placed,
    /// The agent has it and prepares.
    Preparing,
    /// The program runs.
    Started,
    /// Its checks pass.
    Healthy,
    /// Its checks fail.
    Unhealthy,
    /// The controller wants it to end.
    StopAsked,
    /// It has taken longer than one try may: it is to end, as a failure.
    TimedOut,
    /// The agent says that it is ending it.
    StopBegun,
    /// It ended as a batch task should: exit code 0.
    Succeeded,
    /// It ended in any other way.
    Ended,
    /// It ended, however, after it had timed out.
    EndedOverdue,
    /// It never ran and never will.
    NeverStarted,
    /// Its machine was declared lost, restarted, or no longer knows it.
    MachineLost,
    /// Its machine is silent; there must not be two of it, so that it counts as alive.
    OutOfReach,
    /// Its machine is back, and so is it.
    BackInReach,
}

impl TaskEvent {
    pub const ALL: [TaskEvent; 15] = [
        TaskEvent::Placed,
        TaskEvent::Preparing,
        TaskEvent::Started,
        TaskEvent::Healthy,
        TaskEvent::Unhealthy,
        TaskEvent::StopAsked,
        TaskEvent::TimedOut,
        TaskEvent::StopBegun,
        TaskEvent::Succeeded,
        TaskEvent::Ended,
        TaskEvent::EndedOverdue,
        TaskEvent::NeverStarted,
        TaskEvent::MachineLost,
        TaskEvent::OutOfReach,
        TaskEvent::BackInReach,
    ];

    /// What a report means for a task of this kind of job, which may have been asked to end because it is overdue.
    ///
    /// A service that ends by itself has failed, whatever its exit code.
    pub fn of(phase: &Phase, kind: Kind, overdue: bool) -> TaskEvent {
        match phase {
            Phase::Exited { .. } | Phase::NeverStarted { .. } if overdue => TaskEvent::EndedOverdue,
            Phase::Starting => TaskEvent::Preparing,
            Phase::Running { .. } => TaskEvent::Started,
            Phase::Health { healthy: true, .. } => TaskEvent::Healthy,
            Phase::Health { healthy: false, .. } => TaskEvent::Unhealthy,
            Phase::Stopping => TaskEvent::StopBegun,
            Phase::Exited { exit, .. } if kind == Kind::Batch && exit.success() => {
                TaskEvent::Succeeded
            }
            Phase::Exited { .. } => TaskEvent::Ended,
            Phase::NeverStarted { .. } => TaskEvent::NeverStarted,
        }
    }
}

/// What a transition does beside changing the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideEffect {
    /// Note since when it runs.
    NoteStart,
    /// Note whether it is healthy, and since when.
    NoteHealth,
    /// Note when and how it ended; its room is free from here.
    NoteEnd,
    /// One more failure in a row.
    CountFailure,
    /// The agent is to end it.
    AskAgent,
    /// Its end will count as a failure.
    NoteOverdue,
    /// Nobody can reach it.
    NoteSilence,
    /// It can be reached again.
    NoteReturn,
}

/// What an event does in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The state that follows, perhaps the same, and what else follows.
    To(TaskState, &'static [SideEffect]),
    /// The event says nothing new: it came twice, or late.
    Nothing,
    /// The event cannot be true of a task in this state.
    Refused(&'static str),
}

/// The table. Total: every pair has an answer.
pub fn transition(state: TaskState, event: TaskEvent) -> Transition {
    use SideEffect::*;
    use TaskEvent::*;
    use TaskState::*;
    use Transition::{Nothing, Refused, To};
    const NEVER_PLACED: &str = "the task was never given to a machine";
    match (state, event) {
        (Done | Failed | Lost, Placed) => Refused("an ended task is not placed again"),
        // An ended task stays ended, whatever is said of it later.
        (Done | Failed | Lost, _) => Nothing,

        (Pending, Placed) => To(Starting, &[]),
        (Pending, StopAsked) => To(Done, &[NoteEnd]),
        (Pending, MachineLost | OutOfReach | BackInReach) => Nothing,
        (Pending, _) => Refused(NEVER_PLACED),

        (Starting | Running | Stopping, Placed) => Refused("the task has a machine already"),

        (Starting, Preparing) => Nothing,
        (Starting, Started) => To(Running, &[NoteStart]),
        // Health is only reported of what runs; the report of its start is late.
        (Starting, Healthy | Unhealthy) => To(Running, &[NoteStart, NoteHealth]),
        (Running, Preparing) => Nothing,
        (Running, Started) => To(Running, &[NoteStart]),
        (Running, Healthy | Unhealthy) => To(Running, &[NoteHealth]),

        (Starting | Running, StopAsked) => To(Stopping, &[AskAgent]),
        (Starting | Running, TimedOut) => To(Stopping, &[AskAgent, NoteOverdue]),
        (Starting | Running, EndedOverdue) => Refused("nobody told the task that it is overdue"),
        (Starting | Running, StopBegun) => Refused("nobody asked the task to stop"),
        (Starting | Running, Succeeded) => To(Done, &[NoteEnd]),
        (Starting | Running, Ended | NeverStarted) => To(Failed, &[NoteEnd, CountFailure]),
        (Starting | Running, MachineLost) => To(Lost, &[NoteEnd]),
        (Starting, OutOfReach) => To(Starting, &[NoteSilence]),
        (Running, OutOfReach) => To(Running, &[NoteSilence]),
        (Starting, BackInReach) => To(Starting, &[NoteReturn]),
        (Running, BackInReach) => To(Running, &[NoteReturn]),

        (Stopping, Preparing | Healthy | Unhealthy | StopAsked | TimedOut | StopBegun) => Nothing,
        (Stopping, OutOfReach) => To(Stopping, &[NoteSilence]),
        (Stopping, BackInReach) => To(Stopping, &[NoteReturn]),
        (Stopping, Started) => To(Stopping, &[NoteStart]),
        // It ended on request: the exit code of a task that was sent a signal says nothing.
        (Stopping, Succeeded | Ended | NeverStarted) => To(Done, &[NoteEnd]),
        (Stopping, EndedOverdue) => To(Failed, &[NoteEnd, CountFailure]),
        (Stopping, MachineLost) => To(Lost, &[NoteEnd]),
    }
}

/// What is known of an event beside its kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details {
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) exit: Option<Exit>,
    /// In words for people.
    pub(crate) reason: String,
    /// What the checks that failed ask for.
    pub(crate) remedy: Option<Remedy>,
    /// A failure after a run of at least this long is the first one in a row again.
    pub(crate) reset_after: Option<tw_model::Millis>,
}

impl Details {
    pub(crate) fn because(reason: impl Into<String>) -> Details {
        Details {
            reason: reason.into(),
            ..Details::default()
        }
    }

    /// What a report tells.
    pub(crate) fn of(phase: &Phase) -> Details {
        match phase {
            Phase::Running { started_at } => Details {
                started_at: Some(*started_at),
                ..Details::default()
            },
            Phase::Health { detail, remedy, .. } => Details {
                remedy: *remedy,
                ..Details::because(detail.clone())
            },
            Phase::Exited { exit, at, detail } => Details {
                ended_at: Some(*at),
                exit: Some(exit.clone()),
                reason: match detail.is_empty() {
                    true => exit.to_string(),
                    false => format!("{exit}: {detail}"),
                },
                ..Details::default()
            },
            Phase::NeverStarted { code, message, at } => Details {
                ended_at: Some(*at),
                reason: format!("{code}: {message}"),
                ..Details::default()
            },
            Phase::Starting | Phase::Stopping => Details::default(),
        }
    }
}

/// Carries out a transition on a row. True when the row has changed.
pub(crate) fn carry_out(
    row: &mut TaskRecord,
    event: TaskEvent,
    details: &Details,
    now: Timestamp,
) -> Result<bool, &'static str> {
    let (to, effects) = match transition(row.state, event) {
        Transition::Refused(why) => return Err(why),
        Transition::Nothing => return Ok(false),
        Transition::To(to, effects) => (to, effects),
    };
    let before = row.clone();
    row.state = to;
    for effect in effects {
        match effect {
            SideEffect::NoteStart => note_start(row, details, now),
            SideEffect::NoteHealth => note_health(row, event, details, now),
            SideEffect::CountFailure => count_failure(row, details, now),
            SideEffect::NoteEnd => {
                row.ended_at = Some(details.ended_at.unwrap_or(now));
                row.exit = details.exit.clone();
                row.healthy = None;
                row.reason = match event {
                    TaskEvent::EndedOverdue => format!("{} ({})", row.reason, details.reason),
                    // Why it went is what people ask, not how.
                    _ if row.comes_back && !row.reason.is_empty() => row.reason.clone(),
                    _ => details.reason.clone(),
                };
            }
            SideEffect::NoteSilence => {
                if row.state == TaskState::Running {
                    row.healthy = Some(false);
                    row.healthy_since = Some(now);
                }
                row.reason = details.reason.clone();
            }
            SideEffect::NoteReturn => {
                if row.state == TaskState::Running {
                    // Its checks speak up again; until then it counts as a task that has just started.
                    row.healthy = None;
                    row.healthy_since = Some(now);
                }
                row.reason = String::new();
            }
            SideEffect::AskAgent => {
                row.desired = Desired::Stop;
                row.stop_asked_at = Some(now);
                row.reason = details.reason.clone();
            }
            SideEffect::NoteOverdue => row.overdue = true,
        }
    }
    if event == TaskEvent::StopAsked {
        row.desired = Desired::Stop;
    }
    Ok(*row != before)
}

fn note_start(row: &mut TaskRecord, details: &Details, now: Timestamp) {
    if row.state == TaskState::Running && row.healthy_since.is_none() {
        row.healthy_since = Some(now);
        row.reason = String::new();
    }
    // The agent knows the moment best; a first report of health stands in for it.
    row.started_at = details.started_at.or(row.started_at).or(Some(now));
}

fn note_health(row: &mut TaskRecord, event: TaskEvent, details: &Details, now: Timestamp) {
    let healthy = event == TaskEvent::Healthy;
    row.remedy = details.remedy;
    if row.healthy != Some(healthy) {
        row.healthy = Some(healthy);
        row.healthy_since = Some(now);
        row.reason = match healthy {
            true => String::new(),
            false => details.reason.clone(),
        };
    }
}

pub(crate) fn count_failure(row: &mut TaskRecord, details: &Details, now: Timestamp) {
    let ended = details.ended_at.unwrap_or(now);
    let ran = row.started_at.map(|started| ended.since(started));
    let anew = matches!((ran, details.reset_after), (Some(ran), Some(after)) if ran >= after);
    row.failures = match anew {
        true => 1,
        false => row.failures.saturating_add(1),
    };
}
