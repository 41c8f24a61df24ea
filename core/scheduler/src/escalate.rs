//! Raises the effect of a change where the machine cannot take it.

use std::sync::Arc;

use tw_model::{Effect, JobSpec, Kind, TaskRecord};

use crate::JobState;
use crate::draft::Draft;
use crate::fleet::{Request, Room};
use crate::neighbours::must_leave;

/// The effect of a change on one task, given its machine and who else is there.
///
/// A task that is to stay on its machine, changed in place or started again, has to leave where the machine lacks
/// room for the new request or is not what the new version requires. Both the plan and the updater ask this.
pub(crate) fn escalate(
    effect: Effect,
    draft: &Draft,
    job: &JobState,
    row: &TaskRecord,
    to: &Arc<JobSpec>,
) -> Effect {
    // A daemon has no other machine to go to.
    let moves = to.kind != Kind::Daemon;
    let stays = moves && matches!(effect, Effect::InPlace | Effect::Restart);
    let request = Request::of(to);
    // What runs on and asks for no more finds no less room than it has, also where some of its room is lent.
    let grows = effect != Effect::InPlace || !request.is_within(&Request::of(job.spec_of(row)));
    let lacks_room = || {
        let room = room_for(draft, job, row);
        room.is_some_and(|room| match effect {
            // It need not take tasks: this one is there.
            Effect::InPlace => !room.holds(&request),
            _ => !room.fits(&request),
        })
    };
    match stays && (grows && lacks_room() || must_leave(draft, job, row, to)) {
        true => Effect::Move,
        false => effect,
    }
}

/// What is free for a task on its own machine, counting what it holds itself; none without a machine.
fn room_for(draft: &Draft, job: &JobState, row: &TaskRecord) -> Option<Room> {
    let (machine, held) = job.reservation(row)?;
    let mut room = draft.room(draft.slot(&machine)?);
    room.give(&held);
    Some(room)
}
