//! Tasks of which there must never be two, while their machine is out of reach.
//!
//! Such a task ends by the word of its helper, by a new boot id, by an operator's fence, or, where its job fails over,
//! when its term is surely over. Silence alone ends it never: its row waits, and lives on when the machine comes back.

use std::collections::BTreeSet;

use tw_model::{
    Code, Desired, JobId, JobSpec, MachineId, MachineRecord, MachineState, Millis, TaskRecord,
    Timestamp,
};

use crate::draft::Draft;
use crate::lease::{surely_over_after, term_of};
use crate::lifecycle::{Details, TaskEvent};
use crate::reconcile::{reconcile, tell};
use crate::step::{Refusal, Reply};
use crate::{JobState, State};

/// Whether a live task has surely ended, given the row of its machine.
///
/// A task that may be replaced at once counts as ended with its machine's epoch; one of which there must not be two,
/// only when everything of its epoch is known to have ended there.
pub(crate) fn is_orphan(row: &TaskRecord, spec: &JobSpec, machine: Option<&MachineRecord>) -> bool {
    match machine {
        None => true,
        Some(machine) if spec.at_most_one => row.machine_epoch < machine.identity.ended_below,
        // Those that are kept are of the epoch that ended with the machine's loss.
        Some(machine) if machine.spares_tasks() => {
            row.desired == Desired::Stop || row.machine_epoch + 1 < machine.epoch
        }
        Some(machine) => machine.state == MachineState::Lost || machine.epoch != row.machine_epoch,
    }
}

/// The live tasks of a machine.
pub(crate) fn live_on(draft: &Draft, machine: &MachineId) -> Vec<TaskRecord> {
    draft.base().tasks_on(machine).cloned().collect()
}

/// Whether there must never be two of a task.
pub(crate) fn is_only_one(draft: &Draft, row: &TaskRecord) -> bool {
    let job = draft.job(&row.id.job);
    job.is_some_and(|job| job.spec_of(row).at_most_one)
}

/// Notes that nothing is known of a task for now.
pub(crate) fn lose_sight(draft: &mut Draft, row: &TaskRecord) {
    let job = draft.job(&row.id.job);
    let failover = job.and_then(|job| job.spec_of(row).failover.clone());
    let what_next = match failover {
        Some(failover) => format!("it ends itself and is replaced after {}", failover.within),
        None => "it is replaced when that has surely ended, or with `tw machines fence`".to_owned(),
    };
    let why = Details::because(format!("its machine is out of reach; {what_next}"));
    tell(draft, row, TaskEvent::OutOfReach, &why);
}

/// Keeps the tasks of a machine that was lost with a large part of the fleet. Returns their jobs.
pub(crate) fn spare(draft: &mut Draft, machine: &MachineId, until: Timestamp) -> BTreeSet<JobId> {
    let rows = live_on(draft, machine);
    let why = format!(
        "its machine was lost together with many others; it is replaced at {until} unless the machine is back by then"
    );
    for row in &rows {
        match is_only_one(draft, row) {
            true => lose_sight(draft, row),
            false => {
                tell(draft, row, TaskEvent::OutOfReach, &Details::because(&why));
            }
        }
    }
    rows.into_iter().map(|row| row.id.job).collect()
}

/// Takes tasks into the epoch of their machine that came back with the same boot and the same agent.
pub(crate) fn adopt(draft: &mut Draft, machine: &MachineRecord) -> BTreeSet<JobId> {
    let identity = &machine.identity;
    let known_from = identity.ended_below.max(identity.agent_since);
    // The row of the machine is that of its return; before that it may have been spared.
    let spared = draft.base().machine(&machine.id);
    let spared = spared.is_some_and(MachineRecord::spares_tasks);
    let rows = live_on(draft, &machine.id).into_iter().filter(|row| {
        let kept = spared && row.desired == Desired::Run && row.machine_epoch + 1 == machine.epoch;
        let known = (known_from..machine.epoch).contains(&row.machine_epoch);
        known && (kept || is_only_one(draft, row))
    });
    let rows: Vec<TaskRecord> = rows.collect();
    for row in &rows {
        let mut row = row.clone();
        row.machine_epoch = machine.epoch;
        draft.put_task(row.clone());
        tell(draft, &row, TaskEvent::BackInReach, &Details::default());
    }
    rows.into_iter().map(|row| row.id.job).collect()
}

/// Which tasks of a lost machine have ended by themselves when it was granted nothing for `silence`.
fn lapsed<'a>(
    state: &'a State,
    machine: &'a MachineRecord,
    silence: Millis,
) -> impl Iterator<Item = &'a TaskRecord> {
    let is_over = move |job: &JobState, row: &TaskRecord| {
        let term = term_of(job.spec_of(row));
        term.is_some_and(|term| surely_over_after(term) <= silence)
            && row.machine_epoch < machine.epoch
    };
    let lost = machine.state == MachineState::Lost;
    let rows = lost.then(|| state.tasks_on(&machine.id));
    let rows = rows.into_iter().flatten();
    rows.filter(move |row| {
        let job = state.job(&row.id.job);
        job.is_some_and(|job| is_over(job, row))
    })
}

/// Whether a machine that was granted nothing for `silence` has tasks that have ended by themselves since.
pub(crate) fn has_lapsed(state: &State, machine: &MachineRecord, silence: Millis) -> bool {
    lapsed(state, machine, silence).next().is_some()
}

/// Ends the tasks of a lost machine whose terms are surely over.
pub(crate) fn end_lapsed(draft: &mut Draft, machine: &MachineId, silence: Millis) {
    let base = draft.base();
    let Some(row) = base.machine(machine) else {
        return;
    };
    let rows: Vec<TaskRecord> = lapsed(base, row, silence).cloned().collect();
    let why = format!("its machine was out of reach for {silence}, and its term is over");
    end(draft, &rows, &why);
}

/// Ends everything on a machine, by the word of someone who knows that it does not run.
pub(crate) fn fence(draft: &mut Draft, machine: &MachineId, by: &str) -> Reply {
    let Some(mut row) = draft.machine(machine).cloned() else {
        return Reply::Refused(Refusal::new(
            Code::MachineNotFound,
            format!("there is no machine {machine}"),
            "`tw machines` lists all of them",
        ));
    };
    let mut rows = live_on(draft, machine);
    let since = row.identity.agent_since;
    if row.state == MachineState::Up {
        // What an earlier agent of it has started, nobody can reach.
        rows.retain(|task| task.machine_epoch < since);
    }
    if row.state == MachineState::Up && rows.is_empty() {
        return Reply::Refused(Refusal::new(
            Code::RequestInvalid,
            format!("machine {machine} is within reach: its own agent says what runs there"),
            "`tw drain` empties it; a machine can be fenced once it counts as lost",
        ));
    }
    if row.state == MachineState::Lost {
        row.epoch += 1;
    }
    row.identity.ended_below = match row.state {
        MachineState::Lost => row.epoch,
        MachineState::Up => since,
    };
    row.changed_at = draft.now;
    row.spared_until = None;
    draft.put_machine(row);
    end(
        draft,
        &rows,
        &format!("{by} says that nothing runs on its machine any more"),
    );
    Reply::Fence {
        tasks: rows.len() as u32,
    }
}

fn end(draft: &mut Draft, rows: &[TaskRecord], why: &str) {
    let why = Details::because(why);
    for row in rows {
        tell(draft, row, TaskEvent::MachineLost, &why);
    }
    let jobs: BTreeSet<&JobId> = rows.iter().map(|row| &row.id.job).collect();
    jobs.into_iter().for_each(|id| reconcile(draft, id));
}
