//! PID 1 of a task: builds the root, starts the command, reaps, passes signals on, and tells how the
//! command ended.
//!
//! Without it, a command that sets no handler would ignore SIGTERM (the kernel protects every PID 1), and
//! orphans of the command would stay as zombies. When it ends, the kernel ends the whole pid namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use caps::CapsHashSet;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::Resource;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::clone::{CloneRequest, Never, Stack, exit_now, share_memory};
use super::command::{
    Rights, Stdio, become_command, close_all_but, null_device, number, report_and_exit,
};
use super::launcher::close;
use super::seccomp::Filter;
use super::user::Account;
use super::users::UserNamespace;
use super::{At, SandboxSpec, Stage, StartError, capabilities, mounts};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself, with this status.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl Ended {
    /// What the init writes into the status pipe.
    fn encode(self) -> [u8; 2] {
        match self {
            Ended::Code(code) => [b'c', code],
            Ended::Signal(signal) => [b's', signal],
        }
    }

    pub(crate) fn decode(bytes: [u8; 2]) -> Option<Ended> {
        match bytes {
            [b'c', code] => Some(Ended::Code(code)),
            [b's', signal] => Some(Ended::Signal(signal)),
            _ => None,
        }
    }
}

/// What the init is given.
pub(super) struct InitParts<'a> {
    pub(super) spec: &'a SandboxSpec,
    pub(super) account: Account,
    pub(super) filter: &'a Filter,
    /// Where the task's users live; none for the host's own.
    pub(super) users: Option<&'a UserNamespace>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Takes a failure of the start; closed once the command runs.
    pub(super) report: OwnedFd,
    /// Takes how the command ended; the helper holds the only reading end.
    pub(super) status: OwnedFd,
    /// The values of the task's secrets.
    pub(super) secrets: Option<OwnedFd>,
}

/// Runs as PID 1 until the command has ended.
pub(super) fn run(parts: InitParts<'_>) -> ! {
    let (command, status) = match set_up(parts) {
        Ok(running) => running,
        Err((report, error)) => report_and_exit(report.as_fd(), &error),
    };
    supervise(command, &status)
}

/// Everything before the command runs; the command's own failures go to `report` from its own process.
fn set_up(parts: InitParts<'_>) -> Result<(Pid, OwnedFd), (OwnedFd, StartError)> {
    let InitParts {
        spec,
        account,
        filter,
        users,
        stdout,
        stderr,
        report,
        status,
        secrets,
    } = parts;
    let prepared = die_with_helper(status.as_fd())
        // A task that runs as root is of the same user; without this it could write the init's memory.
        .and_then(|()| {
            nix::sys::prctl::set_dumpable(false)
                .at(Stage::Privileges, "cannot shield the init from its task")
        })
        .and_then(|()| {
            unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::Clone, "cannot make a cgroup namespace")
        })
        .and_then(|()| {
            nix::unistd::sethostname(&spec.hostname).at(Stage::Identity, "cannot set the host name")
        })
        .and_then(|()| {
            nix::sys::stat::umask(nix::sys::stat::Mode::empty());
            mounts::build_root(spec, account, users, secrets)
        })
        .and_then(|()| {
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
                .at(Stage::Command, "cannot block signals")
        })
        .and_then(|()| null_device())
        .and_then(|stdin| users.map_or(Ok(()), UserNamespace::enter).map(|()| stdin))
        .and_then(|stdin| restrict(account, filter).map(|()| stdin));
    let stdin = match prepared {
        Ok(stdin) => stdin,
        Err(error) => return Err((report, error)),
    };
    let stdio = Stdio {
        stdin,
        stdout,
        stderr,
    };
    let started = start_command(spec, account, status.as_fd(), report.as_fd(), stdio);
    let running = started.and_then(|command| {
        let kept = capabilities::of_init();
        capabilities::bound_further(&of_both(account), &kept)
            .and_then(|()| capabilities::keep(&kept))
            .and_then(|()| die_with_helper(status.as_fd()))
            .map(|()| command)
    });
    match running {
        Ok(command) => {
            drop(report);
            // Held pipes would keep the log from ending.
            let _closed = close_all_but(&[number(&status)]);
            Ok((command, status))
        }
        Err(error) => Err((report, error)),
    }
}

/// Restricts the calling process to what it and the command need, but for the capabilities that make the command who
/// it is.
fn restrict(account: Account, filter: &Filter) -> Result<(), StartError> {
    capabilities::bound(&of_both(account))?;
    nix::sys::prctl::set_no_new_privs().at(Stage::Privileges, "cannot set no_new_privs")?;
    filter.load()
}

/// The capabilities that the init or the command keeps.
fn of_both(account: Account) -> CapsHashSet {
    let mut kept = capabilities::of_command(account.is_root());
    kept.extend(capabilities::of_init());
    kept
}

/// Starts the command and waits until it runs, or has told the `report` why it does not.
fn start_command(
    spec: &SandboxSpec,
    account: Account,
    status: BorrowedFd<'_>,
    report: BorrowedFd<'_>,
    stdio: Stdio,
) -> Result<Pid, StartError> {
    let stack = Stack::new().at(Stage::Clone, "cannot make a stack")?;
    let request = CloneRequest {
        flags: libc::CLONE_VFORK as u64,
        cgroup: None,
    };
    let work = || -> Never {
        close(status);
        // A session of its own: a signal to the init's group must not reach it twice.
        let _leads_already = nix::unistd::setsid();
        let rights = Rights {
            within_reach: of_both(account),
            ..Rights::of_task(account, None, spec.users)
        };
        let Err(error) = bound_processes(spec)
            .and_then(|()| become_command(&spec.command, &rights, stdio, report.as_raw_fd()));
        report_and_exit(report, &error)
    };
    // SAFETY: this process has one thread, being itself made by a single-threaded launcher or helper; it waits until the
    // child, which ends in `exec` or `_exit`, has the memory no more.
    let pid = unsafe { share_memory(&request, &stack, work) }
        .at(Stage::Clone, "cannot start the command")?;
    Ok(Pid::from_raw(pid))
}

/// Bounds how many processes the task's user may have, where no cgroup counts them.
fn bound_processes(spec: &SandboxSpec) -> Result<(), StartError> {
    let Some(pids_max) = spec.pids_max else {
        return Ok(());
    };
    // The init is the same user.
    let bound = pids_max + 1;
    nix::sys::resource::setrlimit(Resource::RLIMIT_NPROC, bound, bound)
        .at(Stage::Identity, "cannot bound the number of processes")
}

/// Asks the kernel to kill this process, and with it the namespace, when the helper dies; then makes sure
/// that the helper has not died before it was asked. In a pid namespace `getppid` cannot tell; a pipe whose
/// only reader was the helper can.
fn die_with_helper(status: BorrowedFd<'_>) -> Result<(), StartError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .at(Stage::Privileges, "cannot ask to die with the helper")?;
    let mut polled = [PollFd::new(&status, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut polled, Some(&now)).at(Stage::Privileges, "cannot look for the helper")?;
    match polled[0].revents().contains(PollFlags::ERR) {
        true => exit_now(1),
        false => Ok(()),
    }
}

/// Waits for signals, reaps what has ended, and passes the rest on to the command.
fn supervise(command: Pid, status: &OwnedFd) -> ! {
    loop {
        if let Some(ended) = reap(command) {
            // A helper that has gone needs no word; the namespace ends with this process either way.
            let _written = rustix::io::write(status, &ended.encode());
            exit_now(match ended {
                Ended::Code(code) => i32::from(code),
                Ended::Signal(signal) => 128 + i32::from(signal),
            });
        }
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            // The command may have gone in this moment; its end is reaped next.
            Ok(signal) => drop(nix::sys::signal::kill(command, signal)),
        }
    }
}

/// Reaps everything that has ended; answers how the command did, if it was among it.
fn reap(command: Pid) -> Option<Ended> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => {
                ended = Some(Ended::Code(code as u8))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                ended = Some(Ended::Signal(signal as i32 as u8));
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_an_orphan) => {}
        }
    }
}
