//! The clock that lease expiry is measured by, passed in so that tests can turn it.

use std::sync::Mutex;
use std::time::Duration;

/// A monotonic clock. Its zero is arbitrary, so its readings are never stored or sent between hosts.
pub trait Clock: Send + Sync + 'static {
    /// Reads the time since the clock's zero.
    fn now(&self) -> Duration;
}

/// The machine's `CLOCK_BOOTTIME`, which counts on while the machine sleeps.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Mutex<Duration>,
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        *self.now.lock().expect("no holder panics") += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.lock().expect("no holder panics")
    }
}
