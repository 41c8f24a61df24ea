//! What a controller is told when it starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tw_model::{FollowMode, Name};
use tw_scheduler::{ConfirmRule, StopLimits};
use tw_spec::Remote;

/// How a controller runs. [`ControllerConfig::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// Everything that the controller keeps lies here.
    pub state_dir: PathBuf,
    /// The Unix socket that it listens on.
    pub socket: PathBuf,
    /// A loopback address to listen on as well; callers need the token.
    pub listen: Option<SocketAddr>,
    /// How often agents are asked to send a heartbeat.
    pub heartbeat_every: Duration,
    /// How long a machine may be silent before it counts as lost.
    pub lost_after: Duration,
    /// The time between two looks at deadlines.
    pub tick_every: Duration,
    /// The largest package that is taken, in bytes.
    pub package_bytes_max: u64,
    /// How long a session waits for its agent.
    pub dial_timeout: Duration,
    /// How fast tasks may be stopped.
    pub stop_limits: StopLimits,
    /// Which changes have to be confirmed.
    pub confirm: ConfirmRule,
    /// Branches that are followed, each by a name of its own.
    pub repositories: Vec<RepositoryConfig>,
}

/// A branch that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryConfig {
    pub name: Name,
    pub remote: Remote,
    /// The namespace of its jobs: those that name none are in it, and those that name another are refused.
    pub namespace: Name,
    /// Where its specs are, from the root; `""` is the root.
    pub folders: Vec<String>,
    /// The time between two looks at the branch.
    pub poll_every: Duration,
    pub mode: FollowMode,
}

impl ControllerConfig {
    pub fn new(state_dir: impl Into<PathBuf>, socket: impl Into<PathBuf>) -> ControllerConfig {
        ControllerConfig {
            state_dir: state_dir.into(),
            socket: socket.into(),
            listen: None,
            heartbeat_every: Duration::from_secs(1),
            lost_after: Duration::from_secs(10),
            tick_every: Duration::from_millis(200),
            package_bytes_max: 1 << 30,
            dial_timeout: Duration::from_secs(5),
            stop_limits: StopLimits::default(),
            confirm: ConfirmRule::default(),
            repositories: Vec::new(),
        }
    }

    /// The file of the token that callers over TCP need.
    pub fn token_path(&self) -> PathBuf {
        token_path(&self.state_dir)
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.state_dir.join("controller.db")
    }

    pub(crate) fn history_path(&self) -> PathBuf {
        self.state_dir.join("history.db")
    }

    pub(crate) fn mirror_path(&self, repository: &Name) -> PathBuf {
        self.state_dir
            .join("repositories")
            .join(format!("{repository}.git"))
    }

    /// Where evaluations of commits are kept.
    pub(crate) fn evaluations_path(&self) -> PathBuf {
        self.state_dir.join("evaluations")
    }

    pub(crate) fn secrets_path(&self) -> PathBuf {
        self.state_dir.join("secrets")
    }

    pub(crate) fn packages_path(&self) -> PathBuf {
        self.state_dir.join("packages")
    }
}

/// The file of the token of the controller whose state is in `state_dir`.
pub fn token_path(state_dir: &Path) -> PathBuf {
    state_dir.join("controller.token")
}
