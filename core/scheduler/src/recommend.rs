//! What an author should write instead: a request that fits what was learned, in numbers that people write.

use std::collections::BTreeMap;

use tw_model::{Bytes, Cores, CpuCounts, JobSpec, Millis, Timestamp};

use crate::limits::{Confidence, LimitAnswer, LimitPolicy, LimitSet, UsageBucket};

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

/// What a job's history says of its requests, and what speaks for that.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// None while there is too little history.
    pub suggestion: Option<Suggestion>,
    /// What would fit if the spec set no upper bounds.
    pub wanted: Option<LimitSet>,
    pub cpu_reason: String,
    pub memory_reason: String,
    pub confidence: Confidence,
    pub evidence: Evidence,
    /// Use over time, oldest first, at most [`POINTS_MAX`].
    pub points: Vec<Point>,
}

/// What the suggestion rests on. What would have been exceeded is counted under the suggested values, or under the
/// request where none is suggested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub span: Millis,
    /// Samples of five minutes; shorter ones of jobs that learn faster count each.
    pub samples: u64,
    /// Buckets in which memory went above the value.
    pub memory_exceeded: u64,
    /// Samples of CPU above the value, of all.
    pub cpu_exceeded: u64,
    pub cpu_samples: u64,
    /// How often tasks ran out of memory.
    pub ooms: u64,
}

/// What was used in one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub start: Timestamp,
    pub span: Millis,
    /// What 95% of the samples stayed within, and the highest.
    pub cpu_p95: Cores,
    pub cpu_peak: Cores,
    pub memory_peak: Bytes,
}

/// What counts as one sample.
const SAMPLE: Millis = Millis::minutes(5);

/// A chart has no more columns than this.
pub const POINTS_MAX: usize = 168;

/// Reviews a job's requests by its history, in any order; buckets of one time, as of several machines, are put together.
pub fn review(spec: &JobSpec, usage: &[UsageBucket], now: Timestamp) -> Review {
    let policy = LimitPolicy::of(spec);
    let usage = put_together(usage, now, policy.looks_back());
    let mut learner = policy.learn(&usage, now);
    let request = LimitSet {
        cpu: spec.resources.cpu,
        memory: spec.resources.memory,
    };
    let answer = policy.answer(&mut learner, None, now);
    let learned = answer.learned();
    let suggestion = learned.map(|learned| Suggestion::of(request, learned.wanted));
    let held = suggestion.map_or(request, |found| LimitSet {
        cpu: found.cpu.suggested().unwrap_or(request.cpu),
        memory: found.memory.suggested().unwrap_or(request.memory),
    });
    let waits = match &answer {
        LimitAnswer::TooEarly { have, need, .. } => {
            format!(
                "{have} of {need} of history; {} to go",
                need.saturating_sub(*have)
            )
        }
        _ => String::new(),
    };
    Review {
        suggestion,
        wanted: learned.map(|learned| learned.wanted),
        cpu_reason: learned.map_or(waits.clone(), |learned| learned.cpu_reason.clone()),
        memory_reason: learned.map_or(waits, |learned| learned.memory_reason.clone()),
        confidence: learner.confidence(now),
        evidence: Evidence {
            span: learner.span(now),
            ..evidence(&usage, held)
        },
        points: points(&usage),
    }
}

fn put_together(usage: &[UsageBucket], now: Timestamp, looks_back: Millis) -> Vec<UsageBucket> {
    let mut together: BTreeMap<(Timestamp, Millis), UsageBucket> = BTreeMap::new();
    let counts =
        |bucket: &&UsageBucket| bucket.start <= now && now.since(bucket.start) <= looks_back;
    for bucket in usage.iter().filter(counts) {
        match together.get_mut(&(bucket.start, bucket.span)) {
            None => drop(together.insert((bucket.start, bucket.span), bucket.clone())),
            Some(sum) => {
                sum.cpu.merge(&bucket.cpu);
                sum.memory_peak = sum.memory_peak.max(bucket.memory_peak);
                sum.ooms += bucket.ooms;
            }
        }
    }
    together.into_values().collect()
}

fn evidence(usage: &[UsageBucket], held: LimitSet) -> Evidence {
    let mut found = Evidence::default();
    for bucket in usage {
        found.samples += (bucket.span.0 / SAMPLE.0).max(1);
        found.memory_exceeded += u64::from(bucket.memory_peak > held.memory);
        found.cpu_exceeded += bucket.cpu.above(held.cpu);
        found.cpu_samples += bucket.cpu.samples();
        found.ooms += bucket.ooms;
    }
    found
}

/// Cuts the time into at most [`POINTS_MAX`] equal parts; those without use are left out.
fn points(usage: &[UsageBucket]) -> Vec<Point> {
    let (Some(first), Some(last)) = (usage.first(), usage.last()) else {
        return Vec::new();
    };
    let whole = last.start.plus(last.span).since(first.start);
    let narrowest = usage.iter().map(|bucket| bucket.span.0).min().unwrap_or(1);
    let part = whole.0.div_ceil(POINTS_MAX as u64).max(narrowest).max(1);
    let mut parts: BTreeMap<u64, (CpuCounts, Bytes)> = BTreeMap::new();
    for bucket in usage {
        let (cpu, memory) = parts
            .entry(bucket.start.since(first.start).0 / part)
            .or_default();
        cpu.merge(&bucket.cpu);
        *memory = (*memory).max(bucket.memory_peak);
    }
    let point = |(index, (cpu, memory_peak)): (u64, (CpuCounts, Bytes))| Point {
        start: first.start.plus(Millis(index * part)),
        span: Millis(part),
        cpu_p95: cpu.percentile(0.95),
        cpu_peak: cpu.percentile(1.0),
        memory_peak,
    };
    parts.into_iter().map(point).collect()
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
