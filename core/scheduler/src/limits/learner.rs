//! Everything that is remembered of a running job, in one place of fixed size.

use tw_model::{Bytes, Cores, Millis, Timestamp};

use super::cpu::{CpuTarget, CpuUse};
use super::hysteresis::{CPU_RULE, Hysteresis, MEMORY_RULE};
use super::memory::{MemoryTarget, MemoryUse};
use super::{Confidence, Horizon, LimitSet, UsageBucket};

/// What a job has used, folded sample by sample: about 4 KB, however long it has run.
#[derive(Clone, Debug)]
pub struct Learner {
    horizon: Horizon,
    cpu: CpuUse,
    memory: MemoryUse,
    cpu_targets: Hysteresis,
    memory_targets: Hysteresis,
    first: Option<Timestamp>,
    last: Timestamp,
    samples: u64,
    /// How much of the time since the first sample had samples.
    covered: Millis,
    /// The targets of all samples so far, once they were asked for.
    current: Option<Targets>,
}

/// The targets of a moment, and the highest of the day before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Targets {
    pub(super) cpu: CpuTarget,
    pub(super) memory: MemoryTarget,
}

impl Learner {
    pub fn new(horizon: Horizon) -> Learner {
        Learner {
            horizon,
            cpu: CpuUse::new(horizon),
            memory: MemoryUse::new(horizon),
            cpu_targets: Hysteresis::new(CPU_RULE),
            memory_targets: Hysteresis::new(MEMORY_RULE),
            first: None,
            last: Timestamp(i64::MIN),
            samples: 0,
            covered: Millis(0),
            current: None,
        }
    }

    /// Folds one bucket in. Buckets come about in order; a late one counts for its own time as far as that is
    /// remembered. Peaks of buckets in which a task ran out of memory are left out: they are the limit's, not the job's.
    pub fn observe(&mut self, bucket: &UsageBucket) {
        let samples = bucket.cpu.samples();
        if samples == 0 {
            return;
        }
        self.pass(bucket.start, bucket.span, samples);
        self.cpu.observe_counts(bucket.start, &bucket.cpu);
        if bucket.ooms == 0 {
            self.memory
                .observe(bucket.start, bucket.memory_peak.0 as f64);
        }
    }

    /// Folds one sample in, of a time of which nobody ran out of memory.
    pub fn observe_sample(&mut self, at: Timestamp, span: Millis, millicores: f64, bytes: f64) {
        self.pass(at, span, 1);
        self.cpu.observe(at, millicores);
        self.memory.observe(at, bytes);
    }

    /// Notes that time passes, and what the targets were when an hour ends.
    fn pass(&mut self, at: Timestamp, span: Millis, samples: u64) {
        if self.samples > 0 && self.horizon.hour_of(at) > self.horizon.hour_of(self.last) {
            self.targets();
        }
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = self.last.max(at);
        self.samples += samples;
        self.covered = self.covered + span;
        self.current = None;
    }

    /// How long ago the first sample was taken.
    pub fn span(&self, now: Timestamp) -> Millis {
        self.first.map_or(Millis(0), |first| now.since(first))
    }

    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// What limits learned at `now` are worth.
    pub fn confidence(&self, now: Timestamp) -> Confidence {
        let span = self.span(now);
        let coverage = self.covered.0 as f64 / span.0.max(1) as f64;
        Confidence::of(span, coverage, self.horizon)
    }

    /// The targets now; none before the first sample.
    pub(super) fn targets(&mut self) -> Option<Targets> {
        if self.current.is_none() {
            let targets = Targets {
                cpu: self.cpu.target()?,
                memory: self.memory.target()?,
            };
            let hour = self.horizon.hour_of(self.last);
            let rounded = targets.limits();
            self.cpu_targets.note(hour, rounded.cpu.0 as f64);
            self.memory_targets.note(hour, rounded.memory.0 as f64);
            self.current = Some(targets);
        }
        self.current
    }

    /// The limits for `current`, given the targets of the moment: raised at once, lowered late.
    pub(super) fn choose(
        &self,
        current: LimitSet,
        target: LimitSet,
    ) -> (super::Choice, super::Choice) {
        let cpu = self
            .cpu_targets
            .choose(current.cpu.0 as f64, target.cpu.0 as f64);
        let memory = self
            .memory_targets
            .choose(current.memory.0 as f64, target.memory.0 as f64);
        (cpu, memory)
    }
}

impl Targets {
    /// As limits: whole millicores, and memory in steps of 1 MiB; finer ones would change limits without a use.
    pub(super) fn limits(&self) -> LimitSet {
        const STEP: u64 = 1 << 20;
        let bytes = self.memory.limit_bytes.ceil() as u64;
        LimitSet {
            cpu: Cores(self.cpu.limit_millicores.ceil() as u64),
            memory: Bytes(bytes.div_ceil(STEP).saturating_mul(STEP)),
        }
    }
}
