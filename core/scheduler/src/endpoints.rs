//! Where the tasks of services listen.

use std::collections::BTreeMap;

use tw_model::{Desired, Endpoint, JobId, MachineState, Name, TaskRecord, TaskState};

use crate::{JobState, State};

/// A port of a job.
pub type Service = (JobId, Name);

/// The endpoints of every service, in the order of their tasks. A service without any is left out.
pub fn endpoints(state: &State) -> BTreeMap<Service, Vec<Endpoint>> {
    let mut services: BTreeMap<Service, Vec<Endpoint>> = BTreeMap::new();
    for endpoint in state.jobs().flat_map(|job| job_endpoints(state, job)) {
        let service = (endpoint.job.clone(), endpoint.port.clone());
        services.entry(service).or_default().push(endpoint);
    }
    services
}

/// The endpoints of one job.
pub fn job_endpoints<'a>(
    state: &'a State,
    job: &'a JobState,
) -> impl Iterator<Item = Endpoint> + 'a {
    let serving = job.tasks().filter(|row| serves(job, row));
    serving.flat_map(|row| {
        let machine = row
            .machine
            .as_ref()
            .and_then(|machine| state.machine(machine));
        let host = machine
            .filter(|machine| machine.state == MachineState::Up)
            .map(|machine| machine.facts.address.as_str());
        let ports = row.ports.iter();
        ports.filter_map(move |(name, number)| {
            Some(Endpoint {
                job: row.id.job.clone(),
                port: name.clone(),
                task: row.id.clone(),
                address: format!("{}:{number}", host?),
            })
        })
    })
}

/// Whether a task is wanted, runs and is healthy; without checks, whether it runs.
pub fn serves(job: &JobState, row: &TaskRecord) -> bool {
    let healthy = match job.spec_of(row).health.is_empty() {
        true => row.healthy != Some(false),
        false => row.healthy == Some(true),
    };
    row.state == TaskState::Running && row.desired == Desired::Run && healthy
}
