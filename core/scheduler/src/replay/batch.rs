//! Replays the runs of batch tasks: a limit for each run, from the runs submitted before it.
//!
//! A run whose peak is above its limit fails: all that it was given was wasted, and it runs again with its request.
//! Waste is what a run was given and did not use, over the time it took, in GiB hours.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use tw_model::{Millis, Timestamp};

use super::POLICIES;
use super::baseline::{Autopilot, Vpa};
use crate::limits::batch::BatchUse;

const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = 1024.0 * MIB;
const HOUR_MS: f64 = 3_600_000.0;
const WEEK: Millis = Millis::hours(168);

/// One run of a batch task.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What runs: tasks of one name share what is learned.
    pub task: String,
    pub submitted: Timestamp,
    pub took: Millis,
    pub request_bytes: f64,
    pub peak_bytes: f64,
}

/// What `tw replay` says of a batch trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchReport {
    pub version: u32,
    pub runs: usize,
    pub policies: Vec<BatchScore>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BatchScore {
    pub name: &'static str,
    pub waste_gib_hours: f64,
    pub failures_per_1000: f64,
}

/// Replays all policies over runs, in the order of their submission.
pub fn replay(runs: &[Run]) -> BatchReport {
    let mut order: Vec<&Run> = runs.iter().collect();
    order.sort_by_key(|run| run.submitted);
    let mut tallies = [(0.0, 0_u64); POLICIES.len()];
    let mut tasks: BTreeMap<&str, Task> = BTreeMap::new();
    for run in order {
        let task = tasks.entry(&run.task).or_insert_with(Task::new);
        let limits = task.limits(run);
        for (tally, limit) in tallies.iter_mut().zip(&limits) {
            let (waste, failed) = outcome(run, *limit);
            tally.0 += waste;
            tally.1 += u64::from(failed);
        }
        task.observe(run, &limits);
    }
    let score = |(name, (waste, failures)): (&&'static str, &(f64, u64))| BatchScore {
        name,
        waste_gib_hours: *waste,
        failures_per_1000: *failures as f64 * 1000.0 / runs.len().max(1) as f64,
    };
    BatchReport {
        version: 1,
        runs: runs.len(),
        policies: POLICIES.iter().zip(&tallies).map(score).collect(),
    }
}

/// The waste in GiB hours, and whether the run failed.
fn outcome(run: &Run, limit_bytes: f64) -> (f64, bool) {
    let hours = run.took.0 as f64 / HOUR_MS;
    if run.peak_bytes <= limit_bytes {
        return ((limit_bytes - run.peak_bytes) / GIB * hours, false);
    }
    let again = (run.request_bytes - run.peak_bytes).max(0.0);
    ((limit_bytes + again) / GIB * hours, true)
}

/// What each policy remembers of a task.
struct Task {
    vpa_p90: Vpa,
    vpa_p99: Vpa,
    /// Peaks with their moments, falling: the first is the highest of the week.
    krr: VecDeque<(Timestamp, f64)>,
    autopilot: Autopilot,
    twill: BatchUse,
    first: Option<Timestamp>,
}

impl Task {
    fn new() -> Task {
        Task {
            vpa_p90: Vpa::memory(0.90),
            vpa_p99: Vpa::memory(0.99),
            krr: VecDeque::new(),
            autopilot: Autopilot::memory(),
            twill: BatchUse::default(),
            first: None,
        }
    }

    /// The limits in bytes, in the order of [`POLICIES`].
    fn limits(&mut self, run: &Run) -> [f64; POLICIES.len()] {
        while self
            .krr
            .front()
            .is_some_and(|(at, _)| run.submitted.since(*at) > WEEK)
        {
            self.krr.pop_front();
        }
        let request = run.request_bytes;
        let mib = |target: Option<f64>| target.map_or(request, |mib| mib * MIB);
        let krr = self
            .krr
            .front()
            .map(|(_, peak)| super::baseline::krr_memory_limit(*peak));
        [
            request,
            mib(self.vpa_p90.target()),
            mib(self.vpa_p99.target()),
            krr.unwrap_or(request),
            mib(self.autopilot.target()),
            self.twill.target_bytes().unwrap_or(request).min(request),
            run.peak_bytes,
        ]
    }

    fn observe(&mut self, run: &Run, limits: &[f64; POLICIES.len()]) {
        let first = *self.first.get_or_insert(run.submitted);
        let hour = (run.submitted.since(first).0 as f64 / HOUR_MS) as usize;
        let peak_mib = run.peak_bytes / MIB;
        self.vpa_p90.observe_peak(hour, peak_mib, limits[1] / MIB);
        self.vpa_p99.observe_peak(hour, peak_mib, limits[2] / MIB);
        while self
            .krr
            .back()
            .is_some_and(|(_, peak)| *peak <= run.peak_bytes)
        {
            self.krr.pop_back();
        }
        self.krr.push_back((run.submitted, run.peak_bytes));
        self.autopilot.observe_one(run.submitted, peak_mib);
        self.twill.observe(run.peak_bytes);
    }
}
