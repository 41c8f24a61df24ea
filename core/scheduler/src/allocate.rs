//! Finds machines for tasks: spread a job first, then best fit.
//!
//! A task goes to the machine that fewest tasks of the same job are on, so that the loss of one machine takes as
//! little of a job as possible; among those to the one that it fills best, so that large rooms stay large.
//! `docs/design/allocator.md` says how, and what it was measured against.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use tw_model::{Effect, MachineId, Name, RolloutState, TaskId, TaskRecord, TaskState};

use crate::draft::Draft;
use crate::escalate::escalate;
use crate::fleet::{Fleet, Request, Reserved, Room, Slot};
use crate::index::Search;
use crate::overlay::Overlay;
use crate::simulate::Apart;
use crate::{JobState, seed};

/// How good a machine is for a task; less is better. Slots break ties, so that the order is total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    same_job: u32,
    waste: i64,
    slot: Slot,
}

/// How many machines are looked at for a choice that is right to the last bit.
const LOOK_MAX: usize = 256;

/// Wishes beside the request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Taken if the task fits there at all: its logs, packages and page cache are there.
    pub(crate) prefer: Option<Slot>,
    /// Taken only if the task fits nowhere else.
    pub(crate) avoid: Option<Slot>,
}

/// The machines as they are now: a fleet, and what a decision has done to it so far.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) overlay: &'a Overlay,
}

impl<'a> View<'a> {
    pub(crate) fn of(draft: &'a Draft) -> View<'a> {
        View {
            fleet: draft.fleet(),
            overlay: draft.overlay(),
        }
    }

    pub(crate) fn room(&self, slot: Slot) -> Room {
        self.overlay.room(self.fleet, slot)
    }
}

/// Places the tasks of one job, one after the other.
///
/// Machines are looked at in the order of the fleet's index, a few at a time, and kept with their rank for the next
/// tasks of the job. The best one known is taken as soon as those not yet seen cannot be better by more than one
/// cell of the index. While one job is placed machines only get worse, so that the first one known whose rank still
/// holds is the best one known.
pub(crate) struct Placer {
    request: Request,
    /// How many live tasks of the job each machine holds.
    on_machine: BTreeMap<Slot, u32>,
    apart: Apart,
    /// The racks that hold tasks of the job, where they may not share one.
    racks: BTreeSet<u32>,
    /// Room that tasks of the job will need where they are, for the version that they are to get.
    held_back: BTreeMap<Slot, Reserved>,
    /// The machines seen, each with the rank it had when it was last looked at.
    known: BinaryHeap<Reverse<Rank>>,
    search: Search,
    /// Whether the search has more to show.
    more: bool,
}

impl Placer {
    /// A placer for tasks that belong to no job yet.
    pub(crate) fn new(view: View, request: Request) -> Placer {
        let mut placer = Placer {
            request,
            on_machine: BTreeMap::new(),
            apart: Apart::No,
            racks: BTreeSet::new(),
            held_back: BTreeMap::new(),
            known: BinaryHeap::new(),
            search: Search::new(&request),
            more: true,
        };
        placer.see(view, view.overlay.grown());
        placer
    }

    /// A placer for tasks of a job.
    pub(crate) fn of_job(draft: &Draft, job: &JobState, request: Request) -> Placer {
        let mut on_machine = BTreeMap::new();
        for row in job.tasks().filter(|row| !row.state.is_terminal()) {
            let slot = row.machine.as_ref().and_then(|id| draft.slot(id));
            if let Some(slot) = slot {
                *on_machine.entry(slot).or_default() += 1;
            }
        }
        let view = View::of(draft);
        let mut placer = Placer {
            on_machine,
            held_back: held_back(draft, job),
            known: BinaryHeap::new(),
            ..Placer::new(view, request)
        };
        placer.see(view, view.overlay.grown());
        placer
    }

    /// Keeps the tasks of the job apart, also from those that are on machines already.
    pub(crate) fn keep_apart(
        mut self,
        view: View,
        apart: Apart,
        on_machine: BTreeMap<Slot, u32>,
    ) -> Placer {
        self.apart = apart;
        self.racks = on_machine
            .keys()
            .map(|slot| view.fleet.rack(*slot))
            .collect();
        self.on_machine = on_machine;
        self
    }

    /// How many tasks of the job each machine holds now.
    pub(crate) fn into_counts(self) -> BTreeMap<Slot, u32> {
        self.on_machine
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// The machine for the next task; none where it fits nowhere.
    ///
    /// The caller takes the room at once, before it asks again.
    pub(crate) fn place(&mut self, view: View, wish: Wish) -> Option<Slot> {
        let kept = wish.prefer.filter(|slot| Some(*slot) != wish.avoid);
        // Who was there before comes first; what is held back is held from those who look for a place.
        let kept = kept.filter(|slot| view.room(*slot).fits(&self.request));
        let chosen = kept
            .or_else(|| self.best(view, wish.avoid))
            .or_else(|| wish.avoid.filter(|slot| self.rank(view, *slot).is_some()))?;
        *self.on_machine.entry(chosen).or_default() += 1;
        if self.apart == Apart::Rack {
            self.racks.insert(view.fleet.rack(chosen));
        }
        Some(chosen)
    }

    fn best(&mut self, view: View, avoid: Option<Slot>) -> Option<Slot> {
        let mut seen = 0;
        loop {
            let best = self.best_known(view, avoid);
            if !self.more || best.is_some_and(|rank| self.is_good(rank, seen)) {
                return best.map(|rank| rank.slot);
            }
            match self.search.next(view.fleet.index()) {
                Some(slots) => {
                    self.see(view, slots);
                    seen += slots.len();
                }
                None => self.more = false,
            }
        }
    }

    /// Whether no machine that was not seen yet can be better, or after a long look not by more than two cells.
    fn is_good(&self, rank: Rank, seen: usize) -> bool {
        let distance = self.search.distance() as i64;
        let bound = match seen < LOOK_MAX {
            true => distance - 1,
            false => distance + 1,
        };
        rank.same_job == 0 && rank.waste <= bound * Search::cell_width()
    }

    fn see(&mut self, view: View, slots: &[Slot]) {
        for slot in slots {
            let rank = self.rank(view, *slot);
            self.known.extend(rank.map(Reverse));
        }
    }

    fn best_known(&mut self, view: View, avoid: Option<Slot>) -> Option<Rank> {
        let mut avoided = None;
        let best = loop {
            let Some(Reverse(known)) = self.known.pop() else {
                break None;
            };
            let Some(rank) = self.rank(view, known.slot) else {
                continue;
            };
            match rank > known {
                true => self.known.push(Reverse(rank)),
                false if Some(rank.slot) == avoid => avoided = Some(rank),
                false => break Some(rank),
            }
        };
        let kept = avoided.into_iter().chain(best);
        self.known.extend(kept.map(Reverse));
        best
    }

    fn rank(&self, view: View, slot: Slot) -> Option<Rank> {
        let mut room = view.room(slot);
        if !self.held_back.is_empty()
            && let Some(held) = self.held_back.get(&slot)
        {
            room.take(held);
        }
        if !room.fits(&self.request) {
            return None;
        }
        let same_job = match self.on_machine.is_empty() {
            true => 0,
            false => self.on_machine.get(&slot).copied().unwrap_or(0),
        };
        let shared = match self.apart {
            Apart::No => false,
            Apart::Machine => same_job > 0,
            Apart::Rack => self.racks.contains(&view.fleet.rack(slot)),
        };
        if shared {
            return None;
        }
        Some(Rank {
            same_job,
            waste: waste(&room, &self.request),
            slot,
        })
    }
}

/// What the tasks of a job that an update leaves where they are will need there beyond what they hold now.
///
/// Without this, tasks of the same job that look for a place would take the room, and more would have to move than
/// the plan said.
fn held_back(draft: &Draft, job: &JobState) -> BTreeMap<Slot, Reserved> {
    let mut held: BTreeMap<Slot, Reserved> = BTreeMap::new();
    let rollout = job.row.rollout.as_ref();
    let Some(rollout) = rollout.filter(|rollout| rollout.state != RolloutState::Halted) else {
        return held;
    };
    let (new, request) = (&job.spec().resources, Request::of(job.spec()));
    let staying = job.tasks().filter(|row| {
        !row.state.is_terminal()
            && row.version != rollout.to
            && row.id.index < job.wanted()
            && !rollout.moves.contains(&row.id.index)
    });
    for row in staying {
        let slot = row.machine.as_ref().and_then(|id| draft.slot(id));
        let fits = escalate(Effect::Restart, draft, job, row, &request) == Effect::Restart;
        if let Some(slot) = slot.filter(|_| fits) {
            let old = &job.spec_of(row).resources;
            let more = held.entry(slot).or_default();
            more.cpu = more.cpu + (new.cpu - old.cpu);
            more.memory = more.memory + (new.memory - old.memory);
            more.disk = more.disk + (new.disk - old.disk);
        }
    }
    held
}

/// What would be left unused: millionths of the machine, of whichever is left more of; less is better.
///
/// Left-over CPU without memory to go with it is worth nothing to the next task, hence the larger of the two.
fn waste(room: &Room, request: &Request) -> i64 {
    let cpu = (room.cpu - request.cpu.0 as i64) as f64 / room.cpu_whole;
    let memory = (room.memory - request.memory.0 as i64) as f64 / room.memory_whole;
    (cpu.max(memory) * 1e6) as i64
}

/// How often in a row a task may fail on one machine before it is tried on another.
const FAILURES_ON_ONE_MACHINE: usize = 2;

/// Where the next start of a task should and should not be.
pub(crate) fn wish_of(draft: &Draft, job: &JobState, row: &TaskRecord, leave: bool) -> Wish {
    let ended: Vec<&TaskRecord> = job
        .of_index(row.id.index)
        .rev()
        .filter(|other| other.state.is_terminal())
        .collect();
    let Some(last) = ended.first() else {
        return Wish::default();
    };
    let slot = last.machine.as_ref().and_then(|id| draft.slot(id));
    let failures = ended
        .iter()
        .take_while(|other| other.state == TaskState::Failed)
        .take_while(|other| other.machine == last.machine)
        .count();
    match leave || failures >= FAILURES_ON_ONE_MACHINE {
        true => Wish {
            prefer: None,
            avoid: slot,
        },
        false => Wish {
            prefer: slot,
            avoid: None,
        },
    }
}

/// Free ports of a machine, one for each name. The caller knows that there are enough.
///
/// Where the search begins depends on the seed and the task, so that a port which turned out to be taken by a
/// stranger is not tried again at once.
pub(crate) fn pick_ports(
    draft: &Draft,
    slot: Slot,
    task: &TaskId,
    names: &[Name],
) -> BTreeMap<Name, u16> {
    let capacity = &draft.machine_at(slot).capacity;
    let (first, last) = (
        u64::from(capacity.port_first),
        u64::from(capacity.port_last),
    );
    let count = (last + 1).saturating_sub(first);
    if names.is_empty() || count == 0 {
        return BTreeMap::new();
    }
    let start = seed::derive(draft.seed, task) % count;
    let all = (0..count).map(|step| (first + (start + step) % count) as u16);
    let free = all.filter(|port| !draft.port_taken(slot, *port));
    names.iter().cloned().zip(free).collect()
}

/// The name of the machine at a slot.
pub(crate) fn machine_at(draft: &Draft, slot: Slot) -> (MachineId, u64) {
    let row = draft.machine_at(slot);
    (row.id.clone(), row.epoch)
}
