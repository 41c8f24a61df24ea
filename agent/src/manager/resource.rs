//! Resources: what each task uses, and the limits that follow it.
//!
//! Every second each task's cgroup is read and the sample goes into the history of its job. From time to
//! time the policy is asked what limits fit that history; where the spec says so, they are applied to the
//! running tasks. Nothing here needs the controller.

mod job;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tw_api::{LimitNote, UsageReport, UsageReports};
use tw_model::{
    Bytes, Cores, JobId, JobSpec, LimitMode, Millis, Number, TaskId, TaskUsage, Timestamp,
    USAGE_SAMPLE_EVERY, UsageSum, Version,
};
use tw_scheduler::limits::{
    Horizon, Learner, LimitAnswer, LimitPolicy, LimitSet, UsageBucket, boost,
};
use tw_store::StoreError;
use tw_store::history::{Bucket, History, HistoryOptions, Sample, TIERS};

use self::job::{Job, Standing};
use super::{Agent, launch};
use crate::cgroup::{CgroupError, CgroupTree, CpuMeter, Usage};

pub(super) const SAMPLE_EVERY: Duration = USAGE_SAMPLE_EVERY.as_duration();

/// How many readings of a task that does nothing are not taken before all of its counters are read again.
const READINGS_SKIPPED_MAX: u32 = 9;

/// The grain of the history.
const BUCKET_WIDTH: Duration = Duration::from_secs(5);

/// What the controller gets of a job is one report for so long, or for a shorter part of a shorter window.
const REPORT_WIDTH_MAX: Duration = Duration::from_secs(300);
const REPORTS_A_WINDOW: u32 = 2016;

/// Reports that wait for the controller: a week of 100 jobs.
const REPORTS_MAX: u64 = 200_000;

/// Reports that go with one heartbeat.
const REPORTS_AT_ONCE: u64 = 100;

/// Old buckets are made wider this often.
const COMPACT_EVERY: Duration = Duration::from_secs(600);

/// How long a task is looked at before it counts as short of something, at most: a part of the trial of lower limits.
const LOOK_MAX: Duration = Duration::from_secs(60);
const LOOKS_A_TRIAL: u32 = 12;

/// Trials begin where the job's first task is; machines without it wait so many trials longer.
const TRIALS_LATER: u64 = 2;

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
    /// Tells the samples of this agent from those of the ones before it.
    session: i64,
}

#[derive(Default)]
struct Measured {
    tasks: BTreeMap<TaskId, Task>,
    /// What has been learned of each job with tasks here, by its series.
    jobs: BTreeMap<JobId, Job>,
    compacted: Option<Instant>,
}

/// A running task.
struct Task {
    spec: Arc<JobSpec>,
    version: Version,
    session: i64,
    /// Samples that went into the history in this session.
    recorded: u64,
    /// When it was first seen here: after a restart of the agent later than it began.
    since: Instant,
    /// What was measured and is not recorded yet, and the bucket that it belongs to.
    piece: UsageSum,
    piece_bucket: i64,
    stalled_us: Option<u64>,
    look: Look,
    /// The limits in its cgroup.
    limits: LimitSet,
    /// Not before then a limit is tried again that was refused.
    retry_at: Option<Instant>,
    /// The memory limit that was refused last, and what was in use.
    refused: Option<(Bytes, Bytes)>,
    last: Option<(Instant, Usage)>,
    /// What tells that nothing has run, and what it said.
    meter: Option<CpuMeter>,
    ran: Option<u64>,
    /// Readings in a row that were not taken, because nothing had run.
    skipped: u32,
    samples: u64,
    cpu: Cores,
    memory: Bytes,
    memory_peak: Bytes,
    /// The number that the job's number of tasks follows, as it was read last.
    followed: Option<Number>,
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

/// What is seen of a task until it is long enough to judge it.
struct Look {
    since: Instant,
    throttled_us: u64,
    stalled_us: u64,
}

impl Resources {
    pub(super) fn open(path: &Path, tree: Arc<dyn CgroupTree>) -> anyhow::Result<Resources> {
        let options = HistoryOptions {
            bucket_width: BUCKET_WIDTH,
            ..HistoryOptions::default()
        };
        // Tasks must run, and what was learned is learned again.
        let (history, damage) = History::open_or_set_aside(path, options)?;
        if let Some(damage) = damage {
            tracing::error!(cause = %crate::error::chain(&damage), "the usage history is set aside");
        }
        Ok(Resources {
            tree,
            history,
            measured: Mutex::default(),
            session: now_utc().0,
        })
    }

    /// Begins to measure a task, or takes its new spec, whose limits are applied at once.
    pub(super) fn set(&self, task: &TaskId, spec: Arc<JobSpec>, version: Version) {
        let mut measured = self.lock();
        let request = request_of(&spec);
        match measured.tasks.get_mut(task) {
            None => {
                let job = measured.jobs.entry(task.job.clone());
                let job = job.or_insert_with(|| Job::resume(self.standing(&task.job), request));
                if job.standing.request != request {
                    *job = Job::resume(None, request);
                }
                // A task that was adopted may have a learned limit already.
                let memory = self
                    .tree
                    .memory_limit_bytes(&task.folder_name())
                    .map_or(request.memory, Bytes);
                let limits = LimitSet { memory, ..request };
                measured
                    .tasks
                    .insert(task.clone(), Task::new(spec, version, limits, self.session));
            }
            Some(known) => {
                let asked = request_of(&known.spec);
                let is_same = launch::limits(&known.spec) == launch::limits(&spec);
                (known.spec, known.version) = (spec, version);
                if request != asked {
                    self.apply(task, known, request);
                    let anew = Job::resume(None, request);
                    measured.jobs.insert(task.job.clone(), anew);
                } else if !is_same {
                    // Of the rest nothing is learned.
                    let limits = known.limits;
                    self.apply(task, known, limits);
                }
            }
        }
    }

    pub(super) fn remove(&self, task: &TaskId) {
        let mut measured = self.lock();
        let Some(mut ended) = measured.tasks.remove(task) else {
            return;
        };
        ended.piece.ends = 1;
        ended.piece.ran_ms = ended.since.elapsed().as_millis() as u64;
        let last = ended.take_piece(task, now_utc().0);
        if let Some(job) = measured.jobs.get_mut(&task.job) {
            job.observe(&last);
        }
        self.record(&[last]);
    }

    /// Notes the number that a job's number of tasks follows; none where it cannot be read.
    pub(super) fn follow(&self, task: &TaskId, number: Option<Number>) {
        if let Some(task) = self.lock().tasks.get_mut(task) {
            task.followed = number;
        }
    }

    /// Counts that a task ran out of memory without the kernel having had to kill. Where limits follow use, the job's
    /// are raised beside what is learned, or it is taken for a leak.
    pub(super) fn record_oom(&self, task: &TaskId, at_us: i64) {
        let mut measured = self.lock();
        let Measured { tasks, jobs, .. } = &mut *measured;
        let Some(known) = tasks.get_mut(task) else {
            return;
        };
        let sum = UsageSum {
            oom_kills: 1,
            ..UsageSum::default()
        };
        self.record(&[Sample {
            source: format!("{task}/oom"),
            seq: 1,
            ..known.sample_of(task, at_us, sum)
        }]);
        let job = jobs.entry(task.job.clone()).or_default();
        job.ooms += 1;
        if known.spec.limits.mode == LimitMode::Auto {
            job.respond(task, known);
            self.keep(&task.job, job);
        }
    }

    /// The memory limit that a task begins with: what its spec asks for, or more where that was not enough today.
    pub(super) fn memory_at_start(&self, spec: &JobSpec) -> Bytes {
        let request = request_of(spec);
        if spec.limits.mode != LimitMode::Auto {
            return request.memory;
        }
        let measured = self.lock();
        let known = measured
            .jobs
            .get(&spec.id())
            .map(|job| job.standing.clone());
        let standing = known.or_else(|| self.standing(&spec.id()));
        let standing = standing.filter(|standing| standing.request == request);
        standing.map_or(request.memory, |standing| {
            let horizon = LimitPolicy::of(spec).horizon();
            standing.oom.limit(request.memory, now_utc(), horizon)
        })
    }

    /// What was decided for a job before, on this machine.
    fn standing(&self, job: &JobId) -> Option<Standing> {
        let stored = self.history.conclusion(&series_of(job));
        let stored = stored
            .inspect_err(|cause| tracing::warn!(%job, %cause, "cannot read what was learned"));
        // One that another release wrote in another form is learned anew.
        serde_json::from_slice(&stored.ok()??).ok()
    }

    /// Stores what was decided for a job, if that has changed.
    fn keep(&self, id: &JobId, job: &mut Job) {
        if job.standing == job.stored {
            return;
        }
        let body = serde_json::to_vec(&job.standing).unwrap_or_default();
        match self.history.conclude(&series_of(id), &body) {
            Ok(()) => job.stored = job.standing.clone(),
            Err(cause) => tracing::warn!(job = %id, %cause, "cannot store what was learned"),
        }
    }

    /// The oldest reports that the controller has not acknowledged.
    pub(super) fn reports(&self) -> UsageReports {
        let read = || -> Result<UsageReports, StoreError> {
            let posted = self.history.posted(REPORTS_AT_ONCE)?;
            let report =
                |(seq, body): (u64, Vec<u8>)| Some((seq, serde_json::from_slice(&body).ok()?));
            Ok(UsageReports {
                origin: self.history.origin()?,
                reports: posted.into_iter().filter_map(report).collect(),
            })
        };
        read().unwrap_or_else(|cause| {
            tracing::warn!(%cause, "cannot read the reports of what jobs used");
            UsageReports::default()
        })
    }

    pub(super) fn acknowledge(&self, seq: u64) {
        if seq > 0
            && let Err(cause) = self.history.acknowledge(seq)
        {
            tracing::warn!(%cause, "cannot let go of reports that have arrived");
        }
    }

    fn record(&self, samples: &[Sample]) {
        if let Err(cause) = self.history.record(samples) {
            tracing::warn!(%cause, "cannot record what tasks use");
        }
    }

    /// Posts what the job used in stretches that are over.
    fn post(&self, id: &TaskId, task: &Task) -> Result<(), StoreError> {
        let series = series(&id.job, task.version);
        let width = (task.horizon().window().as_duration() / REPORTS_A_WINDOW)
            .clamp(BUCKET_WIDTH, REPORT_WIDTH_MAX);
        let (slots, until_us) = self.history.unposted(&series, width, now_utc().0)?;
        if slots.is_empty() {
            return Ok(());
        }
        let report = |slot: Bucket| UsageReport {
            job: id.job.clone(),
            version: task.version,
            start: Timestamp(slot.start_us),
            width_ms: slot.width_us as u64 / 1000,
            usage: slot.usage,
        };
        let bodies = slots.into_iter().map(report);
        let bodies: Vec<Vec<u8>> = bodies
            .filter_map(|report| serde_json::to_vec(&report).ok())
            .collect();
        self.history.post(&series, until_us, &bodies, REPORTS_MAX)
    }

    /// What every task uses now, for the controller.
    pub(super) fn usage(&self) -> Vec<TaskUsage> {
        let measured = self.lock();
        let none = Job::default();
        let tasks = measured
            .tasks
            .iter()
            .map(|(id, task)| (id, task, measured.jobs.get(&id.job).unwrap_or(&none)));
        tasks
            .filter(|(_, task, _)| task.samples > 0)
            .map(|(id, task, job)| task.usage(id, job))
            .collect()
    }

    /// What should be known of the limits of jobs here.
    pub(super) fn notes(&self) -> Vec<LimitNote> {
        let measured = self.lock();
        let noted = measured.jobs.iter().filter_map(|(id, job)| {
            Some(LimitNote {
                job: id.clone(),
                text: job.standing.note.as_ref()?.1.clone(),
            })
        });
        let refused = measured.tasks.iter().filter_map(|(id, task)| {
            let (asked, used) = task.refused?;
            Some(LimitNote {
                job: id.job.clone(),
                text: format!(
                    "{id} keeps its memory limit of {}: {asked} cannot be had while it holds {used}; tw restart gives it the \
                     lower one",
                    task.limits.memory
                ),
            })
        });
        noted.chain(refused).collect()
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
                    ooms: measured.jobs.get(&id.job).map_or(0, |job| job.ooms),
                },
            ))
        });
        read.collect()
    }

    /// Reads every cgroup once, and sets limits where it is time to.
    fn tick(&self) {
        let mut measured = self.lock();
        let Measured {
            tasks,
            jobs,
            compacted,
        } = &mut *measured;
        let now = now_utc();
        let mut pieces = Vec::new();
        for (id, task) in tasks.iter_mut() {
            self.measure(id, task);
            if task.piece_is_over(now) {
                self.look_for_stalls(id, task);
                pieces.push(task.take_piece(id, now.0));
                let job = jobs.entry(id.job.clone()).or_default();
                if let Some(piece) = pieces.last() {
                    job.observe(piece);
                }
            }
        }
        self.record(&pieces);
        let mut firsts: BTreeMap<JobId, u32> = BTreeMap::new();
        for (id, task) in tasks.iter_mut() {
            let first = *firsts.entry(id.job.clone()).or_insert(id.index);
            let job = jobs.entry(id.job.clone()).or_default();
            // No report ends but with a bucket.
            if job.posted_at.is_none_or(|at| at.elapsed() >= BUCKET_WIDTH) {
                job.posted_at = Some(Instant::now());
                if let Err(cause) = self.post(id, task) {
                    tracing::warn!(job = %id.job, %cause, "cannot post what it used");
                }
            }
            if job.decide_at.is_none_or(|at| at <= Instant::now()) {
                self.decide(id, task, job, first);
            }
            job.watch(id, task, first);
            job.forget_old_note(task);
            let wanted = task.wanted_limits(job, id.index == first);
            if wanted == task.limits {
                // Nobody asks for less any more.
                task.refused = None;
            } else if task.retry_at.is_none_or(|at| at <= Instant::now()) {
                self.apply(id, task, wanted);
            }
        }
        jobs.iter_mut().for_each(|(id, job)| self.keep(id, job));
        if compacted.is_none_or(|at| at.elapsed() >= COMPACT_EVERY) {
            *compacted = Some(Instant::now());
            jobs.retain(|id, _| tasks.keys().any(|task| task.job == *id));
            if let Err(cause) = self.history.compact(&TIERS, now.0) {
                tracing::warn!(%cause, "cannot compact the usage history");
            }
        }
    }

    /// Reads a task's counters. What has not run since the last reading has not changed: that takes one file to see
    /// and not eight. Now and then all are read, as neighbours may take shared pages away.
    fn read(&self, id: &TaskId, task: &mut Task) -> Result<Usage, CgroupError> {
        let leaf = id.folder_name();
        if task.meter.is_none() {
            task.meter = self.tree.cpu_meter(&leaf);
        }
        let ran = task.meter.as_ref().and_then(CpuMeter::read);
        let is_idle = ran.is_some() && ran == task.ran;
        task.ran = ran;
        if let Some((_, before)) = &task.last
            && is_idle
            && task.skipped < READINGS_SKIPPED_MAX
        {
            task.skipped += 1;
            return Ok(*before);
        }
        task.skipped = 0;
        self.tree.usage(&leaf)
    }

    fn measure(&self, id: &TaskId, task: &mut Task) {
        let usage = match self.read(id, task) {
            Ok(usage) => usage,
            Err(cause) => {
                tracing::debug!(task = %id, %cause, "cannot be measured");
                return;
            }
        };
        let now = Instant::now();
        let Some((then, before)) = task.last.replace((now, usage)) else {
            task.piece.starts += 1;
            return;
        };
        let elapsed_us = now.duration_since(then).as_micros().max(1) as u64;
        task.cpu =
            Cores(usage.cpu_usage_us.saturating_sub(before.cpu_usage_us) * 1000 / elapsed_us);
        task.memory = Bytes(usage.memory_working_set_bytes);
        task.memory_peak = task.memory_peak.max(task.memory);
        task.samples += 1;
        let throttled_us = usage
            .cpu_throttled_us
            .saturating_sub(before.cpu_throttled_us);
        task.look.throttled_us += throttled_us;
        task.piece.merge(&UsageSum {
            oom_kills: usage.oom_kills.saturating_sub(before.oom_kills),
            throttled_us,
            ..UsageSum::sample(task.cpu.0, task.memory.0)
        });
    }

    fn look_for_stalls(&self, id: &TaskId, task: &mut Task) {
        let Some(stalled_us) = self.tree.memory_stalled_us(&id.folder_name()) else {
            return;
        };
        if let Some(before) = task.stalled_us.replace(stalled_us) {
            let stalled_us = stalled_us.saturating_sub(before);
            task.look.stalled_us += stalled_us;
            task.piece.stalled_us += stalled_us;
        }
    }

    /// Asks the policy what fits the job's history.
    fn decide(&self, id: &TaskId, task: &Task, job: &mut Job, first: u32) {
        let policy = LimitPolicy::of(&task.spec);
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
        match policy.answer(learner, job.standing.learned, now) {
            LimitAnswer::Off => {}
            LimitAnswer::TooEarly { have, samples, .. } => {
                (job.history, job.samples) = (have, samples)
            }
            LimitAnswer::Learned(learned) => {
                if job.standing.learned != Some(learned.limits) {
                    tracing::info!(job = %id.job, cpu = learned.cpu_reason, memory = learned.memory_reason, "limits learned");
                }
                (job.history, job.samples) = (learned.span, learned.samples);
                job.standing.learned = Some(learned.limits);
                job.wanted = Some(learned.wanted);
                job.try_on(task, learned.limits, first, now);
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
        let mut buckets = Vec::new();
        for series in self.history.series(&series_of(&id.job))? {
            buckets.extend(self.history.range(&series, from, now.0 + 1)?);
        }
        let ooms = buckets.iter().map(|bucket| bucket.usage.oom_kills).sum();
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
            Ok(()) => (task.limits, task.refused) = (limits, None),
            Err(CgroupError::MemoryInUse {
                asked_bytes,
                used_bytes,
            }) => {
                tracing::info!(task = %id, asked_bytes, used_bytes, "the memory limit stays: more is in use");
                task.limits.cpu = limits.cpu;
                task.refused = Some((Bytes(asked_bytes), Bytes(used_bytes)));
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

impl Look {
    fn new() -> Look {
        Look {
            since: Instant::now(),
            throttled_us: 0,
            stalled_us: 0,
        }
    }
}

impl Task {
    fn new(spec: Arc<JobSpec>, version: Version, limits: LimitSet, session: i64) -> Task {
        Task {
            spec,
            version,
            session,
            recorded: 0,
            since: Instant::now(),
            piece: UsageSum::default(),
            piece_bucket: bucket_of(now_utc()),
            stalled_us: None,
            look: Look::new(),
            limits,
            retry_at: None,
            refused: None,
            last: None,
            meter: None,
            ran: None,
            skipped: 0,
            samples: 0,
            cpu: Cores::ZERO,
            memory: Bytes::ZERO,
            memory_peak: Bytes::ZERO,
            followed: None,
        }
    }

    fn horizon(&self) -> Horizon {
        LimitPolicy::of(&self.spec).horizon()
    }

    fn piece_is_over(&self, now: Timestamp) -> bool {
        self.piece != UsageSum::default() && bucket_of(now) != self.piece_bucket
    }

    /// What was measured since the last piece, for the history.
    fn take_piece(&mut self, id: &TaskId, now_us: i64) -> Sample {
        let width_us = BUCKET_WIDTH.as_micros() as i64;
        let at_us = self.piece_bucket.saturating_mul(width_us);
        self.piece_bucket = now_us.div_euclid(width_us);
        let sum = std::mem::take(&mut self.piece);
        self.sample_of(id, at_us, sum)
    }

    fn sample_of(&mut self, id: &TaskId, at_us: i64, usage: UsageSum) -> Sample {
        self.recorded += 1;
        Sample {
            series: series(&id.job, self.version),
            // Counted, and not timed: a clock that goes back makes no sample look like one that was seen.
            source: format!("{id}@{}", self.session),
            seq: self.recorded,
            at_us,
            width: None,
            usage,
        }
    }

    /// What was learned where the spec lets running tasks have it, else the request.
    fn wanted_limits(&self, job: &Job, is_canary: bool) -> LimitSet {
        let request = request_of(&self.spec);
        let standing = &job.standing;
        // Tasks of a version with another request keep what they have until they are replaced.
        let canary = standing
            .canary
            .as_ref()
            .filter(|_| standing.request == request);
        let (LimitMode::Auto, Some(canary)) = (self.spec.limits.mode, canary) else {
            return match self.spec.limits.mode {
                LimitMode::Auto => LimitSet {
                    memory: standing
                        .oom
                        .limit(self.limits.memory, now_utc(), self.horizon()),
                    ..self.limits
                },
                LimitMode::Off | LimitMode::Observe | LimitMode::Suggest => request,
            };
        };
        let (now, horizon) = (now_utc(), self.horizon());
        let limits = match is_canary {
            true => canary.canary(),
            false => canary.others(),
        };
        let age = Millis(self.since.elapsed().as_millis() as u64);
        LimitSet {
            cpu: boost::cpu_limit(limits.cpu, request.cpu, age, horizon),
            memory: standing.oom.limit(limits.memory, now, horizon),
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
            followed: self.followed,
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
        let sample = move || {
            let before = thread_cpu_ns();
            agent.resources.tick();
            let took = thread_cpu_ns().saturating_sub(before);
            agent.counts.sampling_ns.fetch_add(took, Ordering::Relaxed);
        };
        if let Err(cause) = tokio::task::spawn_blocking(sample).await {
            tracing::error!(%cause, "sampling failed");
        }
    }
}

/// Time that this thread has had on a core.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What the spec asks for.
fn request_of(spec: &JobSpec) -> LimitSet {
    LimitSet {
        cpu: spec.resources.cpu,
        memory: spec.resources.memory,
    }
}

/// All tasks of a version of a job on this machine share one history.
fn series(job: &JobId, version: Version) -> String {
    format!("{}v{version}", series_of(job))
}

/// What the series of all versions of a job begin with.
fn series_of(job: &JobId) -> String {
    format!("{}/{}|", job.namespace, job.name)
}

fn bucket_of(at: Timestamp) -> i64 {
    at.0.div_euclid(BUCKET_WIDTH.as_micros() as i64)
}

fn usage_bucket(bucket: &Bucket) -> UsageBucket {
    UsageBucket::new(Timestamp(bucket.start_us), bucket.width_us, &bucket.usage)
}

fn now_utc() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64),
    )
}
