//! Where the services are that tasks of this machine name, and the file in each task that says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tw_model::{Endpoint, JobId, JobSpec, Name};

/// The file in a task's run folder.
const FILE: &str = "endpoints.json";

/// The newest endpoints that the controller has sent.
#[derive(Debug, Default)]
pub(super) struct Endpoints(Mutex<Vec<Endpoint>>);

impl Endpoints {
    pub(super) fn set(&self, endpoints: Vec<Endpoint>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    fn get(&self) -> Vec<Endpoint> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `HOST:PORT` of one task of a service; different tasks get different ones, as far as there are.
    pub(super) fn pick(&self, job: &JobId, port: &Name, index: u32) -> Option<String> {
        let endpoints = self.get();
        let serving: Vec<&Endpoint> = endpoints
            .iter()
            .filter(|endpoint| endpoint.job == *job && endpoint.port == *port)
            .collect();
        let chosen = serving.get(index as usize % serving.len().max(1))?;
        Some(chosen.address.clone())
    }

    /// Writes the services that a job names into a task's run folder, in one step.
    pub(super) fn write(&self, spec: &JobSpec, run_folder: &Path) -> std::io::Result<()> {
        let wanted = spec.services();
        let mut services: BTreeMap<Name, BTreeMap<Name, Vec<String>>> = wanted
            .iter()
            .map(|job| (job.name.clone(), BTreeMap::new()))
            .collect();
        for endpoint in self
            .get()
            .into_iter()
            .filter(|endpoint| wanted.contains(&endpoint.job))
        {
            services
                .entry(endpoint.job.name)
                .or_default()
                .entry(endpoint.port)
                .or_default()
                .push(endpoint.address);
        }
        let draft = run_folder.join(format!(".{FILE}"));
        std::fs::write(&draft, serde_json::to_vec(&services)?)?;
        std::fs::rename(draft, run_folder.join(FILE))
    }
}
