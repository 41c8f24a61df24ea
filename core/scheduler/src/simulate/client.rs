//! People who ask for things, and ask again until they are answered.

use std::collections::BTreeMap;

use tw_model::{JobId, JobSpec, Version};

use crate::{ConfirmRule, Event, JobPlan, RolloutOrder, Submission};

use super::reviewed::{self, Reviewed};
use super::workload;

/// Few enough tasks that some changes have to be confirmed.
const CONFIRM: ConfirmRule = ConfirmRule {
    share_percent: 1,
    tasks_min: 2,
};

/// What someone asks for.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Submit(Box<JobSpec>),
    Stop(JobId),
    Restart(JobId),
    Rollout(JobId, RolloutOrder),
}

impl Request {
    /// What is to be planned, and reviewed, before it is applied.
    pub(super) fn submission(&self) -> Option<Submission> {
        let (jobs, remove) = match self {
            Request::Submit(spec) => (vec![workload::submitted(spec)], Vec::new()),
            Request::Stop(job) => (Vec::new(), vec![job.clone()]),
            Request::Restart(_) | Request::Rollout(..) => return None,
        };
        Some(Submission {
            jobs,
            remove,
            by: "someone".to_owned(),
            confirm: Some(CONFIRM),
            ..Submission::default()
        })
    }

    fn order(&self) -> Option<Event> {
        let by = "someone".to_owned();
        let event = match self {
            Request::Submit(_) | Request::Stop(_) => return None,
            Request::Restart(job) => Event::RestartJob {
                job: job.clone(),
                by,
            },
            Request::Rollout(job, order) => Event::Rollout {
                job: job.clone(),
                order: *order,
                by,
            },
        };
        Some(event)
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
    /// The plan of the open request, once it was seen.
    pub(super) reviewed: Option<Reviewed>,
    pub(super) waiting: std::collections::VecDeque<Request>,
    pub(super) promised: BTreeMap<JobId, Promise>,
}

impl Client {
    /// What is sent to the controller; none before the plan of what is asked was reviewed.
    pub(super) fn event(&self) -> Option<Event> {
        let order = self.open.as_ref().and_then(Request::order);
        order.or_else(|| self.reviewed.as_ref().map(reviewed::apply))
    }

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
