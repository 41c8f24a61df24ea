//! Daemons: one task on each machine that takes tasks and satisfies what the job requires.
//!
//! An index belongs to one machine for good; its row says to which. A machine that is lost, drained or no longer what
//! the job requires has its index retired, so that it counts neither as wanted nor as down; it comes back with the
//! machine. A drained machine keeps its daemons until the others have left, or the deadline calls.

use std::collections::BTreeSet;

use tw_model::{
    Desired, JobId, JobSpec, Kind, MachineId, MachineRecord, MachineState, Millis, TaskRecord,
    TaskState,
};

use crate::draft::Draft;
use crate::lifecycle::{Details, TaskEvent};
use crate::reconcile::{begin_on, tell};
use crate::requires::unmet;
use crate::{JobState, State, drain};

/// Whether a machine is to have a task of a daemon.
pub(crate) fn is_target(spec: &JobSpec, machine: &MachineRecord) -> bool {
    machine.takes_tasks() && unmet(&spec.requires, &machine.facts).is_none()
}

/// The machine that an index belongs to; none of a task that was begun when its job was of another kind.
pub(crate) fn machine_of(row: &TaskRecord) -> Option<&MachineId> {
    row.meant_for.as_ref()
}

/// Gives new machines their task, and retires the tasks of those that are to have none.
pub(crate) fn settle(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    if job.spec().kind != Kind::Daemon || job.row.stopped {
        return;
    }
    let spec = job.spec().clone();
    let latest: Vec<TaskRecord> = job.latest_of_each().cloned().collect();
    for row in latest.iter().filter(|row| !row.retired) {
        leave(draft, &spec, row);
    }
    let version = job_version(draft, id);
    let mut next = latest.last().map_or(0, |row| row.id.index + 1);
    let known: BTreeSet<&MachineId> = latest.iter().filter_map(machine_of).collect();
    for row in latest
        .iter()
        .filter(|row| row.retired && row.state.is_terminal())
    {
        let machine = machine_of(row).and_then(|machine| draft.machine(machine));
        if machine.is_some_and(|machine| is_target(&spec, machine)) {
            begin_on(draft, id, row.id.index, version, None);
        }
    }
    let machines = draft.machines();
    let new = machines.filter(|machine| is_target(&spec, machine) && !known.contains(&machine.id));
    let new: Vec<MachineId> = new.map(|machine| machine.id.clone()).collect();
    for machine in new {
        begin_on(draft, id, next, version, Some(machine));
        next += 1;
    }
}

fn job_version(draft: &Draft, id: &JobId) -> tw_model::Version {
    draft.job(id).map_or(0, |job| job.row.version)
}

/// Why a task is to be retired now: its machine is to have none, and it may go.
pub(crate) fn why_leaves(draft: &Draft, spec: &JobSpec, row: &TaskRecord) -> Option<&'static str> {
    let machine = machine_of(row).and_then(|machine| draft.machine(machine));
    Some(match machine {
        Some(machine) if is_target(spec, machine) => return None,
        Some(machine) if machine.spares_tasks() || !goes_now(draft, machine, row) => return None,
        Some(machine) if machine.state == MachineState::Up && machine.drain.is_some() => {
            "its machine is being drained"
        }
        Some(machine) if machine.state == MachineState::Up => {
            "its machine is not what the job requires any more"
        }
        Some(_) => "its machine was lost",
        None => "a daemon has one task on each machine",
    })
}

/// Retires a task whose machine is to have none, once it may go.
fn leave(draft: &mut Draft, spec: &JobSpec, row: &TaskRecord) {
    let Some(why) = why_leaves(draft, spec, row) else {
        return;
    };
    let mut retired = row.clone();
    retired.retired = true;
    if row.state.is_terminal() || row.desired == Desired::Stop {
        draft.put_task(retired);
    } else {
        tell(
            draft,
            &retired,
            TaskEvent::StopAsked,
            &Details::because(why),
        );
    }
}

/// Daemons serve the other tasks of a machine, and stay until those have left a machine that is being drained.
fn goes_now(draft: &Draft, machine: &MachineRecord, row: &TaskRecord) -> bool {
    let (Some(drained), MachineState::Up) = (&machine.drain, machine.state) else {
        return true;
    };
    if row.state.is_terminal() || row.state == TaskState::Pending {
        return true;
    }
    let Some(job) = draft.job(&row.id.job) else {
        return true;
    };
    let served = |other: &TaskRecord| {
        let job = draft.job(&other.id.job);
        let daemon = job.is_some_and(|job| job.spec_of(other).kind == Kind::Daemon);
        !daemon && !other.state.is_terminal()
    };
    let mut others = draft.base().tasks_on(&machine.id);
    let lead = drained.deadline.map_or(Millis::ZERO, |deadline| {
        // A daemon has one task on each machine.
        drain::lead(draft, deadline, draft.backlog().by(deadline).machines)
    });
    drain::is_due(job, row, drained.deadline, lead, draft.now)
        || !others.any(|other| draft.task(&other.id).is_some_and(served))
}

/// Whether a machine lacks its task, or has one that it is not to have.
pub(crate) fn has_loose_ends(state: &State, job: &JobState) -> bool {
    if job.spec().kind != Kind::Daemon || job.row.stopped {
        return false;
    }
    let spec = job.spec();
    let mut served = BTreeSet::new();
    for row in job.latest_of_each() {
        let machine = machine_of(row).and_then(|machine| state.machine(machine));
        let wanted = machine.is_some_and(|machine| is_target(spec, machine));
        match (wanted, row.retired) {
            // One that was retired ends first, and then begins again.
            (true, true) if row.state.is_terminal() => return true,
            (true, _) => served.extend(machine_of(row)),
            (false, false) => return true,
            (false, true) => {}
        }
    }
    let mut targets = state.machines().filter(|machine| is_target(spec, machine));
    targets.any(|machine| !served.contains(&machine.id))
}
