//! Other ways to choose a machine, to hold ours against: all score alike, and look at other machines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tw_model::MachineFacts;
use tw_scheduler::simulate::{Apart, Fill, TraceMachines, TraceTasks};

use crate::chance::Chance;
use crate::choosy;

/// Which machines are looked at for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Every machine.
    FullScan,
    /// On from the last one until a twentieth of the machines have room, as Kubernetes does.
    Sampling,
    /// Eight by chance, and then all in turn where none of them has room.
    Probes,
}

impl Peer {
    pub(crate) const ALL: [Peer; 3] = [Peer::FullScan, Peer::Sampling, Peer::Probes];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::FullScan => "full scan",
            Peer::Sampling => "5% sampling",
            Peer::Probes => "8 random probes",
        }
    }
}

/// What a peer came to.
pub(crate) struct Found {
    pub(crate) placed: u64,
    pub(crate) fill: Fill,
    pub(crate) took: Duration,
    pub(crate) decisions: Vec<Duration>,
    /// Whether the time was up before any task found no room: the fill is no more than how far it came.
    pub(crate) cut_off: bool,
}

struct Machines<'a> {
    free: Vec<(f64, f64)>,
    whole: Vec<(f64, f64)>,
    facts: Vec<&'a MachineFacts>,
    /// The number of each machine's rack.
    racks: Vec<usize>,
}

/// Where the tasks of a job are, and where they may be.
#[derive(Default)]
struct Known {
    on: BTreeMap<usize, u32>,
    racks: BTreeMap<usize, u32>,
    /// Which machines are what the job requires; empty where all are.
    eligible: Vec<bool>,
}

/// How good a machine is; less is better: tasks of the job in its rack where it is spread over racks, tasks of the job on it,
/// and what would be left unused.
type Rank = (u32, u32, f64);

impl Machines<'_> {
    /// None where a task may not be, or has no room.
    fn rank(&self, at: usize, tasks: &TraceTasks, known: &Known) -> Option<Rank> {
        let ((cpu, memory), whole) = (self.free[at], self.whole[at]);
        if cpu < tasks.cpu - 1e-9 || memory < tasks.memory - 1e-9 {
            return None;
        }
        if !known.eligible.is_empty() && !known.eligible[at] {
            return None;
        }
        let same = known.on.get(&at).copied().unwrap_or(0);
        let left = ((cpu - tasks.cpu) / whole.0).max((memory - tasks.memory) / whole.1);
        if same > 0 && tasks.apart != Apart::No {
            return None;
        }
        if tasks.spread.is_none() && tasks.apart != Apart::Rack {
            return Some((0, same, left));
        }
        let in_rack = known.racks.get(&self.racks[at]).copied().unwrap_or(0);
        let needed = tasks.spread.as_ref();
        let needed = needed.map_or(0, |spread| spread.at_least as usize);
        let crowded = tasks.apart == Apart::Rack || known.racks.len() < needed;
        (in_rack == 0 || !crowded).then_some((in_rack, same, left))
    }

    fn take(&mut self, at: usize, tasks: &TraceTasks, known: &mut Known) {
        *known.on.entry(at).or_default() += 1;
        *known.racks.entry(self.racks[at]).or_default() += 1;
        self.free[at] = (self.free[at].0 - tasks.cpu, self.free[at].1 - tasks.memory);
    }

    fn eligible(&self, tasks: &TraceTasks) -> Vec<bool> {
        let facts = self.facts.iter();
        facts.map(|facts| choosy::satisfies(tasks, facts)).collect()
    }
}

/// Places tasks until the first that finds no room, or the time is up.
pub(crate) fn place(
    peer: Peer,
    machines: &[TraceMachines],
    tasks: &[TraceTasks],
    time: Duration,
) -> Found {
    let each = machines
        .iter()
        .flat_map(|machine| (0..machine.count).map(move |_| (machine.cpu, machine.memory)));
    let whole: Vec<(f64, f64)> = each.collect();
    let facts = machines.iter();
    let facts = facts.flat_map(|one| std::iter::repeat_n(&one.facts, one.count as usize));
    let facts: Vec<&MachineFacts> = facts.collect();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let racks = facts.iter().map(|facts| {
        let next = names.len();
        *names.entry(facts.rack.as_str()).or_insert(next)
    });
    let mut all = Machines {
        free: whole.clone(),
        whole,
        racks: racks.collect(),
        facts,
    };
    let mut chance = Chance(88_172_645_463_325_252);
    let mut jobs: BTreeMap<u32, Known> = BTreeMap::new();
    let mut cursor = 0;
    let mut cut_off = false;
    let mut decisions = Vec::new();
    let begun = Instant::now();
    let mut last: Option<&TraceTasks> = None;
    'tasks: for one in tasks {
        // A job that may share machines is spread among what it submits together only.
        let together =
            |last: &TraceTasks| (last.job, last.cpu, last.memory) == (one.job, one.cpu, one.memory);
        let alone = one.apart == Apart::No && one.spread.is_none();
        if alone && !last.is_some_and(together) {
            jobs.remove(&one.job);
        }
        last = Some(one);
        let known = jobs.entry(one.job).or_default();
        if one.requires.is_some() && known.eligible.is_empty() {
            known.eligible = all.eligible(one);
        }
        for _ in 0..one.count {
            let before = Instant::now();
            let found = choose(peer, &all, one, known, &mut cursor, &mut chance);
            decisions.push(before.elapsed());
            let Some(at) = found else {
                break 'tasks;
            };
            all.take(at, one, known);
        }
        if begun.elapsed() > time {
            cut_off = true;
            break;
        }
    }
    let took = begun.elapsed();
    decisions.sort_unstable();
    Found {
        placed: decisions.len() as u64,
        fill: fill(&all, decisions.len() as u64),
        took,
        decisions,
        cut_off,
    }
}

fn choose(
    peer: Peer,
    all: &Machines,
    tasks: &TraceTasks,
    known: &Known,
    cursor: &mut usize,
    chance: &mut Chance,
) -> Option<usize> {
    let count = all.free.len();
    let mut best: Option<(Rank, usize)> = None;
    let mut seen = 0;
    let mut look = |at: usize| {
        if let Some(rank) = all.rank(at, tasks, known) {
            seen += 1;
            if best.is_none_or(|best| (rank, at) < best) {
                best = Some((rank, at));
            }
        }
        seen
    };
    match peer {
        Peer::FullScan => (0..count).for_each(|at| {
            look(at);
        }),
        Peer::Sampling => {
            let wanted = (count / 20).max(100);
            let mut step = 0;
            while step < count && look((*cursor + step) % count) < wanted {
                step += 1;
            }
            *cursor = (*cursor + step) % count;
        }
        Peer::Probes => {
            let tries = (0..64).map(|_| chance.range(0, count as u64) as usize);
            let mut tries = tries.take_while(|at| look(*at) < 8);
            tries.by_ref().for_each(drop);
            if best.is_none() {
                let turn = (0..count).map(|step| (*cursor + step) % count);
                let found = turn
                    .into_iter()
                    .find(|at| all.rank(*at, tasks, known).is_some());
                *cursor = found.unwrap_or(*cursor);
                return found;
            }
        }
    }
    best.map(|(_, at)| at)
}

fn fill(all: &Machines, tasks: u64) -> Fill {
    let sum = |amounts: &[(f64, f64)]| {
        let add = |(a, b): (f64, f64), (cpu, memory): &(f64, f64)| (a + cpu, b + memory);
        amounts.iter().fold((0.0, 0.0), add)
    };
    let (free, whole) = (sum(&all.free), sum(&all.whole));
    Fill {
        cpu: 1.0 - free.0 / whole.0,
        memory: 1.0 - free.1 / whole.1,
        tasks,
    }
}
