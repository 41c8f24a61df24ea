//! What an agent is to hold.

use std::sync::Arc;

use tw_model::{JobSpec, MachineId, MachineState, TaskId, TaskRecord};

use crate::State;

/// The live tasks of a machine with the spec that each runs, by task.
///
/// Rows of an older epoch are left out: what ran for them has ended, or is to end.
pub fn assignments<'a>(
    state: &'a State,
    machine: &'a MachineId,
) -> impl Iterator<Item = (&'a TaskRecord, &'a Arc<JobSpec>)> {
    let rows = state.tasks_on(machine);
    rows.filter_map(|row| assignment(state, &row.id))
}

/// One live task with its spec, as its agent is to hold it.
pub fn assignment<'a>(
    state: &'a State,
    task: &TaskId,
) -> Option<(&'a TaskRecord, &'a Arc<JobSpec>)> {
    let job = state.job(&task.job)?;
    let row = job.task(task.index, task.incarnation)?;
    let machine = state.machine(row.machine.as_ref()?)?;
    let delivered = machine.state == MachineState::Up
        && row.machine_epoch == machine.epoch
        && !row.state.is_terminal();
    delivered.then(|| (row, job.spec_of(row)))
}
