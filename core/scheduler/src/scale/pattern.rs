//! What a load has been at this time before.

use std::collections::BTreeMap;

use tw_model::{Millis, Timestamp};

use crate::limits::Horizon;

/// A rise is met so long before it comes, as a part of a day: tasks have to start, and days are not alike to the minute.
const AHEAD_PARTS: u64 = 96;

/// The load over time, in slots of a quarter of an hour.
#[derive(Clone, Debug)]
pub struct Pattern {
    horizon: Horizon,
    slot: Millis,
    /// The mean load by slot.
    loads: BTreeMap<i64, f64>,
}

impl Pattern {
    /// Nothing is known yet. No slot is shorter than `narrowest`, the width of what will be added.
    pub fn new(horizon: Horizon, narrowest: Millis) -> Pattern {
        Pattern {
            horizon,
            slot: Millis(horizon.day().0 / AHEAD_PARTS)
                .max(narrowest)
                .max(Millis(1)),
            loads: BTreeMap::new(),
        }
    }

    /// Adds a mean load that was borne from a moment on; loads of the same time add up, as those of several machines.
    pub fn add(&mut self, start: Timestamp, span: Millis, load: f64) {
        let slot_us = self.slot.0 as i64 * 1000;
        let (first_us, end_us) = (start.0, start.plus(span).0);
        let mut at_us = first_us;
        while at_us < end_us {
            let slot = at_us.div_euclid(slot_us);
            let until_us = (slot + 1).saturating_mul(slot_us).min(end_us);
            let share = (until_us - at_us) as f64 / slot_us as f64;
            *self.loads.entry(slot).or_default() += load * share;
            at_us = until_us;
        }
    }

    /// The load to expect from now until a slot later: what was borne then on both of the last two days, or in both of the
    /// last two weeks. One day proves no pattern.
    pub fn expected(&self, now: Timestamp) -> Option<f64> {
        let day = self.horizon.day();
        let both = |one: u64, other: u64| {
            let one = self.around(now, Millis(day.0 * one))?;
            Some(one.min(self.around(now, Millis(day.0 * other))?))
        };
        let (daily, weekly) = (both(1, 2), both(7, 14));
        daily.into_iter().chain(weekly).reduce(f64::max)
    }

    /// The higher load of the slot so long ago and of the one after it.
    fn around(&self, now: Timestamp, ago: Millis) -> Option<f64> {
        let at_us = now.0.saturating_sub(ago.0 as i64 * 1000);
        let slot = at_us.div_euclid(self.slot.0 as i64 * 1000);
        let found = [slot, slot + 1];
        let found = found
            .iter()
            .filter_map(|slot| self.loads.get(slot).copied());
        found.reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: f64) -> Timestamp {
        Timestamp((hours * 3.6e9) as i64)
    }

    #[test]
    fn what_both_days_had_is_expected_a_quarter_of_an_hour_ahead() {
        let mut pattern = Pattern::new(Horizon::default(), Millis::minutes(5));
        let mut add = |hours: f64, load: f64| {
            for quarter in 0..3 {
                let minutes = f64::from(quarter) * 5.0 / 60.0;
                pattern.add(at(hours + minutes), Millis::minutes(5), load);
            }
        };
        add(9.0, 4000.0);
        add(33.0, 3000.0);
        add(34.0, 9000.0);
        assert_eq!(pattern.expected(at(57.0)), Some(3000.0));
        assert_eq!(pattern.expected(at(56.8)), Some(3000.0), "a quarter ahead");
        assert_eq!(pattern.expected(at(56.5)), None);
        assert_eq!(pattern.expected(at(58.0)), None, "one day only");
    }

    #[test]
    fn wide_spans_count_in_every_slot_that_they_cover() {
        let mut pattern = Pattern::new(Horizon::default(), Millis::minutes(5));
        for day in 0..2 {
            pattern.add(at(24.0 * f64::from(day)), Millis::hours(1), 1000.0);
            pattern.add(at(24.0 * f64::from(day)), Millis::hours(1), 500.0);
        }
        assert_eq!(pattern.expected(at(48.7)), Some(1500.0));
    }
}
