//! Hooks: commands of the job's own around the life of its task.
//!
//! Before the start and after the end a hook has a sandbox of its own on the task's layer, with its volumes and
//! limits; while the command runs, a hook joins its namespaces. Each has a time limit, after which all of it is
//! killed. What hooks print goes into the task's log.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use super::output::Outputs;
use super::record::LaunchRecord;
use crate::cgroup::CgroupTree;
use crate::sandbox::{self, CommandSpec, Connection, Ended, Stage, StartError, Stdio};

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    PreStart,
    PostStart,
    PreStop,
    PostStop,
}

impl HookPoint {
    /// As in specs.
    pub fn as_str(self) -> &'static str {
        match self {
            HookPoint::PreStart => "pre_start",
            HookPoint::PostStart => "post_start",
            HookPoint::PreStop => "pre_stop",
            HookPoint::PostStop => "post_stop",
        }
    }
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSpec {
    pub argv: Vec<String>,
    pub timeout_ms: u64,
}

impl HookSpec {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The hooks of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSet {
    pub pre_start: Option<HookSpec>,
    pub post_start: Option<HookSpec>,
    pub pre_stop: Option<HookSpec>,
    pub post_stop: Option<HookSpec>,
}

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEnd {
    Ended(Ended),
    /// Killed, because its time was over.
    TimedOut,
    /// Killed, because the task ended.
    CutShort,
    NotStarted(String),
}

/// One run of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRecord {
    pub point: HookPoint,
    pub end: HookEnd,
    pub took_ms: u64,
}

impl HookRecord {
    pub fn is_success(&self) -> bool {
        self.end == HookEnd::Ended(Ended::Code(0))
    }
}

impl fmt::Display for HookRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hook {} ", self.point.as_str())?;
        match &self.end {
            HookEnd::Ended(Ended::Code(code)) => write!(f, "ended with exit code {code}"),
            HookEnd::Ended(Ended::Signal(signal)) => write!(f, "ended by signal {signal}"),
            HookEnd::TimedOut => write!(f, "was killed after {} ms, its time limit", self.took_ms),
            HookEnd::CutShort => write!(f, "was killed with its task"),
            HookEnd::NotStarted(why) => write!(f, "did not start: {why}"),
        }
    }
}

/// What a hook is told beside the task's own environment.
pub(super) fn command_of(
    launch: &LaunchRecord,
    point: HookPoint,
    hook: &HookSpec,
    end: Option<Ended>,
) -> CommandSpec {
    let mut command = launch.sandbox.command.clone();
    command.argv = hook.argv.clone();
    let mut set = |name: &str, value: String| command.env.insert(name.to_owned(), value);
    set("TW_HOOK", point.as_str().to_owned());
    match end {
        Some(Ended::Code(code)) => drop(set("TW_EXIT_CODE", code.to_string())),
        Some(Ended::Signal(signal)) => drop(set("TW_EXIT_SIGNAL", signal.to_string())),
        None => {}
    }
    command
}

/// A hook that runs beside the command.
pub(super) struct JoinedHook {
    pub(super) point: HookPoint,
    pub(super) pidfd: OwnedFd,
    pub(super) outputs: Outputs,
    began: Instant,
    deadline: Instant,
}

impl JoinedHook {
    /// Starts a hook in the namespaces of the init behind `task`.
    pub(super) fn start(
        launch: &LaunchRecord,
        tree: &dyn CgroupTree,
        task: &OwnedFd,
        point: HookPoint,
        hook: &HookSpec,
    ) -> Result<JoinedHook, StartError> {
        let failed = |message: String| StartError {
            stage: Stage::Cgroup,
            errno: None,
            message,
        };
        let began = Instant::now();
        let entry = tree
            .entry(&launch.leaf)
            .map_err(|error| failed(crate::error::chain(&error)))?;
        let (outputs, [stdout, stderr]) =
            Outputs::new().map_err(|error| failed(format!("cannot make a pipe: {error}")))?;
        let stdin = std::fs::File::open("/dev/null")
            .map_err(|error| failed(format!("cannot open /dev/null: {error}")))?;
        let stdio = Stdio {
            stdin: stdin.into(),
            stdout,
            stderr,
        };
        let command = command_of(launch, point, hook, None);
        let connection = Connection::Pipes(stdio);
        let entered = sandbox::enter(
            task,
            None,
            entry,
            &launch.sandbox,
            &command,
            connection,
            None,
        )?;
        Ok(JoinedHook {
            point,
            pidfd: entered.pidfd,
            outputs,
            began,
            deadline: began + hook.timeout(),
        })
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How it ended; none while it runs. One whose time is over is killed.
    pub(super) fn poll_end(&self) -> Option<HookRecord> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Ok(Some(status)) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            let code = status.exit_status().map(|code| Ended::Code(code as u8));
            let signal = status
                .terminating_signal()
                .map(|signal| Ended::Signal(signal as u8));
            return code
                .or(signal)
                .map(|ended| self.record(HookEnd::Ended(ended)));
        }
        (Instant::now() >= self.deadline).then(|| self.kill(HookEnd::TimedOut))
    }

    /// Kills the hook; what it has started goes with the task.
    pub(super) fn kill(&self, end: HookEnd) -> HookRecord {
        let _gone = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        self.record(end)
    }

    fn record(&self, end: HookEnd) -> HookRecord {
        HookRecord {
            point: self.point,
            end,
            took_ms: self.began.elapsed().as_millis() as u64,
        }
    }
}
