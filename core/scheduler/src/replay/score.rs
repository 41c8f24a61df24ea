//! What is counted while limits are replayed.
//!
//! - Footprint: Σ limit / Σ request. Slack: Σ what a limit leaves unused / Σ limit.
//! - Only active job-days count, after the first seven days: those whose 95th percentile of use is at least 25
//!   millicores or at least 64 MiB.
//! - Exceeded samples: those above the limit, of all. Exceeded load: what lies above the limit, of all use.
//! - An OOM is a rising edge of use above the limit. Changes are counted by job-day.
//! - Use above the request is read as the request: nobody could have given more, and the traces' meters run a few
//!   percent over at full load.

use serde::Serialize;

/// The sums over the job-days that count, for one policy and one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub days: u64,
    pub samples: u64,
    pub limit: f64,
    pub request: f64,
    pub used: f64,
    pub unused: f64,
    pub exceeded: u64,
    pub exceeded_load: f64,
    /// Rising edges of use above the limit, and the days with none.
    pub edges: u64,
    pub edge_free_days: u64,
    pub changes: u64,
    pub unchanged_days: u64,
}

impl Tally {
    /// Adds another tally's sums.
    pub fn add(&mut self, other: &Tally) {
        let Tally {
            days,
            samples,
            limit,
            request,
            used,
            unused,
            exceeded,
            exceeded_load,
            edges,
            edge_free_days,
            changes,
            unchanged_days,
        } = other;
        self.days += days;
        self.samples += samples;
        self.limit += limit;
        self.request += request;
        self.used += used;
        self.unused += unused;
        self.exceeded += exceeded;
        self.exceeded_load += exceeded_load;
        self.edges += edges;
        self.edge_free_days += edge_free_days;
        self.changes += changes;
        self.unchanged_days += unchanged_days;
    }

    /// Counts one hour's samples under one limit. `was_over` is whether the sample before exceeded its limit; the same
    /// of the last sample is returned.
    pub(super) fn hour(&mut self, used: &[f32], limit: f64, request: f64, was_over: bool) -> bool {
        let mut over_before = was_over;
        for used in used.iter().map(|used| f64::from(*used)) {
            let over = used > limit;
            self.samples += 1;
            self.used += used;
            if over {
                self.exceeded += 1;
                self.exceeded_load += used - limit;
            } else {
                self.unused += limit - used;
            }
            self.edges += u64::from(over && !over_before);
            over_before = over;
        }
        self.limit += limit * used.len() as f64;
        self.request += request * used.len() as f64;
        over_before
    }

    /// Closes a tally that holds the hours of one day.
    pub(super) fn close_day(&mut self) {
        self.days = 1;
        self.edge_free_days = u64::from(self.edges == 0);
        self.unchanged_days = u64::from(self.changes == 0);
    }
}

/// How a policy did for CPU. All fractions, but for the changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CpuScore {
    pub footprint: f64,
    pub slack: f64,
    pub exceeded_samples: f64,
    pub exceeded_load: f64,
    pub changes_per_day: f64,
    pub unchanged_days: f64,
}

/// How a policy did for memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryScore {
    pub footprint: f64,
    pub slack: f64,
    pub ooms_per_day: f64,
    pub oom_free_days: f64,
    pub changes_per_day: f64,
}

impl From<&Tally> for CpuScore {
    fn from(tally: &Tally) -> CpuScore {
        CpuScore {
            footprint: ratio(tally.limit, tally.request),
            slack: ratio(tally.unused, tally.limit),
            exceeded_samples: ratio(tally.exceeded as f64, tally.samples as f64),
            exceeded_load: ratio(tally.exceeded_load, tally.used),
            changes_per_day: ratio(tally.changes as f64, tally.days as f64),
            unchanged_days: ratio(tally.unchanged_days as f64, tally.days as f64),
        }
    }
}

impl From<&Tally> for MemoryScore {
    fn from(tally: &Tally) -> MemoryScore {
        MemoryScore {
            footprint: ratio(tally.limit, tally.request),
            slack: ratio(tally.unused, tally.limit),
            ooms_per_day: ratio(tally.edges as f64, tally.days as f64),
            oom_free_days: ratio(tally.edge_free_days as f64, tally.days as f64),
            changes_per_day: ratio(tally.changes as f64, tally.days as f64),
        }
    }
}

/// Zero of nothing is zero.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
