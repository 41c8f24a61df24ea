//! The two ends of a session.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tracing::Instrument;
use tw_api::SESSION_PROTOCOL;

use crate::app::App;
use crate::caller::Caller;
use crate::reply::{Refusal, invalid, name};

/// `GET /v1/session`: whoever wants logs or a command.
pub(super) async fn client(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    let sessions = Arc::clone(&app);
    upgrade(&app, request, move |connection| async move {
        let by = caller.to_string();
        sessions
            .sessions
            .serve(connection, &by, &sessions.driver)
            .await;
    })
}

/// `GET /v1/agents/{machine}/sessions/{session}`: the agent that serves it.
pub(super) async fn agent(
    State(app): State<Arc<App>>,
    Path((machine, session)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    check_protocol(request.headers())?;
    let claim = app.sessions.claim(&name(&machine)?, &session)?;
    upgrade(&app, request, |connection| async { claim.join(connection) })
}

/// Answers that the protocol changes, and goes on once it has.
fn upgrade<F>(
    app: &App,
    request: Request,
    serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<Response, Refusal>
where
    F: Future<Output = ()> + Send + 'static,
{
    check_protocol(request.headers())?;
    let stopping = app.stopping.clone();
    let upgraded = hyper::upgrade::on(request);
    let session = async move {
        match upgraded.await {
            Ok(connection) => tokio::select! {
                () = serve(TokioIo::new(connection)) => {}
                () = stopping.wait() => {}
            },
            Err(cause) => tracing::debug!(%cause, "a session's caller went away"),
        }
    };
    tokio::spawn(session.in_current_span());
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, SESSION_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn check_protocol(headers: &HeaderMap) -> Result<(), Refusal> {
    let asked = headers.get(UPGRADE).and_then(|value| value.to_str().ok());
    match asked {
        Some(SESSION_PROTOCOL) => Ok(()),
        _ => Err(Refusal(invalid(&format!(
            "a session is opened with the header `Upgrade: {SESSION_PROTOCOL}`"
        )))),
    }
}
