//! Resources: what each task uses, and the limits that follow it.
//!
//! Every second each task's cgroup is read and the sample goes into the history of its job. From time to
//! time the policy is asked what limits fit that history; where the spec says so, they are applied to the
//! running tasks. Nothing here needs the controller.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tw_model::{Bytes, Cores, CpuCounts, JobSpec, LimitMode, Millis, TaskId, TaskUsage, Timestamp};
use tw_scheduler::limits::{Learner, LimitAnswer, LimitPolicy, LimitSet, UsageBucket};
use tw_store::history::{Bucket, History, HistoryOptions, Sample};
use tw_store::{OpenError, StoreError};

use super::{Agent, launch};
use crate::cgroup::{CgroupError, CgroupTree, Usage};

pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// How many readings of a task that does nothing are not taken before all of its counters are read again.
const READINGS_SKIPPED_MAX: u32 = 9;

/// The grain of the history.
const BUCKET_WIDTH: Duration = Duration::from_secs(5);

/// How long the kernel may take to reclaim memory when a limit shrinks.
const RESIZE_PATIENCE: Duration = Duration::from_millis(200);

/// How long a refused limit rests before it is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// The policy is asked so often in a window, within these bounds.
const DECISIONS_A_WINDOW: u32 = 60;
const DECIDE_EVERY_MIN: Duration = Duration::from_secs(5);
const DECIDE_EVERY_MAX: Duration = Duration::from_secs(60);

pub(super) struct Resources {
    tree: Arc<dyn CgroupTree>,
    history: History,
    measured: Mutex<Measured>,
}

#[derive(Default)]
struct Measured {
    tasks: BTreeMap<TaskId, Task>,
    /// What has been learned of each job with tasks here, by its series.
    jobs: BTreeMap<String, Job>,
}

/// A running task.
struct Task {
    spec: Arc<JobSpec>,
    /// The limits in its cgroup.
    limits: LimitSet,
    /// Not before then a limit is tried again that was refused.
    retry_at: Option<Instant>,
    last: Option<(Instant, Usage)>,
    /// Readings in a row that were not taken, because nothing had run.
    skipped: u32,
    samples: u64,
    cpu: Cores,
    memory: Bytes,
    memory_peak: Bytes,
}

/// What is known of a running task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) usage: Usage,
    pub(super) limits: LimitSet,
    pub(super) pids_max: u32,
    /// Of all tasks of its job.
    pub(super) ooms: u64,
}

#[derive(Default)]
struct Job {
    decide_at: Option<Instant>,
    /// What the history comes to, once it was read; samples are added as they come.
    learner: Option<Learner>,
    learned: Option<LimitSet>,
    /// What would fit if the spec set no bounds.
    wanted: Option<LimitSet>,
    history: Millis,
    samples: u64,
    ooms: u64,
}

impl Resources {
    pub(super) fn open(path: &Path, tree: Arc<dyn CgroupTree>) -> anyhow::Result<Resources> {
        let options = HistoryOptions {
            bucket_width: BUCKET_WIDTH,
            ..HistoryOptions::default()
        };
        Ok(Resources {
            tree,
            history: open_history(path, options)?,
            measured: Mutex::default(),
        })
    }

    /// Begins to measure a task, or takes its new spec, whose limits are applied at once.
    pub(super) fn set(&self, task: &TaskId, spec: Arc<JobSpec>) {
        let mut measured = self.lock();
        let request = LimitSet {
            cpu: spec.resources.cpu,
            memory: spec.resources.memory,
        };
        match measured.tasks.get_mut(task) {
            None => {
                // A task that was adopted may have a learned limit already.
                let memory = self
                    .tree
                    .memory_limit_bytes(&task.folder_name())
                    .map_or(request.memory, Bytes);
                measured.tasks.insert(
                    task.clone(),
                    Task::new(spec, LimitSet { memory, ..request }),
                );
            }
            Some(known) => {
                known.spec = spec;
                self.apply(task, known, request);
                measured.jobs.remove(&series(task));
            }
        }
    }

    pub(super) fn remove(&self, task: &TaskId) {
        let mut measured = self.lock();
        measured.tasks.remove(task);
        if !measured.tasks.keys().any(|other| other.job == task.job) {
            measured.jobs.remove(&series(task));
        }
    }

    /// Counts, once, that a task ran out of memory without the kernel having had to kill.
    pub(super) fn record_oom(&self, task: &TaskId, at_us: i64) {
        let sample = Sample {
            series: series(task),
            source: format!("{task}/oom"),
            seq: 1,
            at_us,
            cpu_millicores: 0,
            memory_bytes: 0,
            oom_kills: 1,
            throttled_us: 0,
        };
        if let Err(cause) = self.history.record(&[sample]) {
            tracing::warn!(%task, %cause, "cannot record that it ran out of memory");
        }
    }

    /// What every task uses now, for the controller.
    pub(super) fn usage(&self) -> Vec<TaskUsage> {
        let measured = self.lock();
        let none = Job::default();
        measured
            .tasks
            .iter()
            .filter(|(_, task)| task.samples > 0)
            .map(|(id, task)| task.usage(id, measured.jobs.get(&series(id)).unwrap_or(&none)))
            .collect()
    }

    /// What the cgroup of every task said last.
    pub(super) fn readings(&self) -> Vec<(TaskId, Reading)> {
        let measured = self.lock();
        let tasks = measured.tasks.iter();
        let read = tasks.filter_map(|(id, task)| {
            let (_, usage) = task.last?;
            Some((
                id.clone(),
                Reading {
                    usage,
                    limits: task.limits,
                    pids_max: task.spec.resources.pids,
                    ooms: measured.jobs.get(&series(id)).map_or(0, |job| job.ooms),
                },
            ))
        });
        read.collect()
    }

    /// Reads every cgroup once, and sets limits where it is time to.
    fn tick(&self) {
        let mut measured = self.lock();
        let samples: Vec<Sample> = measured
            .tasks
            .iter_mut()
            .filter_map(|(id, task)| self.sample(id, task))
            .collect();
        if let Err(cause) = self.history.record(&samples) {
            tracing::warn!(%cause, "cannot record what tasks use");
        }
        let Measured { tasks, jobs } = &mut *measured;
        for sample in &samples {
            if let Some(job) = jobs.get_mut(&sample.series) {
                job.observe(sample);
            }
        }
        for (id, task) in tasks.iter_mut() {
            let job = jobs.entry(series(id)).or_default();
            if job.decide_at.is_none_or(|at| at <= Instant::now()) {
                self.decide(id, &task.spec, job);
            }
            let wanted = task.wanted_limits(job.learned);
            if wanted != task.limits && task.retry_at.is_none_or(|at| at <= Instant::now()) {
                self.apply(id, task, wanted);
            }
        }
    }

    /// Reads a task's counters. What has not run since the last reading has not changed: that takes one file to see
    /// and not eight. Now and then all are read, as neighbours may take shared pages away.
    fn read(&self, id: &TaskId, task: &mut Task) -> Result<Usage, CgroupError> {
        let leaf = id.folder_name();
        if let Some((_, before)) = &task.last
            && task.skipped < READINGS_SKIPPED_MAX
            && self.tree.cpu_usage_us(&leaf)? == before.cpu_usage_us
        {
            task.skipped += 1;
            return Ok(*before);
        }
        task.skipped = 0;
        self.tree.usage(&leaf)
    }

    fn sample(&self, id: &TaskId, task: &mut Task) -> Option<Sample> {
        let usage = match self.read(id, task) {
            Ok(usage) => usage,
            Err(cause) => {
                tracing::debug!(task = %id, %cause, "cannot be measured");
                return None;
            }
        };
        let now = Instant::now();
        let (then, before) = task.last.replace((now, usage))?;
        let elapsed_us = now.duration_since(then).as_micros().max(1) as u64;
        task.cpu =
            Cores(usage.cpu_usage_us.saturating_sub(before.cpu_usage_us) * 1000 / elapsed_us);
        task.memory = Bytes(usage.memory_working_set_bytes);
        task.memory_peak = task.memory_peak.max(task.memory);
        task.samples += 1;
        Some(Sample {
            series: series(id),
            source: id.to_string(),
            // Goes on where an earlier agent stopped.
            seq: now_utc().0.cast_unsigned() / 1_000_000,
            at_us: now_utc().0,
            cpu_millicores: task.cpu.0,
            memory_bytes: task.memory.0,
            oom_kills: usage.oom_kills.saturating_sub(before.oom_kills),
            throttled_us: usage
                .cpu_throttled_us
                .saturating_sub(before.cpu_throttled_us),
        })
    }

    /// Asks the policy what fits the job's history.
    fn decide(&self, id: &TaskId, spec: &JobSpec, job: &mut Job) {
        let policy = LimitPolicy::of(spec);
        let window = policy.horizon().window();
        let every =
            (window.as_duration() / DECISIONS_A_WINDOW).clamp(DECIDE_EVERY_MIN, DECIDE_EVERY_MAX);
        job.decide_at = Some(Instant::now() + every);
        let now = now_utc();
        if job.learner.is_none() {
            match self.learn(id, &policy, now) {
                Ok((learner, ooms)) => (job.learner, job.ooms) = (Some(learner), ooms),
                Err(cause) => tracing::warn!(task = %id, %cause, "cannot read the history"),
            }
        }
        let Some(learner) = &mut job.learner else {
            return;
        };
        match policy.answer(learner, job.learned, now) {
            LimitAnswer::Off => {}
            LimitAnswer::TooEarly { have, samples, .. } => {
                (job.history, job.samples) = (have, samples)
            }
            LimitAnswer::Learned(learned) => {
                if job.learned != Some(learned.limits) {
                    tracing::info!(job = %id.job, cpu = learned.cpu_reason, memory = learned.memory_reason, "limits learned");
                }
                (job.history, job.samples) = (learned.span, learned.samples);
                job.learned = Some(learned.limits);
                job.wanted = Some(learned.wanted);
            }
        }
    }

    /// Folds the stored history of a task's job. It is read once; after that samples are added as they come.
    fn learn(
        &self,
        id: &TaskId,
        policy: &LimitPolicy,
        now: Timestamp,
    ) -> Result<(Learner, u64), StoreError> {
        let from = now.0 - policy.looks_back().0 as i64 * 1000;
        let buckets = self.history.range(&series(id), from, now.0 + 1)?;
        let ooms = buckets.iter().map(|bucket| bucket.oom_kills).sum();
        let usage: Vec<UsageBucket> = buckets.iter().map(usage_bucket).collect();
        Ok((policy.learn(&usage, now), ooms))
    }

    /// Sets the limits of a running task. A memory limit below what it holds is refused and stays as it was.
    fn apply(&self, id: &TaskId, task: &mut Task, limits: LimitSet) {
        let mut wanted = launch::limits(&task.spec);
        wanted.cpu_millicores = limits.cpu.0;
        wanted.memory_bytes_max = limits.memory.0;
        match self
            .tree
            .resize(&id.folder_name(), &wanted, RESIZE_PATIENCE)
        {
            Ok(()) => task.limits = limits,
            Err(CgroupError::MemoryInUse {
                asked_bytes,
                used_bytes,
            }) => {
                tracing::info!(task = %id, asked_bytes, used_bytes, "the memory limit stays: more is in use");
                task.limits.cpu = limits.cpu;
                task.retry_at = Some(Instant::now() + RETRY_EVERY);
            }
            Err(cause) => {
                tracing::warn!(task = %id, cause = %crate::error::chain(&cause), "cannot set limits")
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the history. A damaged one is set aside: tasks must run, and what was learned is learned again.
fn open_history(path: &Path, options: HistoryOptions) -> anyhow::Result<History> {
    match History::open(path, options) {
        Ok(history) => return Ok(history),
        Err(OpenError::Damaged(cause)) => {
            tracing::error!(cause = %crate::error::chain(&cause), "the usage history is set aside")
        }
        Err(cause) => return Err(cause.into()),
    }
    set_aside(path)?;
    Ok(History::open(path, options)?)
}

/// Renames a database and the files beside it that begin with its name.
fn set_aside(path: &Path) -> std::io::Result<()> {
    let (Some(folder), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    for entry in std::fs::read_dir(folder)? {
        let found = entry?.file_name();
        if let Some(found) = found.to_str().filter(|found| found.starts_with(name)) {
            std::fs::rename(folder.join(found), folder.join(format!("damaged-{found}")))?;
        }
    }
    Ok(())
}

impl Job {
    /// Adds a sample to what was learned from the stored history.
    fn observe(&mut self, sample: &Sample) {
        self.ooms += sample.oom_kills;
        let Some(learner) = &mut self.learner else {
            return;
        };
        let mut cpu = CpuCounts::default();
        cpu.add(Cores(sample.cpu_millicores));
        learner.observe(&UsageBucket {
            start: Timestamp(sample.at_us),
            span: Millis(SAMPLE_EVERY.as_millis() as u64),
            cpu,
            memory_peak: Bytes(sample.memory_bytes),
            ooms: sample.oom_kills,
        });
    }
}

impl Task {
    fn new(spec: Arc<JobSpec>, limits: LimitSet) -> Task {
        Task {
            spec,
            limits,
            retry_at: None,
            last: None,
            skipped: 0,
            samples: 0,
            cpu: Cores::ZERO,
            memory: Bytes::ZERO,
            memory_peak: Bytes::ZERO,
        }
    }

    /// What was learned where the spec lets running tasks have it, else the request.
    fn wanted_limits(&self, learned: Option<LimitSet>) -> LimitSet {
        let request = LimitSet {
            cpu: self.spec.resources.cpu,
            memory: self.spec.resources.memory,
        };
        match self.spec.limits.mode {
            LimitMode::Auto => learned.unwrap_or(self.limits),
            LimitMode::Off | LimitMode::Observe | LimitMode::Suggest => request,
        }
    }

    fn usage(&self, id: &TaskId, job: &Job) -> TaskUsage {
        TaskUsage {
            task: id.clone(),
            cpu: self.cpu,
            memory: self.memory,
            memory_peak: self.memory_peak,
            cpu_limit: self.limits.cpu,
            memory_limit: self.limits.memory,
            cpu_recommended: job.wanted.map(|limits| limits.cpu),
            memory_recommended: job.wanted.map(|limits| limits.memory),
            history_ms: job.history.0,
            samples: job.samples,
            ooms: job.ooms,
        }
    }
}

/// Samples until this future is dropped.
pub(super) async fn run(agent: &Arc<Agent>) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let agent = Arc::clone(agent);
        if let Err(cause) = tokio::task::spawn_blocking(move || agent.resources.tick()).await {
            tracing::error!(%cause, "sampling failed");
        }
    }
}

/// All tasks of a job on this machine share one history.
fn series(task: &TaskId) -> String {
    format!("{}/{}", task.job.namespace, task.job.name)
}

fn usage_bucket(bucket: &Bucket) -> UsageBucket {
    UsageBucket {
        start: Timestamp(bucket.start_us),
        span: Millis(bucket.width_us as u64 / 1000),
        cpu: cpu_counts(bucket),
        memory_peak: Bytes(bucket.memory_max_bytes),
        ooms: bucket.oom_kills,
    }
}

/// One sample at the bucket's maximum, the others at its mean.
fn cpu_counts(bucket: &Bucket) -> CpuCounts {
    let mut counts = CpuCounts::default();
    for _ in 1..bucket.samples {
        counts.add(Cores(bucket.cpu_avg_millicores()));
    }
    counts.add(Cores(bucket.cpu_max_millicores));
    counts
}

fn now_utc() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64),
    )
}
