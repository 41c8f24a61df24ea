//! The two clocks that decisions are given.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tw_model::Timestamp;
use tw_store::{BootClock, Clock};

/// The time of day, in UTC.
pub(crate) fn wall() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The time since the machine started, which nobody can set.
pub(crate) fn boot() -> Duration {
    BootClock.now()
}
