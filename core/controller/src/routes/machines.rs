//! Machines, and where services are.

use std::sync::Arc;

use axum::extract::{Path, State};
use tw_api::{MachinesReply, ServicesReply};

use crate::app::App;
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
