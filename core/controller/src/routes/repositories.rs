//! Repositories that are followed, and the plans of their commits.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use tw_api::{
    ApproveReply, DecideRequest, PlanReply, PlansReply, RepositoriesReply, RepositoryStatus,
    RollbackRequest,
};

use crate::app::App;
use crate::caller::Caller;
use crate::reply::{Answer, Reply, job_id, name};
use crate::status::SHAPE;

pub(super) async fn list(State(app): State<Arc<App>>) -> Answer<RepositoriesReply> {
    Ok(Reply(RepositoriesReply {
        version: SHAPE,
        repositories: app.follow.statuses(),
    }))
}

pub(super) async fn fetch(
    State(app): State<Arc<App>>,
    Path(repository): Path<String>,
) -> Answer<RepositoryStatus> {
    Ok(Reply(app.follow.fetch(&name(&repository)?).await?))
}

pub(super) async fn plans(State(app): State<Arc<App>>) -> Answer<PlansReply> {
    Ok(Reply(PlansReply {
        version: SHAPE,
        plans: app.follow.plans(),
    }))
}

pub(super) async fn plan(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
) -> Answer<PlanReply> {
    Ok(Reply(app.follow.plan(&digest)?))
}

pub(super) async fn approve(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
    Reply(request): Reply<DecideRequest>,
) -> Answer<ApproveReply> {
    let caller = caller.to_string();
    Ok(Reply(app.follow.approve(digest, &caller, request).await?))
}

pub(super) async fn reject(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<String>,
    Reply(request): Reply<DecideRequest>,
) -> Answer<PlanReply> {
    let caller = caller.to_string();
    app.follow.reject(digest.clone(), &caller, request).await?;
    Ok(Reply(app.follow.plan(&digest)?))
}

pub(super) async fn roll_back(
    State(app): State<Arc<App>>,
    Path(path): Path<(String, String)>,
    Reply(request): Reply<RollbackRequest>,
) -> Answer<PlanReply> {
    let job = job_id(&path)?;
    Ok(Reply(app.follow.roll_back(job, request.revision).await?))
}
