//! Planning and applying.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use tw_api::{ApplyReply, ApplyRequest, PlanRequest};

use crate::app::App;
use crate::caller::Caller;
use crate::reply::{Answer, Reply};

pub(super) async fn plan(
    State(app): State<Arc<App>>,
    Reply(request): Reply<PlanRequest>,
) -> Answer<tw_scheduler::Plan> {
    app.secrets
        .check(request.jobs.iter().map(|job| &job.spec))?;
    let plan = app.driver.plan(request).await?;
    Ok(Reply((*app.follow.shelf().put(plan)).clone()))
}

pub(super) async fn apply(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Reply(request): Reply<ApplyRequest>,
) -> Answer<ApplyReply> {
    app.registry
        .check(request.jobs.iter().map(|job| &job.spec))?;
    app.secrets
        .check(request.jobs.iter().map(|job| &job.spec))?;
    Ok(Reply(app.driver.apply(request, caller.to_string()).await?))
}
