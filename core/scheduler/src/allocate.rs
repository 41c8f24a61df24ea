//! Finds machines for tasks: what is required first, then what is wished, then spread, then best fit.
//!
//! Beside what its spec asks for, a task goes to the machine that fewest tasks of the same job are on, so that the
//! loss of one machine takes as little of a job as possible; among those to the one that it fills best, so that large
//! rooms stay large. `docs/design/allocator.md` says how, and what it was measured against.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use tw_model::{
    Domain, Effect, JobSpec, MachineId, Name, Requires, RolloutState, TaskId, TaskRecord,
    TaskState, Timestamp,
};

use crate::draft::Draft;
use crate::escalate::escalate;
use crate::fleet::{Fleet, Request, Reserved, Room, Slot};
use crate::index::Search;
use crate::neighbours::{Spreading, Tie};
use crate::overlay::Overlay;
use crate::requires::{Eligible, unmet};
use crate::{JobState, daemon, preempt, seed, steadiness};

/// How good a machine is for a task; less is better. Slots break ties, so that the order is total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Whether another part of the fleet has to get a task first.
    crowded: bool,
    /// How little it is to be relied on: it keeps going away, something ails it, or tasks of the job keep failing there.
    unsteady: u32,
    /// How many wishes it does not fulfil.
    unfulfilled: u32,
    /// How many tasks of the job are in the parts of the fleet that it is to be spread over.
    spread: u32,
    same_job: u32,
    waste: i64,
    slot: Slot,
}

/// Why a machine cannot take a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It is not up, or short of something.
    Room,
    /// It does not satisfy what the job requires.
    Requires,
    /// The tie of this number holds the task off.
    Tie(usize),
    /// The spread of this number wants it elsewhere.
    Spread(usize),
}

/// How many machines are looked at for a choice that is right to the last bit.
const LOOK_MAX: usize = 256;

/// How many are looked at for one task that has to share something with others of its job, once [`LOOKED_MAX`] were.
const LOOK_AGAIN: usize = 32;

/// How many machines are looked at for one job before a task is content with fewer looks.
const LOOKED_MAX: usize = 16 * LOOK_MAX;

/// Fewer than one machine in so many satisfy a job: they are looked at one by one.
const RARE: usize = 16;

/// Wishes for one task, beside those of its job.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Taken if the task fits there at all: its logs, packages and page cache are there.
    pub(crate) prefer: Option<Slot>,
    /// Taken only if the task fits nowhere else.
    pub(crate) avoid: Option<Slot>,
    /// What is preferred is taken even where it is not to be relied on: room is promised there, or data is.
    pub(crate) bound: bool,
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
/// tasks of the job. The best one known is taken as soon as those not yet seen cannot be better, or after a long look.
/// While one job is placed machines only get worse, so that the first one known whose rank still holds is the best
/// one known; where that is not so, they are ranked anew.
pub(crate) struct Placer {
    request: Request,
    spec: Option<Arc<JobSpec>>,
    eligible: Option<Arc<Eligible>>,
    /// How many live tasks of the job each machine holds.
    on_machine: BTreeMap<Slot, u32>,
    /// How much speaks against each machine on which tasks of the job have failed lately.
    failing: BTreeMap<Slot, u32>,
    now: Timestamp,
    /// The tasks that these are to be near to, or apart from.
    pub(crate) ties: Vec<Tie>,
    pub(crate) spreads: Vec<Spreading>,
    /// Whether the tasks use so much network that each should have a rack of its own.
    heavy: bool,
    /// Room that tasks of the job will need where they are, for the version that they are to get.
    held_back: BTreeMap<Slot, Reserved>,
    /// Room for which tasks of lower priority were asked to end.
    promised: BTreeMap<Slot, Request>,
    /// The machines seen, each with the rank it had when it was last looked at.
    known: BinaryHeap<Reverse<Rank>>,
    search: Search,
    /// Whether the search has more to show.
    more: bool,
    /// How many machines the search has shown.
    looked: usize,
    /// Whether nobody could make room for a task, and none was placed or promised room since. Who has no room
    /// promised needs not ask again.
    pub(crate) helpless: bool,
}

impl Placer {
    /// A placer for tasks that ask for nothing but room.
    pub(crate) fn new(request: Request) -> Placer {
        Placer {
            request,
            spec: None,
            eligible: None,
            on_machine: BTreeMap::new(),
            failing: BTreeMap::new(),
            now: Timestamp(0),
            ties: Vec::new(),
            spreads: Vec::new(),
            heavy: false,
            held_back: BTreeMap::new(),
            promised: BTreeMap::new(),
            known: BinaryHeap::new(),
            search: Search::new(&request),
            more: true,
            looked: 0,
            helpless: false,
        }
    }

    /// A placer for tasks of a job, at a version of it.
    pub(crate) fn of_job(draft: &Draft, job: &JobState, spec: &Arc<JobSpec>) -> Placer {
        let fleet = draft.fleet();
        let mut on_machine = BTreeMap::new();
        for row in job.live() {
            let slot = row.machine.as_ref().and_then(|id| draft.slot(id));
            if let Some(slot) = slot {
                *on_machine.entry(slot).or_default() += 1;
            }
        }
        let mut placer = Placer {
            eligible: fleet.eligible(&spec.requires),
            on_machine,
            failing: steadiness::failing(draft, job, spec),
            now: draft.now,
            ties: Tie::of_job(draft, job, spec),
            spreads: Spreading::of_job(draft, job, spec),
            heavy: spec.bandwidth_heavy,
            held_back: held_back(draft, job),
            promised: preempt::promised(draft, &job.row.id, spec.priority),
            spec: Some(Arc::clone(spec)),
            ..Placer::new(Request::of(spec))
        };
        placer.begin(View::of(draft));
        placer
    }

    /// Looks at what the index does not show.
    fn begin(&mut self, view: View) {
        self.see(view, view.overlay.grown());
        if let Some(eligible) = self.eligible.clone()
            && eligible.slots.len() * RARE < view.fleet.len()
        {
            self.see(view, &eligible.slots);
            self.more = false;
        }
    }

    /// Takes only machines that satisfy a requirement.
    pub(crate) fn require(&mut self, view: View, requires: &Requires) {
        self.eligible = view.fleet.eligible(requires);
        self.begin(view);
    }

    /// Leaves room on some machines to others.
    pub(crate) fn keep_free(&mut self, claims: &BTreeMap<Slot, Request>) {
        for (slot, claimed) in claims {
            self.promised.entry(*slot).or_default().add(claimed);
        }
    }

    /// How many tasks of the job each machine holds now.
    pub(crate) fn counts(&self) -> &BTreeMap<Slot, u32> {
        &self.on_machine
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// The spec of the tasks; none where they ask for nothing but room.
    pub(crate) fn spec(&self) -> Option<&JobSpec> {
        self.spec.as_deref()
    }

    pub(crate) fn is_for(&self, spec: &Arc<JobSpec>) -> bool {
        self.spec.as_ref().is_some_and(|own| Arc::ptr_eq(own, spec))
    }

    /// The machine for the next task; none where it fits nowhere.
    ///
    /// The caller takes the room at once, before it asks again.
    pub(crate) fn place(&mut self, view: View, wish: Wish) -> Option<Slot> {
        let kept = wish.prefer.filter(|slot| Some(*slot) != wish.avoid);
        // Who was there before comes first; what is held back is held from those who look for a place.
        let kept = kept.filter(|slot| {
            let here = self.check(view, *slot, self.free(view, *slot));
            here.is_ok_and(|rank| !rank.crowded && (rank.unsteady == 0 || wish.bound))
        });
        let chosen = kept.or_else(|| self.best(view, wish.avoid)).or_else(|| {
            wish.avoid
                .filter(|slot| self.obstacle(view, *slot).is_none())
        })?;
        self.count(view, chosen);
        Some(chosen)
    }

    /// The machine that the index of a daemon's task belongs to; none where it lacks room.
    pub(crate) fn place_on_own(&mut self, draft: &Draft, row: &TaskRecord) -> Option<Slot> {
        let slot = draft.slot(daemon::machine_of(row)?)?;
        let free = self.obstacle(View::of(draft), slot).is_none();
        free.then(|| {
            self.count(View::of(draft), slot);
            slot
        })
    }

    /// Why a machine cannot take the next task; none where it can.
    pub(crate) fn obstacle(&self, view: View, slot: Slot) -> Option<Obstacle> {
        match self.rank(view, slot) {
            Ok(rank) if rank.crowded => {
                let crowded = |spread: &Spreading| spread.is_crowded(view.fleet, slot);
                self.spreads.iter().position(crowded).map(Obstacle::Spread)
            }
            Ok(_) => None,
            Err(obstacle) => Some(obstacle),
        }
    }

    /// Notes that a task of the job will be on a machine, on which room is made for it.
    pub(crate) fn expect(&mut self, view: View, slot: Slot) {
        self.count_neighbour(view, slot);
        let spreads = self.spreads.iter_mut();
        spreads.for_each(|spread| spread.expect(view.fleet, slot));
    }

    /// Whether the tasks that look for a place need only wait for those that room is made for.
    pub(crate) fn is_about_to_open(&self) -> bool {
        let short = || self.spreads.iter().filter(|spread| spread.is_short());
        short().next().is_some() && short().all(Spreading::is_about_to_open)
    }

    fn count_neighbour(&mut self, view: View, slot: Slot) {
        self.helpless = false;
        *self.on_machine.entry(slot).or_default() += 1;
        let ties = self.ties.iter_mut();
        ties.for_each(|tie| tie.count(view.fleet, slot));
    }

    /// Notes that a task of the job is on a machine.
    fn count(&mut self, view: View, slot: Slot) {
        self.count_neighbour(view, slot);
        let fleet = view.fleet;
        let mut opened = false;
        for spread in &mut self.spreads {
            opened |= spread.count(fleet, slot);
        }
        if opened {
            // Machines that were crowded are not any more.
            let known = std::mem::take(&mut self.known);
            let slots: Vec<Slot> = known.into_iter().map(|Reverse(rank)| rank.slot).collect();
            self.see(view, &slots);
        }
    }

    fn best(&mut self, view: View, avoid: Option<Slot>) -> Option<Slot> {
        let mut seen = 0;
        loop {
            let best = self.best_known(view, avoid);
            if !self.more || best.is_some_and(|rank| self.is_good(view, rank, seen)) {
                let best = best.filter(|rank| !rank.crowded);
                return best.map(|rank| rank.slot);
            }
            match self.search.next(view.fleet.index()) {
                Some(slots) => {
                    self.see(view, slots);
                    seen += slots.len();
                    self.looked += slots.len();
                }
                None => self.more = false,
            }
        }
    }

    /// Whether no machine that was not seen yet can be better, or after a long look is likely to be much better.
    ///
    /// Machines are shown in the order of what would be left unused. So those seen in the first long look serve the
    /// whole job, and only a task that would share a machine or a part with others of its job looks on for itself.
    fn is_good(&self, view: View, rank: Rank, seen: usize) -> bool {
        if rank.crowded {
            return false;
        }
        let shares_least = |spread: &Spreading| spread.least(view.fleet);
        let least: u32 = self.spreads.iter().map(shares_least).sum();
        let wishes = (rank.unsteady, rank.unfulfilled);
        let is_first = wishes == (0, 0) && (rank.spread, rank.same_job) == (least, 0);
        let nothing_is_nearer =
            || rank.waste <= (self.search.distance() as i64 - 1) * Search::cell_width();
        match (is_first, self.looked < LOOKED_MAX) {
            (true, _) => self.looked >= LOOK_MAX || nothing_is_nearer(),
            (false, true) => seen >= LOOK_MAX,
            (false, false) => seen >= LOOK_AGAIN,
        }
    }

    fn see(&mut self, view: View, slots: &[Slot]) {
        for slot in slots {
            let rank = self.rank(view, *slot);
            self.known.extend(rank.ok().map(Reverse));
        }
    }

    fn best_known(&mut self, view: View, avoid: Option<Slot>) -> Option<Rank> {
        let mut avoided = None;
        let best = loop {
            let Some(Reverse(known)) = self.known.pop() else {
                break None;
            };
            let Ok(rank) = self.rank(view, known.slot) else {
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

    fn rank(&self, view: View, slot: Slot) -> Result<Rank, Obstacle> {
        let mut room = self.free(view, slot);
        if !self.held_back.is_empty()
            && let Some(held) = self.held_back.get(&slot)
        {
            room.take(held);
        }
        self.check(view, slot, room)
    }

    /// What is free on a machine and not promised to others.
    fn free(&self, view: View, slot: Slot) -> Room {
        let mut room = view.room(slot);
        if !self.promised.is_empty()
            && let Some(promised) = self.promised.get(&slot)
        {
            room.keep(promised);
        }
        room
    }

    /// Whether a machine could take the next task if it were given this much room back, less what is kept for others, once
    /// those have left who are about to.
    pub(crate) fn would_fit<'a>(
        &self,
        view: View,
        slot: Slot,
        given: impl Iterator<Item = &'a Reserved>,
        kept: &Request,
    ) -> bool {
        let mut room = self.free(view, slot);
        given.for_each(|held| room.give(held));
        room.keep(kept);
        let later = |tie: &Tie| !tie.leaving(view.fleet, slot).is_empty();
        self.check_unless(view, slot, room, later)
            .is_ok_and(|rank| !rank.crowded)
    }

    /// Those that are about to leave and keep the next task off a machine, as long as they are there.
    pub(crate) fn leaving<'a>(
        &'a self,
        fleet: &'a Fleet,
        slot: Slot,
    ) -> impl Iterator<Item = &'a TaskId> {
        let ties = self.ties.iter().filter(|tie| tie.required);
        ties.flat_map(move |tie| tie.leaving(fleet, slot))
    }

    /// The machines that only tasks keep the next one off which are about to leave.
    pub(crate) fn opening<'a>(&'a self, fleet: &'a Fleet) -> impl Iterator<Item = Slot> + 'a {
        let ties = self.ties.iter().filter(|tie| tie.required);
        ties.flat_map(|tie| tie.opening(fleet))
    }

    /// How good a machine with this much room is.
    fn check(&self, view: View, slot: Slot, room: Room) -> Result<Rank, Obstacle> {
        self.check_unless(view, slot, room, |_| false)
    }

    /// The same, where some ties are of no matter.
    fn check_unless(
        &self,
        view: View,
        slot: Slot,
        room: Room,
        loose: impl Fn(&Tie) -> bool,
    ) -> Result<Rank, Obstacle> {
        if !self.satisfies(view, slot) {
            return Err(Obstacle::Requires);
        }
        if !room.fits(&self.request) {
            return Err(Obstacle::Room);
        }
        let mut rank = Rank {
            crowded: false,
            unsteady: self.unsteady(view, slot),
            unfulfilled: 0,
            spread: 0,
            same_job: match self.on_machine.is_empty() {
                true => 0,
                false => self.on_machine.get(&slot).copied().unwrap_or(0),
            },
            waste: waste(&room, &self.request),
            slot,
        };
        for (number, tie) in self.ties.iter().enumerate() {
            match tie.holds(view.fleet, slot) {
                true => {}
                false if loose(tie) => {}
                false if tie.required => return Err(Obstacle::Tie(number)),
                false => rank.unfulfilled += 1,
            }
        }
        for spread in &self.spreads {
            rank.crowded |= spread.is_crowded(view.fleet, slot);
            rank.spread += spread.in_part_of(view.fleet, slot);
        }
        if self.heavy {
            let rack = view.fleet.part(Domain::Rack, slot);
            rank.spread += view.overlay.heavy_in(view.fleet, rack);
        }
        Ok(rank)
    }

    /// How little a machine is to be relied on.
    fn unsteady(&self, view: View, slot: Slot) -> u32 {
        let flaps = view.overlay.flaps(view.fleet, slot);
        let ailed_until = view.fleet.ailed_until(slot);
        let level = match flaps.is_some() || ailed_until.is_some() {
            true => steadiness::level_of(flaps, ailed_until, self.now),
            false => 0,
        };
        match self.failing.is_empty() {
            true => level,
            false => level + self.failing.get(&slot).copied().unwrap_or(0),
        }
    }

    fn satisfies(&self, view: View, slot: Slot) -> bool {
        let eligible = self.eligible.as_ref();
        match (eligible, view.overlay.facts(slot), &self.spec) {
            // It says other things of itself since this decision began.
            (_, Some(facts), Some(spec)) => unmet(&spec.requires, facts).is_none(),
            (Some(eligible), _, _) => eligible.contains(slot),
            (None, _, _) => true,
        }
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
    let new = &job.spec().resources;
    let staying = job.live().filter(|row| {
        row.version != rollout.to
            && row.id.index < job.wanted()
            && !rollout.moves.contains(&row.id.index)
    });
    for row in staying {
        let slot = row.machine.as_ref().and_then(|id| draft.slot(id));
        let fits = escalate(Effect::Restart, draft, job, row, job.spec()) == Effect::Restart;
        if let Some(slot) = slot.filter(|_| fits) {
            let old = &job.spec_of(row).resources;
            let more = held.entry(slot).or_default();
            more.cpu = more.cpu + (new.cpu - old.cpu);
            more.memory = more.memory + (new.memory - old.memory);
            more.disk = more.disk + (new.disk - old.disk);
            more.bandwidth = more.bandwidth + (new.bandwidth - old.bandwidth);
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
    if let Some(slot) = preempt::claimed(job, row).and_then(|machine| draft.slot(machine)) {
        return Wish {
            prefer: Some(slot),
            avoid: None,
            bound: true,
        };
    }
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
            bound: false,
        },
        false => Wish {
            prefer: slot,
            avoid: None,
            bound: !job.spec_of(row).volumes.is_empty(),
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
