//! Starting a task's init inside its cgroup.
//!
//! On v2 the init is cloned straight into the leaf. On v1 there is no such call, and a process that joined
//! by itself would have been charged elsewhere before: a launcher joins the leaf and clones the init as its
//! own sibling, so that the helper is the init's parent and is never charged to the task.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal as KillSignal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal,
    waitid,
};

use super::clone::{CloneRequest, Cloned, clone3, exit_now};
use super::command::report_and_exit;
use super::init::{self, InitParts};
use super::seccomp::Filter;
use super::{At, SandboxSpec, Stage, StartError, user};
use crate::cgroup::CgroupEntry;

/// How long a start may take before it is given up, for instance on a file system that does not answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

const NAMESPACES: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) as u64;

/// A task whose command is running.
#[derive(Debug)]
pub struct Started {
    /// The init's pid, in the caller's namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Gives two bytes when the command ends; end of file without them if the init was killed.
    pub status: OwnedFd,
}

/// Starts a task and waits until its command runs. The caller must have one thread only, and becomes the
/// init's parent: it must reap it, and the task dies with it.
pub fn spawn(
    spec: &SandboxSpec,
    entry: CgroupEntry,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Started, StartError> {
    let account = user::look_up(&spec.command.user)?;
    let filter = Filter::new();
    let (report, report_in) = new_pipe()?;
    let (status, status_in) = new_pipe()?;
    let parts = InitParts {
        spec,
        account,
        filter: &filter,
        stdout,
        stderr,
        report: report_in,
        status: status_in,
    };
    let (pid, pidfd) = match entry.procs.is_empty() {
        true => start_directly(parts, entry, [report.as_fd(), status.as_fd()])?,
        false => start_by_launcher(parts, entry, &report, &status)?,
    };
    match read_report(report) {
        Ok(()) => Ok(Started { pid, pidfd, status }),
        Err(error) => {
            // It has reported and is ending, or hangs; either way it must be gone.
            let _ended = pidfd_send_signal(&pidfd, KillSignal::KILL);
            reap(&pidfd);
            Err(error)
        }
    }
}

fn start_directly(
    parts: InitParts<'_>,
    entry: CgroupEntry,
    ours: [std::os::fd::BorrowedFd<'_>; 2],
) -> Result<(i32, OwnedFd), StartError> {
    let request = CloneRequest {
        flags: NAMESPACES,
        cgroup: entry.directory.as_ref().map(AsFd::as_fd),
    };
    // SAFETY: the caller vouches for one thread; `init::run` never returns.
    match unsafe { clone3(&request) } {
        Ok(Cloned::Parent { pid, pidfd }) => Ok((pid, pidfd)),
        Ok(Cloned::Child) => {
            ours.into_iter().for_each(close);
            init::run(parts)
        }
        Err(source) => Err(StartError::os(
            Stage::Clone,
            "cannot start a process with namespaces of its own",
            source,
        )),
    }
}

fn start_by_launcher(
    parts: InitParts<'_>,
    entry: CgroupEntry,
    report: &OwnedFd,
    status: &OwnedFd,
) -> Result<(i32, OwnedFd), StartError> {
    let (pid_out, pid_in) = new_pipe()?;
    // SAFETY: the caller vouches for one thread; `launch` never returns.
    let launcher = match unsafe {
        clone3(&CloneRequest {
            flags: 0,
            cgroup: None,
        })
    } {
        Ok(Cloned::Parent { pidfd, .. }) => pidfd,
        Ok(Cloned::Child) => {
            [report.as_fd(), status.as_fd(), pid_out.as_fd()]
                .into_iter()
                .for_each(close);
            launch(parts, entry, pid_in)
        }
        Err(source) => {
            return Err(StartError::os(
                Stage::Clone,
                "cannot start a launcher",
                source,
            ));
        }
    };
    drop((parts, pid_in));
    let mut bytes = [0; 4];
    let told = File::from(pid_out).read_exact(&mut bytes);
    // Not reaped before the init's pid is turned into a handle: the init is our child and keeps its pid.
    let init = told
        .ok()
        .and_then(|()| Pid::from_raw(i32::from_ne_bytes(bytes)));
    let handle = init.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    reap(&launcher);
    match (init, handle) {
        (Some(pid), Some(handle)) => Ok((
            pid.as_raw_nonzero().get(),
            handle.at(Stage::Clone, "cannot hold on to the task")?,
        )),
        _ => Err(read_report(
            report
                .try_clone()
                .at(Stage::Clone, "cannot read the launcher's report")?,
        )
        .err()
        .unwrap_or_else(|| StartError::plain(Stage::Lost, "the launcher died without a word"))),
    }
}

/// Joins the leaf, clones the init into it as a sibling, and tells its pid.
fn launch(parts: InitParts<'_>, entry: CgroupEntry, pid_in: OwnedFd) -> ! {
    match join_and_clone(&entry, NAMESPACES) {
        Ok(Cloned::Child) => {
            drop((entry, pid_in));
            init::run(parts)
        }
        Ok(Cloned::Parent { pid, .. }) => tell_pid_and_exit(&pid_in, pid),
        Err(error) => report_and_exit(&parts.report, &error),
    }
}

/// Moves the calling process into the leaf and clones a sibling with `flags` there.
pub(super) fn join_and_clone(entry: &CgroupEntry, flags: u64) -> Result<Cloned, StartError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .at(Stage::Clone, "cannot ask to die with the helper")?;
    for procs in &entry.procs {
        rustix::io::write(procs, b"0").at(Stage::Cgroup, "cannot join the task's cgroup")?;
    }
    let request = CloneRequest {
        flags: flags | libc::CLONE_PARENT as u64,
        cgroup: entry.directory.as_ref().map(AsFd::as_fd),
    };
    // SAFETY: the launcher is a clone of a single-threaded process; its child ends in `exec` or `_exit`.
    unsafe { clone3(&request) }.at(
        Stage::Clone,
        "cannot start a process with namespaces of its own",
    )
}

pub(super) fn tell_pid_and_exit(pid_in: &OwnedFd, pid: i32) -> ! {
    let written = rustix::io::write(pid_in, &pid.to_ne_bytes());
    exit_now(i32::from(written.is_err()))
}

pub(super) fn new_pipe() -> Result<(OwnedFd, OwnedFd), StartError> {
    pipe_with(PipeFlags::CLOEXEC).at(Stage::Clone, "cannot make a pipe")
}

/// Waits until the report's last writer has closed it: empty means that the command runs.
pub(super) fn read_report(report: OwnedFd) -> Result<(), StartError> {
    let mut polled = [PollFd::new(&report, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: START_TIMEOUT.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let ready = poll(&mut polled, Some(&patience)).at(Stage::Lost, "cannot wait for the start")?;
    if ready == 0 {
        return Err(StartError::plain(
            Stage::Lost,
            format!("the start took longer than {START_TIMEOUT:?}"),
        ));
    }
    let mut text = Vec::new();
    File::from(report)
        .read_to_end(&mut text)
        .at(Stage::Lost, "cannot read how the start went")?;
    match text.is_empty() {
        true => Ok(()),
        false => Err(serde_json::from_slice(&text).unwrap_or_else(|_| {
            StartError::plain(Stage::Lost, "the start ended without a readable reason")
        })),
    }
}

/// Waits for a child that is ending and frees its pid.
pub(super) fn reap(pidfd: &OwnedFd) {
    let _status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// Closes the child's copy of a descriptor that the parent owns.
pub(super) fn close(fd: std::os::fd::BorrowedFd<'_>) {
    use std::os::fd::AsRawFd;
    // SAFETY: the owner is on the parent's side of the clone; in this copy of the process nothing uses or
    // drops it any more, as the child ends in `exec` or `_exit`.
    unsafe { libc::close(fd.as_raw_fd()) };
}
