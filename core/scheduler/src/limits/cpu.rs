//! What a job has used of CPU, and the limit that fits it.

use tw_model::{CpuCounts, Timestamp, cpu_bucket_reach};

use super::Horizon;
use super::histogram::FadingHistogram;
use super::horizon::HOURS;
use super::margin::Margin;
use super::peaks::HourlyPeaks;

/// The part of the time that must have stayed within the limit before the margin. At 90% (as the Vertical Pod
/// Autoscaler) a job is throttled for hours a day; the last percent costs as much as the ten before it.
const TIME_SHARE: f64 = 0.98;

/// The part of the work that must have stayed within it. Work counts by its size, so that idle hours do not hide busy
/// ones: what most of a job's work needs it gets, were it for minutes a day, which no percentile of time sees.
const LOAD_SHARE: f64 = 0.6;

/// The weight of a sample halves in this part of the window: 8 hours of a week. Yesterday at this hour weighs an
/// eighth, enough to be seen by the percentile of time; with Autopilot's 12 hours (Rzadca et al., EuroSys 2020, section
/// 3.2.2) a limit of the same cost is too low more often, as it follows later.
const HALF_LIVES: u64 = 21;

/// Room above the percentiles: 14% at one core, within Autopilot's 10 to 15%; half a core's use gets 23%, eight cores'
/// 3%. A task's bursts are single requests and threads of it, nearly the same amount whatever its size, hence a power
/// closer to a fixed amount than to a fixed share.
const MARGIN: Margin = Margin {
    share: 0.14,
    unit: 1000.0,
    power: 0.7,
    share_min: 0.0,
    share_max: 4.0,
};

/// No limit lies further above the highest use of the week than this: a tenth, and 10 millicores. Where use is smooth
/// the percentiles are close to the peak already, and their margin on top would be for nothing.
const PEAK_SHARE: f64 = 1.1;
const PEAK_MILLICORES: f64 = 10.0;

/// What is remembered of a job's CPU: 2 KB, whatever the number of samples.
#[derive(Clone, Debug)]
pub struct CpuUse {
    histogram: FadingHistogram,
    /// In millicores.
    peaks: HourlyPeaks,
}

/// The limit that fits, before hysteresis and bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuTarget {
    pub limit_millicores: f64,
    /// The use that 98% of the time stayed within.
    pub by_time_millicores: f64,
    /// The use that 60% of the work stayed within.
    pub by_load_millicores: f64,
}

impl CpuUse {
    pub fn new(horizon: Horizon) -> CpuUse {
        let half_life = tw_model::Millis(horizon.window().0 / HALF_LIVES);
        CpuUse {
            histogram: FadingHistogram::new(half_life),
            peaks: HourlyPeaks::new(horizon, HOURS),
        }
    }

    /// Remembers one sample.
    pub fn observe(&mut self, at: Timestamp, millicores: f64) {
        self.histogram.add(at, millicores, 1.0);
        self.peaks.observe(at, millicores);
    }

    /// Remembers many samples of about the same time.
    pub fn observe_counts(&mut self, at: Timestamp, counts: &CpuCounts) {
        for (bucket, count) in counts.iter() {
            self.histogram.add_bucket(at, bucket, f64::from(count));
            self.peaks.observe(at, cpu_bucket_reach(bucket));
        }
    }

    /// The limit that fits what is remembered; none before the first sample.
    pub fn target(&self) -> Option<CpuTarget> {
        let (by_time, by_load) = self.histogram.percentiles(TIME_SHARE, LOAD_SHARE)?;
        let peak = self.peaks.hours().iter().copied().fold(0.0, f32::max);
        let highest = f64::from(peak) * PEAK_SHARE + PEAK_MILLICORES;
        Some(CpuTarget {
            limit_millicores: MARGIN.above(by_time.max(by_load)).min(highest),
            by_time_millicores: by_time,
            by_load_millicores: by_load,
        })
    }
}
