//! Google's Autopilot, its moving window recommenders (Rzadca et al., EuroSys 2020, section 3.2.2).
//!
//! Percentiles of load-adjusted histograms (each sample counts by its size) with exponential weights: half-lives of 12
//! hours for CPU, its 95th percentile; 48 hours for memory, its 98th. Then a safety margin of 10 to 15%, less for large
//! limits: 15% up to one core or one GiB, falling to 10% at 16 of them. The maximum over the last hour, which the paper
//! takes last, is the hourly decision itself.

use tw_model::{Millis, Timestamp};

use super::super::usage::Rule;
use crate::limits::histogram::FadingHistogram;

const CPU_HALF_LIFE: Millis = Millis::hours(12);
const CPU_PERCENTILE: f64 = 0.95;
const MEMORY_HALF_LIFE: Millis = Millis::hours(48);
const MEMORY_PERCENTILE: f64 = 0.98;
const MARGIN_MAX: f64 = 0.15;
const MARGIN_MIN: f64 = 0.10;
const LARGE: f64 = 16.0;

/// One recommender, for one resource of one job, in millicores or MiB.
#[derive(Clone, Debug)]
pub struct Autopilot {
    histogram: FadingHistogram,
    percentile: f64,
    /// One core, or one GiB.
    unit: f64,
}

impl Autopilot {
    pub fn cpu() -> Autopilot {
        Autopilot {
            histogram: FadingHistogram::new(CPU_HALF_LIFE),
            percentile: CPU_PERCENTILE,
            unit: 1000.0,
        }
    }

    pub fn memory() -> Autopilot {
        Autopilot {
            histogram: FadingHistogram::new(MEMORY_HALF_LIFE),
            percentile: MEMORY_PERCENTILE,
            unit: 1024.0,
        }
    }

    pub(crate) fn observe_one(&mut self, at: Timestamp, used: f64) {
        self.histogram.add(at, used, 1.0);
    }

    pub(crate) fn target(&self) -> Option<f64> {
        let (_, used) = self
            .histogram
            .percentiles(self.percentile, self.percentile)?;
        let size = (used / self.unit).clamp(1.0, LARGE).ln() / LARGE.ln();
        Some(used * (1.0 + MARGIN_MAX - (MARGIN_MAX - MARGIN_MIN) * size))
    }
}

impl Rule for Autopilot {
    fn observe(&mut self, hour: usize, used: &[f32], _limit: f64) {
        let start = Timestamp(0).plus(Millis::hours(hour as u64));
        for (index, used) in used.iter().enumerate() {
            self.observe_one(
                start.plus(Millis::minutes(5 * index as u64)),
                f64::from(*used),
            );
        }
    }

    fn decide(&mut self, _hour: usize) -> Option<f64> {
        self.target()
    }
}
