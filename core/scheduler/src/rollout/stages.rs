//! How far each stage of an update goes, and which tasks are the nearest to where it began.
//!
//! A stage that is a part of the fleet is the part of its kind around the machine of the first task that the update
//! takes, so that stages of growing parts lie within each other: one machine, then its cluster, then its data centre.

use tw_model::{Domain, JobSpec, MachineId, RolloutRecord, Stage};

use crate::draft::Draft;

/// The kinds of parts, each within the next.
const NESTED: [Domain; 5] = [
    Domain::Machine,
    Domain::Rack,
    Domain::Cluster,
    Domain::Datacenter,
    Domain::Region,
];

/// How far a machine is from where an update began: 0 on the same machine, 1 in the same rack, up to
/// [`Distance::FAR`] where nothing is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distance(usize);

impl Distance {
    /// In no part together, or nobody knows where.
    pub(crate) const FAR: Distance = Distance(NESTED.len());

    /// Between two machines.
    pub(crate) fn between(
        draft: &Draft,
        origin: Option<&MachineId>,
        machine: Option<&MachineId>,
    ) -> Distance {
        let slot = |machine: Option<&MachineId>| draft.slot(machine?);
        let (Some(origin), Some(slot)) = (slot(origin), slot(machine)) else {
            return Distance::FAR;
        };
        let part = |kind: Domain, slot| draft.fleet().part(kind, slot);
        let shared = |kind: &Domain| part(*kind, origin) == part(*kind, slot);
        Distance(NESTED.iter().position(shared).unwrap_or(NESTED.len()))
    }

    /// Whether it is within one part of a kind.
    pub(crate) fn is_within(self, kind: Domain) -> bool {
        NESTED.iter().position(|one| *one == kind) >= Some(self.0)
    }
}

/// Whether the stages of a job ask where its tasks are.
pub(crate) fn are_placed(spec: &JobSpec) -> bool {
    let mut stages = spec.rollout.stages.iter();
    stages.any(|stage| matches!(stage, Stage::Within(_)))
}

/// The kinds of parts that the stages of a job are, none for those that count; empty where all do.
pub(crate) fn parts(spec: &JobSpec, stages: usize) -> Vec<Option<Domain>> {
    if !are_placed(spec) {
        return Vec::new();
    }
    (0..stages).map(|stage| part(spec, stage)).collect()
}

/// The kind of part that a stage is.
pub(crate) fn part(spec: &JobSpec, stage: usize) -> Option<Domain> {
    match spec.rollout.stages.get(stage) {
        Some(Stage::Within(domain)) => Some(*domain),
        _ => None,
    }
}

/// The part that the stage of an update is now; none where it counts.
pub(crate) fn part_now(spec: &JobSpec, rollout: &RolloutRecord) -> Option<Domain> {
    part(spec, rollout.stage as usize).filter(|_| !rollout.rollback)
}

/// How many of these tasks run the new version after each stage, given how far each is from where the update began; the
/// last number is all of them.
pub(crate) fn sizes(spec: &JobSpec, tasks: u32, distances: &[Distance]) -> Vec<u32> {
    let within = |kind: Domain| {
        let near = distances.iter().filter(|distance| distance.is_within(kind));
        near.count() as u32
    };
    let mut reached = 0;
    let stages = spec.rollout.stages.iter();
    let mut sizes: Vec<u32> = stages
        .map(|stage| {
            let size = stage.tasks(tasks, within);
            // No stage takes back what one before it did.
            reached = match are_placed(spec) {
                true => size.max(reached),
                false => size,
            };
            reached
        })
        .collect();
    if sizes.last() != Some(&tasks) {
        sizes.push(tasks);
    }
    sizes
}
