//! Tasks that leave their machine although nothing ails them: for a drain, or because the machine is not what their job
//! requires any more.
//!
//! They go one after the other, as updates do: while no more than `max_unavailable` tasks of their job are down, with the
//! application's word, and only where another machine has room. Batch tasks are left to end by themselves.

use tw_model::{JobId, Kind, Operation, TaskRecord};

use crate::allocate::{Placer, View, Wish};
use crate::draft::Draft;
use crate::endpoints::serves;
use crate::lifecycle::{Details, TaskEvent};
use crate::{JobState, budget, control, maintenance, reconcile};

/// A task that is to leave its machine.
pub(crate) struct Departure {
    pub(crate) row: TaskRecord,
    /// Now, whatever the budget and the application say and wherever there is room.
    pub(crate) must: bool,
    /// It comes back to this machine, and waits for it.
    pub(crate) returns: bool,
    /// In words for people.
    pub(crate) why: String,
}

/// Asks those tasks of a job to end that may leave now, in the order that their application has approved.
pub(crate) fn begin(
    draft: &mut Draft,
    id: &JobId,
    operation: Operation,
    mut leaving: Vec<Departure>,
) {
    let Some(job) = draft.job(id).filter(|_| !leaving.is_empty()) else {
        return;
    };
    let mut spare = budget::spare(draft, job);
    leaving.sort_by_key(|one| control::rank(&one.row));
    let mut done = false;
    for Departure {
        mut row,
        must,
        returns,
        why,
    } in leaving
    {
        let Some(job) = draft.job(id) else {
            return;
        };
        // One that serves is a loss, also where it has not served for long.
        let available = serves(job, &row);
        let has_room = match returns {
            // The others go first: they need the time more.
            true => !maintenance::has_movers(draft, &row),
            false => job.spec_of(&row).kind != Kind::Batch && has_room_elsewhere(draft, job, &row),
        };
        let within_budget = !available || spare > 0;
        // Asked in time, also where the budget has to wait.
        let approved = has_room && control::ask(draft, &row, operation);
        let may = has_room && within_budget && approved;
        if !must && !may {
            continue;
        }
        spare = spare.saturating_sub(usize::from(available));
        row.comes_back = true;
        reconcile::tell(draft, &row, TaskEvent::StopAsked, &Details::because(why));
        done = true;
    }
    if done {
        control::note_done(draft, id);
    }
}

fn has_room_elsewhere(draft: &Draft, job: &JobState, row: &TaskRecord) -> bool {
    let mut placer = Placer::of_job(draft, job, job.spec_of(row));
    placer.place(View::of(draft), Wish::default()).is_some()
}
