//! Limits learned from use: raised at once, lowered late, within bounds, only with enough history.

use proptest::prelude::*;
use serde_json::json;
use tw_model::{Bytes, Cores, CpuCounts, JobSpec, Millis, Timestamp};
use tw_scheduler::limits::{Confidence, LimitAnswer, LimitPolicy, LimitSet, UsageBucket};

const WINDOW: Millis = Millis::minutes(7);

fn policy(limits: serde_json::Value) -> LimitPolicy {
    let job = json!({
        "name": "web", "command": ["web"],
        "resources": {"cpu_millicores": 1000, "memory_bytes": 512 << 20},
        "limits": limits,
    });
    let spec: JobSpec = serde_json::from_value(job).expect("the spec is right");
    LimitPolicy::of(&spec)
}

fn auto() -> LimitPolicy {
    policy(json!({"mode": "auto", "history_min_ms": 60_000, "window_ms": WINDOW.0}))
}

fn at(second: u64) -> Timestamp {
    Timestamp(1_000_000_000_000_000).plus(Millis::seconds(second))
}

/// One bucket a second with the same use.
fn steady(seconds: std::ops::Range<u64>, cpu: u64, memory: u64) -> Vec<UsageBucket> {
    let mut counts = CpuCounts::default();
    (0..4).for_each(|_| counts.add(Cores(cpu)));
    let bucket = |second| UsageBucket {
        start: at(second),
        span: Millis::seconds(1),
        cpu: counts.clone(),
        memory_peak: Bytes::mib(memory),
        ooms: 0,
    };
    seconds.map(bucket).collect()
}

fn limits(answer: &LimitAnswer) -> LimitSet {
    answer.learned().expect("there is enough history").limits
}

#[test]
fn nothing_is_said_before_there_is_enough_history() {
    let usage = steady(0..30, 100, 50);
    let answer = auto().decide(&usage, None, at(30));
    let expected = LimitAnswer::TooEarly {
        have: Millis::seconds(30),
        need: Millis::seconds(60),
        samples: 120,
    };
    assert_eq!(answer, expected);
    let off = policy(json!({"mode": "off"}));
    assert_eq!(off.decide(&usage, None, at(30)), LimitAnswer::Off);
}

#[test]
fn steady_use_gets_its_margin() {
    let answer = auto().decide(&steady(0..120, 200, 256), None, at(120));
    let learned = answer.learned().unwrap();
    // The percentiles are the peak: no more than a tenth above it, and 10 millicores.
    let cpu = learned.limits.cpu;
    assert_eq!(cpu, Cores(235));
    assert_eq!(learned.limits.memory, Bytes::mib(512));
    assert_eq!(learned.wanted.memory, Bytes::mib(512));
    assert_eq!((learned.span, learned.samples), (Millis::seconds(120), 480));
    assert_eq!(learned.confidence, Confidence::Low);
    assert_eq!(
        learned.memory_reason,
        "kept at 512 MiB: the last day's peak was 256 MiB"
    );
    assert_eq!(
        learned.cpu_reason,
        format!(
            "lowered from 1 to {cpu}: 98% of the time it used at most 0.204 cores, and 60% of its work ran below \
             0.204"
        )
    );
}

#[test]
fn a_rise_is_followed_at_once_and_a_fall_late() {
    let mut usage = steady(0..120, 200, 32);
    let calm = limits(&auto().decide(&usage, None, at(120)));
    assert_eq!(calm.memory, Bytes::mib(96));

    usage.extend(steady(120..125, 600, 64));
    let raised = limits(&auto().decide(&usage, Some(calm), at(125)));
    assert_eq!(raised.memory, Bytes::mib(192));
    assert!(raised.cpu > calm.cpu, "{raised:?}");

    // A minute is a day of this window: within it nothing falls, nor in the day after, whose targets still knew it.
    usage.extend(steady(125..180, 200, 32));
    let still = limits(&auto().decide(&usage, Some(raised), at(180)));
    assert_eq!(still.memory, raised.memory);

    usage.extend(steady(180..700, 200, 32));
    let later = limits(&auto().decide(&usage, Some(raised), at(700)));
    // By then a whole window is known, of days that are all alike.
    assert_eq!(later.memory, Bytes::mib(36));
    assert!(later.cpu < raised.cpu);
}

#[test]
fn small_differences_change_nothing() {
    let usage = steady(0..120, 200, 200);
    let current = LimitSet {
        cpu: Cores(250),
        memory: Bytes::mib(460),
    };
    assert_eq!(
        limits(&auto().decide(&usage, Some(current), at(120))),
        current
    );
}

#[test]
fn limits_stay_within_the_bounds_of_the_spec() {
    let bounded = policy(json!({
        "mode": "auto", "history_min_ms": 60_000, "window_ms": WINDOW.0,
        "cpu_min_millicores": 300, "memory_max_bytes": 640u64 << 20,
    }));
    let answer = bounded.decide(&steady(0..120, 20, 512), None, at(120));
    assert_eq!(limits(&answer).cpu, Cores(300));
    assert_eq!(limits(&answer).memory, Bytes::mib(640));
    let learned = answer.learned().unwrap();
    assert!(learned.wanted.memory > Bytes::mib(640));
    let bounds = "would fit, the spec's bounds allow 640 MiB)";
    assert!(
        learned.memory_reason.contains(bounds),
        "{}",
        learned.memory_reason
    );

    let request = limits(&auto().decide(&steady(0..120, 5000, 500), None, at(120)));
    assert_eq!(
        request.cpu,
        Cores(1000),
        "without a bound the request is the most"
    );
}

#[test]
fn idle_time_does_not_hide_busy_time() {
    let mut usage = steady(0..418, 10, 50);
    usage.extend(steady(418..420, 700, 50));
    let learned = limits(&auto().decide(&usage, None, at(420)));
    assert!(
        learned.cpu >= Cores(700),
        "one part in 200 of the time is most of the work: {learned:?}"
    );
}

#[test]
fn peaks_of_a_bucket_with_a_kill_are_not_learned() {
    let mut usage = steady(0..120, 200, 64);
    let calm = limits(&auto().decide(&usage, None, at(120)));
    usage.extend(steady(120..121, 200, 192));
    usage[120].ooms = 1;
    assert_eq!(limits(&auto().decide(&usage, Some(calm), at(121))), calm);
}

#[test]
fn a_gap_lowers_confidence_and_feeds_no_limit() {
    let whole = steady(0..420, 200, 64);
    let mut with_gap = steady(0..60, 200, 64);
    with_gap.extend(steady(360..420, 200, 64));
    let told = |usage: &[UsageBucket]| auto().decide(usage, None, at(420));
    let (whole, gap) = (told(&whole), told(&with_gap));
    assert_eq!(whole.learned().unwrap().confidence, Confidence::High);
    let learned = gap.learned().unwrap();
    assert_eq!(learned.confidence, Confidence::Low);
    assert_eq!(learned.samples, 480);
    // Days of which nothing is known prove nothing: memory keeps the room of a first week.
    assert_eq!(learned.limits.cpu, limits(&whole).cpu);
    assert!(learned.limits.memory >= limits(&whole).memory);
}

proptest! {
    /// When it was is told by the differences alone: clocks before 1970 and far ahead give the same limits.
    #[test]
    fn limits_do_not_depend_on_what_the_clock_says(
        uses in prop::collection::vec((1_u64..2000, 1_u64..400), 61..200),
        windows in -10_000_000_i64..10_000_000,
    ) {
        let usage: Vec<UsageBucket> = uses
            .iter()
            .enumerate()
            .flat_map(|(second, (cpu, memory))| steady(second as u64..second as u64 + 1, *cpu, *memory))
            .collect();
        let by_us = windows * WINDOW.0 as i64 * 1000;
        let moved: Vec<UsageBucket> = usage
            .iter()
            .map(|bucket| UsageBucket { start: Timestamp(bucket.start.0 + by_us), ..bucket.clone() })
            .collect();
        let now = at(uses.len() as u64);
        prop_assert_eq!(
            auto().decide(&usage, None, now),
            auto().decide(&moved, None, Timestamp(now.0 + by_us))
        );
    }

    /// A day may be told in any order, twice over in parts, and with gaps: nothing panics, and no answer leaves the bounds.
    #[test]
    fn any_history_gives_limits_within_the_bounds(
        buckets in prop::collection::vec((any::<i64>(), 0_u64..1_000_000, any::<u64>(), 0_u64..3), 0..40),
        now in any::<i64>(),
    ) {
        let usage: Vec<UsageBucket> = buckets
            .into_iter()
            .map(|(start, cpu, memory, ooms)| {
                let mut counts = CpuCounts::default();
                counts.add(Cores(cpu));
                UsageBucket {
                    start: Timestamp(start),
                    span: Millis::seconds(1),
                    cpu: counts,
                    memory_peak: Bytes(memory),
                    ooms,
                }
            })
            .collect();
        if let Some(learned) = auto().decide(&usage, None, Timestamp(now)).learned() {
            prop_assert!(learned.limits.cpu <= Cores(1000) && learned.limits.cpu >= Cores(10));
            prop_assert!(learned.limits.memory <= Bytes::mib(512) && learned.limits.memory >= Bytes::mib(16));
        }
    }

    /// Folding a history bucket by bucket, as an agent does, gives what folding it at once gives.
    #[test]
    fn streaming_and_folding_agree(uses in prop::collection::vec((1_u64..2000, 1_u64..400), 61..300)) {
        let usage: Vec<UsageBucket> = uses
            .iter()
            .enumerate()
            .flat_map(|(second, (cpu, memory))| steady(second as u64..second as u64 + 1, *cpu, *memory))
            .collect();
        let now = at(uses.len() as u64);
        let policy = auto();
        let mut learner = policy.learner();
        usage.iter().for_each(|bucket| learner.observe(bucket));
        prop_assert_eq!(policy.answer(&mut learner, None, now), policy.decide(&usage, None, now));
    }
}
