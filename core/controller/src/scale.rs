//! Lets the numbers of tasks, and what each holds on its machine, follow what they do: looks at the newest samples, and
//! tells the driver.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tw_model::{
    Desired, FittedRecord, JobId, JobSpec, MachineId, TaskId, TaskRecord, TaskState, TaskUsage,
};
use tw_scheduler::lending;
use tw_scheduler::limits::LimitSet;
use tw_scheduler::scale::{Load, Pattern, Scaler, Scaling, look_every};

use crate::clock;
use crate::driver::Driver;
use crate::hub::{Heard, Hub};
use crate::usage::UsageLog;
use crate::view::{JobView, View};

/// How often it is seen which jobs are to be looked at.
const TURN: Duration = Duration::from_millis(500);

/// What an agent said of its tasks counts for so long.
const FRESH: Duration = Duration::from_secs(10);

/// What tasks hold on their machines is looked at this often, and changed for so many at once.
const FIT_EVERY: Duration = Duration::from_secs(2);
const FITTED_AT_ONCE: usize = 64;

/// Days before are read anew this often.
const PATTERN_EVERY: Duration = Duration::from_secs(60);

/// What is remembered of the jobs whose numbers follow.
pub(crate) struct Scales {
    hub: Arc<Hub>,
    driver: Driver,
    usage: UsageLog,
    jobs: BTreeMap<JobId, Followed>,
    fitted_at: Option<Instant>,
}

#[derive(Default)]
struct Followed {
    scaler: Scaler,
    look_at: Option<Instant>,
    pattern: Option<Pattern>,
    pattern_at: Option<Instant>,
}

/// A job as it is now.
struct Seen {
    id: JobId,
    spec: Arc<JobSpec>,
    has: u32,
    load: Load,
}

/// What agents have said of their tasks, and when.
pub(crate) struct Samples<'a> {
    pub(crate) view: &'a View,
    pub(crate) usage: &'a HashMap<TaskId, TaskUsage>,
    pub(crate) heard: &'a HashMap<MachineId, Heard>,
}

impl Scales {
    pub(crate) fn new(hub: Arc<Hub>, driver: Driver, usage: UsageLog) -> Scales {
        Scales {
            hub,
            driver,
            usage,
            jobs: BTreeMap::new(),
            fitted_at: None,
        }
    }

    /// Looks at the jobs in their turn, for ever.
    pub(crate) async fn run(mut self) {
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.fit().await;
            for (job, scaling) in self.turn().await {
                if let Err(cause) = self.driver.scale(job.clone(), scaling).await {
                    tracing::warn!(%job, cause = cause.message, "its number of tasks stays");
                }
            }
        }
    }

    /// Has what tasks hold on their machines follow their limits.
    async fn fit(&mut self) {
        if self.fitted_at.is_some_and(|at| at.elapsed() < FIT_EVERY) {
            return;
        }
        self.fitted_at = Some(Instant::now());
        let tasks = self.hub.read_samples(|samples| samples.unfitted());
        if !tasks.is_empty()
            && let Err(cause) = self.driver.fitted(tasks).await
        {
            tracing::warn!(cause = cause.message, "what tasks hold stays");
        }
    }

    async fn turn(&mut self) -> Vec<(JobId, Scaling)> {
        let seen = self.hub.read_samples(|samples| samples.jobs());
        self.jobs
            .retain(|id, _| seen.iter().any(|job| job.id == *id));
        let mut wanted = Vec::new();
        for job in seen {
            let followed = self.jobs.entry(job.id.clone()).or_default();
            if followed.look_at.is_some_and(|at| Instant::now() < at) {
                continue;
            }
            followed.learn(&self.usage, &job).await;
            wanted.extend(followed.look(&job).map(|scaling| (job.id, scaling)));
        }
        wanted
    }
}

impl Followed {
    fn look(&mut self, job: &Seen) -> Option<Scaling> {
        let every = look_every(job.spec.autoscale.as_ref()?).as_duration();
        self.look_at = Some(Instant::now() + every);
        let now = clock::wall();
        let expected = self
            .pattern
            .as_ref()
            .and_then(|pattern| pattern.expected(now));
        self.scaler
            .decide(&job.spec, job.load, expected, job.has, now)
    }

    /// Reads what the job bore on days before. Only of CPU there is a history.
    async fn learn(&mut self, usage: &UsageLog, job: &Seen) {
        let follows_cpu = job
            .spec
            .autoscale
            .as_ref()
            .is_some_and(|scale| scale.metric.is_none());
        if !follows_cpu
            || self
                .pattern_at
                .is_some_and(|at| at.elapsed() < PATTERN_EVERY)
        {
            return;
        }
        self.pattern_at = Some(Instant::now());
        let (usage, id, spec) = (usage.clone(), job.id.clone(), Arc::clone(&job.spec));
        let read = tokio::task::spawn_blocking(move || usage.pattern(&id, &spec, clock::wall()));
        match read.await {
            Ok(Ok(pattern)) => self.pattern = Some(pattern),
            Ok(Err(cause)) => {
                tracing::warn!(job = %job.id, %cause, "cannot read what it bore before")
            }
            Err(cause) => tracing::error!(%cause, "reading the usage history failed"),
        }
    }
}

impl Samples<'_> {
    /// The jobs whose number of tasks follows their load.
    fn jobs(&self) -> Vec<Seen> {
        let seen = self.view.jobs().filter(|(record, _)| !record.stopped);
        let seen = seen.filter_map(|(record, job)| {
            let spec = &job.wanted()?.spec;
            spec.autoscale.as_ref()?;
            Some(Seen {
                id: record.id.clone(),
                has: spec.tasks(record.scaled()),
                load: self.load(spec, job),
                spec: Arc::clone(spec),
            })
        });
        seen.collect()
    }

    /// What an agent said of a task just now, and of its machine.
    fn fresh(&self, row: &TaskRecord) -> Option<(&TaskUsage, Heard)> {
        let heard = self.heard.get(row.machine.as_ref()?)?;
        let usage = self.usage.get(&row.id)?;
        (heard.at.elapsed() <= FRESH).then_some((usage, *heard))
    }

    /// The tasks that should hold something else on their machines than they do.
    fn unfitted(&self) -> Vec<(TaskId, Option<FittedRecord>)> {
        let rows = self.view.jobs().flat_map(|(_, job)| job.holders());
        let running =
            rows.filter(|row| row.state == TaskState::Running && row.desired == Desired::Run);
        let found = running.filter_map(|row| {
            let (usage, heard) = self.fresh(row)?;
            let limits = LimitSet {
                cpu: usage.cpu_limit,
                memory: usage.memory_limit,
            };
            let spec = self.view.spec(row)?;
            let fitted = lending::fitted(spec, limits, row.fitted, heard.is_strained);
            (fitted != row.fitted).then(|| (row.id.clone(), fitted))
        });
        found.take(FITTED_AT_ONCE).collect()
    }

    fn load(&self, spec: &JobSpec, job: &JobView) -> Load {
        let mut load = Load::default();
        for row in job.holders() {
            if row.desired != Desired::Run || !self.view.serves(row) {
                continue;
            }
            load.serving += 1;
            match self.borne_by(spec, row) {
                Some(borne) => load.borne += borne,
                None => load.unknown += 1,
            }
        }
        load
    }

    fn borne_by(&self, spec: &JobSpec, row: &TaskRecord) -> Option<f64> {
        let (usage, _) = self.fresh(row)?;
        match &spec.autoscale.as_ref()?.metric {
            Some(_) => usage.followed.map(|number| number.0 as f64),
            None => Some(usage.cpu.0 as f64),
        }
    }
}
