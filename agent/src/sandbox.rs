//! The sandbox a task runs in.
//!
//! A task gets user, mount, pid, uts, ipc and cgroup namespaces of its own and shares the host's network. Its
//! root is an overlay over a skeleton that the agent prepares once ([`base`]), with the host's programs
//! bound in read-only. Its PID 1 is a small init ([`init`]) that reaps, passes signals on and tells the
//! helper how the command ended; the command itself runs without privileges, capabilities or the dangerous
//! system calls ([`seccomp`]).
//!
//! Nothing here follows a path that a task or a package controls before the root has been changed to the
//! task's own.

pub mod base;
mod capabilities;
mod clone;
mod command;
mod exec;
pub mod features;
pub mod image;
mod init;
mod launcher;
pub(crate) mod mounts;
pub(crate) mod passing;
pub mod seccomp;
pub mod secrets;
pub mod unpack;
pub mod user;
pub mod users;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use clone::exit_now;
pub use clone::{Fork, fork};
pub use command::Stdio;
pub use exec::{Connection, Entered, Tools, enter};
pub use init::Ended;
pub use launcher::{Prepared, Started, spawn};
pub(crate) use users::UserNamespace;
pub use users::{UserMode, become_root_of_own};

/// Everything that makes up one task's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The name that `hostname` answers.
    pub hostname: String,
    pub command: CommandSpec,
    /// The skeleton that [`base::prepare`] made.
    pub base: PathBuf,
    /// The folder of the task that holds `upper`, `work` and `root`.
    pub folder: PathBuf,
    /// What is bound into the root, in this order.
    pub binds: Vec<Bind>,
    /// The names of the task's secrets; their values come by descriptor.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Size of `/dev/shm`.
    pub shm_bytes_max: u64,
    /// Whether all of the root may be written, by whom its permissions allow it; otherwise `/run`, `/tmp` and
    /// `/var` alone.
    #[serde(default)]
    pub is_root_writable: bool,
    /// Whether the root is a copy of the base that is the task's own, in `folder`, rather than a layer over the base.
    #[serde(default)]
    pub has_own_root: bool,
    #[serde(default)]
    pub users: UserMode,
    /// The most processes of the task's user, for a user namespace that is the task's own where no cgroup counts.
    #[serde(default)]
    pub pids_max: Option<u64>,
}

/// What is run, as whom, with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Program and arguments; a program without a slash is looked up in the environment's `PATH`.
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// A name or a number of the host's `passwd`.
    pub user: String,
    /// The working directory, inside the sandbox.
    pub workdir: PathBuf,
}

/// A file or folder of the host that a task sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the sandbox; absolute.
    pub target: PathBuf,
    pub is_writable: bool,
    /// Leave it out when the host does not have it, rather than fail.
    pub is_optional: bool,
    /// The host's owners stay: a task, its root included, reads of it what every user of the machine may read.
    #[serde(default)]
    pub is_of_host: bool,
}

/// The name of a copy of the base in a task's folder.
pub const OWN_ROOT: &str = "image";

/// The name of the folder in a task's folder that holds what it writes, where its root is a layer over the base.
pub const UPPER: &str = "upper";

/// The name of the folder beside it that an overlay needs for itself.
pub(crate) const WORK: &str = "work";

/// The search path of a command that sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which part of a start went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Cgroup,
    Clone,
    User,
    Mount,
    Root,
    Identity,
    Workdir,
    Privileges,
    Seccomp,
    Terminal,
    Command,
    /// A hook before the start.
    Hook,
    /// The process that was setting up died without a word.
    Lost,
}

/// Why a task could not be started: where, with which error, on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartError {
    pub stage: Stage,
    /// The kernel's error number, where there is one.
    pub errno: Option<i32>,
    pub message: String,
}

impl StartError {
    /// A failure of `what`, with the kernel's reason.
    fn os(stage: Stage, what: impl fmt::Display, error: impl Into<io::Error>) -> StartError {
        let error = error.into();
        StartError {
            stage,
            errno: error.raw_os_error(),
            message: format!("{what}: {error}"),
        }
    }

    /// A failure that is not the kernel's.
    fn plain(stage: Stage, message: impl Into<String>) -> StartError {
        StartError {
            stage,
            errno: None,
            message: message.into(),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

/// Adds stage and subject to an error on its way up.
trait At<T> {
    fn at(self, stage: Stage, what: impl fmt::Display) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, stage: Stage, what: impl fmt::Display) -> Result<T, StartError> {
        self.map_err(|error| StartError::os(stage, what, error))
    }
}
