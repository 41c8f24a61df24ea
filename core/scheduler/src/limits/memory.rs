//! What a job has held of memory, and the limit that fits it.

use tw_model::Timestamp;

use super::Horizon;
use super::horizon::{HOURS, HOURS_A_DAY};
use super::margin::Margin;
use super::peaks::HourlyPeaks;
use super::weekly::recurring_peak;

const GIB: f64 = (1_u64 << 30) as f64;

/// Room above the peak of the last day: 50% at 1 GiB. A day's peak says little about the next day's: on recorded
/// traces it rises by more than 30% in one job-day of 20.
const DAY_MARGIN: Margin = Margin {
    share: 0.5,
    unit: GIB,
    power: 0.5,
    share_min: 0.1,
    share_max: 2.0,
};

/// Room above the second highest day of the week. A height that was reached on two days will be reached again, and is
/// better known: it gets less room. The highest day of all is left out: a single day that stands out is gone as often
/// as not, and a week of paying for it costs more than any other rule here.
const WEEK_MARGIN: Margin = Margin {
    share: 0.35,
    unit: GIB,
    power: 0.5,
    share_min: 0.05,
    share_max: 2.0,
};

/// Room above a height that was reached at this time of the week twice running.
const RECURRING_MARGIN: Margin = Margin {
    share: 0.1,
    unit: GIB,
    power: 0.5,
    share_min: 0.05,
    share_max: 0.5,
};

/// Once a week is known, no room is larger than a tenth and the distance between the week's lowest and highest day:
/// days that have been alike need no room for days that were never seen.
const ALIKE_SHARE: f64 = 0.1;

/// What is remembered of a job's memory: the peak of each hour of the last two windows, 1.4 KB.
#[derive(Clone, Debug)]
pub struct MemoryUse {
    /// In bytes.
    peaks: HourlyPeaks,
}

/// The limit that fits, before hysteresis and bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryTarget {
    pub limit_bytes: f64,
    /// The peak of the last day.
    pub day_bytes: f64,
    /// The peak of the second highest day of the week.
    pub second_day_bytes: f64,
    /// What was reached around this time of the week, each of the last two weeks; zero if there are no two.
    pub recurring_bytes: f64,
}

impl MemoryUse {
    pub fn new(horizon: Horizon) -> MemoryUse {
        MemoryUse {
            peaks: HourlyPeaks::new(horizon, 2 * HOURS),
        }
    }

    /// Remembers a peak. One from before the newest hour counts for its own hour, if that is still remembered.
    pub fn observe(&mut self, at: Timestamp, bytes: f64) {
        self.peaks.observe(at, bytes);
    }

    /// The limit that fits what is remembered; none before the first sample. Days end with the last sample's hour.
    pub fn target(&self) -> Option<MemoryTarget> {
        let mut days = [0.0_f32; HOURS / HOURS_A_DAY];
        for (age, peak) in self.peaks.hours().iter().rev().take(HOURS).enumerate() {
            let day = &mut days[age / HOURS_A_DAY];
            *day = day.max(*peak);
        }
        let (day, second) = (f64::from(days[0]), f64::from(second_highest(&days)));
        let recurring = f64::from(recurring_peak(self.peaks.hours()));
        let most = 1.0 + self.room_max(&days);
        let limit = DAY_MARGIN
            .above(day)
            .min(day * most)
            .max(WEEK_MARGIN.above(second).min(second * most))
            .max(RECURRING_MARGIN.above(recurring));
        (limit > 0.0).then_some(MemoryTarget {
            limit_bytes: limit,
            day_bytes: day,
            second_day_bytes: second,
            recurring_bytes: recurring,
        })
    }

    /// The largest share of room that the week's days justify; without bound before there is a week.
    fn room_max(&self, days: &[f32]) -> f64 {
        let highest = days.iter().copied().fold(0.0, f32::max);
        let lowest = days.iter().copied().fold(f32::INFINITY, f32::min);
        if self.peaks.hours().len() < HOURS || lowest <= 0.0 {
            return f64::INFINITY;
        }
        ALIKE_SHARE + f64::from(highest / lowest - 1.0)
    }
}

fn second_highest(days: &[f32]) -> f32 {
    let (mut first, mut second) = (0.0_f32, 0.0_f32);
    for day in days {
        second = second.max(day.min(first));
        first = first.max(*day);
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1_u64 << 20) as f64;

    fn hours(peaks_mib: impl IntoIterator<Item = u32>) -> MemoryUse {
        let mut memory = MemoryUse::new(Horizon::default());
        for (hour, peak) in peaks_mib.into_iter().enumerate() {
            memory.observe(
                Timestamp(hour as i64 * 3_600_000_000),
                f64::from(peak) * MIB,
            );
        }
        memory
    }

    fn target_mib(memory: &MemoryUse) -> f64 {
        memory.target().expect("there are samples").limit_bytes / MIB
    }

    #[test]
    fn one_day_that_stands_out_is_left_out_after_a_day() {
        let spike = |hour| if hour == 50 { 8192 } else { 1024 };
        let during = target_mib(&hours((0..51).map(spike)));
        assert!(during > 8192.0);
        let after = target_mib(&hours((0..100).map(spike)));
        assert!((after - 1024.0 * 1.5).abs() < 1e-3, "{after}");
    }

    #[test]
    fn a_height_of_two_days_is_kept_for_the_week() {
        let spike = |hour| if hour == 10 || hour == 58 { 8192 } else { 1024 };
        assert!(target_mib(&hours((0..120).map(spike))) > 8192.0);
    }

    #[test]
    fn a_late_sample_counts_for_its_own_hour() {
        let mut memory = hours((0..48).map(|_| 100));
        memory.observe(Timestamp(3_600_000_000), 900.0 * MIB);
        let target = memory.target().expect("there are samples");
        assert_eq!(target.day_bytes, 100.0 * MIB);
        memory.observe(Timestamp(-900 * 3_600_000_000), 4000.0 * MIB);
        assert_eq!(memory.target(), Some(target));
    }

    #[test]
    fn a_jump_of_the_clock_forgets_what_is_far_and_no_more() {
        let mut memory = hours((0..48).map(|_| 100));
        memory.observe(Timestamp(i64::MAX), 50.0 * MIB);
        assert_eq!(
            memory.target().expect("there are samples").day_bytes,
            50.0 * MIB
        );
        memory.observe(Timestamp(i64::MIN), 70.0 * MIB);
        assert_eq!(
            memory.target().expect("there are samples").day_bytes,
            50.0 * MIB
        );
    }
}
