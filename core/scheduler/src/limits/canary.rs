//! Lower limits are tried on one task before the others get them, and are taken back if the job does not bear them.
//!
//! Raising a limit harms nobody but the machine's room, so all tasks get it at once. Lowering one is a bet on history: one
//! task holds it for an hour first. If that task runs out of memory, is throttled, or waits for what it lacks, the
//! bet is lost: all have their old limits again, and the next is made a day later. What has been accepted is
//! watched on in the same way.

use serde::{Deserialize, Serialize};
use tw_model::Timestamp;

use super::{Horizon, LimitSet};

/// A task that is throttled for more than this part of the time is short of CPU: at 98% of the time within the limit, and a
/// spike half as high again, less than 5% is to be expected.
const THROTTLED_MAX: f64 = 0.2;

/// A task whose processes all wait, for memory above all, for more than this part of the time does not get its work done.
/// `systemd-oomd` kills at 0.6.
const STALLED_MAX: f64 = 0.1;

/// What was seen of a task since it was last looked at, as parts of that time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// How often it ran out of memory.
    pub ooms: u64,
    pub throttled: f64,
    pub stalled: f64,
}

/// Why lower limits were taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    Memory,
    Throttled,
    Stalled,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Shortage::Memory => "it ran out of memory",
            Shortage::Throttled => "it was throttled for more than a fifth of the time",
            Shortage::Stalled => "it waited for more than a tenth of the time",
        })
    }
}

impl Seen {
    /// What the task was short of.
    pub fn shortage(&self) -> Option<Shortage> {
        if self.ooms > 0 {
            Some(Shortage::Memory)
        } else if self.throttled > THROTTLED_MAX {
            Some(Shortage::Throttled)
        } else if self.stalled > STALLED_MAX {
            Some(Shortage::Stalled)
        } else {
            None
        }
    }
}

/// The limits that the tasks of a job have now: those that have proved themselves, and those on trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// What the tasks had before anything was learned: where they go back to.
    request: LimitSet,
    accepted: LimitSet,
    trial: Option<Trial>,
    /// No trial before then.
    rests_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Trial {
    limits: LimitSet,
    since: Timestamp,
}

impl Canary {
    /// Begins with tasks that have what was requested for them.
    pub fn new(request: LimitSet) -> Canary {
        Canary {
            request,
            accepted: request,
            trial: None,
            rests_until: None,
        }
    }

    /// As [`Canary::new`], for tasks that have other limits already, from before the agent was restarted.
    pub fn resume(request: LimitSet, has: LimitSet) -> Canary {
        Canary {
            accepted: has,
            ..Canary::new(request)
        }
    }

    /// What the canary has.
    pub fn canary(&self) -> LimitSet {
        self.trial.map_or(self.accepted, |trial| trial.limits)
    }

    /// What the other tasks have.
    pub fn others(&self) -> LimitSet {
        self.accepted
    }

    /// Whether lower limits are on trial.
    pub fn is_trying(&self) -> bool {
        self.trial.is_some()
    }

    /// Takes in what is wanted now. More is accepted at once, less goes on trial; a trial that lasted an hour is
    /// over and its limits are accepted.
    pub fn want(&mut self, wanted: LimitSet, now: Timestamp, horizon: Horizon) {
        self.accepted = higher(self.accepted, wanted);
        if let Some(trial) = &mut self.trial {
            trial.limits = higher(trial.limits, wanted);
            if now.since(trial.since) >= horizon.hour() {
                self.accepted = trial.limits;
                self.trial = None;
            }
        }
        let rests = self.rests_until.is_some_and(|until| now < until);
        let is_lower = wanted.cpu < self.accepted.cpu || wanted.memory < self.accepted.memory;
        if self.trial.is_none() && !rests && is_lower {
            self.trial = Some(Trial {
                limits: wanted,
                since: now,
            });
        }
    }

    /// Takes in what was seen of a task. Returns what it was short of, if that takes lower limits back.
    pub fn watch(
        &mut self,
        is_canary: bool,
        seen: Seen,
        now: Timestamp,
        horizon: Horizon,
    ) -> Option<Shortage> {
        let shortage = seen.shortage()?;
        let is_lower =
            |limits: LimitSet| limits.cpu < self.request.cpu || limits.memory < self.request.memory;
        let had = match is_canary {
            true => self.canary(),
            false => self.accepted,
        };
        if !is_lower(had) {
            return None;
        }
        if self.trial.take().is_none() || !is_canary {
            self.accepted = higher(self.accepted, self.request);
        }
        self.rests_until = Some(now.plus(horizon.day()));
        Some(shortage)
    }
}

/// The higher of each.
fn higher(one: LimitSet, other: LimitSet) -> LimitSet {
    LimitSet {
        cpu: one.cpu.max(other.cpu),
        memory: one.memory.max(other.memory),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tw_model::{Bytes, Cores, Millis};

    use super::*;

    fn set(cpu: u64, mib: u64) -> LimitSet {
        LimitSet {
            cpu: Cores(cpu),
            memory: Bytes::mib(mib),
        }
    }

    fn at(minute: u64) -> Timestamp {
        Timestamp(0).plus(Millis::minutes(minute))
    }

    const BAD: Seen = Seen {
        ooms: 0,
        throttled: 0.5,
        stalled: 0.0,
    };

    #[test]
    fn one_task_tries_what_is_lower_and_all_get_what_is_higher() {
        let horizon = Horizon::default();
        let mut canary = Canary::new(set(1000, 1024));
        canary.want(set(200, 256), at(0), horizon);
        assert_eq!(canary.canary(), set(200, 256));
        assert_eq!(canary.others(), set(1000, 1024));
        canary.want(set(300, 256), at(30), horizon);
        assert_eq!(canary.canary(), set(300, 256));
        canary.want(set(300, 256), at(60), horizon);
        assert_eq!(
            (canary.others(), canary.is_trying()),
            (set(300, 256), false)
        );
        canary.want(set(900, 512), at(61), horizon);
        assert_eq!(canary.others(), set(900, 512));
    }

    #[test]
    fn a_canary_that_is_short_takes_the_trial_back_for_a_day() {
        let horizon = Horizon::default();
        let mut canary = Canary::new(set(1000, 1024));
        canary.want(set(200, 256), at(0), horizon);
        assert_eq!(canary.watch(true, Seen::default(), at(1), horizon), None);
        assert_eq!(
            canary.watch(true, BAD, at(2), horizon),
            Some(Shortage::Throttled)
        );
        assert_eq!(canary.canary(), set(1000, 1024));
        canary.want(set(200, 256), at(600), horizon);
        assert!(!canary.is_trying());
        canary.want(set(200, 256), at(1443), horizon);
        assert!(canary.is_trying());
    }

    #[test]
    fn accepted_limits_that_are_not_borne_any_more_are_taken_back() {
        let horizon = Horizon::default();
        let mut canary = Canary::new(set(1000, 1024));
        canary.want(set(200, 256), at(0), horizon);
        canary.want(set(200, 256), at(60), horizon);
        let oom = Seen {
            ooms: 1,
            ..Seen::default()
        };
        assert_eq!(
            canary.watch(false, oom, at(90), horizon),
            Some(Shortage::Memory)
        );
        assert_eq!(canary.others(), set(1000, 1024));
        assert_eq!(
            canary.watch(false, oom, at(91), horizon),
            None,
            "it has its request"
        );
    }

    proptest! {
        /// Whatever is wanted and seen: others never have less than the canary, and nobody less than is wanted.
        #[test]
        fn others_have_at_least_what_the_canary_has(
            steps in prop::collection::vec((1_u64..3000, 1_u64..4096, 0_u64..120, 0_u8..12), 1..60),
        ) {
            let horizon = Horizon::default();
            let mut canary = Canary::new(set(1000, 1024));
            let mut minute = 0;
            for (cpu, mib, pause, seen) in steps {
                minute += pause;
                canary.want(set(cpu, mib), at(minute), horizon);
                prop_assert!(canary.canary().cpu >= Cores(cpu));
                prop_assert!(canary.canary().memory >= Bytes::mib(mib));
                if seen < 2 {
                    canary.watch(seen == 0, BAD, at(minute), horizon);
                }
                prop_assert!(canary.others().cpu >= canary.canary().cpu);
                prop_assert!(canary.others().memory >= canary.canary().memory);
            }
        }
    }
}
