//! Tasks that leave their machine although nothing ails them: for a drain, or because the machine is not what their job
//! requires any more.
//!
//! They go one after the other, as updates do: while no more than `max_unavailable` tasks of their job are down, with the
//! application's word, and only where another machine has room. Batch tasks are left to end by themselves.
//!
//! Until a task has ended its successor has no machine, so the room that was found for it is written into its row: the
//! next one to leave does not count on the same. Later decisions keep it free only for tasks on machines that are up and
//! being drained. Those that leave a machine which is not what their job requires any more claim their room in the
//! decision that asks them to end, and not beyond it: to find them, every task would have to be looked at.

use std::collections::BTreeMap;

use tw_model::{JobId, Kind, MachineState, Operation, TaskRecord, TaskState};

use crate::allocate::{Placer, View, Wish};
use crate::draft::Draft;
use crate::endpoints::serves;
use crate::fleet::{Request, Slot};
use crate::lifecycle::{Details, TaskEvent};
use crate::{JobState, State, budget, control, maintenance, reconcile};

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
        let place = match returns || job.spec_of(&row).kind == Kind::Batch {
            true => None,
            false => room_elsewhere(draft, job, &row),
        };
        let request = Request::of(job.spec_of(&row));
        // Where tasks come back the others go first: they need the time more.
        let has_room = place.is_some() || returns && !maintenance::has_movers(draft, &row);
        let within_budget = !available || spare > 0;
        // Asked in time, also where the budget has to wait.
        let approved = has_room && control::ask(draft, &row, operation);
        let may = has_room && within_budget && approved;
        if !must && !may {
            continue;
        }
        spare = spare.saturating_sub(usize::from(available));
        row.comes_back = true;
        if let Some(slot) = place {
            draft.claim(slot, &request);
            row.meant_for = Some(draft.machine_at(slot).id.clone());
        }
        reconcile::tell(draft, &row, TaskEvent::StopAsked, &Details::because(why));
        done = true;
    }
    if done {
        control::note_done(draft, id);
    }
}

/// A machine with room for the successor of a task that no other one that leaves counts on.
fn room_elsewhere(draft: &Draft, job: &JobState, row: &TaskRecord) -> Option<Slot> {
    let mut placer = Placer::of_job(draft, job, job.spec_of(row));
    placer.keep_free(&draft.claims().0);
    placer.place(View::of(draft), Wish::default())
}

/// The room on which tasks count that were asked to leave their machines, and have not ended yet.
#[derive(Default)]
pub(crate) struct Claims(BTreeMap<Slot, Request>);

impl Claims {
    /// Those of the tasks on machines that are up and being drained.
    pub(crate) fn of(state: &State) -> Claims {
        let mut claims = Claims::default();
        let fleet = &state.fleet;
        if fleet.drains() == 0 {
            return claims;
        }
        let draining = fleet
            .hosts()
            .filter(|host| host.row.drain.is_some() && host.row.state == MachineState::Up);
        for row in draining.flat_map(|host| host.tasks.keys()) {
            let Some((job, row)) = state.job(&row.job).zip(state.task(row)) else {
                continue;
            };
            let place = row.meant_for.as_ref().and_then(|id| fleet.slot(id));
            if let Some(slot) = place.filter(|_| row.state == TaskState::Stopping) {
                claims.add(slot, &Request::of(job.spec_of(row)));
            }
        }
        claims
    }

    pub(crate) fn add(&mut self, slot: Slot, request: &Request) {
        self.0.entry(slot).or_default().add(request);
    }
}
