//! Sidecars: programs beside the command, each in a sandbox of its own, within the task's limits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use super::output::Outputs;
use super::record::LOG_FOLDER;
use crate::cgroup::CgroupTree;
use crate::log::{LogLimits, LogWriter};
use crate::sandbox::{Prepared, SandboxSpec, Stage, StartError, Started, secrets};

/// The wait before a sidecar that has ended is started again; it doubles up to the longest.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_LONGEST: Duration = Duration::from_secs(30);

/// What is run beside a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SidecarSpec {
    pub name: String,
    /// Its folder holds `upper`, `work` and `root`, and its `log`.
    pub sandbox: SandboxSpec,
    pub log: LogLimits,
}

/// A sidecar that runs, or waits to be started again.
pub(super) struct Sidecar {
    spec: SidecarSpec,
    leaf: String,
    secrets: Option<OwnedFd>,
    log: LogWriter,
    running: Option<(Started, Outputs)>,
    start_at: Instant,
    wait: Duration,
}

impl Sidecar {
    /// Starts a sidecar for the first time.
    pub(super) fn start(
        spec: &SidecarSpec,
        tree: &dyn CgroupTree,
        leaf: &str,
        secrets: Option<OwnedFd>,
    ) -> Result<Sidecar, StartError> {
        let about = |error: StartError| StartError {
            message: format!("sidecar {}: {}", spec.name, error.message),
            ..error
        };
        let log = LogWriter::create(&spec.sandbox.folder.join(LOG_FOLDER), spec.log)
            .map_err(|error| about(lost(crate::error::chain(&error))))?;
        Ok(Sidecar {
            running: Some(spawn(&spec.sandbox, tree, leaf, secrets.as_ref()).map_err(about)?),
            spec: spec.clone(),
            leaf: leaf.to_owned(),
            secrets,
            log,
            start_at: Instant::now(),
            wait: RESTART_FIRST,
        })
    }

    /// What to wait for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        let running = self.running.iter();
        running.flat_map(|(started, outputs)| outputs.pipes().chain([&started.pidfd]))
    }

    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        match &self.running {
            Some((_, outputs)) => outputs.due_at(),
            None => Some(self.start_at),
        }
    }

    /// Takes its output, notices its end, and starts it again in time.
    pub(super) fn attend(&mut self, tree: &dyn CgroupTree) {
        let Some((started, outputs)) = &mut self.running else {
            if Instant::now() >= self.start_at {
                self.start_again(tree);
            }
            return;
        };
        outputs.drain(&mut self.log);
        outputs.flush_due(&mut self.log);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Ok(Some(_ended)) = waitid(WaitId::PidFd(started.pidfd.as_fd()), options) {
            outputs.finish(&mut self.log);
            self.running = None;
            self.start_at = Instant::now() + self.wait;
            self.wait = (self.wait * 2).min(RESTART_LONGEST);
        }
    }

    fn start_again(&mut self, tree: &dyn CgroupTree) {
        match spawn(&self.spec.sandbox, tree, &self.leaf, self.secrets.as_ref()) {
            Ok(running) => self.running = Some(running),
            // It is tried again; the command goes on.
            Err(_) => self.start_at = Instant::now() + self.wait,
        }
    }

    pub(super) fn ask_to_end(&self) {
        if let Some((started, _)) = &self.running {
            let _gone = pidfd_send_signal(&started.pidfd, Signal::TERM);
        }
    }

    /// Ends it for good and keeps the last of its output.
    pub(super) fn end(&mut self) {
        if let Some((started, mut outputs)) = self.running.take() {
            let _gone = pidfd_send_signal(&started.pidfd, Signal::KILL);
            let _status = waitid(WaitId::PidFd(started.pidfd.as_fd()), WaitIdOptions::EXITED);
            outputs.finish(&mut self.log);
        }
        // Losing the last lines to a power cut is no reason to stop here.
        let _synced = self.log.sync();
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

fn spawn(
    sandbox: &SandboxSpec,
    tree: &dyn CgroupTree,
    leaf: &str,
    secrets: Option<&OwnedFd>,
) -> Result<(Started, Outputs), StartError> {
    let entry = tree
        .entry(leaf)
        .map_err(|error| lost(crate::error::chain(&error)))?;
    let (outputs, [stdout, stderr]) = Outputs::new().map_err(|error| lost(error.to_string()))?;
    let prepared = Prepared::new(sandbox.users, entry.procs)?;
    let secrets = secrets::share(secrets).map_err(|error| lost(error.to_string()))?;
    let started = prepared.start(sandbox, entry.directory, secrets, stdout, stderr)?;
    tree.admit(leaf, started.pid)
        .map_err(|error| lost(crate::error::chain(&error)))?;
    Ok((started, outputs))
}

fn lost(message: String) -> StartError {
    StartError {
        stage: Stage::Clone,
        errno: None,
        message,
    }
}

/// Makes the folder of a sidecar.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    super::folder::make_layers(folder)
}
