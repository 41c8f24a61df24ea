//! Learns the limits of a task from what it has used. The agent applies them, the controller shows them.
//!
//! CPU follows the load-weighted 95th percentile of use, so that idle hours do not hide busy ones. Memory follows
//! peaks: running short of CPU slows a task, running short of memory ends it.
//! Both are raised at once and lowered late.

use serde::{Deserialize, Serialize};
use tw_model::{Bytes, Cores, JobSpec, LimitMode, Millis, Timestamp};

/// The share of the work, by load, that must have run below the CPU limit before the margin.
const CPU_PERCENTILE: f64 = 0.95;

/// Room above the percentile: with 15% about 0.35% of samples exceed the limit, as replayed on the Bitbrains traces.
const CPU_MARGIN: f64 = 1.15;

/// Room above the recent peak of memory: 0.03 OOMs a job and day on the same traces.
const MEMORY_MARGIN: f64 = 1.5;

/// The recent past is this part of the window: the last day of the default week.
const RECENT_PARTS: u64 = 7;

/// The weight of CPU use halves after this part of the window: 12 hours of the default week.
const HALF_LIFE_PARTS: u64 = 14;

/// A limit falls only when it could fall by more than this; without the threshold limits change four times as often.
const LOWER_FROM: f64 = 0.9;

/// At how many moments of the recent past the target is looked at, to find the highest.
const LOOKS: u64 = 8;

/// What a task used in one span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageBucket {
    pub start: Timestamp,
    pub span: Millis,
    pub cpu_avg: Cores,
    pub cpu_max: Cores,
    pub memory_peak: Bytes,
    pub samples: u64,
}

impl UsageBucket {
    fn end(&self) -> Timestamp {
        self.start.plus(self.span)
    }
}

/// The limits of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSet {
    pub cpu: Cores,
    pub memory: Bytes,
}

/// Limits with what speaks for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    pub limits: LimitSet,
    /// Why, in words.
    pub cpu_reason: String,
    pub memory_reason: String,
    /// The time that the history covers, and its samples.
    pub span: Millis,
    pub samples: u64,
}

/// What is known of the right limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum LimitAnswer {
    /// The spec wants nothing learned.
    Off,
    /// There is less history than the spec asks for.
    TooEarly {
        have: Millis,
        need: Millis,
        samples: u64,
    },
    Learned(Learned),
}

impl LimitAnswer {
    /// The limits, once there are any.
    pub fn learned(&self) -> Option<&Learned> {
        match self {
            LimitAnswer::Learned(learned) => Some(learned),
            LimitAnswer::Off | LimitAnswer::TooEarly { .. } => None,
        }
    }
}

/// How the limits of a job's tasks follow their use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPolicy {
    mode: LimitMode,
    window: Millis,
    history_min: Millis,
    request: LimitSet,
    cpu_bounds: (Cores, Cores),
    memory_bounds: (Bytes, Bytes),
}

impl LimitPolicy {
    /// The policy that a spec asks for.
    pub fn of(spec: &JobSpec) -> LimitPolicy {
        let request = LimitSet {
            cpu: spec.resources.cpu,
            memory: spec.resources.memory,
        };
        LimitPolicy {
            mode: spec.limits.mode,
            window: spec.limits.window,
            history_min: spec.limits.history_min,
            request,
            cpu_bounds: spec.limits.cpu_bounds(request.cpu),
            memory_bounds: spec.limits.memory_bounds(request.memory),
        }
    }

    /// How far back the history matters.
    pub fn window(&self) -> Millis {
        self.window
    }

    /// The limits that fit the use. `current` are those that hold now; none stands for the request.
    ///
    /// `usage` may come in any order, and may reach back further than the window.
    pub fn decide(
        &self,
        usage: &[UsageBucket],
        current: Option<LimitSet>,
        now: Timestamp,
    ) -> LimitAnswer {
        if self.mode == LimitMode::Off {
            return LimitAnswer::Off;
        }
        let history = self.history(usage, now);
        let first = history.first().map_or(now, |bucket| bucket.start);
        let (span, samples) = (now.since(first), history.iter().map(|b| b.samples).sum());
        if samples == 0 || span < self.history_min.min(self.window) {
            return LimitAnswer::TooEarly {
                have: span,
                need: self.history_min,
                samples,
            };
        }
        let current = current.unwrap_or(self.request);
        let cpu = self.cpu(&history, current.cpu.0, now);
        let memory = self.memory(&history, current.memory.0, now);
        LimitAnswer::Learned(Learned {
            limits: LimitSet {
                cpu: Cores(cpu.value).clamp(self.cpu_bounds.0, self.cpu_bounds.1),
                memory: Bytes(round_up(memory.value))
                    .clamp(self.memory_bounds.0, self.memory_bounds.1),
            },
            cpu_reason: cpu.reason,
            memory_reason: memory.reason,
            span,
            samples,
        })
    }

    /// The part of the history that counts, oldest first.
    fn history(&self, usage: &[UsageBucket], now: Timestamp) -> Vec<UsageBucket> {
        let kept = usage
            .iter()
            .filter(|bucket| bucket.samples > 0 && bucket.start <= now)
            .filter(|bucket| now.since(bucket.end()) <= self.window);
        let mut kept: Vec<UsageBucket> = kept.copied().collect();
        kept.sort_by_key(|bucket| bucket.start);
        kept
    }

    fn cpu(&self, history: &[UsageBucket], current: u64, now: Timestamp) -> Choice {
        let half_life = Millis((self.window.0 / HALF_LIFE_PARTS).max(1));
        let target = |until: Timestamp| {
            let weighted = cpu_percentile(&history[..before(history, until)], half_life, until);
            (weighted * CPU_MARGIN).ceil() as u64
        };
        let (low, high) = (self.cpu_bounds.0.0, self.cpu_bounds.1.0);
        let targets = self.targets(history, now, |until| target(until).clamp(low, high));
        let found = format!(
            "95% of the work ran below {} cores",
            Cores((target(now) as f64 / CPU_MARGIN) as u64)
        );
        choose(
            targets,
            current.clamp(low, high),
            |value| Cores(value).to_string(),
            &found,
        )
    }

    fn memory(&self, history: &[UsageBucket], current: u64, now: Timestamp) -> Choice {
        let recent = self.recent();
        let peaks = |until: Timestamp| {
            let seen = &history[..before(history, until)];
            let peak = |buckets: &mut dyn Iterator<Item = &UsageBucket>| {
                buckets
                    .map(|bucket| bucket.memory_peak)
                    .max()
                    .unwrap_or(Bytes::ZERO)
            };
            let mut newest = seen
                .iter()
                .filter(|bucket| until.since(bucket.end()) <= recent);
            (peak(&mut newest), peak(&mut seen.iter()))
        };
        let (low, high) = (self.memory_bounds.0.0, self.memory_bounds.1.0);
        let targets = self.targets(history, now, |until| {
            let (newest, all) = peaks(until);
            newest.scale(MEMORY_MARGIN).max(all).0.clamp(low, high)
        });
        let (newest, all) = peaks(now);
        let found = format!("the peak was {newest} lately and {all} in all");
        choose(
            targets,
            current.clamp(low, high),
            |value| Bytes(value).to_string(),
            &found,
        )
    }

    fn recent(&self) -> Millis {
        Millis((self.window.0 / RECENT_PARTS).max(1))
    }

    /// The target now, and the highest one of the recent past.
    fn targets(
        &self,
        history: &[UsageBucket],
        now: Timestamp,
        target: impl Fn(Timestamp) -> u64,
    ) -> (u64, u64) {
        let first = history.first().map_or(now, UsageBucket::end);
        let recent = self.recent().0 as i64 * 1000;
        let moments =
            (1..=LOOKS).map(|look| Timestamp(now.0 - recent * look as i64 / LOOKS as i64));
        // Before the first bucket was full there was no target.
        let past = moments.filter(|moment| *moment >= first).map(&target).max();
        let present = target(now);
        (present, present.max(past.unwrap_or(0)))
    }
}

/// A value with the reason for it.
struct Choice {
    value: u64,
    reason: String,
}

/// Raises at once; lowers to the highest recent target, and only if that is clearly lower.
fn choose(
    (present, highest): (u64, u64),
    current: u64,
    show: impl Fn(u64) -> String,
    found: &str,
) -> Choice {
    if present > current {
        let reason = format!(
            "raised from {} to {}: {found}",
            show(current),
            show(present)
        );
        return Choice {
            value: present,
            reason,
        };
    }
    if (highest as f64) < current as f64 * LOWER_FROM {
        let reason = format!(
            "lowered from {} to {}: {found}",
            show(current),
            show(highest)
        );
        return Choice {
            value: highest,
            reason,
        };
    }
    Choice {
        value: current,
        reason: format!("kept at {}: {found}", show(current)),
    }
}

/// Rounds up to 1 MiB: finer steps would change limits without a use.
fn round_up(bytes: u64) -> u64 {
    const STEP: u64 = 1 << 20;
    bytes.div_ceil(STEP) * STEP
}

/// How many buckets begin before a moment.
fn before(history: &[UsageBucket], until: Timestamp) -> usize {
    history.partition_point(|bucket| bucket.start < until)
}

/// The use below which the wanted share of the work was done, newer work counting more.
///
/// A bucket stands for its average; one of its samples stands for its maximum.
fn cpu_percentile(history: &[UsageBucket], half_life: Millis, until: Timestamp) -> f64 {
    let mut weights: Vec<(u64, f64)> = Vec::with_capacity(2 * history.len());
    for bucket in history {
        let age = until.since(bucket.end()).0 as f64 / half_life.0 as f64;
        let decay = (-age).exp2();
        let rest = bucket.samples.saturating_sub(1) as f64;
        weights.push((bucket.cpu_avg.0, decay * rest * bucket.cpu_avg.0 as f64));
        weights.push((bucket.cpu_max.0, decay * bucket.cpu_max.0 as f64));
    }
    weights.sort_by_key(|(cpu, _)| *cpu);
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut seen = 0.0;
    for (cpu, weight) in &weights {
        seen += weight;
        if seen >= total * CPU_PERCENTILE {
            return *cpu as f64;
        }
    }
    weights.last().map_or(0.0, |(cpu, _)| *cpu as f64)
}
