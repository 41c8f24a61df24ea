//! Raises the effect of a change where the machine cannot take it.

use tw_model::{Effect, TaskRecord};

use crate::JobState;
use crate::draft::Draft;
use crate::fleet::{Request, Room};

/// The effect of a change on one task, given what is free on its machine.
///
/// A task that is to stay on its machine, changed in place or started again, has to leave where the machine lacks
/// room for the new request. Both the plan and the updater ask this.
pub(crate) fn escalate(
    effect: Effect,
    draft: &Draft,
    job: &JobState,
    row: &TaskRecord,
    request: &Request,
) -> Effect {
    let stays = matches!(effect, Effect::InPlace | Effect::Restart);
    match stays && room_for(draft, job, row).is_some_and(|room| !room.fits(request)) {
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
