//! Limits learned from use: raised at once, lowered late, within bounds, only with enough history.

use serde_json::json;
use tw_model::{Bytes, Cores, JobSpec, Millis, Timestamp};
use tw_scheduler::limits::{LimitAnswer, LimitPolicy, LimitSet, UsageBucket};

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
    let bucket = |second| UsageBucket {
        start: at(second),
        span: Millis::seconds(1),
        cpu_avg: Cores(cpu),
        cpu_max: Cores(cpu),
        memory_peak: Bytes::mib(memory),
        samples: 4,
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
    let answer = auto().decide(&steady(0..120, 200, 100), None, at(120));
    let learned = answer.learned().unwrap();
    assert_eq!(learned.limits.cpu, Cores(230));
    assert_eq!(learned.limits.memory, Bytes::mib(150));
    assert_eq!((learned.span, learned.samples), (Millis::seconds(120), 480));
    assert_eq!(
        learned.memory_reason,
        "lowered from 512 MiB to 150 MiB: the peak was 100 MiB lately and 100 MiB in all"
    );
}

#[test]
fn a_rise_is_followed_at_once_and_a_fall_late() {
    let mut usage = steady(0..120, 200, 100);
    let calm = limits(&auto().decide(&usage, None, at(120)));

    usage.extend(steady(120..125, 600, 300));
    let raised = limits(&auto().decide(&usage, Some(calm), at(125)));
    assert_eq!(raised.memory, Bytes::mib(450));
    assert!(raised.cpu > calm.cpu, "{raised:?}");

    // A minute is the recent past of this window: within it nothing falls.
    usage.extend(steady(125..170, 200, 100));
    let still = limits(&auto().decide(&usage, Some(raised), at(170)));
    assert_eq!(still.memory, raised.memory);

    usage.extend(steady(170..300, 200, 100));
    let later = limits(&auto().decide(&usage, Some(raised), at(300)));
    assert_eq!(
        later.memory,
        Bytes::mib(300),
        "the peak of the window stays"
    );
    assert!(later.cpu < raised.cpu);

    usage.extend(steady(300..700, 200, 100));
    let forgotten = limits(&auto().decide(&usage, Some(later), at(700)));
    assert_eq!(
        forgotten.memory,
        Bytes::mib(150),
        "the peak has left the window"
    );
}

#[test]
fn small_differences_change_nothing() {
    let usage = steady(0..120, 200, 100);
    let current = LimitSet {
        cpu: Cores(240),
        memory: Bytes::mib(160),
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
    let small = limits(&bounded.decide(&steady(0..120, 20, 500), None, at(120)));
    assert_eq!(small.cpu, Cores(300));
    assert_eq!(
        small.memory,
        Bytes::mib(640),
        "1.5 times 500 MiB is above the bound"
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
    let mut usage = steady(0..108, 10, 50);
    usage.extend(steady(108..120, 800, 50));
    let learned = limits(&auto().decide(&usage, None, at(120)));
    assert!(
        learned.cpu >= Cores(900),
        "a tenth of the time is nine tenths of the work: {learned:?}"
    );
}
