//! The table of a task's life, every pair of it.

use tw_model::{Kind, TaskState};
use tw_scheduler::lifecycle::{SideEffect, TaskEvent, Transition, transition};

/// Rows are events, columns are states; `.` says nothing new, `x` is refused, words are the state that follows.
const TABLE: &str = "
              pending   starting  running   stopping  done  failed  lost
Placed        starting  x         x         x         x     x       x
Preparing     x         .         .         .         .     .       .
Started       x         running   running   stopping  .     .       .
Healthy       x         running   running   .         .     .       .
Unhealthy     x         running   running   .         .     .       .
StopAsked     done      stopping  stopping  .         .     .       .
TimedOut      x         stopping  stopping  .         .     .       .
StopBegun     x         x         x         .         .     .       .
Succeeded     x         done      done      done      .     .       .
Ended         x         failed    failed    done      .     .       .
EndedOverdue  x         x         x         failed    .     .       .
NeverStarted  x         failed    failed    done      .     .       .
MachineLost   .         lost      lost      lost      .     .       .
OutOfReach    .         starting  running   stopping  .     .       .
BackInReach   .         starting  running   stopping  .     .       .
";

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
            let found = match transition(state, event) {
                Transition::To(to, _) => to.as_str(),
                Transition::Nothing => ".",
                Transition::Refused(_) => "x",
            };
            assert_eq!(found, *expected, "{event:?} in {state}");
        }
    }
}

#[test]
fn every_end_is_noted_and_only_failures_count() {
    for state in TaskState::ALL {
        for event in TaskEvent::ALL {
            let Transition::To(to, effects) = transition(state, event) else {
                continue;
            };
            let ends = to.is_terminal();
            assert_eq!(
                effects.contains(&SideEffect::NoteEnd),
                ends,
                "{event:?} in {state}"
            );
            let counts = effects.contains(&SideEffect::CountFailure);
            assert_eq!(counts, to == TaskState::Failed, "{event:?} in {state}");
        }
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
