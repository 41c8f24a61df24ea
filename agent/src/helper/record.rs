//! The files of a task's folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::hook::{HookRecord, HookSet};
use super::memory::OomRecord;
use super::sidecar::SidecarSpec;
use crate::cgroup::{Limits, TreePath, Usage};
use crate::log::{LogCounts, LogLimits};
use crate::process::ProcessIdentity;
use crate::sandbox::{Ended, SandboxSpec, StartError};

pub const LAUNCH_FILE: &str = "launch.json";
pub const STARTED_FILE: &str = "started.json";
pub const EXIT_FILE: &str = "exit.json";
pub const SOCKET_FILE: &str = "helper.sock";
pub const LOG_FOLDER: &str = "log";
/// Holds a folder for each sidecar, with its log.
pub const SIDECARS_FOLDER: &str = "sidecars";

/// More than any record of an end takes.
const RESERVED_BYTES: u64 = 32 << 10;

/// What a helper is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// The protocol that a helper must speak to do what is said here; see [`LaunchRecord::lowest_proto`].
    pub proto: u32,
    /// The task's name, for people.
    pub task: String,
    pub tree: TreePath,
    /// The task's leaf in the tree.
    pub leaf: String,
    /// The leaf all helpers of the agent share.
    pub helpers_leaf: String,
    pub limits: Limits,
    /// The cores that are the task's own; none for one that shares.
    #[serde(default)]
    pub cores: Vec<u32>,
    pub sandbox: SandboxSpec,
    pub log: LogLimits,
    /// How the task is asked to end when nobody says otherwise.
    #[serde(default)]
    pub stop: StopRule,
    #[serde(default)]
    pub hooks: HookSet,
    #[serde(default)]
    pub sidecars: Vec<SidecarSpec>,
    /// Until when it may run, if it may not run without end; the agent moves this on.
    #[serde(default)]
    pub term: Option<TermEnd>,
}

impl LaunchRecord {
    /// The oldest protocol whose helpers do all that is said here: a helper refuses what it would do in part.
    pub fn lowest_proto(&self) -> u32 {
        if !self.sandbox.secrets.is_empty() || self.sandbox.has_own_root {
            4
        } else if self.term.is_some() || !self.cores.is_empty() {
            3
        } else {
            2
        }
    }
}

/// When a helper ends its task if it hears nothing until then, in milliseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermEnd {
    pub signal_at_ms: u64,
    pub kill_at_ms: u64,
}

/// How a task is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRule {
    pub signal: i32,
    /// From the signal to the kill.
    pub grace_ms: u64,
}

impl Default for StopRule {
    fn default() -> StopRule {
        StopRule {
            signal: libc::SIGTERM,
            grace_ms: 10_000,
        }
    }
}

/// Who runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedRecord {
    pub proto: u32,
    pub helper: ProcessIdentity,
    /// The sandbox's PID 1.
    pub task: ProcessIdentity,
    /// The kernel's number of the task's cgroup.
    pub cgroup_id: u64,
    /// When the command began, in microseconds since 1970.
    pub started_at_us: i64,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub proto: u32,
    pub outcome: Outcome,
    /// In microseconds since 1970.
    pub ended_at_us: i64,
    /// Whether the kernel killed one of its processes because the memory limit was reached.
    pub is_oom: bool,
    /// The moment in which it ran out of memory and was asked to end for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom: Option<Box<OomRecord>>,
    /// What became of the hooks that ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookRecord>,
    /// What its whole life took.
    pub usage: Usage,
    pub log: LogCounts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command never ran.
    NeverStarted(StartError),
    /// The helper died, and the task with it; written by the agent that found out.
    HelperLost,
    Ended {
        how: Ended,
        /// Whether it was asked to end, or killed, by Twill.
        was_asked: bool,
        /// Whether its grace ran out.
        was_killed: bool,
        /// Whether its term was over, and nobody had prolonged it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        term_over: bool,
    },
}

/// Why a record could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a record this version reads", path.display())]
    Format {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Writes a record so that after a power cut it is there whole or not at all.
pub fn write_durably(
    folder: &Path,
    name: &str,
    record: &impl Serialize,
) -> Result<(), RecordError> {
    replace(folder, name, record, true)
}

/// Sets space aside for a record, so that it can be written when the disk is full.
pub fn reserve(folder: &Path, name: &str) -> Result<(), RecordError> {
    let path = folder.join(format!("{name}.draft"));
    let reserve = || -> io::Result<()> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        // As long as it is: what is not used need not be cut off again, which waits for the disk.
        let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&file, flags, 0, RESERVED_BYTES) {
            // A file system that cannot: the record is written when there is room.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    };
    reserve().map_err(|source| RecordError::File {
        action: "reserve space for",
        path: path.clone(),
        source,
    })
}

/// Writes a record so that it is there whole or not at all however a process ends. A power cut may take it
/// back: for records that mean nothing to the next boot.
pub fn write(folder: &Path, name: &str, record: &impl Serialize) -> Result<(), RecordError> {
    replace(folder, name, record, false)
}

fn replace(
    folder: &Path,
    name: &str,
    record: &impl Serialize,
    is_durable: bool,
) -> Result<(), RecordError> {
    let path = folder.join(name);
    let text = serde_json::to_vec(record).map_err(|source| RecordError::Format {
        path: path.clone(),
        source,
    })?;
    let draft = folder.join(format!("{name}.draft"));
    let store = || -> io::Result<()> {
        // Not cut off first: what was reserved for it would be given back to a full disk.
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&draft)?;
        file.write_all(&text)?;
        let length = text.len() as u64;
        // The rest of an attempt that failed.
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        if is_durable {
            file.sync_data()?;
        }
        fs::rename(&draft, &path)?;
        match is_durable {
            true => File::open(folder)?.sync_all(),
            false => Ok(()),
        }
    };
    store().map_err(|source| RecordError::File {
        action: "write",
        path: path.clone(),
        source,
    })
}

/// Reads a record; none when it was never written.
pub fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, RecordError> {
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| RecordError::Format { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RecordError::File {
            action: "read",
            path,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::{RESERVED_BYTES, read, reserve, write, write_durably};

    #[test]
    fn what_is_reserved_is_space_and_no_length() {
        let folder = tempfile::tempdir().unwrap();
        reserve(folder.path(), "end.json").unwrap();
        let draft = folder.path().join("end.json.draft").metadata().unwrap();
        assert_eq!(draft.len(), 0);
        // None where the file system cannot.
        assert!([0, RESERVED_BYTES].contains(&(draft.blocks() * 512)));
        write_durably(folder.path(), "end.json", &[1, 2]).unwrap();
        let found: Option<Vec<u8>> = read(folder.path(), "end.json").unwrap();
        assert_eq!(found, Some(vec![1, 2]));
    }

    #[test]
    fn nothing_of_a_longer_draft_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("end.json.draft"), "x".repeat(100)).unwrap();
        write(folder.path(), "end.json", &7).unwrap();
        assert_eq!(read(folder.path(), "end.json").unwrap(), Some(7));
    }
}
