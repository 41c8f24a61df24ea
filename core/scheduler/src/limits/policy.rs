//! The limits of a running job: what was learned, within what its spec allows.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use tw_model::{Bytes, Cores, CpuCounts, JobSpec, LimitMode, Limits, Millis, Timestamp, UsageSum};

use super::learner::Targets;
use super::{Confidence, Horizon, Learner};

/// What the tasks of a job used in one span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageBucket {
    pub start: Timestamp,
    pub span: Millis,
    /// The samples of CPU, by size.
    pub cpu: CpuCounts,
    pub memory_peak: Bytes,
    /// How often a task ran out of memory.
    pub ooms: u64,
}

impl UsageBucket {
    /// What was used in the `width_us` microseconds from `start` on.
    pub fn new(start: Timestamp, width_us: i64, usage: &UsageSum) -> UsageBucket {
        UsageBucket {
            start,
            span: Millis(width_us as u64 / 1000),
            cpu: usage.cpu.clone(),
            memory_peak: Bytes(usage.memory_max_bytes),
            ooms: usage.oom_kills,
        }
    }

    fn end(&self) -> Timestamp {
        self.start.plus(self.span)
    }
}

/// The limits of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitSet {
    pub cpu: Cores,
    pub memory: Bytes,
}

/// Limits with what speaks for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    pub limits: LimitSet,
    /// What would fit if the spec set no upper bounds, for a suggestion to its author.
    pub wanted: LimitSet,
    /// Why, in words.
    pub cpu_reason: String,
    pub memory_reason: String,
    pub confidence: Confidence,
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
    horizon: Horizon,
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
            horizon: Horizon::of(spec.limits.window),
            history_min: spec.limits.history_min,
            request,
            cpu_bounds: cpu_bounds(spec),
            memory_bounds: spec.limits.memory_bounds(request.memory),
        }
    }

    /// The default policy for a request, which is also the upper bound.
    pub fn for_request(request: LimitSet) -> LimitPolicy {
        let limits = Limits::default();
        LimitPolicy {
            mode: LimitMode::Auto,
            horizon: Horizon::of(limits.window),
            history_min: limits.history_min,
            request,
            cpu_bounds: limits.cpu_bounds(request.cpu),
            memory_bounds: limits.memory_bounds(request.memory),
        }
    }

    /// How far back the history matters: two windows, as a weekly pattern shows in two weeks.
    pub fn looks_back(&self) -> Millis {
        Millis(self.horizon.window().0.saturating_mul(2))
    }

    pub fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// The highest memory limit that the spec allows.
    pub fn memory_max(&self) -> Bytes {
        self.memory_bounds.1
    }

    /// A memory for this job, empty.
    pub fn learner(&self) -> Learner {
        Learner::new(self.horizon)
    }

    /// The limits that fit the use. `current` are those that hold now; none stands for the request.
    ///
    /// `usage` may come in any order, and may reach back further than what counts.
    pub fn decide(
        &self,
        usage: &[UsageBucket],
        current: Option<LimitSet>,
        now: Timestamp,
    ) -> LimitAnswer {
        self.answer(&mut self.learn(usage, now), current, now)
    }

    /// Folds a stored history.
    pub fn learn(&self, usage: &[UsageBucket], now: Timestamp) -> Learner {
        let counts = |bucket: &&UsageBucket| {
            bucket.start <= now && now.since(bucket.end()) <= self.looks_back()
        };
        let mut kept: Vec<&UsageBucket> = usage.iter().filter(counts).collect();
        kept.sort_by_key(|bucket| bucket.start);
        let mut learner = self.learner();
        kept.into_iter().for_each(|bucket| learner.observe(bucket));
        learner
    }

    /// The limits that fit what was folded into `learner`.
    pub fn answer(
        &self,
        learner: &mut Learner,
        current: Option<LimitSet>,
        now: Timestamp,
    ) -> LimitAnswer {
        if self.mode == LimitMode::Off {
            return LimitAnswer::Off;
        }
        let current = self.bounded(current.unwrap_or(self.request));
        match self.choose(learner, current, now) {
            Some(chosen) => LimitAnswer::Learned(chosen.explained(learner, now)),
            None => LimitAnswer::TooEarly {
                have: learner.span(now),
                need: self.history_min,
                samples: learner.samples(),
            },
        }
    }

    /// The limits that fit what was folded into `learner`, without the words; none while there is too little history.
    pub fn limits(
        &self,
        learner: &mut Learner,
        current: LimitSet,
        now: Timestamp,
    ) -> Option<LimitSet> {
        self.choose(learner, current, now)
            .map(|chosen| chosen.limits)
    }

    fn choose(&self, learner: &mut Learner, current: LimitSet, now: Timestamp) -> Option<Chosen> {
        let targets = learner.targets()?;
        if learner.span(now) < self.history_min.min(self.horizon.window()) {
            return None;
        }
        // The bounds may lie above what would fit: a choice is made from what the bounds left of it.
        let (cpu, memory) = learner.choose(current, targets.limits());
        let wanted = LimitSet {
            cpu: Cores(cpu.value() as u64).max(self.cpu_bounds.0),
            memory: Bytes(memory.value() as u64).max(self.memory_bounds.0),
        };
        Some(Chosen {
            current,
            wanted,
            limits: self.bounded(wanted),
            targets,
        })
    }

    /// The limits within what the spec allows.
    pub fn bounded(&self, limits: LimitSet) -> LimitSet {
        LimitSet {
            cpu: limits.cpu.clamp(self.cpu_bounds.0, self.cpu_bounds.1),
            memory: limits
                .memory
                .clamp(self.memory_bounds.0, self.memory_bounds.1),
        }
    }
}

/// The bounds of the learned CPU limit, lowest first.
///
/// Where the number of tasks follows their CPU, none has less than the request: the number is made from it, and two that
/// follow the same use would chase each other.
fn cpu_bounds(spec: &JobSpec) -> (Cores, Cores) {
    let request = spec.resources.cpu;
    let (lowest, highest) = spec.limits.cpu_bounds(request);
    let scales = spec.autoscale.as_ref();
    match scales.is_some_and(|scales| scales.metric.is_none()) {
        true => (request.clamp(lowest, highest), highest),
        false => (lowest, highest),
    }
}

/// What was chosen for a job, and from what.
struct Chosen {
    current: LimitSet,
    wanted: LimitSet,
    limits: LimitSet,
    targets: Targets,
}

impl Chosen {
    fn explained(self, learner: &Learner, now: Timestamp) -> Learned {
        let Chosen {
            current,
            wanted,
            limits,
            targets,
        } = self;
        Learned {
            limits,
            wanted,
            cpu_reason: reason(current.cpu, wanted.cpu, limits.cpu, &cpu_found(&targets)),
            memory_reason: reason(
                current.memory,
                wanted.memory,
                limits.memory,
                &memory_found(&targets),
            ),
            confidence: learner.confidence(now),
            span: learner.span(now),
            samples: learner.samples(),
        }
    }
}

fn cpu_found(targets: &Targets) -> String {
    let cores = |millicores: f64| Cores(millicores.round() as u64);
    format!(
        "98% of the time it used at most {} cores, and 60% of its work ran below {}",
        cores(targets.cpu.by_time_millicores),
        cores(targets.cpu.by_load_millicores)
    )
}

fn memory_found(targets: &Targets) -> String {
    let bytes = |bytes: f64| Bytes(bytes as u64);
    let memory = &targets.memory;
    let mut found = format!("the last day's peak was {}", bytes(memory.day_bytes));
    if memory.second_day_bytes > memory.day_bytes {
        let second = bytes(memory.second_day_bytes);
        found += &format!(", and two days of the week reached {second}");
    }
    if memory.recurring_bytes > memory.day_bytes {
        let recurring = bytes(memory.recurring_bytes);
        found += &format!(", and {recurring} was reached at this time of the last two weeks");
    }
    found
}

/// What becomes of a limit, and why; the bounds may keep it from what would fit.
fn reason<T: std::fmt::Display + Ord>(current: T, wanted: T, limit: T, found: &str) -> String {
    let bounded = match wanted == limit {
        true => String::new(),
        false => format!(" ({wanted} would fit, the spec's bounds allow {limit})"),
    };
    match limit.cmp(&current) {
        Ordering::Equal => format!("kept at {limit}{bounded}: {found}"),
        Ordering::Greater => format!("raised from {current} to {limit}{bounded}: {found}"),
        Ordering::Less => format!("lowered from {current} to {limit}{bounded}: {found}"),
    }
}
