//! Machines, and where services are.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use tw_api::{DrainReply, DrainRequest, DrainStart, FenceReply, MachinesReply, ServicesReply};
use tw_model::Millis;
use tw_scheduler::DrainOrder;

use crate::app::App;
use crate::caller::Caller;
use crate::clock;
use crate::reply::{Answer, Reply, job_id, job_not_found, name};
use crate::status::{self, SHAPE};

pub(super) async fn list(State(app): State<Arc<App>>) -> Answer<MachinesReply> {
    let mut machines: Vec<_> = app.hub.read(|view| {
        view.machines()
            .map(|row| status::machine(view, row, false))
            .collect()
    });
    for machine in &mut machines {
        machine.connected = app.hub.is_connected(&machine.id);
    }
    Ok(Reply(MachinesReply {
        version: SHAPE,
        machines,
    }))
}

pub(super) async fn service(
    State(app): State<Arc<App>>,
    Path((namespace, job, port)): Path<(String, String, String)>,
) -> Answer<ServicesReply> {
    let id = job_id(&(namespace, job))?;
    let port = name(&port)?;
    let endpoints = app.hub.read(|view| {
        view.job(&id)?;
        let of_port = view.endpoints(&id).filter(|endpoint| endpoint.port == port);
        Some(of_port.collect())
    });
    Ok(Reply(ServicesReply {
        version: SHAPE,
        endpoints: endpoints.ok_or_else(|| job_not_found(&id))?,
    }))
}

pub(super) async fn fence(
    State(app): State<Arc<App>>,
    Path(machine): Path<String>,
    Extension(caller): Extension<Caller>,
) -> Answer<FenceReply> {
    let machine = name(&machine)?;
    let tasks = app
        .driver
        .fence(machine.clone(), caller.to_string())
        .await?;
    Ok(Reply(FenceReply {
        version: SHAPE,
        machine,
        tasks,
    }))
}

pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Reply(request): Reply<DrainRequest>,
) -> Answer<DrainReply> {
    let (machines, order) = match request {
        DrainRequest::Begin {
            machines,
            reason,
            within_ms,
            lasts_ms,
            starts,
        } => {
            let (within, lasts) = (within_ms.map(Millis), lasts_ms.map(Millis));
            let order = match starts {
                None => DrainOrder::Begin {
                    reason,
                    within,
                    lasts,
                },
                Some(start) => DrainOrder::Plan {
                    at: match start {
                        DrainStart::At(moment) => moment,
                        DrainStart::InMs(wait) => clock::wall().plus(Millis(wait)),
                    },
                    reason,
                    within,
                    lasts,
                },
            };
            (machines, order)
        }
        DrainRequest::End { machines } => (machines, DrainOrder::End),
    };
    let by = caller.to_string();
    let tasks = app.driver.drain(machines.clone(), order, by).await?;
    Ok(Reply(DrainReply {
        version: SHAPE,
        machines,
        tasks,
    }))
}
