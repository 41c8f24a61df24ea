//! Jobs: how they are, what they are, stopping or restarting them, and steering their updates.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::json;
use tw_api::{
    JobStatus, JobsReply, RolloutReply, RolloutRequest, SpecReply, StopReply, StopRequest,
    UsageReply, VersionSummary, WaitingTasks, WhyReply,
};
use tw_model::{Name, TaskUsage, Version};
use tw_scheduler::RolloutOrder;

use crate::app::App;
use crate::caller::Caller;
use crate::clock;
use crate::reply::{Answer, Asked, Reply, invalid, job_id, job_not_found};
use crate::status::{self, SHAPE};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    pub(super) namespace: Option<Name>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Asked(query): Asked<ListQuery>,
) -> Answer<JobsReply> {
    let (jobs, outage) = app.hub.read(|view| {
        let jobs = view
            .jobs()
            .filter(|(record, _)| status::in_namespace(record, query.namespace.as_ref()))
            .map(|(record, job)| status::summary(view, record, job));
        (jobs.collect(), status::outage(view))
    });
    Ok(Reply(JobsReply {
        version: SHAPE,
        jobs,
        outage,
    }))
}

pub(super) async fn status(
    State(app): State<Arc<App>>,
    Path(path): Path<(String, String)>,
) -> Answer<JobStatus> {
    let id = job_id(&path)?;
    let status = app.hub.read_usage(|view, usage| {
        let (record, job) = view.job(&id)?;
        Some(status::job(view, record, job, usage))
    });
    let mut status = status.ok_or_else(|| job_not_found(&id))?;
    status.notes = app.hub.limit_notes(&id);
    Ok(Reply(status))
}

pub(super) async fn why(
    State(app): State<Arc<App>>,
    Path(path): Path<(String, String)>,
) -> Answer<WhyReply> {
    let id = job_id(&path)?;
    let mut waiting: Vec<WaitingTasks> = Vec::new();
    for (index, why) in app.driver.why(id.clone()).await? {
        let message = why.to_string();
        let data = json!(why);
        match waiting.iter_mut().find(|other| other.why == data) {
            Some(other) => {
                other.indexes.push(index);
                other.message = format!("{why:#}");
            }
            None => waiting.push(WaitingTasks {
                indexes: vec![index],
                message,
                why: data,
            }),
        }
    }
    Ok(Reply(WhyReply {
        version: SHAPE,
        job: id,
        waiting,
    }))
}

pub(super) async fn usage(
    State(app): State<Arc<App>>,
    Path(path): Path<(String, String)>,
) -> Answer<UsageReply> {
    let id = job_id(&path)?;
    let reply = app.hub.read_usage(|view, usage| {
        let (record, job) = view.job(&id)?;
        let spec = &job.wanted()?.spec;
        let tasks: Vec<TaskUsage> = job
            .tasks
            .values()
            .filter_map(|row| usage.get(&row.id).cloned())
            .collect();
        let reply = UsageReply {
            version: SHAPE,
            job: id.clone(),
            cpu_request_millicores: spec.resources.cpu.0,
            memory_request_bytes: spec.resources.memory.0,
            history_min_ms: spec.limits.history_min.0,
            replicas: spec.tasks(record.scaled()),
            tasks,
            notes: Vec::new(),
            history: None,
        };
        Some((reply, spec.clone()))
    });
    let (mut reply, spec) = reply.ok_or_else(|| job_not_found(&id))?;
    reply.notes = app.hub.limit_notes(&id);
    let log = app.usage.clone();
    let reviewed = tokio::task::spawn_blocking(move || log.review(&id, &spec, clock::wall())).await;
    match reviewed {
        Ok(Ok(history)) => reply.history = history,
        Ok(Err(cause)) => tracing::warn!(%cause, "cannot read the usage history"),
        Err(cause) => tracing::error!(%cause, "the usage history failed"),
    }
    Ok(Reply(reply))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecQuery {
    /// Another version than the one that is wanted.
    version: Option<Version>,
}

pub(super) async fn spec(
    State(app): State<Arc<App>>,
    Path(path): Path<(String, String)>,
    Asked(query): Asked<SpecQuery>,
) -> Answer<SpecReply> {
    let id = job_id(&path)?;
    let reply = app.hub.read(|view| {
        let (record, job) = view.job(&id).ok_or_else(|| job_not_found(&id))?;
        let current = query.version.unwrap_or(record.version);
        let submitted = job
            .submitted(current)
            .ok_or_else(|| invalid(&format!("version {current} of job {id} is not kept")))?;
        Ok::<_, tw_api::ErrorBody>(SpecReply {
            version: SHAPE,
            current,
            job: submitted,
            stopped: record.stopped,
            versions: job
                .versions
                .values()
                .map(|row| VersionSummary {
                    version: row.version,
                    source: row.source.clone(),
                    plan: row.plan.clone(),
                    by: row.by.clone(),
                    approval: row.approval.clone(),
                    at: row.at,
                })
                .collect(),
        })
    });
    Ok(Reply(reply?))
}

pub(super) async fn stop(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Reply(request): Reply<StopRequest>,
) -> Answer<StopReply> {
    let tasks = app.driver.stop(request, caller.to_string()).await?;
    Ok(Reply(StopReply {
        version: SHAPE,
        tasks,
    }))
}

pub(super) async fn restart(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(path): Path<(String, String)>,
) -> Answer<serde_json::Value> {
    let id = job_id(&path)?;
    let job_version = app.driver.restart(id.clone(), caller.to_string()).await?;
    Ok(Reply(
        json!({ "version": SHAPE, "job": id, "job_version": job_version }),
    ))
}

pub(super) async fn rollout(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(path): Path<(String, String)>,
    Reply(request): Reply<RolloutRequest>,
) -> Answer<RolloutReply> {
    let id = job_id(&path)?;
    let order = match request {
        RolloutRequest::Pause => RolloutOrder::Pause,
        RolloutRequest::Resume => RolloutOrder::Resume,
        RolloutRequest::Abort => RolloutOrder::Abort,
        RolloutRequest::Rollback { to } => RolloutOrder::Rollback { to },
    };
    let by = caller.to_string();
    let job_version = app.driver.rollout(id.clone(), order, by).await?;
    Ok(Reply(RolloutReply {
        version: SHAPE,
        job: id,
        job_version,
    }))
}
