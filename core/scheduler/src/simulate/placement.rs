//! Places all tasks of a trace, as fast as it goes, and says how full the machines got.
//!
//! Searches are the ones that decisions make; only the rows are left out. Tasks come in the order of the file and
//! never end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tw_model::{
    Bytes, Capacity, Cores, Domain, JobId, MachineRecord, MachineState, Name, Timestamp,
};

use super::trace::{Apart, TraceMachines, TraceTasks};
use crate::allocate::{Placer, View, Wish};
use crate::fleet::{Fleet, Request, Reserved, Slot};
use crate::neighbours::{Spreading, Tie};
use crate::overlay::Overlay;

/// The largest number that the amounts of a trace are scaled to: floats up to it are whole.
const UNITS_MAX: f64 = 9e15;

/// The finest share of a unit of a trace that counts.
const DIGITS_MAX: i32 = 9;

/// What placing a trace came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TracePlacement {
    pub placed: u64,
    /// The job of each placed task, and the number of its machine in the order of the file, from 0.
    pub machines: Vec<(u32, u32)>,
    /// How many tasks found no machine, by the reason.
    pub unplaced: BTreeMap<&'static str, u64>,
    /// How full the machines were when the first task found none; none where every task found one.
    pub first_failure: Option<Fill>,
    /// How full they are in the end.
    pub last: Fill,
    pub took: Duration,
    /// How long each task's machine was searched, sorted.
    pub decisions: Vec<Duration>,
}

/// How full the machines are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fill {
    /// The share of all CPU that is asked for by placed tasks.
    pub cpu: f64,
    /// The share of all memory.
    pub memory: f64,
    /// How many tasks are placed.
    pub tasks: u64,
}

impl TracePlacement {
    /// How many tasks found a machine in a second.
    pub fn placements_per_second(&self) -> f64 {
        self.placed as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The time within which so many of a hundred decisions were made.
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.decisions.len().saturating_sub(1);
        let at = self.decisions.get(last * percent / 100);
        at.copied().unwrap_or_default()
    }
}

/// Places tasks on machines. `clock` says how much time has passed since some moment.
pub fn place_trace(
    machines: &[TraceMachines],
    tasks: &[TraceTasks],
    clock: &dyn Fn() -> Duration,
) -> TracePlacement {
    let mut run = Run::new(machines, clock);
    let begun = clock();
    let same = |a: &TraceTasks, b: &TraceTasks| {
        (a.job, a.cpu, a.memory, a.apart) == (b.job, b.cpu, b.memory, b.apart)
            && (&a.requires, &a.spread) == (&b.requires, &b.spread)
    };
    for together in tasks.chunk_by(same) {
        let count = together.iter().map(|tasks| tasks.count).sum();
        run.submit(&together[0], count);
    }
    run.found.took = clock() - begun;
    run.found.last = run.fill();
    run.found.decisions.sort_unstable();
    run.found
}

struct Run<'a> {
    clock: &'a dyn Fn() -> Duration,
    fleet: Fleet,
    overlay: Overlay,
    /// What all jobs of a trace are called: they are told apart by number.
    job: JobId,
    /// Units of CPU and memory to one of the trace.
    scale: (f64, f64),
    whole: (f64, f64),
    used: (f64, f64),
    /// Where the tasks are that keep apart or are spread, by job.
    known: BTreeMap<u32, BTreeMap<Slot, u32>>,
    /// Requests that fit nowhere. Nothing ever ends, so that they never will.
    hopeless: BTreeMap<(u64, u64), &'static str>,
    found: TracePlacement,
}

impl<'a> Run<'a> {
    fn new(machines: &[TraceMachines], clock: &'a dyn Fn() -> Duration) -> Run<'a> {
        let most =
            |amount: fn(&TraceMachines) -> f64| machines.iter().map(amount).fold(0.0, f64::max);
        let scale = (
            units(most(|machine| machine.cpu)),
            units(most(|machine| machine.memory)),
        );
        let mut fleet = Fleet::default();
        let mut whole = (0.0, 0.0);
        let each = machines
            .iter()
            .flat_map(|machine| (0..machine.count).map(move |_| machine));
        for (number, machine) in each.enumerate() {
            whole = (whole.0 + machine.cpu, whole.1 + machine.memory);
            fleet.put_machine(Arc::new(record(number, machine, scale)));
        }
        Run {
            clock,
            fleet,
            job: "trace".parse().expect("it is a name"),
            overlay: Overlay::default(),
            scale,
            whole,
            used: (0.0, 0.0),
            known: BTreeMap::new(),
            hopeless: BTreeMap::new(),
            found: TracePlacement {
                placed: 0,
                machines: Vec::new(),
                unplaced: BTreeMap::new(),
                first_failure: None,
                last: Fill::default(),
                took: Duration::ZERO,
                decisions: Vec::new(),
            },
        }
    }

    /// Places tasks of one job, all on one search.
    fn submit(&mut self, tasks: &TraceTasks, count: u32) {
        let request = Request {
            cpu: Cores((tasks.cpu * self.scale.0).round() as u64),
            memory: Bytes((tasks.memory * self.scale.1).round() as u64),
            ..Request::default()
        };
        let class = (request.cpu.0, request.memory.0);
        if let Some(reason) = self.hopeless.get(&class).copied() {
            return self.fail(reason, u64::from(count));
        }
        let reserved = Reserved {
            cpu: request.cpu,
            memory: request.memory,
            ..Reserved::default()
        };
        let before = self.known.remove(&tasks.job).unwrap_or_default();
        let mut last = (self.clock)();
        let mut placer = Placer::new(request);
        placer.ties.extend(self.tie(tasks, &before));
        placer.spreads.extend(self.spreading(tasks, count, &before));
        if let Some(requires) = &tasks.requires {
            placer.require(self.view(), requires);
        }
        for number in 0..count {
            let slot = placer.place(self.view(), Wish::default());
            if let Some(slot) = slot {
                self.overlay.take(&self.fleet, slot, &reserved);
            }
            let now = (self.clock)();
            self.found.decisions.push(now - last);
            last = now;
            let Some(slot) = slot else {
                let reason = match self.short_of(&request) {
                    Some(reason) => *self.hopeless.entry(class).or_insert(reason),
                    None if tasks.requires.is_some() => NOT_AS_REQUIRED,
                    None => KEPT_APART,
                };
                self.fail(reason, u64::from(count - number));
                break;
            };
            self.found.placed += 1;
            self.found.machines.push((tasks.job, slot));
            self.used = (self.used.0 + tasks.cpu, self.used.1 + tasks.memory);
        }
        if tasks.apart != Apart::No || tasks.spread.is_some() {
            let mut on = before;
            for (slot, count) in placer.counts() {
                *on.entry(*slot).or_default() += count;
            }
            self.known.insert(tasks.job, on);
        }
        for (slot, room) in self.overlay.rooms() {
            self.fleet.set_room(slot, room);
        }
        self.overlay.clear();
    }

    fn tie(&self, tasks: &TraceTasks, on: &BTreeMap<Slot, u32>) -> Option<Tie> {
        let within = match tasks.apart {
            Apart::No => return None,
            Apart::Machine => Domain::Machine,
            Apart::Rack => Domain::Rack,
        };
        Some(Tie::apart(&self.fleet, self.job.clone(), within, on))
    }

    fn spreading(
        &self,
        tasks: &TraceTasks,
        count: u32,
        on: &BTreeMap<Slot, u32>,
    ) -> Option<Spreading> {
        let spread = tasks.spread.as_ref()?;
        let all = on.values().sum::<u32>() + count;
        let needed = spread.at_least.min(all);
        let on = on.iter().map(|(slot, count)| (*slot, *count));
        Some(Spreading::new(&self.fleet, spread.over, needed, on))
    }

    fn view(&self) -> View<'_> {
        View {
            fleet: &self.fleet,
            overlay: &self.overlay,
        }
    }

    fn fail(&mut self, reason: &'static str, tasks: u64) {
        if self.found.first_failure.is_none() {
            self.found.first_failure = Some(self.fill());
        }
        *self.found.unplaced.entry(reason).or_default() += tasks;
    }

    fn fill(&self) -> Fill {
        Fill {
            cpu: self.used.0 / self.whole.0,
            memory: self.used.1 / self.whole.1,
            tasks: self.found.placed,
        }
    }

    /// What every machine is short of; none where some machine has room.
    fn short_of(&self, request: &Request) -> Option<&'static str> {
        let (mut large, mut cpu, mut memory, mut both) = (false, false, false, false);
        for slot in 0..self.fleet.len() as Slot {
            let room = self.view().room(slot);
            let has_cpu = room.cpu >= request.cpu.0 as i64;
            let has_memory = room.memory >= request.memory.0 as i64;
            large |= room.cpu_whole >= request.cpu.0 as f64
                && room.memory_whole >= request.memory.0 as f64;
            cpu |= has_cpu;
            memory |= has_memory;
            both |= has_cpu && has_memory;
        }
        let short = match (large, cpu, memory) {
            (false, _, _) => "larger than every machine",
            (_, false, false) => "cpu and memory short on every machine",
            (_, false, true) => "cpu short on every machine",
            (_, true, false) => "memory short on every machine",
            (_, true, true) => "no machine has both the cpu and the memory",
        };
        (!both).then_some(short)
    }
}

const KEPT_APART: &str = "kept apart from the tasks of its job on every machine with room";

const NOT_AS_REQUIRED: &str =
    "no machine with room is what its job requires, and apart from its other tasks";

/// How many units one of a trace becomes: a power of ten, so that its decimals stay exact.
fn units(most: f64) -> f64 {
    let digits = (0..=DIGITS_MAX).rev();
    let mut scales = digits.map(|digits| 10f64.powi(digits));
    scales
        .find(|scale| most * scale <= UNITS_MAX)
        .unwrap_or(UNITS_MAX / most)
}

fn record(number: usize, machine: &TraceMachines, scale: (f64, f64)) -> MachineRecord {
    let id: Name = format!("m{number}").parse().expect("it is a name");
    let begin = Timestamp(0);
    MachineRecord {
        id,
        epoch: 1,
        boot_id: String::new(),
        state: MachineState::Up,
        capacity: Capacity {
            cpu: Cores((machine.cpu * scale.0).round() as u64),
            memory: Bytes((machine.memory * scale.1).round() as u64),
            disk: Bytes(0),
            bandwidth: Bytes(0),
            port_first: 1,
            port_last: 0,
        },
        facts: machine.facts.clone(),
        drain: None,
        next_drain: None,
        flaps: None,
        ailments: Vec::new(),
        spared_until: None,
        identity: Box::default(),
        registered_at: begin,
        changed_at: begin,
    }
}
