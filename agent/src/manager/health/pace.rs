//! When a check asks next.

use std::time::{Duration, Instant};

/// The time between the first two looks at a task that does not pass yet.
const FIRST: Duration = Duration::from_millis(50);

/// The times at which a check asks. Until it has passed once it looks sooner than the author says, and each time waits twice
/// as long, so that a task is healthy soon after it can be. Such a look can only pass: failures count as often as the author
/// says, so that a slow start has the time that it always had.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    /// How long to wait before the next early look; none once the check has passed.
    early: Option<Duration>,
    /// From when on a failure counts again.
    due: Instant,
}

impl Pace {
    pub(super) fn new(every: Duration, now: Instant) -> Pace {
        Pace {
            every,
            early: Some(FIRST),
            due: now,
        }
    }

    /// Takes whether the check that ends `now` has passed; answers whether that counts.
    pub(super) fn counts(&mut self, has_passed: bool, now: Instant) -> bool {
        if has_passed {
            self.early = None;
        }
        let counts = has_passed || now >= self.due;
        if counts {
            self.due = now + self.every;
        }
        counts
    }

    /// How long to wait `now`, after a check.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let until_due = self.due.saturating_duration_since(now);
        let Some(early) = &mut self.early else {
            return until_due;
        };
        let wait = until_due.min(*early);
        *early = (*early * 2).min(self.every);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    /// When a check asks that takes `takes` each time and passes from `ready` on, and whether each answer counts.
    fn asked(ready: Duration, takes: Duration, until: Duration) -> Vec<(u64, bool)> {
        let begin = Instant::now();
        let mut pace = Pace::new(EVERY, begin);
        let (mut now, mut asked) = (Duration::ZERO, Vec::new());
        while now < until {
            let (at, passes) = (now, now >= ready);
            now += takes;
            let counts = pace.counts(passes, begin + now);
            asked.push((at.as_millis() as u64, counts));
            now += pace.wait(begin + now);
        }
        asked
    }

    #[test]
    fn a_task_that_is_not_ready_yet_is_looked_at_soon_and_its_failures_count_as_often_as_the_author_says()
     {
        let never = asked(Duration::MAX, Duration::ZERO, Duration::from_secs(3600));
        let counted = never
            .iter()
            .filter(|(_, counts)| *counts)
            .map(|(at, _)| *at);
        assert!(counted.eq((0..3600).step_by(5).map(|second| second * 1000)));
        let early: Vec<u64> = never
            .iter()
            .filter(|(_, counts)| !counts)
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(early, [50, 150, 350, 750, 1550, 3150]);
    }

    #[test]
    fn what_passes_late_counts_at_once_and_is_then_asked_as_often_as_the_author_says() {
        let ready = Duration::from_millis(300);
        let asked = asked(ready, Duration::ZERO, Duration::from_secs(11));
        assert_eq!(
            asked,
            [
                (0, true),
                (50, false),
                (150, false),
                (350, true),
                (5350, true),
                (10_350, true)
            ]
        );
    }

    #[test]
    fn a_check_that_takes_its_time_fails_no_later_than_without_early_looks() {
        let takes = Duration::from_secs(2);
        let asked = asked(Duration::MAX, takes, Duration::from_secs(21));
        let counted: Vec<u64> = asked
            .iter()
            .filter(|(_, counts)| *counts)
            .map(|(at, _)| *at + 2000)
            .collect();
        // One in every 5 s and the 2 s that it takes.
        assert!(
            counted
                .windows(2)
                .all(|two| (5000..=7000).contains(&(two[1] - two[0]))),
            "{counted:?}"
        );
    }
}
