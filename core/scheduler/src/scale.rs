//! How many tasks a job should have for the load that they bear together.
//!
//! As Autopilot scales (Rzadca et al., EuroSys 2020, section 3.4): the load of all tasks, averaged, divided by what one
//! task should bear. Too few tasks hurt at once and too many only cost, so more come at once (as many as those
//! that serve, at most), and fewer only after the load has been lower for a while (deferred downscale), a tenth at a time
//! (slow decay). What was borne around this time on both days before is had in good time (see [`Pattern`]).
//!
//! A [`Scaler`] is one job's memory and lives with its caller; the number of tasks itself is a row. After a restart
//! the memory is empty, so nothing is taken away before the load has been watched for the whole while again.

mod pattern;

use std::collections::VecDeque;

use tw_model::{Autoscale, Cores, JobSpec, Millis, Timestamp};

pub use pattern::Pattern;

/// A number of tasks that is off by no more than this is right, as in Kubernetes: less is noise.
const TOLERANCE: f64 = 0.1;

/// The load counts as its average over this part of `down_after`, within these bounds: long enough to see past one
/// request, short enough to be there for a rise.
const AVERAGED_PART: u64 = 5;
const AVERAGED_MIN: Millis = Millis::seconds(3);
const AVERAGED_MAX: Millis = Millis::seconds(60);

/// So many come at once even where few serve.
const GROWTH_MIN: u32 = 4;

/// A tenth of the tasks goes at a time, and a tenth of `down_after` lies between two times.
const DECAY_PARTS: u32 = 10;

/// What the tasks of a job bear at one moment: millicores of CPU, or millionths of the number that is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Of all tasks that were measured, together.
    pub borne: f64,
    /// Tasks that serve.
    pub serving: u32,
    /// Tasks that serve, or should, and of which nothing is known.
    pub unknown: u32,
}

/// How many tasks a job is to have from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    pub tasks: u32,
    /// Why, in words for people.
    pub reason: String,
}

/// What is remembered of one job's load.
#[derive(Clone, Debug, Default)]
pub struct Scaler {
    /// Since when the load is watched without a gap.
    since: Option<Timestamp>,
    loads: VecDeque<(Timestamp, Load)>,
    /// The numbers of tasks that there could have been no fewer of, at each moment of the last `down_after`.
    needs: VecDeque<(Timestamp, u32)>,
    /// When tasks were taken away last.
    lowered_at: Option<Timestamp>,
}

/// What one task should bear, in the unit of [`Load`]. None where the job does not follow its load.
pub fn each(spec: &JobSpec) -> Option<f64> {
    let autoscale = spec.autoscale.as_ref()?;
    Some(match autoscale.each {
        Some(each) => each.0 as f64,
        None => spec.resources.cpu.0 as f64 * f64::from(autoscale.cpu_percent) / 100.0,
    })
}

impl Scaler {
    /// Takes in the load at a moment, and says how many tasks the job is to have if not `has`.
    ///
    /// `expected` is the load that is to be expected soon, by what it was at this time before.
    pub fn decide(
        &mut self,
        spec: &JobSpec,
        load: Load,
        expected: Option<f64>,
        has: u32,
        now: Timestamp,
    ) -> Option<Scaling> {
        let (autoscale, each) = (spec.autoscale.as_ref()?, each(spec)?.max(1.0));
        let averaged = averaged_over(autoscale);
        self.remember(load, averaged, now);
        let average = self.average();
        let expected = expected.unwrap_or(0.0);
        let known = average.borne.max(expected) / each;
        // Who says nothing may bear as much as it should: that asks for no more tasks, and lets none go.
        let possible = (average.borne / each + f64::from(average.unknown)).max(expected / each);
        let (more, least) = (
            autoscale.within(tasks_for(known, has)),
            autoscale.within(tasks_for(possible, has)),
        );
        self.needs.push_back((now, least));
        drop_older(&mut self.needs, autoscale.down_after, now);
        if more > has {
            let growth = (load.serving * 2).max(load.serving + GROWTH_MIN);
            let tasks = more.min(growth.max(has));
            let because = match average.borne < expected {
                true => "expected soon, as on the days before",
                false => "borne now",
            };
            return (tasks > has).then(|| Scaling {
                tasks,
                reason: said(spec, known * each, because),
            });
        }
        self.fewer(spec, autoscale, has, now)
    }

    fn fewer(
        &mut self,
        spec: &JobSpec,
        autoscale: &Autoscale,
        has: u32,
        now: Timestamp,
    ) -> Option<Scaling> {
        let watched = self.since.map_or(Millis::ZERO, |since| now.since(since));
        let rests = self.lowered_at.is_some_and(|at| {
            now.since(at) < Millis(autoscale.down_after.0 / u64::from(DECAY_PARTS))
        });
        let needed = self.needs.iter().map(|(_, tasks)| *tasks).max()?;
        let needed = autoscale.within(needed);
        if needed >= has || watched < autoscale.down_after || rests {
            return None;
        }
        self.lowered_at = Some(now);
        let step = (has / DECAY_PARTS).max(1);
        let borne = self.average().borne;
        let because = format!(
            "borne now, and {needed} tasks were enough for {}",
            autoscale.down_after
        );
        Some(Scaling {
            tasks: needed.max(has - step),
            reason: said(spec, borne, &because),
        })
    }

    fn remember(&mut self, load: Load, averaged: Millis, now: Timestamp) {
        let last = self.loads.back().map(|(at, _)| *at);
        // A gap, or a clock that went back: what was known before says nothing of what was missed.
        if last.is_some_and(|last| now < last || now.since(last) > averaged) {
            *self = Scaler::default();
        }
        self.since.get_or_insert(now);
        self.loads.push_back((now, load));
        drop_older(&mut self.loads, averaged, now);
    }

    fn average(&self) -> Load {
        let count = self.loads.len().max(1) as f64;
        let newest = self.loads.back().map(|(_, load)| *load).unwrap_or_default();
        Load {
            borne: self.loads.iter().map(|(_, load)| load.borne).sum::<f64>() / count,
            ..newest
        }
    }
}

/// How often a job's load should be looked at.
pub fn look_every(autoscale: &Autoscale) -> Millis {
    Millis(averaged_over(autoscale).0 / 4)
}

fn averaged_over(autoscale: &Autoscale) -> Millis {
    Millis(autoscale.down_after.0 / AVERAGED_PART).clamp(AVERAGED_MIN, AVERAGED_MAX)
}

/// The number of tasks for a need, in tasks; the one that there is where that is close.
fn tasks_for(need: f64, has: u32) -> u32 {
    let off = need / f64::from(has.max(1)) - 1.0;
    match off.abs() <= TOLERANCE {
        true => has,
        // Far from every number that there could be, so the cast loses nothing.
        false => need.ceil().clamp(0.0, f64::from(u32::MAX)) as u32,
    }
}

fn said(spec: &JobSpec, borne: f64, because: &str) -> String {
    let metric = spec
        .autoscale
        .as_ref()
        .and_then(|autoscale| Some((autoscale.metric.as_ref()?, autoscale.each?)));
    match metric {
        Some((metric, each)) => format!(
            "{metric} {} {because}, {each} for each task",
            (borne / 1e4).round() / 100.0
        ),
        None => format!(
            "{} cores {because}, {} for each task",
            Cores(borne.round() as u64),
            Cores(each(spec).unwrap_or_default().round() as u64)
        ),
    }
}

fn drop_older<T>(kept: &mut VecDeque<(Timestamp, T)>, span: Millis, now: Timestamp) {
    while kept.front().is_some_and(|(at, _)| now.since(*at) > span) {
        kept.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(autoscale: serde_json::Value) -> JobSpec {
        serde_json::from_value(serde_json::json!({
            "name": "web", "command": ["serve"], "autoscale": autoscale,
            "resources": {"cpu_millicores": 1000},
        }))
        .expect("the spec is right")
    }

    fn web() -> JobSpec {
        spec(serde_json::json!({"min": 2, "max": 20, "cpu_percent": 50, "down_after_ms": 300_000}))
    }

    fn load(borne: f64, serving: u32) -> Load {
        Load {
            borne,
            serving,
            unknown: 0,
        }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp(0).plus(Millis::seconds(second))
    }

    /// Bears `borne` for a while, scaled every 15 seconds; answers the numbers of tasks.
    fn run(scaler: &mut Scaler, has: &mut u32, from: u64, seconds: u64, borne: f64) -> Vec<u32> {
        let mut numbers = Vec::new();
        for second in (from..from + seconds).step_by(15) {
            let found = scaler.decide(&web(), load(borne, *has), None, *has, at(second));
            if let Some(scaling) = found {
                *has = scaling.tasks;
                numbers.push(*has);
            }
        }
        numbers
    }

    #[test]
    fn tasks_come_at_once_and_go_late_and_slowly() {
        let (mut scaler, mut has) = (Scaler::default(), 2);
        assert_eq!(run(&mut scaler, &mut has, 0, 60, 6000.0), [6, 12]);
        assert_eq!(run(&mut scaler, &mut has, 60, 300, 1000.0), [0; 0]);
        let fewer = run(&mut scaler, &mut has, 360, 600, 1000.0);
        assert_eq!(fewer, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]);
    }

    #[test]
    fn a_reason_names_the_load_and_what_a_task_should_bear() {
        let scaling = Scaler::default().decide(&web(), load(1600.0, 2), None, 2, at(0));
        let reason = scaling.map(|scaling| scaling.reason);
        assert_eq!(
            reason.as_deref(),
            Some("1.6 cores borne now, 0.5 for each task")
        );
        let followed = spec(serde_json::json!({
            "max": 9, "metric": "requests", "each_millionths": 100_000_000,
        }));
        let scaling = Scaler::default().decide(&followed, load(450e6, 3), None, 3, at(0));
        let scaling = scaling.expect("more are needed");
        assert_eq!(
            (scaling.tasks, scaling.reason.as_str()),
            (5, "requests 450 borne now, 100 for each task")
        );
    }

    #[test]
    fn what_is_expected_is_had_before_it_comes() {
        let scaling = Scaler::default().decide(&web(), load(600.0, 2), Some(2500.0), 2, at(0));
        let scaling = scaling.expect("more will be needed");
        assert_eq!(scaling.tasks, 5);
        assert!(
            scaling.reason.contains("expected soon"),
            "{}",
            scaling.reason
        );
    }

    #[test]
    fn tasks_of_which_nothing_is_known_are_kept() {
        let (mut scaler, has) = (Scaler::default(), 6);
        for second in (0..1200).step_by(15) {
            let silent = Load {
                borne: 500.0,
                serving: 6,
                unknown: 5,
            };
            assert_eq!(scaler.decide(&web(), silent, None, has, at(second)), None);
        }
    }

    #[test]
    fn after_a_gap_the_load_is_watched_anew() {
        let (mut scaler, mut has) = (Scaler::default(), 8);
        assert_eq!(run(&mut scaler, &mut has, 0, 285, 1000.0), [0; 0]);
        assert_eq!(run(&mut scaler, &mut has, 1000, 285, 1000.0), [0; 0]);
        assert!(!run(&mut scaler, &mut has, 1285, 60, 1000.0).is_empty());
    }

    proptest! {
        /// Whatever the load does: the number stays within its bounds; none goes while the load of the last while needs it;
        /// and a load that stays the same settles.
        #[test]
        fn a_number_is_within_bounds_never_too_small_for_long_and_settles(
            loads in prop::collection::vec(0.0_f64..20_000.0, 1..120),
        ) {
            let (mut scaler, mut has) = (Scaler::default(), 2);
            let mut needs: Vec<f64> = Vec::new();
            let last = loads[loads.len() - 1];
            let steady = std::iter::repeat_n(&last, 200);
            let mut changes = 0;
            for (step, borne) in loads.iter().chain(steady).enumerate() {
                needs.push(borne / 500.0);
                let now = at(step as u64 * 15);
                if let Some(scaling) = scaler.decide(&web(), load(*borne, has), None, has, now) {
                    prop_assert!((2..=20).contains(&scaling.tasks));
                    if scaling.tasks < has {
                        let lately = needs.iter().rev().take(20).sum::<f64>() / 20.0;
                        prop_assert!(f64::from(scaling.tasks) * 1.1 >= lately.min(20.0) - 1e-9);
                    }
                    has = scaling.tasks;
                    changes = step;
                }
            }
            prop_assert!(changes < loads.len() + 80, "it has settled");
            let needed = (last / 500.0).clamp(2.0, 20.0);
            prop_assert!(f64::from(has) * 1.1 >= needed, "{has} for {needed}");
            prop_assert!(f64::from(has) <= (needed * 1.12).ceil() , "{has} for {needed}");
        }
    }
}
