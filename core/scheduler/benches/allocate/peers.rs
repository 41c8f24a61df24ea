//! Other ways to choose a machine, to hold ours against: all score alike, and look at other machines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tw_scheduler::simulate::{Apart, Fill, TraceMachines, TraceTasks};

use crate::chance::Chance;

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

struct Machines {
    free: Vec<(f64, f64)>,
    whole: Vec<(f64, f64)>,
}

impl Machines {
    /// How many tasks of the job a machine holds, and what would be left unused there; none without room.
    fn rank(
        &self,
        at: usize,
        tasks: &TraceTasks,
        of_job: &BTreeMap<usize, u32>,
    ) -> Option<(u32, f64)> {
        let ((cpu, memory), whole) = (self.free[at], self.whole[at]);
        if cpu < tasks.cpu - 1e-9 || memory < tasks.memory - 1e-9 {
            return None;
        }
        let same = of_job.get(&at).copied().unwrap_or(0);
        if same > 0 && tasks.apart != Apart::No {
            return None;
        }
        let left = ((cpu - tasks.cpu) / whole.0).max((memory - tasks.memory) / whole.1);
        Some((same, left))
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
    let mut all = Machines {
        free: whole.clone(),
        whole,
    };
    let mut chance = Chance(88_172_645_463_325_252);
    let mut jobs: BTreeMap<u32, BTreeMap<usize, u32>> = BTreeMap::new();
    let mut cursor = 0;
    let mut cut_off = false;
    let mut decisions = Vec::new();
    let begun = Instant::now();
    let mut last: Option<&TraceTasks> = None;
    'tasks: for one in tasks {
        // A job that may share machines is spread among what it submits together only.
        let together =
            |last: &TraceTasks| (last.job, last.cpu, last.memory) == (one.job, one.cpu, one.memory);
        if one.apart == Apart::No && !last.is_some_and(together) {
            jobs.remove(&one.job);
        }
        last = Some(one);
        let of_job = jobs.entry(one.job).or_default();
        for _ in 0..one.count {
            let before = Instant::now();
            let found = choose(peer, &all, one, of_job, &mut cursor, &mut chance);
            decisions.push(before.elapsed());
            let Some(at) = found else {
                break 'tasks;
            };
            *of_job.entry(at).or_default() += 1;
            all.free[at] = (all.free[at].0 - one.cpu, all.free[at].1 - one.memory);
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
    of_job: &BTreeMap<usize, u32>,
    cursor: &mut usize,
    chance: &mut Chance,
) -> Option<usize> {
    let count = all.free.len();
    let mut best: Option<(u32, f64, usize)> = None;
    let mut seen = 0;
    let mut look = |at: usize| {
        let rank = all.rank(at, tasks, of_job);
        if let Some((same, left)) = rank {
            seen += 1;
            if best.is_none_or(|best| (same, left, at) < best) {
                best = Some((same, left, at));
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
                    .find(|at| all.rank(*at, tasks, of_job).is_some());
                *cursor = found.unwrap_or(*cursor);
                return found;
            }
        }
    }
    best.map(|(_, _, at)| at)
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
