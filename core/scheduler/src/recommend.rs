//! What an author should write instead: a request that fits what was learned, in numbers that people write.

use tw_model::{Bytes, Cores};

use crate::limits::LimitSet;

/// A request is changed only where it is off by more than this: a smaller gain is not worth a review.
const WORTH: f64 = 0.1;

/// What to do about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Advice<T> {
    /// It is too small: the job runs short, or would.
    More(T),
    /// It can be smaller.
    Less(T),
    /// It fits.
    Keep,
}

impl<T: Copy> Advice<T> {
    /// The request that is suggested, if another.
    pub fn suggested(self) -> Option<T> {
        match self {
            Advice::More(value) | Advice::Less(value) => Some(value),
            Advice::Keep => None,
        }
    }
}

/// What to do about a job's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suggestion {
    pub cpu: Advice<Cores>,
    pub memory: Advice<Bytes>,
}

impl Suggestion {
    /// Compares what is requested with what would fit if the spec set no bounds.
    pub fn of(request: LimitSet, wanted: LimitSet) -> Suggestion {
        let cpu = advise(request.cpu.0, round_cpu(wanted.cpu.0));
        let memory = advise(request.memory.0, round_memory(wanted.memory.0));
        Suggestion {
            cpu: map(cpu, Cores),
            memory: map(memory, Bytes),
        }
    }

    /// Whether the job should get more of something. Such jobs are told first.
    pub fn needs_more(&self) -> bool {
        matches!(self.cpu, Advice::More(_)) || matches!(self.memory, Advice::More(_))
    }
}

fn advise(request: u64, fitting: u64) -> Advice<u64> {
    let (asked, fits) = (request as f64, fitting as f64);
    if fits > asked {
        Advice::More(fitting)
    } else if fits < asked * (1.0 - WORTH) {
        Advice::Less(fitting)
    } else {
        Advice::Keep
    }
}

fn map<T>(advice: Advice<u64>, unit: impl FnOnce(u64) -> T) -> Advice<T> {
    match advice {
        Advice::More(value) => Advice::More(unit(value)),
        Advice::Less(value) => Advice::Less(unit(value)),
        Advice::Keep => Advice::Keep,
    }
}

/// Up to two digits that people write: 0.01, 0.25, 1.5, 12 cores.
fn round_cpu(millicores: u64) -> u64 {
    let step = match millicores {
        0..100 => 10,
        100..1000 => 50,
        1000..10_000 => 100,
        _ => 1000,
    };
    millicores.max(1).div_ceil(step) * step
}

/// Up to a step of a sixteenth or finer, in whole MiB or GiB.
fn round_memory(bytes: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    let step = match bytes / MIB {
        0..256 => 8 * MIB,
        256..1024 => 32 * MIB,
        1024..16_384 => 256 * MIB,
        _ => 1024 * MIB,
    };
    bytes.max(1).div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpu: u64, mib: u64) -> LimitSet {
        LimitSet {
            cpu: Cores(cpu),
            memory: Bytes::mib(mib),
        }
    }

    #[test]
    fn suggestions_are_numbers_that_people_write() {
        let suggestion = Suggestion::of(set(2000, 4096), set(233, 700));
        assert_eq!(suggestion.cpu, Advice::Less(Cores(250)));
        assert_eq!(suggestion.memory, Advice::Less(Bytes::mib(704)));
        assert!(!suggestion.needs_more());
    }

    #[test]
    fn what_is_close_is_kept_and_what_is_short_is_not() {
        let suggestion = Suggestion::of(set(500, 1024), set(455, 1025));
        assert_eq!(suggestion.cpu, Advice::Keep);
        assert_eq!(suggestion.memory, Advice::More(Bytes::mib(1280)));
        assert!(suggestion.needs_more());
    }
}
