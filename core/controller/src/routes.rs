//! The addresses of the API.

mod agents;
mod allowances;
mod events;
mod jobs;
mod machines;
mod metrics;
mod packages;
mod plans;
mod repositories;
mod secrets;
mod sessions;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post, put};
use axum::{Extension, Router, middleware};
use tw_api::HealthReply;

use crate::app::App;
use crate::caller;
use crate::pages;
use crate::reply::{self, Answer, BodyLimit, Reply};
use crate::status::SHAPE;

/// The most that a JSON body may have: some ten thousand jobs.
const BODY_BYTES_MAX: usize = 64 << 20;

/// All addresses. What is not here is answered with `request.not_found`.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(pages::overview))
        .route("/plans", get(pages::plan_list))
        .route("/plans/{digest}", get(pages::plan))
        .route("/style.css", get(pages::style))
        .route("/login", get(pages::login))
        .route("/v1/page", post(pages::address))
        .route("/v1/health", get(health))
        .route("/metrics", get(metrics::page))
        .merge(people())
        .merge(agents())
        .route(
            "/v1/packages/{digest}",
            get(packages::download).put(packages::upload),
        )
        .fallback(reply::not_found)
        .method_not_allowed_fallback(reply::wrong_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            caller::authorize,
        ))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(Extension(BodyLimit(BODY_BYTES_MAX)))
        .with_state(app)
}

fn people() -> Router<Arc<App>> {
    let job = Router::new()
        .route("/", get(jobs::status))
        .route("/restart", post(jobs::restart))
        .route("/rollout", post(jobs::rollout))
        .route("/rollback", post(repositories::roll_back))
        .route("/events", get(events::list))
        .route("/watch", get(events::watch))
        .route("/why", get(jobs::why))
        .route("/usage", get(jobs::usage))
        .route("/spec", get(jobs::spec));
    Router::new()
        .route("/v1/jobs", get(jobs::list))
        .nest("/v1/jobs/{namespace}/{name}", job)
        .route("/v1/events/stream", get(events::stream))
        .route("/v1/machines", get(machines::list))
        .route("/v1/machines/{machine}/fence", post(machines::fence))
        .route(
            "/v1/allowances",
            get(allowances::list).post(allowances::order),
        )
        .route("/v1/drain", post(machines::drain))
        .route(
            "/v1/services/{namespace}/{name}/{port}",
            get(machines::service),
        )
        .route("/v1/stop", post(jobs::stop))
        .route("/v1/plan", post(plans::plan))
        .route("/v1/apply", post(plans::apply))
        .route("/v1/plans", get(repositories::plans))
        .route("/v1/plans/{digest}", get(repositories::plan))
        .route("/v1/plans/{digest}/approve", post(repositories::approve))
        .route("/v1/plans/{digest}/reject", post(repositories::reject))
        .route("/v1/repositories", get(repositories::list))
        .route("/v1/repositories/{name}/fetch", post(repositories::fetch))
        .route("/v1/secrets", get(secrets::list))
        .route(
            "/v1/secrets/{namespace}/{name}",
            put(secrets::set).delete(secrets::remove),
        )
        .route("/v1/session", get(sessions::client))
}

fn agents() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/agents/register", post(agents::register))
        .route("/v1/agents/{machine}/heartbeat", post(agents::heartbeat))
        .route("/v1/agents/{machine}/stream", get(agents::stream))
        .route(
            "/v1/agents/{machine}/secrets/{namespace}/{job}/{name}",
            get(secrets::value),
        )
        .route(
            "/v1/agents/{machine}/sessions/{session}",
            get(sessions::agent).post(sessions::agent),
        )
}

async fn health(State(app): State<Arc<App>>) -> Answer<HealthReply> {
    Ok(Reply(HealthReply {
        version: SHAPE,
        ready: app.driver.is_ready(),
    }))
}
