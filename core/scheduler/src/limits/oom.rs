//! What follows when a task ran out of memory, beside what is learned.
//!
//! A task that was killed at its limit shows that the limit was too low and not what it needs. If the limit it died at
//! went into the history, the next would rest on it, and the next on that: a leak would be fed without end. So a raise
//! stands beside the history, for a day, and what the raised task then really holds is learned from its samples.

use serde::{Deserialize, Serialize};
use tw_model::{Bytes, Timestamp};

use super::Horizon;

/// Each raise is this much of the limit that was too low, and at least [`RAISE_MIN`]: as the Vertical Pod Autoscaler.
const RAISE: f64 = 1.2;
const RAISE_MIN: Bytes = Bytes::mib(100);

/// After so many raises within a day the next is refused: three raises by a fifth make 73%, more than the highest day
/// of a week exceeds the day before it in 99 of 100 job-days. What still runs out then grows without bound.
const RAISES_MAX: u32 = 3;

/// Raises of a job's memory limit after it ran out of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomResponse {
    raises: u32,
    limit: Bytes,
    last: Option<Timestamp>,
    leaking: bool,
}

/// What to do about a task that ran out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomVerdict {
    /// Give the job this limit for a day.
    Raise(Bytes),
    /// It has run out after every raise: it looks like a leak. Restart it cleanly, report it, give it no more.
    Leak { raises: u32 },
}

impl OomResponse {
    /// Notes that a task ran out of memory under `limit`, at `now`; no raise goes above `highest`.
    ///
    /// A kill under a lower limit than the raised one comes from a task that has not got the raise yet: it changes
    /// nothing.
    pub fn note(
        &mut self,
        limit: Bytes,
        highest: Bytes,
        now: Timestamp,
        horizon: Horizon,
    ) -> OomVerdict {
        if self.over(now, horizon) {
            *self = OomResponse::default();
        }
        if self.raises > 0 && limit < self.limit && !self.leaking {
            return OomVerdict::Raise(self.limit);
        }
        self.last = Some(now);
        let raised = limit.scale(RAISE).max(limit + RAISE_MIN).min(highest);
        self.leaking |= self.raises >= RAISES_MAX || raised <= limit;
        if self.leaking {
            return OomVerdict::Leak {
                raises: self.raises,
            };
        }
        self.raises += 1;
        self.limit = raised;
        OomVerdict::Raise(raised)
    }

    /// The limit that holds: the learned one, or the raised one while that stands.
    pub fn limit(&self, learned: Bytes, now: Timestamp, horizon: Horizon) -> Bytes {
        let stands = self.raises > 0 && !self.leaking && !self.over(now, horizon);
        if stands {
            learned.max(self.limit)
        } else {
            learned
        }
    }

    /// Whether the job ran out of memory after every raise, within the last day.
    pub fn leaks(&self, now: Timestamp, horizon: Horizon) -> bool {
        self.leaking && !self.over(now, horizon)
    }

    /// Whether the last kill is a day ago.
    fn over(&self, now: Timestamp, horizon: Horizon) -> bool {
        self.last.is_none_or(|last| now.since(last) > horizon.day())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Bytes = Bytes::gib(8);

    fn at(hour: u64) -> Timestamp {
        Timestamp(0).plus(tw_model::Millis::hours(hour))
    }

    #[test]
    fn raises_stand_for_a_day_and_are_not_remembered() {
        let (mut response, horizon) = (OomResponse::default(), Horizon::default());
        let verdict = response.note(Bytes::gib(1), CAP, at(0), horizon);
        let raised = Bytes::gib(1).scale(RAISE);
        assert_eq!(verdict, OomVerdict::Raise(raised));
        assert_eq!(response.limit(Bytes::gib(1), at(24), horizon), raised);
        assert_eq!(
            response.limit(Bytes::gib(2), at(24), horizon),
            Bytes::gib(2)
        );
        assert_eq!(
            response.limit(Bytes::gib(1), at(25), horizon),
            Bytes::gib(1)
        );
    }

    #[test]
    fn a_leak_is_raised_three_times_and_then_reported() {
        let (mut response, horizon) = (OomResponse::default(), Horizon::default());
        let mut limit = Bytes::gib(1);
        for hour in 0..3 {
            let OomVerdict::Raise(raised) = response.note(limit, CAP, at(hour), horizon) else {
                panic!("a raise is due");
            };
            assert!(raised > limit);
            limit = raised;
        }
        let verdict = response.note(limit, CAP, at(3), horizon);
        assert_eq!(verdict, OomVerdict::Leak { raises: 3 });
        assert!(response.leaks(at(4), horizon));
        assert_eq!(response.limit(Bytes::gib(1), at(4), horizon), Bytes::gib(1));
        assert!(!response.leaks(at(30), horizon));
    }

    #[test]
    fn tasks_that_have_not_got_the_raise_use_none_up() {
        let (mut response, horizon) = (OomResponse::default(), Horizon::default());
        let first = response.note(Bytes::gib(1), CAP, at(0), horizon);
        for _ in 0..10 {
            assert_eq!(response.note(Bytes::gib(1), CAP, at(0), horizon), first);
        }
    }

    #[test]
    fn no_raise_passes_the_bound() {
        let (mut response, horizon) = (OomResponse::default(), Horizon::default());
        let verdict = response.note(CAP, CAP, at(0), horizon);
        assert_eq!(verdict, OomVerdict::Leak { raises: 0 });
    }
}
