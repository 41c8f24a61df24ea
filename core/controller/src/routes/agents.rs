//! What agents say and are told.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use serde::Deserialize;
use tw_api::{
    ErrorBody, Heartbeat, HeartbeatReply, PROTO, PROTO_OLDEST, Register, Registered, UsageReports,
};
use tw_model::{Code, MachineId};
use tw_scheduler::ailment;

use crate::app::App;
use crate::clock;
use crate::reply::{Answer, Asked, Refusal, Reply, invalid, name};
use crate::routes::events::server_sent;
use crate::view::View;

pub(super) async fn register(
    State(app): State<Arc<App>>,
    Reply(value): Reply<serde_json::Value>,
) -> Answer<Registered> {
    // Before the rest is read: a message of another version may have another shape.
    check_proto(&value)?;
    let register: Register = serde_json::from_value(value)
        .map_err(|cause| invalid(&format!("the body is not what this address takes: {cause}")))?;
    let admission = app.driver.register(register).await?;
    Ok(Reply(Registered {
        proto: PROTO,
        epoch: admission.epoch,
        session: admission.session,
        heartbeat_every_ms: u64::try_from(app.heartbeat_every.as_millis()).unwrap_or(u64::MAX),
    }))
}

fn check_proto(value: &serde_json::Value) -> Result<(), ErrorBody> {
    let proto = value["proto"]
        .as_u64()
        .ok_or_else(|| invalid("the first message names its protocol's version as `proto`"))?;
    match (u64::from(PROTO_OLDEST)..=u64::from(PROTO)).contains(&proto) {
        true => Ok(()),
        false => Err(ErrorBody::new(
            Code::ProtoUnsupported,
            format!(
                "the agent speaks version {proto}; this controller knows {PROTO_OLDEST} to {PROTO}"
            ),
        )
        .with_hint("upgrade the older of the two")),
    }
}

pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    Path(machine): Path<String>,
    Reply(mut heartbeat): Reply<Heartbeat>,
) -> Answer<HeartbeatReply> {
    let machine = name(&machine)?;
    let epoch = heartbeat.epoch;
    let sample = heartbeat.sample.take();
    let history = std::mem::take(&mut heartbeat.history);
    let mut reply = app.driver.heartbeat(machine.clone(), heartbeat).await?;
    if let Some(mut sample) = sample {
        let ailments = std::mem::take(&mut sample.ailments);
        let is_news = |view: &View| {
            let row = view.machine(&machine);
            row.is_some_and(|row| ailment::is_news(row, &ailments))
        };
        if app.hub.read(is_news) {
            app.driver.ailing(machine.clone(), epoch, ailments).await?;
        }
        app.hub.note_sample(&machine, sample);
    }
    reply.acknowledged_history = match history.reports.is_empty() {
        true => 0,
        false => keep(&app, &machine, history).await,
    };
    Ok(Reply(reply))
}

/// Keeps what a machine reports of the past; what could not be written is sent again.
async fn keep(app: &App, machine: &MachineId, reports: UsageReports) -> u64 {
    let capacity = app
        .hub
        .read(|view| view.machine(machine).map(|record| record.capacity.clone()));
    let log = app.usage.clone();
    let kept =
        tokio::task::spawn_blocking(move || log.keep(clock::wall(), capacity.as_ref(), &reports));
    match kept.await {
        Ok(Ok(seq)) => seq,
        Ok(Err(cause)) => {
            tracing::warn!(%cause, "what jobs used is not kept");
            0
        }
        Err(cause) => {
            tracing::error!(%cause, "the usage history failed");
            0
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    epoch: u64,
}

pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(machine): Path<String>,
    Asked(query): Asked<StreamQuery>,
) -> Result<impl IntoResponse, Refusal> {
    let line = app.hub.open(&name(&machine)?, query.epoch)?;
    let events = futures_util::stream::unfold(line, |mut line| async move {
        let event = line.next().await?;
        Some((event, line))
    });
    Ok(server_sent(events, app.stopping.clone()))
}
