//! The one timing rule of at-most-one tasks that fail over: how long such a task may run without word from the
//! controller, and from when on it has surely ended.
//!
//! The agent reads its clock, t₀, before it sends a heartbeat. The reply grants every failover task of the machine its
//! term T from t₀ on, and the task's helper ends the task at t₀ + T by itself. The broker notes the moment g of the
//! heartbeat's receipt before it looks whether it may still grant, and places the task elsewhere no sooner than
//! g + T(1+ρ)/(1−ρ) by its own clock. As g is no earlier than t₀, and both clocks keep within ρ of the true rate, the
//! task has ended by then.
//!
//! Assumed: the clocks' rates, that no machine is paused with its clock stopped, and that a kill takes effect within
//! [`KILL_WITHIN`].

use tw_model::{JobSpec, Millis};

use crate::TickMs;

/// How far the rate of a clock may be off, in thousandths.
pub const CLOCK_DRIFT_PERMILLE: u64 = 10;

/// Within what time a kill surely takes effect.
pub const KILL_WITHIN: Millis = Millis::seconds(1);

/// The term of a task that is to be replaced once it was out of reach for `within`: the longest for which
/// [`surely_over_after`] is no more than that.
pub fn term(within: Millis) -> Millis {
    Millis(within.0 * (1000 - CLOCK_DRIFT_PERMILLE) / (1000 + CLOCK_DRIFT_PERMILLE))
}

/// How long after its receipt of a heartbeat the controller knows that a term granted for it is over.
pub fn surely_over_after(term: Millis) -> Millis {
    let over = term.0 * (1000 + CLOCK_DRIFT_PERMILLE);
    Millis(over.div_ceil(1000 - CLOCK_DRIFT_PERMILLE))
}

/// The term of the tasks of a spec; none where they do not fail over.
pub fn term_of(spec: &JobSpec) -> Option<Millis> {
    let failover = spec.failover.as_ref().filter(|_| spec.at_most_one);
    failover.map(|failover| term(failover.within))
}

/// When a helper ends its task if nothing is heard until then, on the machine's clock since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// The task is asked to end.
    pub signal_at: TickMs,
    /// All of it is killed.
    pub kill_at: TickMs,
}

impl Deadlines {
    /// The deadlines of a task whose term was granted at `granted_at`. It is asked to end early enough for its grace,
    /// but not in the first half of its term.
    pub fn of(granted_at: TickMs, term: Millis, grace: Millis) -> Deadlines {
        let kill_at = granted_at + term.0.saturating_sub(KILL_WITHIN.0);
        let grace = grace.0.min(term.0 / 2);
        Deadlines {
            signal_at: kill_at.saturating_sub(grace),
            kill_at,
        }
    }
}

/// Until when a broker may grant terms: as long as no other can take its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Its store is held by a lock that ends with its process.
    WhileAlive,
    /// Its lease in the store is over then, by its own clock, drift already taken off.
    Until(TickMs),
}

impl Tenure {
    /// Whether nobody else can be the broker now.
    pub fn is_held(self, now: TickMs) -> bool {
        match self {
            Tenure::WhileAlive => true,
            Tenure::Until(end) => now < end,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However both clocks go within the assumed rate, and whenever the heartbeat arrives: when the controller acts
        /// the task has been dead for as long as a kill may take.
        #[test]
        fn a_task_has_ended_before_it_is_replaced(
            within in 5_000u64..3_600_000,
            grace in 0u64..120_000,
            sent in 0u64..1_000_000,
            travel in 0u64..60_000,
            machine_ppm in -10_000i64..=10_000,
            broker_ppm in -10_000i64..=10_000,
        ) {
            let term = term(Millis(within));
            // True time in microseconds since the heartbeat was sent, from what a clock shows.
            let true_us = |shown_ms: u64, ppm: i64| {
                i128::from(shown_ms) * 1_000_000_000 / i128::from(1_000_000 + ppm)
            };
            let deadlines = Deadlines::of(sent, term, Millis(grace));
            prop_assert!(deadlines.signal_at <= deadlines.kill_at);
            let killed_us = true_us(deadlines.kill_at - sent, machine_ppm);
            let received_us = i128::from(travel) * 1000;
            let replaced_us = received_us + true_us(within, broker_ppm);
            prop_assert!(surely_over_after(term).0 <= within);
            // A kill takes effect within a second of the slowest clock.
            let dead_us = killed_us + true_us(KILL_WITHIN.0, -10_000);
            prop_assert!(dead_us <= replaced_us + 1000, "{dead_us} {replaced_us}");
        }
    }

    #[test]
    fn the_last_second_is_for_the_kill_and_half_of_the_term_for_news() {
        let deadlines = Deadlines::of(1000, Millis::seconds(20), Millis::seconds(5));
        assert_eq!((deadlines.signal_at, deadlines.kill_at), (15_000, 20_000));
        let patient = Deadlines::of(1000, Millis::seconds(20), Millis::seconds(600));
        assert_eq!((patient.signal_at, patient.kill_at), (10_000, 20_000));
    }

    #[test]
    fn a_tenure_is_over_at_its_end() {
        assert!(Tenure::WhileAlive.is_held(u64::MAX));
        assert!(Tenure::Until(10).is_held(9));
        assert!(!Tenure::Until(10).is_held(10));
    }
}
