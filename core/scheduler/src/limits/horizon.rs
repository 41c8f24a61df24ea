//! How far back the policies look, as parts of one window.

use tw_model::{Millis, Timestamp};

/// The lengths of time that the policies are made of. All scale with the window, so that a job may learn in minutes
/// what it usually learns in a week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    window: Millis,
}

/// The hours of the default window, a week.
pub(crate) const HOURS: usize = 168;

/// The hours of one day.
pub(crate) const HOURS_A_DAY: usize = 24;

impl Horizon {
    /// The parts of `window`; a window of less than 168 ms counts as that.
    pub fn of(window: Millis) -> Horizon {
        Horizon {
            window: window.max(Millis(HOURS as u64)),
        }
    }

    /// All of it: a week unless the spec says otherwise.
    pub fn window(self) -> Millis {
        self.window
    }

    /// The grain of peaks and decisions: an hour of a week.
    pub fn hour(self) -> Millis {
        Millis(self.window.0 / HOURS as u64)
    }

    /// The part that most patterns repeat after: a day of a week.
    pub fn day(self) -> Millis {
        Millis(self.hour().0 * HOURS_A_DAY as u64)
    }

    /// The number of the hour that holds `at`.
    pub(crate) fn hour_of(self, at: Timestamp) -> i64 {
        at.0.div_euclid(self.hour().0 as i64 * 1000)
    }
}

impl Default for Horizon {
    fn default() -> Horizon {
        Horizon::of(Millis::hours(HOURS as u64))
    }
}
