//! The table of a task's life, every pair of it.

use tw_model::{Kind, TaskState};
use tw_scheduler::lifecycle::{SideEffect, TaskEvent, Transition, transition};

/// Rows are events, columns are states; `.` says nothing new, `x` is refused, words are the state that follows. Behind a
/// `+` stand the side effects, each by its letter in [`LETTERS`].
const TABLE: &str = "
              pending   starting     running      stopping    done  failed  lost
Placed        starting  x            x            x           x     x       x
Preparing     x         .            .            .           .     .       .
Started       x         running+s    running+s    stopping+s  .     .       .
Healthy       x         running+sh   running+h    .           .     .       .
Unhealthy     x         running+sh   running+h    .           .     .       .
StopAsked     done+e    stopping+a   stopping+a   .           .     .       .
TimedOut      x         stopping+ao  stopping+ao  .           .     .       .
StopBegun     x         x            x            .           .     .       .
Succeeded     x         done+e       done+e       done+e      .     .       .
Ended         x         failed+ef    failed+ef    done+e      .     .       .
EndedOverdue  x         x            x            failed+ef   .     .       .
NeverStarted  x         failed+ef    failed+ef    done+e      .     .       .
MachineLost   .         lost+e       lost+e       lost+e      .     .       .
OutOfReach    .         starting+q   running+q    stopping+q  .     .       .
BackInReach   .         starting+r   running+r    stopping+r  .     .       .
";

const LETTERS: [(SideEffect, char); 8] = [
    (SideEffect::NoteStart, 's'),
    (SideEffect::NoteHealth, 'h'),
    (SideEffect::NoteEnd, 'e'),
    (SideEffect::CountFailure, 'f'),
    (SideEffect::AskAgent, 'a'),
    (SideEffect::NoteOverdue, 'o'),
    (SideEffect::NoteSilence, 'q'),
    (SideEffect::NoteReturn, 'r'),
];

/// A cell of the table, as it is found.
fn cell(state: TaskState, event: TaskEvent) -> String {
    let letter = |effect: &SideEffect| {
        let mut letters = LETTERS.iter();
        let found = letters.find(|(known, _)| known == effect);
        found.expect("every effect has its letter").1
    };
    match transition(state, event) {
        Transition::To(to, []) => to.to_string(),
        Transition::To(to, effects) => {
            let letters: String = effects.iter().map(letter).collect();
            format!("{to}+{letters}")
        }
        Transition::Nothing => ".".to_owned(),
        Transition::Refused(_) => "x".to_owned(),
    }
}

#[test]
fn every_pair_of_state_and_event() {
    let mut rows = TABLE.trim().lines();
    let states: Vec<&str> = rows
        .next()
        .expect("there is a head")
        .split_whitespace()
        .collect();
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(states, TaskState::ALL.map(TaskState::as_str));
    assert_eq!(rows.len(), TaskEvent::ALL.len());
    for (event, row) in TaskEvent::ALL.into_iter().zip(rows) {
        assert_eq!(row[0], format!("{event:?}"));
        for (state, expected) in TaskState::ALL.into_iter().zip(&row[1..]) {
            assert_eq!(cell(state, event), *expected, "{event:?} in {state}");
        }
    }
}

#[test]
fn every_end_is_noted_and_only_failures_count() {
    for (state, event) in TaskState::ALL
        .into_iter()
        .flat_map(|state| TaskEvent::ALL.map(|event| (state, event)))
    {
        let Transition::To(to, effects) = transition(state, event) else {
            continue;
        };
        let ends = effects.contains(&SideEffect::NoteEnd);
        assert_eq!(ends, to.is_terminal(), "{event:?} in {state}");
        let counts = effects.contains(&SideEffect::CountFailure);
        assert_eq!(counts, to == TaskState::Failed, "{event:?} in {state}");
    }
}

#[test]
fn a_service_that_ends_has_failed_and_a_batch_task_may_have_succeeded() {
    let phase = |code| tw_model::Phase::Exited {
        exit: tw_model::Exit {
            code: Some(code),
            ..tw_model::Exit::default()
        },
        at: tw_model::Timestamp(0),
        detail: String::new(),
    };
    let of = |code, kind, overdue| TaskEvent::of(&phase(code), kind, overdue);
    assert_eq!(of(0, Kind::Service, false), TaskEvent::Ended);
    assert_eq!(of(0, Kind::Batch, false), TaskEvent::Succeeded);
    assert_eq!(of(1, Kind::Batch, false), TaskEvent::Ended);
    // Whoever took too long has failed, however well it ended once it was asked to.
    assert_eq!(of(0, Kind::Batch, true), TaskEvent::EndedOverdue);
}
