//! The highest use of each hour, as far back as it matters.

use std::collections::VecDeque;

use tw_model::Timestamp;

use super::Horizon;

/// Peaks by hour, oldest first; the last is the current hour's. An hour without samples is zero.
#[derive(Clone, Debug)]
pub(super) struct HourlyPeaks {
    horizon: Horizon,
    hours_max: usize,
    peaks: VecDeque<f32>,
    /// The number of the last hour.
    hour: i64,
}

impl HourlyPeaks {
    pub(super) fn new(horizon: Horizon, hours_max: usize) -> HourlyPeaks {
        HourlyPeaks {
            horizon,
            hours_max,
            peaks: VecDeque::new(),
            hour: 0,
        }
    }

    /// Remembers a peak. One from before the newest hour counts for its own hour, if that is still remembered.
    pub(super) fn observe(&mut self, at: Timestamp, peak: f64) {
        let hour = self.horizon.hour_of(at);
        self.advance(hour);
        let age = self.hour.saturating_sub(hour) as usize;
        let Some(place) = self.peaks.len().checked_sub(age.saturating_add(1)) else {
            return;
        };
        self.peaks[place] = self.peaks[place].max(peak as f32);
    }

    /// All hours, oldest first.
    pub(super) fn hours(&self) -> &VecDeque<f32> {
        &self.peaks
    }

    /// Makes room for the hours up to `hour`.
    fn advance(&mut self, hour: i64) {
        let missing = hour.saturating_sub(self.hour);
        if self.peaks.is_empty() || missing > self.hours_max as i64 {
            self.peaks.clear();
            self.peaks.push_back(0.0);
            self.hour = hour;
            return;
        }
        for _ in 0..missing {
            self.peaks.push_back(0.0);
        }
        self.hour = self.hour.max(hour);
        let surplus = self.peaks.len().saturating_sub(self.hours_max);
        self.peaks.drain(..surplus);
    }
}
