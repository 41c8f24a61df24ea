//! An agent that makes room for the program that is installed now, under its own process id.
//!
//! Before it lets go it asks that program whether it could run as this one does: a machine without an agent is worse
//! than one with an old agent. What came of it is in `upgrade.json`, for whoever asked.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::helper::record;
use crate::process::boot_ms;

const OUTCOME_FILE: &str = "upgrade.json";

/// How long the new program may take to say whether it could run.
const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// How long the new agent may take to come up, with thousands of tasks to adopt on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

const LOOK_AGAIN_AFTER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// What an agent last said of an upgrade, or of its start.
#[derive(Debug, Serialize, Deserialize)]
struct UpgradeRecord {
    /// Since boot.
    at_ms: u64,
    outcome: UpgradeOutcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UpgradeOutcome {
    /// An agent has come up and adopted what runs.
    Ready { program: String },
    /// The agent that was asked goes on.
    Refused { why: String },
}

/// What this program calls itself, and what one that is to take over must begin its answer with.
pub fn program_version() -> &'static str {
    concat!("tw-agent ", env!("CARGO_PKG_VERSION"))
}

/// Asks the agent of a state folder to begin anew with the program that is installed now, and waits until that has come
/// up; answers what it calls itself. The agent's tasks go on. An error means that the old agent still runs, unless it
/// says that there is none.
pub fn ask(state: &Path) -> anyhow::Result<String> {
    let agent = find_agent(state)?;
    let asked_at_ms = boot_ms();
    pidfd_send_signal(&agent, Signal::HUP)?;
    let deadline = Instant::now() + READY_WITHIN;
    while Instant::now() < deadline {
        let said = record::read::<UpgradeRecord>(state, OUTCOME_FILE);
        match said {
            Ok(Some(said)) if said.at_ms >= asked_at_ms => {
                return match said.outcome {
                    UpgradeOutcome::Ready { program } => Ok(program),
                    UpgradeOutcome::Refused { why } => {
                        anyhow::bail!("{why}; the agent goes on with the program that it has")
                    }
                };
            }
            // Not yet.
            _ => {}
        }
        let has_ended = poll(
            &mut [PollFd::new(&agent, PollFlags::IN)],
            Some(&LOOK_AGAIN_AFTER),
        )? > 0;
        anyhow::ensure!(
            !has_ended,
            "the new program ended before it was ready, and no agent runs in {}: its log says why",
            state.display()
        );
    }
    anyhow::bail!(
        "the agent has not said within {READY_WITHIN:?} that it is ready: look at its log"
    )
}

/// A handle on the agent that runs in a state folder.
fn find_agent(state: &Path) -> anyhow::Result<OwnedFd> {
    let path = state.join("agent.lock");
    let file =
        File::open(&path).with_context(|| format!("no agent has run in {}", state.display()))?;
    let is_free = Flock::lock(file, FlockArg::LockSharedNonblock).is_ok();
    anyhow::ensure!(!is_free, "no agent runs in {}; start one", state.display());
    let text = std::fs::read_to_string(&path)?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid =
        pid.with_context(|| format!("{} does not name the agent's process", path.display()))?;
    let agent = pidfd_open(pid, PidfdFlags::empty())?;
    // The lock is still held and the number still the same: it is the agent that the handle is on.
    let unchanged = std::fs::read_to_string(&path)? == text;
    let held = Flock::lock(File::open(&path)?, FlockArg::LockSharedNonblock).is_err();
    anyhow::ensure!(
        unchanged && held,
        "the agent in {} has just ended",
        state.display()
    );
    Ok(agent)
}

/// Whether the program that is installed now could take over from this one; says so where it cannot.
pub async fn is_possible(state: &Path) -> bool {
    let checked = tokio::task::spawn_blocking(check_installed).await;
    let checked = checked
        .map_err(anyhow::Error::from)
        .and_then(|checked| checked);
    let Err(cause) = checked else {
        return true;
    };
    let why = format!("{cause:#}");
    tracing::warn!(
        why,
        "this agent does not make room for the program that is installed"
    );
    write(state, UpgradeOutcome::Refused { why });
    false
}

/// Says that this agent serves.
pub(super) fn record_ready(state: &Path) {
    let program = program_version().to_owned();
    write(state, UpgradeOutcome::Ready { program });
}

fn write(state: &Path, outcome: UpgradeOutcome) {
    let said = UpgradeRecord {
        at_ms: boot_ms(),
        outcome,
    };
    if let Err(cause) = record::write(state, OUTCOME_FILE, &said) {
        tracing::warn!(cause = %crate::error::chain(&cause), "whoever asked for an upgrade cannot be told");
    }
}

/// Asks the program at the place this one was started from whether it could run with the same arguments.
fn check_installed() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let shown = Path::new(&program).display();
    let child = Command::new(&program)
        .args(arguments.chain([OsString::from("--check")]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let (is_success, said, complaint) =
        wait(child).with_context(|| format!("{shown} does not say whether it could run"))?;
    anyhow::ensure!(
        is_success && said.starts_with("tw-agent "),
        "{shown} could not run: {}",
        if complaint.is_empty() {
            "it is no tw-agent"
        } else {
            &complaint
        }
    );
    Ok(())
}

/// Waits for a program that has little to say: whether it succeeded, and its output and errors.
fn wait(mut child: Child) -> anyhow::Result<(bool, String, String)> {
    let deadline = Instant::now() + CHECK_WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("it was given {CHECK_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    child
        .stdout
        .take()
        .map(|mut pipe| pipe.read_to_end(&mut said))
        .transpose()?;
    child
        .stderr
        .take()
        .map(|mut pipe| pipe.read_to_end(&mut complaint))
        .transpose()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok((status.success(), text(&said), text(&complaint)))
}
