//! People who ask for things, and ask again until they are answered.

use std::collections::BTreeMap;

use tw_model::{JobId, JobSpec, Version};

use crate::{Event, JobPlan, RolloutOrder, Submission};

use super::workload;

/// What someone asks for.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Submit(Box<JobSpec>),
    Stop(JobId),
    Restart(JobId),
    Rollout(JobId, RolloutOrder),
}

impl Request {
    pub(super) fn event(&self) -> Event {
        let by = "someone".to_owned();
        match self {
            Request::Submit(spec) => Event::Submit {
                submission: Submission {
                    jobs: vec![workload::submitted(spec)],
                    by,
                    ..Submission::default()
                },
                expected: None,
            },
            Request::Stop(job) => Event::Stop {
                job: job.clone(),
                by,
            },
            Request::Restart(job) => Event::RestartJob {
                job: job.clone(),
                by,
            },
            Request::Rollout(job, order) => Event::Rollout {
                job: job.clone(),
                order: *order,
                by,
            },
        }
    }
}

/// What was promised of a job.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) version: Version,
    pub(super) spec: JobSpec,
    pub(super) stopped: bool,
}

/// One person, who asks one thing at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    /// Counts the requests; an answer to an older one is too late.
    pub(super) number: u64,
    pub(super) open: Option<Request>,
    pub(super) waiting: std::collections::VecDeque<Request>,
    pub(super) promised: BTreeMap<JobId, Promise>,
}

impl Client {
    /// Notes that an order or a restart was carried out, after which a job is wanted so.
    pub(super) fn ordered(&mut self, version: Version, specs: impl Fn(&JobId) -> Option<JobSpec>) {
        if let Some(Request::Rollout(job, _) | Request::Restart(job)) = self.open.take()
            && let (Some(promise), Some(spec)) = (self.promised.get_mut(&job), specs(&job))
        {
            promise.version = version;
            promise.spec = spec;
        }
    }

    /// Notes that a request was granted.
    pub(super) fn granted(&mut self, plan: Option<&JobPlan>) {
        match self.open.take() {
            Some(Request::Submit(spec)) => {
                let known = self.promised.get(&spec.id()).map_or(0, |old| old.version);
                let promise = Promise {
                    version: plan.map_or(known, |plan| plan.version),
                    stopped: false,
                    spec: (*spec).clone(),
                };
                self.promised.insert(spec.id(), promise);
            }
            Some(Request::Stop(job)) => {
                if let Some(promise) = self.promised.get_mut(&job) {
                    promise.stopped = true;
                }
            }
            Some(Request::Restart(_) | Request::Rollout(..)) | None => {}
        }
    }
}
