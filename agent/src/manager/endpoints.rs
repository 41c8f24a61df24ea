//! Where the services are that tasks of this machine name, and the file in each task that says so.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tw_model::{Endpoint, JobId, JobSpec, Name};

/// The file in a task's run folder.
const FILE: &str = "endpoints.json";

/// What is in it where no service is named.
const NO_SERVICES: &[u8] = b"{}";

/// The newest endpoints that the controller has sent.
#[derive(Debug)]
pub(super) struct Endpoints {
    newest: Mutex<Vec<Endpoint>>,
    /// What every task sees that names no service: a folder for each would cost each start.
    of_none: PathBuf,
}

impl Endpoints {
    /// None yet. `of_none` is the run folder of all tasks that name no service; it is made where it is missing.
    pub(super) fn open(of_none: PathBuf) -> io::Result<Endpoints> {
        make_run_folder(&of_none)?;
        // Not written again: an agent also starts on a disk that is full.
        if !std::fs::read(of_none.join(FILE)).is_ok_and(|found| found == NO_SERVICES) {
            write(&of_none, NO_SERVICES)?;
        }
        Ok(Endpoints {
            newest: Mutex::default(),
            of_none,
        })
    }

    pub(super) fn set(&self, endpoints: Vec<Endpoint>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    fn get(&self) -> Vec<Endpoint> {
        self.newest
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

    /// The folder that a task sees, which is `own` if its job names services.
    pub(super) fn run_folder(&self, spec: &JobSpec, own: PathBuf) -> PathBuf {
        match spec.services().is_empty() {
            true => self.of_none.clone(),
            false => own,
        }
    }

    /// Makes the run folder of a task whose job names services, with these in it.
    pub(super) fn begin(&self, spec: &JobSpec, own: &Path) -> io::Result<()> {
        if spec.services().is_empty() {
            return Ok(());
        }
        make_run_folder(own)?;
        self.write(spec, own)
    }

    /// Writes the services that a job names into a task's run folder, in one step.
    pub(super) fn write(&self, spec: &JobSpec, run_folder: &Path) -> io::Result<()> {
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
        write(run_folder, &serde_json::to_vec(&services)?)
    }
}

fn make_run_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder)
}

fn write(run_folder: &Path, services: &[u8]) -> io::Result<()> {
    let draft = run_folder.join(format!(".{FILE}"));
    std::fs::write(&draft, services)?;
    std::fs::rename(draft, run_folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Endpoints, FILE};

    #[test]
    fn what_tasks_find_that_name_no_service_is_mended_and_otherwise_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("run");
        let file = folder.join(FILE);
        Endpoints::open(folder.clone()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
        // As a power cut may leave it.
        fs::write(&file, "").unwrap();
        Endpoints::open(folder.clone()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
        // As on a disk that takes nothing.
        fs::create_dir(folder.join(format!(".{FILE}"))).unwrap();
        Endpoints::open(folder).unwrap();
    }
}
