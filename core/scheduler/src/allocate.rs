//! Finds machines for tasks: spread a job first, then best fit.
//!
//! A task goes to the machine that fewest tasks of the same job are on, so that the loss of one machine takes as
//! little of a job as possible; among those to the one that it fills best, so that large rooms stay large.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tw_model::{Effect, MachineId, Name, RolloutState, TaskId, TaskRecord, TaskState};

use crate::draft::Draft;
use crate::escalate::escalate;
use crate::fleet::{Request, Reserved, Room, Slot};
use crate::{JobState, seed};

/// How many of the best machines one scan keeps.
///
/// More than the usual number of tasks of a job (36 at Twine), so that a job costs one scan.
const CANDIDATES_KEPT: usize = 64;

/// How good a machine is for a task; less is better. Slots break ties, so that the order is total.
type Rank = (u32, i32, Slot);

/// Worse than every machine.
const UNBOUNDED: Rank = (u32::MAX, i32::MAX, Slot::MAX);

/// Wishes beside the request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Taken if the task fits there at all: its logs, packages and page cache are there.
    pub(crate) prefer: Option<Slot>,
    /// Taken only if the task fits nowhere else.
    pub(crate) avoid: Option<Slot>,
}

/// Places the tasks of one job, one after the other.
///
/// One scan finds the best machines; the next tasks of the job choose among them for as long as no machine
/// outside can be better, so that every choice is the one that a full scan would have made.
pub(crate) struct Placer {
    request: Request,
    /// How many live tasks of the job each machine holds.
    on_machine: BTreeMap<Slot, u32>,
    /// Room that tasks of the job will need where they are, for the version that they are to get.
    held_back: BTreeMap<Slot, Reserved>,
    /// The best machines, each with the rank it had when it was last looked at.
    candidates: BinaryHeap<Reverse<Rank>>,
    /// No machine outside of `candidates` ranks below this; none before the first scan.
    bound: Option<Rank>,
}

impl Placer {
    pub(crate) fn new(draft: &Draft, job: &JobState, request: Request) -> Placer {
        let mut on_machine = BTreeMap::new();
        for row in job.tasks().filter(|row| !row.state.is_terminal()) {
            let slot = row.machine.as_ref().and_then(|id| draft.slot(id));
            if let Some(slot) = slot {
                *on_machine.entry(slot).or_default() += 1;
            }
        }
        Placer {
            request,
            on_machine,
            held_back: held_back(draft, job),
            candidates: BinaryHeap::new(),
            bound: None,
        }
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// The machine for the next task; none where it fits nowhere.
    ///
    /// The caller puts the task's row into the draft at once, before it asks again.
    pub(crate) fn place(&mut self, draft: &Draft, wish: Wish) -> Option<Slot> {
        let kept = wish.prefer.filter(|slot| Some(*slot) != wish.avoid);
        // Who was there before comes first; what is held back is held from those who look for a place.
        let kept = kept.filter(|slot| draft.room(*slot).fits(&self.request));
        let chosen = kept
            .or_else(|| self.best(draft, wish.avoid))
            .or_else(|| wish.avoid.filter(|slot| self.fits(draft, *slot)))?;
        *self.on_machine.entry(chosen).or_default() += 1;
        Some(chosen)
    }

    fn best(&mut self, draft: &Draft, avoid: Option<Slot>) -> Option<Slot> {
        if let Some(bound) = self.bound {
            match self.best_candidate(draft, avoid) {
                Some(best) if best < bound => return Some(best.2),
                // The candidates are all that fit.
                None if bound == UNBOUNDED => return None,
                _ => {}
            }
        }
        self.scan(draft);
        self.best_candidate(draft, avoid).map(|rank| rank.2)
    }

    /// The best candidate as it is now. Machines only get worse while one job is placed, so that the first one
    /// whose rank still holds is the best.
    fn best_candidate(&mut self, draft: &Draft, avoid: Option<Slot>) -> Option<Rank> {
        let mut avoided = None;
        let best = loop {
            let Some(Reverse(known)) = self.candidates.pop() else {
                break None;
            };
            let Some(rank) = self.rank(known.2, &draft.room(known.2)) else {
                continue;
            };
            match rank > known {
                true => self.candidates.push(Reverse(rank)),
                false if Some(rank.2) == avoid => avoided = Some(rank),
                false => break Some(rank),
            }
        };
        let kept = avoided.into_iter().chain(best);
        self.candidates.extend(kept.map(Reverse));
        best
    }

    fn scan(&mut self, draft: &Draft) {
        let mut ranks: Vec<Rank> = Vec::with_capacity(2 * CANDIDATES_KEPT);
        let mut bound = UNBOUNDED;
        for (slot, room) in draft.rooms() {
            let Some(rank) = self.rank(slot, &room).filter(|rank| *rank < bound) else {
                continue;
            };
            ranks.push(rank);
            if ranks.len() == 2 * CANDIDATES_KEPT {
                let (_, worst, _) = ranks.select_nth_unstable(CANDIDATES_KEPT);
                bound = *worst;
                ranks.truncate(CANDIDATES_KEPT);
            }
        }
        if ranks.len() > CANDIDATES_KEPT {
            let (_, worst, _) = ranks.select_nth_unstable(CANDIDATES_KEPT);
            bound = *worst;
            ranks.truncate(CANDIDATES_KEPT);
        }
        self.candidates = ranks.into_iter().map(Reverse).collect();
        self.bound = Some(bound);
    }

    fn fits(&self, draft: &Draft, slot: Slot) -> bool {
        self.rank(slot, &draft.room(slot)).is_some()
    }

    fn rank(&self, slot: Slot, room: &Room) -> Option<Rank> {
        let mut room = *room;
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
        Some((same_job, waste(&room, &self.request), slot))
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

/// What would be left unused, and how unevenly: thousandths of the machine; less is better.
///
/// Left-over CPU without memory to go with it is worth nothing to the next task, hence the difference.
fn waste(room: &Room, request: &Request) -> i32 {
    let cpu = (room.cpu - request.cpu.0 as i64) as f32 / room.cpu_whole;
    let memory = (room.memory - request.memory.0 as i64) as f32 / room.memory_whole;
    ((cpu + memory + (cpu - memory).abs()) * 1000.0) as i32
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
