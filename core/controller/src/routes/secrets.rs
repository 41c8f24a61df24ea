//! Secrets: set and removed by people, read by machines alone.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use tw_api::{ErrorBody, SecretReply, SecretStatus, SecretsReply};
use tw_model::{Code, JobId, MachineId, Name, TaskRecord, VersionRecord};

use crate::app::App;
use crate::caller::Caller;
use crate::reply::{Answer, Asked, Refusal, Reply, name};
use crate::status::SHAPE;
use crate::view::View;

use super::jobs::ListQuery;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Asked(query): Asked<ListQuery>,
) -> Answer<SecretsReply> {
    let kept = app.secrets.list()?.into_iter();
    let wanted = kept.filter(|kept| {
        query
            .namespace
            .as_ref()
            .is_none_or(|it| *it == kept.namespace)
    });
    let secrets = app.hub.read(|view| {
        let status = wanted.map(|kept| SecretStatus {
            jobs: readers(view, &kept.namespace, &kept.name),
            namespace: kept.namespace,
            name: kept.name,
            set_at: kept.set_at,
        });
        status.collect()
    });
    Ok(Reply(SecretsReply {
        version: SHAPE,
        secrets,
    }))
}

pub(super) async fn set(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path((namespace, secret)): Path<(String, String)>,
    value: Bytes,
) -> Answer<SecretReply> {
    let (namespace, secret) = (name(&namespace)?, name(&secret)?);
    app.secrets.set(&namespace, &secret, &value)?;
    tracing::info!(%namespace, %secret, by = %caller, "a secret was set");
    Ok(Reply(reply(&app, namespace, secret)))
}

pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path((namespace, secret)): Path<(String, String)>,
) -> Answer<SecretReply> {
    let (namespace, secret) = (name(&namespace)?, name(&secret)?);
    let jobs = app.hub.read(|view| readers(view, &namespace, &secret));
    if let Some(job) = jobs.first() {
        let refusal = ErrorBody::new(
            Code::SecretInUse,
            format!("secret '{secret}' is read by job {job}, whose tasks could not start again"),
        );
        return Err(refusal
            .with_hint("take it out of the job's spec first, or stop the job")
            .into());
    }
    app.secrets.remove(&namespace, &secret)?;
    tracing::info!(%namespace, %secret, by = %caller, "a secret was removed");
    Ok(Reply(reply(&app, namespace, secret)))
}

fn reply(app: &App, namespace: Name, name: Name) -> SecretReply {
    SecretReply {
        version: SHAPE,
        jobs: app.hub.read(|view| readers(view, &namespace, &name)),
        namespace,
        name,
    }
}

/// The jobs that read a secret and are not stopped.
fn readers(view: &View, namespace: &Name, secret: &Name) -> Vec<JobId> {
    let jobs = view.jobs().filter(|(record, job)| {
        let reads = |row: &VersionRecord| row.spec.secrets.iter().any(|it| it.name == *secret);
        record.id.namespace == *namespace && !record.stopped && job.wanted().is_some_and(reads)
    });
    jobs.map(|(record, _)| record.id.clone()).collect()
}

/// A value, for a machine that has a task of the job.
pub(super) async fn value(
    State(app): State<Arc<App>>,
    Path((machine, namespace, job, secret)): Path<(String, String, String, String)>,
) -> Result<Response, Refusal> {
    let (machine, namespace, secret): (MachineId, Name, Name) =
        (name(&machine)?, name(&namespace)?, name(&secret)?);
    let job = JobId::new(namespace.clone(), name(&job)?);
    let may_read = app.hub.read(|view| reads_on(view, &machine, &job, &secret));
    if !may_read {
        return Err(ErrorBody::new(
            Code::AuthDenied,
            format!("no task of job {job} on machine {machine} reads secret '{secret}'"),
        )
        .into());
    }
    let value = app.secrets.value(&namespace, &secret)?;
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, value).into_response())
}

/// Whether a task of the job that has not ended is on the machine, at a version that reads the secret.
fn reads_on(view: &View, machine: &MachineId, job: &JobId, secret: &Name) -> bool {
    let Some((_, rows)) = view.job(job) else {
        return false;
    };
    let here = |row: &&TaskRecord| row.id.job == *job && !row.state.is_terminal();
    view.tasks_on(machine).filter(here).any(|row| {
        let version = rows.versions.get(&row.version);
        version.is_some_and(|version| version.spec.secrets.iter().any(|it| it.name == *secret))
    })
}
