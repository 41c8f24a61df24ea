//! What jobs used, as agents report it, folded by job, version and class of machine in a history of a fixed size.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tw_api::{JobHistory, UsagePoint, UsageReports};
use tw_model::{Capacity, Cores, JobId, JobSpec, Millis, Timestamp, USAGE_SAMPLE_EVERY};
use tw_scheduler::limits::{LimitPolicy, UsageBucket};
use tw_scheduler::recommend::{Point, Review, review};
use tw_scheduler::scale::Pattern;
use tw_store::StoreError;
use tw_store::history::{Bucket, History, HistoryOptions, Sample, TIERS};

use crate::error::RunError;

/// A clock may be ahead of the controller's by so much; what is later was stamped by a broken one.
const AHEAD_MAX: Millis = Millis::hours(1);

/// What is older than this is not kept.
const AGE_MAX: Millis = Millis::hours(400 * 24);

/// No pattern is finer than what agents report of jobs that learn fastest.
const PATTERN_SLOT_MIN: Millis = Millis::seconds(5);

/// Old buckets are made wider, and the oldest dropped, this often.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// The history. Its functions block for about as long as one transaction without a sync takes.
#[derive(Clone)]
pub(crate) struct UsageLog {
    history: Arc<History>,
    tidied: Arc<Mutex<Option<Instant>>>,
}

impl UsageLog {
    /// Opens it. A damaged one is set aside: jobs must be looked after, and what was learned is learned again.
    pub(crate) fn open(path: &Path) -> Result<UsageLog, RunError> {
        let (history, damage) = History::open_or_set_aside(path, HistoryOptions::default())?;
        if let Some(damage) = damage {
            let found = &damage.found;
            tracing::error!(found, path = %path.display(), "the usage history is set aside, and a new one begun");
        }
        Ok(UsageLog {
            history: Arc::new(history),
            tidied: Arc::default(),
        })
    }

    /// Keeps what a machine of this capacity reports. Returns the highest number of it: it is kept, or was refused for good.
    pub(crate) fn keep(
        &self,
        now: Timestamp,
        capacity: Option<&Capacity>,
        reports: &UsageReports,
    ) -> Result<u64, StoreError> {
        let class = class_of(capacity);
        let is_of_this_time =
            |start: Timestamp| start <= now.plus(AHEAD_MAX) && now.since(start) <= AGE_MAX;
        let (timely, others): (Vec<_>, Vec<_>) = reports
            .reports
            .iter()
            .partition(|(_, report)| is_of_this_time(report.start));
        let samples: Vec<Sample> = timely
            .into_iter()
            .map(|(seq, report)| Sample {
                series: format!("{}v{}|{class}", series_of(&report.job), report.version),
                source: reports.origin.clone(),
                seq: *seq,
                at_us: report.start.0,
                width: Some(Duration::from_millis(
                    report.width_ms.clamp(1000, 86_400_000),
                )),
                usage: report.usage.clone(),
            })
            .collect();
        let recorded = self.history.record(&samples)?;
        if recorded.refused > 0 || !others.is_empty() {
            tracing::warn!(
                absurd = recorded.refused,
                of_another_time = others.len(),
                "reports of use are not kept"
            );
        }
        self.tidy(now)?;
        Ok(reports
            .reports
            .iter()
            .map(|(seq, _)| *seq)
            .max()
            .unwrap_or(0))
    }

    fn tidy(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        if tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
            *tidied = Some(Instant::now());
            self.history.compact(&TIERS, now.0)?;
            self.history.prune(now.0 - AGE_MAX.0 as i64 * 1000)?;
        }
        Ok(())
    }

    /// What CPU all tasks of a job used together, over two windows.
    pub(crate) fn pattern(
        &self,
        job: &JobId,
        spec: &JobSpec,
        now: Timestamp,
    ) -> Result<Pattern, StoreError> {
        let policy = LimitPolicy::of(spec);
        let from_us = now.0 - policy.looks_back().0 as i64 * 1000;
        let mut pattern = Pattern::new(policy.horizon(), PATTERN_SLOT_MIN);
        for series in self.history.series(&series_of(job))? {
            for bucket in self.history.range(&series, from_us, now.0 + 1)? {
                let span = Millis(bucket.width_us as u64 / 1000);
                let cpu = bucket.usage.cpu_sum_millicores as f64;
                let samples = span.0 as f64 / USAGE_SAMPLE_EVERY.0 as f64;
                pattern.add(Timestamp(bucket.start_us), span, cpu / samples.max(1.0));
            }
        }
        Ok(pattern)
    }

    /// What the history says of a job's requests; none before the first report.
    pub(crate) fn review(
        &self,
        job: &JobId,
        spec: &JobSpec,
        now: Timestamp,
    ) -> Result<Option<JobHistory>, StoreError> {
        let from_us = now.0 - LimitPolicy::of(spec).looks_back().0 as i64 * 1000;
        let prefix = series_of(job);
        let mut usage: Vec<UsageBucket> = Vec::new();
        let mut measured = Vec::new();
        for series in self.history.series(&prefix)? {
            let buckets = self.history.range(&series, from_us, now.0 + 1)?;
            if !buckets.is_empty() {
                measured.push(series[prefix.len()..].replace('|', " on "));
            }
            usage.extend(buckets.iter().map(usage_bucket));
        }
        if usage.is_empty() {
            return Ok(None);
        }
        Ok(Some(told(review(spec, &usage, now), measured)))
    }
}

fn told(review: Review, measured: Vec<String>) -> JobHistory {
    let evidence = review.evidence;
    JobHistory {
        span_ms: evidence.span.0,
        samples: evidence.samples,
        confidence: review.confidence.to_string(),
        cpu_recommended: review.wanted.map(|wanted| wanted.cpu),
        memory_recommended: review.wanted.map(|wanted| wanted.memory),
        cpu_reason: review.cpu_reason,
        memory_reason: review.memory_reason,
        memory_exceeded: evidence.memory_exceeded,
        cpu_exceeded: evidence.cpu_exceeded,
        cpu_samples: evidence.cpu_samples,
        ooms: evidence.ooms,
        measured,
        points: review.points.iter().map(point).collect(),
    }
}

fn point(point: &Point) -> UsagePoint {
    UsagePoint {
        start: point.start,
        span_ms: point.span.0,
        cpu_p95: point.cpu_p95,
        cpu_peak: point.cpu_peak,
        memory_peak: point.memory_peak,
    }
}

fn usage_bucket(bucket: &Bucket) -> UsageBucket {
    UsageBucket::new(Timestamp(bucket.start_us), bucket.width_us, &bucket.usage)
}

/// Machines of one size make one class: `4c-16g`.
fn class_of(capacity: Option<&Capacity>) -> String {
    match capacity {
        Some(capacity) => {
            let Cores(millicores) = capacity.cpu;
            let gib = capacity.memory.0 as f64 / (1_u64 << 30) as f64;
            format!("{}c-{}g", millicores.div_ceil(1000), gib.ceil())
        }
        None => "unknown".to_owned(),
    }
}

/// What the series of all versions of a job begin with.
fn series_of(job: &JobId) -> String {
    format!("{}/{}|", job.namespace, job.name)
}
