//! Which tasks a task is to be near to, apart from, or spread among.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;

use tw_model::{Affinity, Desired, Domain, JobId, JobSpec, TaskId, TaskRecord, TaskState};

use crate::domains::Part;
use crate::draft::Draft;
use crate::fleet::{Fleet, Slot};
use crate::requires::unmet;
use crate::{JobState, preempt};

/// Tasks that others are to be near to, or apart from.
#[derive(Clone, Debug)]
pub(crate) struct Tie {
    /// The job of these tasks.
    pub(crate) job: JobId,
    pub(crate) within: Domain,
    /// Near, or apart.
    pub(crate) near: bool,
    /// Whether a task rather waits than runs against it.
    pub(crate) required: bool,
    /// Whether these are the tasks of the job that is placed.
    own: bool,
    /// The parts of the fleet that hold some of these tasks.
    parts: BTreeSet<Part>,
    /// Those of the parts that all of these tasks are about to leave, and which tasks these are.
    vacated: BTreeMap<Part, Vec<TaskId>>,
}

impl Tie {
    /// Everything that ties the tasks of a job to those of others: what its spec says, and what the specs of others
    /// say of it, since who wants to be left alone wants so whoever comes first.
    pub(crate) fn of_job(draft: &Draft, job: &JobState, spec: &JobSpec) -> Vec<Tie> {
        let id = &job.row.id;
        let said = |wishes: &[Affinity], near: bool| -> Vec<Tie> {
            let wishes = wishes.iter();
            wishes
                .map(|wish| {
                    let other = JobId::new(id.namespace.clone(), wish.job.clone());
                    Tie {
                        parts: parts_of(draft, &other, wish.within),
                        vacated: match near || !wish.required {
                            true => BTreeMap::new(),
                            false => vacated(draft, &other, wish.within),
                        },
                        own: other == *id,
                        job: other,
                        within: wish.within,
                        near,
                        required: wish.required,
                    }
                })
                .collect()
        };
        let mut ties = said(&spec.affinity, true);
        ties.extend(said(&spec.anti_affinity, false));
        for shunner in shunners(draft, id) {
            let Some(other) = draft.job(&shunner) else {
                continue;
            };
            let wishes = other.spec().anti_affinity.iter();
            let strict = wishes.filter(|wish| wish.required && wish.job == id.name);
            ties.extend(strict.map(|wish| Tie {
                parts: parts_of(draft, &shunner, wish.within),
                vacated: vacated(draft, &shunner, wish.within),
                own: false,
                job: shunner.clone(),
                within: wish.within,
                near: false,
                required: true,
            }));
        }
        ties
    }

    /// Keeps the tasks of one job apart, also from those that are on machines already.
    pub(crate) fn apart(
        fleet: &Fleet,
        job: JobId,
        within: Domain,
        on: &BTreeMap<Slot, u32>,
    ) -> Tie {
        Tie {
            job,
            within,
            near: false,
            required: true,
            own: true,
            parts: on.keys().map(|slot| fleet.part(within, *slot)).collect(),
            vacated: BTreeMap::new(),
        }
    }

    /// Whether a machine is where it should be.
    pub(crate) fn holds(&self, fleet: &Fleet, slot: Slot) -> bool {
        let there = self.parts.contains(&fleet.part(self.within, slot));
        match self.near {
            // The first of those that are to be together may be anywhere.
            true => there || (self.own && self.parts.is_empty()),
            false => !there,
        }
    }

    /// The tasks that keep a machine from being where it should be, if all of them are about to leave.
    pub(crate) fn leaving(&self, fleet: &Fleet, slot: Slot) -> &[TaskId] {
        let left = self.vacated.get(&fleet.part(self.within, slot));
        left.map_or(&[], Vec::as_slice)
    }

    /// The machines that only tasks keep off which are about to leave.
    pub(crate) fn opening<'a>(&'a self, fleet: &'a Fleet) -> Box<dyn Iterator<Item = Slot> + 'a> {
        let all = 0..fleet.len() as Slot;
        match (self.vacated.is_empty(), self.within) {
            (true, _) => Box::new(iter::empty()),
            (false, Domain::Machine) => Box::new(self.vacated.keys().copied()),
            (false, _) => Box::new(all.filter(move |slot| !self.leaving(fleet, *slot).is_empty())),
        }
    }

    /// Whether nobody is there to be near to.
    pub(crate) fn is_alone(&self) -> bool {
        self.near && !self.own && self.parts.is_empty()
    }

    pub(crate) fn count(&mut self, fleet: &Fleet, slot: Slot) {
        if self.own {
            let part = fleet.part(self.within, slot);
            self.parts.insert(part);
            self.vacated.remove(&part);
        }
    }
}

/// The jobs that want none of their tasks near those of this one.
fn shunners(draft: &Draft, id: &JobId) -> BTreeSet<JobId> {
    let stored = draft.base().shunned_by(id).cloned();
    let changed = draft.touched_jobs().filter(|job| shuns(job, id));
    stored
        .chain(changed.map(|job| job.row.id.clone()))
        .filter(|shunner| shunner != id)
        .collect()
}

fn shuns(job: &JobState, id: &JobId) -> bool {
    job.row.id.namespace == id.namespace
        && !job.row.stopped
        && job
            .spec()
            .anti_affinity
            .iter()
            .any(|wish| wish.required && wish.job == id.name)
}

/// The jobs that a job wants to be left alone by.
pub(crate) fn shunned(job: &JobState) -> impl Iterator<Item = JobId> {
    let wishes = job.spec().anti_affinity.iter();
    let strict = wishes.filter(|wish| wish.required && !job.row.stopped);
    strict.map(|wish| JobId::new(job.row.id.namespace.clone(), wish.job.clone()))
}

fn parts_of(draft: &Draft, id: &JobId, within: Domain) -> BTreeSet<Part> {
    let job = draft.job(id);
    let rows = job.into_iter().flat_map(JobState::tasks);
    let live = rows.filter(|row| !row.state.is_terminal());
    let slots = live.filter_map(|row| draft.slot(row.machine.as_ref()?));
    slots.map(|slot| draft.fleet().part(within, slot)).collect()
}

/// The parts in which all tasks of a job are about to leave their machines.
fn vacated(draft: &Draft, id: &JobId, within: Domain) -> BTreeMap<Part, Vec<TaskId>> {
    let mut vacated: BTreeMap<Part, Vec<TaskId>> = BTreeMap::new();
    let Some(job) = draft.job(id).filter(|job| job.stopping > 0) else {
        return vacated;
    };
    let mut kept = BTreeSet::new();
    for row in job.live() {
        let Some(slot) = row.machine.as_ref().and_then(|id| draft.slot(id)) else {
            continue;
        };
        let part = draft.fleet().part(within, slot);
        let leaves = row.state == TaskState::Stopping && preempt::leaves_its_room(draft, job, row);
        match leaves {
            true => vacated.entry(part).or_default().push(row.id.clone()),
            false => {
                kept.insert(part);
            }
        }
    }
    vacated.retain(|part, _| !kept.contains(part));
    vacated
}

/// How the tasks of a job are spread over the parts of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Spreading {
    pub(crate) over: Domain,
    /// How many parts must have tasks, given how many tasks there are.
    pub(crate) needed: usize,
    counts: BTreeMap<Part, u32>,
    /// Parts in which room is made for tasks that wait.
    expected: BTreeSet<Part>,
}

impl Spreading {
    pub(crate) fn of_job(draft: &Draft, job: &JobState, spec: &JobSpec) -> Vec<Spreading> {
        let spreads = spec.spread.iter();
        spreads
            .map(|spread| {
                let needed = spread.at_least.min(spec.tasks(job.row.scaled()));
                let staying = staying(draft, job).map(|slot| (slot, 1));
                Spreading::new(draft.fleet(), spread.over, needed, staying)
            })
            .collect()
    }

    /// Spreads the tasks of one job over as many parts as are needed, with those that are on machines already.
    pub(crate) fn new(
        fleet: &Fleet,
        over: Domain,
        needed: u32,
        on: impl Iterator<Item = (Slot, u32)>,
    ) -> Spreading {
        let mut counts = BTreeMap::new();
        for (slot, count) in on {
            *counts.entry(fleet.part(over, slot)).or_default() += count;
        }
        Spreading {
            over,
            needed: needed as usize,
            counts,
            expected: BTreeSet::new(),
        }
    }

    /// Whether a machine is in a part that has tasks or is to have one, while other parts must have some first.
    pub(crate) fn is_crowded(&self, fleet: &Fleet, slot: Slot) -> bool {
        let part = fleet.part(self.over, slot);
        let used = || self.counts.contains_key(&part) || self.expected.contains(&part);
        self.is_short() && used()
    }

    /// Whether too few parts have tasks.
    pub(crate) fn is_short(&self) -> bool {
        self.counts.len() < self.needed
    }

    /// Whether enough parts will have tasks once those have come that room is made for.
    pub(crate) fn is_about_to_open(&self) -> bool {
        let new = |part: &&Part| !self.counts.contains_key(*part);
        self.counts.len() + self.expected.iter().filter(new).count() >= self.needed
    }

    /// How many tasks of the job are in the part that a machine is in.
    pub(crate) fn in_part_of(&self, fleet: &Fleet, slot: Slot) -> u32 {
        let part = fleet.part(self.over, slot);
        self.counts.get(&part).copied().unwrap_or(0)
    }

    /// How few tasks of the job the emptiest part has.
    pub(crate) fn least(&self, fleet: &Fleet) -> u32 {
        match self.counts.len() < fleet.parts(self.over) {
            true => 0,
            false => self.counts.values().copied().min().unwrap_or(0),
        }
    }

    /// Notes that a task waits for room that is made for it.
    pub(crate) fn expect(&mut self, fleet: &Fleet, slot: Slot) {
        self.expected.insert(fleet.part(self.over, slot));
    }

    /// Notes a task. True when enough parts have tasks from now on.
    pub(crate) fn count(&mut self, fleet: &Fleet, slot: Slot) -> bool {
        let before = self.counts.len();
        *self.counts.entry(fleet.part(self.over, slot)).or_default() += 1;
        before < self.needed && self.counts.len() >= self.needed
    }
}

/// The machines of the tasks that are not about to end.
fn staying(draft: &Draft, job: &JobState) -> impl Iterator<Item = Slot> {
    let rows = job.live().filter(|row| row.desired == Desired::Run);
    rows.filter_map(|row| draft.slot(row.machine.as_ref()?))
}

/// Whether the machine of a task is not what a version of its job requires, or holds tasks that it must not be near.
pub(crate) fn must_leave(
    draft: &Draft,
    job: &JobState,
    row: &TaskRecord,
    to: &Arc<JobSpec>,
) -> bool {
    let Some(slot) = row.machine.as_ref().and_then(|id| draft.slot(id)) else {
        return false;
    };
    if unmet(&to.requires, &draft.machine_at(slot).facts).is_some() {
        return true;
    }
    let others = to.anti_affinity.iter();
    let strict = others.filter(|wish| wish.required && wish.job != job.row.id.name);
    let fleet = draft.fleet();
    strict.into_iter().any(|wish| {
        let other = JobId::new(job.row.id.namespace.clone(), wish.job.clone());
        parts_of(draft, &other, wish.within).contains(&fleet.part(wish.within, slot))
    })
}

/// Two things that a spec says of where its tasks run and that no fleet can satisfy together, in words.
pub(crate) fn contradiction(spec: &JobSpec) -> Option<String> {
    let requires = &spec.requires;
    for (what, range) in [("os", &requires.os_version), ("kernel", &requires.kernel)] {
        if let Some((one, other)) = range.contradiction() {
            return Some(format!(
                "its tasks need a version of the {what} that is both '{one}' and '{other}'"
            ));
        }
    }
    if let Some((_, torn)) = spec.spread_against_region() {
        return Some(torn);
    }
    let near = spec.affinity.iter().filter(|wish| wish.required);
    let near: Vec<&Affinity> = near.collect();
    for wish in &near {
        let mut apart = spec.anti_affinity.iter().filter(|other| other.required);
        // Who is on the same machine is on the same rack as well.
        if let Some(other) =
            apart.find(|other| other.job == wish.job && size(other.within) >= size(wish.within))
        {
            return Some(format!(
                "its tasks are to be on the {} of {}, and never on its {}",
                wish.within.as_str(),
                wish.job,
                other.within.as_str()
            ));
        }
    }
    let together = near.iter().filter(|wish| wish.job == spec.name);
    let narrowest = together.min_by_key(|wish| size(wish.within))?;
    let mut spreads = spec.spread.iter();
    let torn = spreads.find(|spread| size(spread.over) >= size(narrowest.within))?;
    (spec.tasks(Some(u32::MAX)) > 1).then(|| {
        format!(
            "its tasks are to be on one {}, and spread over {} of a {}",
            narrowest.within.as_str(),
            torn.at_least,
            torn.over.as_str()
        )
    })
}

/// Larger for parts that hold others.
fn size(domain: Domain) -> u8 {
    match domain {
        Domain::Machine => 0,
        Domain::Rack => 1,
        Domain::Cluster => 2,
        Domain::Datacenter => 3,
        Domain::Region => 4,
    }
}
