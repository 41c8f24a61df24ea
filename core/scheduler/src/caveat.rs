//! What a reviewer of a plan should know of the machines that it forecasts: what a job asks for that they cannot hold
//! its tasks to, that it depends on what is installed there, and that its tasks end themselves where nobody reaches them.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use tw_model::{JobSpec, MachineId, Resources};

use crate::TaskPlan;
use crate::draft::Draft;

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caveat {
    /// The field that it is about; empty for what every task is meant to have.
    pub field: String,
    /// What does not hold, or is taken for granted, in words for people.
    pub what: String,
    /// Where; a forecast, as the plan's machines are.
    pub machines: Vec<MachineId>,
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machines: Vec<&str> = self.machines.iter().map(MachineId::as_str).collect();
        write!(f, "{} on {}", self.what, machines.join(", "))?;
        match self.field.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", self.field),
        }
    }
}

/// What a machine says that it enforces, the field that asks for it, and what does not hold without it.
type Ask = (&'static str, &'static str, &'static str);

/// What the tasks of a job ask for beyond what every machine enforces.
fn asks(spec: &JobSpec) -> Vec<Ask> {
    let plain = Resources::default();
    let asked = &spec.resources;
    let all: [(bool, Ask); 7] = [
        (
            true,
            (
                "cpu",
                "",
                "processor and memory are measured and not limited",
            ),
        ),
        (
            true,
            (
                "user-namespace",
                "",
                "tasks share the user numbers of the machine",
            ),
        ),
        (
            asked.disk != plain.disk,
            (
                "disk",
                "resources.disk_bytes",
                "scratch space is kept free and counted: a task with more is restarted, seconds later",
            ),
        ),
        (
            asked.whole_cores,
            (
                "whole-cores",
                "resources.whole_cores",
                "cores are shared with other tasks",
            ),
        ),
        (
            asked.swap != plain.swap,
            ("swap", "resources.swap_bytes", "swap is not limited"),
        ),
        (
            asked.io_weight != plain.io_weight,
            ("io", "resources.io_weight", "the disk is not shared out"),
        ),
        (
            !spec.volumes.is_empty(),
            ("volume-size", "volumes", "volumes are not bounded in size"),
        ),
    ];
    all.into_iter()
        .filter_map(|(is_asked, ask)| is_asked.then_some(ask))
        .collect()
}

/// Holds what a job asks for against the machines that its tasks would be on.
pub(crate) fn of(draft: &Draft, spec: &JobSpec, tasks: &[TaskPlan], is_new: bool) -> Vec<Caveat> {
    let machines: BTreeSet<&MachineId> = tasks.iter().filter_map(|task| task.to.as_ref()).collect();
    let depends = is_new && depends_on_machines(spec) && !machines.is_empty();
    let depends = depends.then(|| Caveat {
        field: "image".to_owned(),
        what: "depends on the programs that are installed".to_owned(),
        machines: machines.iter().map(|machine| (*machine).clone()).collect(),
    });
    let unenforced = asks(spec).into_iter().filter_map(|(name, field, what)| {
        let enforces = |machine: &&&MachineId| {
            let row = draft.machine(machine);
            // One that says nothing at all is not known.
            row.is_none_or(|row| {
                let enforces = &row.facts.enforces;
                enforces.is_empty() || enforces.iter().any(|found| found == name)
            })
        };
        let without: Vec<MachineId> = machines
            .iter()
            .filter(|machine| !enforces(machine))
            .map(|machine| (*machine).clone())
            .collect();
        (!without.is_empty()).then(|| Caveat {
            field: field.to_owned(),
            what: what.to_owned(),
            machines: without,
        })
    });
    let ends_itself = spec.failover.as_ref().filter(|_| !machines.is_empty());
    let ends_itself = ends_itself.map(|failover| Caveat {
        field: "failover".to_owned(),
        what: format!(
            "whatever no controller reaches for {} ends itself, all of it at once, beyond max_unavailable and the stop limits",
            failover.within
        ),
        machines: machines.iter().map(|machine| (*machine).clone()).collect(),
    });
    let known = depends.into_iter().chain(ends_itself);
    known.chain(unenforced).collect()
}

/// Whether a job takes its root from its machine without saying which machines those are.
fn depends_on_machines(spec: &JobSpec) -> bool {
    spec.image.is_none() && spec.requires.os.is_empty() && spec.requires.profile.is_none()
}
