//! Tasks that wait out a short maintenance of their machine: they stop cleanly, and come back to it and to their volumes.
//!
//! A maintenance is a drain that says how long it lasts. Who endures that long leaves last, is not looked for room
//! elsewhere, and waits for the machine for as long as its spec says; then any machine will do.

use tw_model::{Desired, DrainRecord, JobSpec, TaskRecord};

use crate::JobState;
use crate::draft::Draft;

/// Whether a task waits out this maintenance.
pub(crate) fn endures(spec: &JobSpec, drain: &DrainRecord) -> bool {
    drain
        .lasts
        .is_some_and(|lasts| lasts <= spec.maintenance.endure)
}

/// Whether tasks that do not wait it out are still to leave the machine of this one.
pub(crate) fn has_movers(draft: &Draft, row: &TaskRecord) -> bool {
    let Some(machine) = row.machine.as_ref().and_then(|id| draft.machine(id)) else {
        return false;
    };
    let Some(drain) = &machine.drain else {
        return false;
    };
    let here = draft.base().tasks_on(&machine.id);
    here.filter_map(|other| draft.task(&other.id))
        .filter(|other| !other.state.is_terminal() && other.desired == Desired::Run)
        .filter_map(|other| Some(draft.job(&other.id.job)?.spec_of(other)))
        .any(|spec| !endures(spec, drain))
}

/// Why a task that waits for a machine waits for the one that it has left; none where any will do.
pub(crate) fn awaited(draft: &Draft, job: &JobState, row: &TaskRecord) -> Option<String> {
    let before = job.of_index(row.id.index).rev();
    let last = before.skip_while(|other| other.id != row.id).nth(1)?;
    let machine = draft.machine(last.machine.as_ref()?)?;
    let drain = machine.drain.as_ref().filter(|_| last.comes_back)?;
    let spec = job.spec_of(row);
    let until = last.ended_at?.plus(spec.maintenance.endure);
    let waits = endures(spec, drain) && draft.now < until;
    waits.then(|| {
        format!(
            "waits for {} to come back from maintenance, until {until}",
            machine.id
        )
    })
}
