//! A second command inside a running task's sandbox, with or without a terminal.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::Winsize;

use super::clone::{CloneRequest, Cloned, clone3};
use super::command::{Stdio, become_command, number, report_and_exit};
use super::launcher::{
    clone_into, close, join_leaf, new_pipe, read_report, reap, tell_pid_and_exit,
};
use super::seccomp::Filter;
use super::users::{self, UserMode};
use super::{At, CommandSpec, SandboxSpec, Stage, StartError, user};
use crate::cgroup::CgroupEntry;

/// How the second command is connected.
#[derive(Debug)]
pub enum Connection {
    Pipes(super::command::Stdio),
    /// A terminal of the sandbox, of this many rows and columns.
    Terminal {
        rows: u16,
        columns: u16,
    },
}

/// A command that runs inside a task.
#[derive(Debug)]
pub struct Entered {
    pub pidfd: OwnedFd,
    /// The controlling side of the terminal, where one was asked for.
    pub terminal: Option<OwnedFd>,
}

/// What the process that enters is given.
struct EnterParts<'a> {
    task: &'a OwnedFd,
    command: &'a CommandSpec,
    account: user::Account,
    filter: &'a Filter,
    users: UserMode,
    connection: Connection,
    /// Takes the terminal's controlling side.
    terminal: OwnedFd,
}

/// Starts `command` in the namespaces of the init behind `task` and in its cgroup, under the same restrictions as
/// `sandbox`'s own command. The caller must have one thread only and becomes the command's parent.
pub fn enter(
    task: &OwnedFd,
    entry: CgroupEntry,
    sandbox: &SandboxSpec,
    command: &CommandSpec,
    connection: Connection,
) -> Result<Entered, StartError> {
    let wants_terminal = matches!(connection, Connection::Terminal { .. });
    let (report, report_in) = new_pipe()?;
    let (pid_out, pid_in) = new_pipe()?;
    let (terminal, terminal_in) = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .at(Stage::Terminal, "cannot make a socket pair")?;
    let filter = Filter::new();
    let parts = EnterParts {
        task,
        command,
        account: user::look_up(&sandbox.base, &command.user)?,
        filter: &filter,
        users: sandbox.users,
        connection,
        terminal: terminal_in,
    };
    // SAFETY: the caller vouches for one thread; `launch` never returns.
    let launcher = match unsafe {
        clone3(&CloneRequest {
            flags: 0,
            cgroup: None,
        })
    } {
        Ok(Cloned::Parent { pidfd, .. }) => pidfd,
        Ok(Cloned::Child) => {
            [report.as_fd(), pid_out.as_fd(), terminal.as_fd()]
                .into_iter()
                .for_each(close);
            launch(parts, &entry, &report_in, &pid_in)
        }
        Err(source) => {
            return Err(StartError::os(
                Stage::Clone,
                "cannot start a launcher",
                source,
            ));
        }
    };
    drop((parts, report_in, pid_in));
    let mut bytes = [0; 4];
    let told = std::io::Read::read_exact(&mut fs::File::from(pid_out), &mut bytes);
    let entered = told
        .ok()
        .and_then(|()| Pid::from_raw(i32::from_ne_bytes(bytes)));
    let handle = entered.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    reap(&launcher);
    let started = read_report(report);
    let Some(pidfd) = handle else {
        started?;
        return Err(StartError::plain(
            Stage::Lost,
            "the launcher died without a word",
        ));
    };
    let pidfd = pidfd.at(Stage::Clone, "cannot hold on to the command")?;
    if let Err(error) = started {
        reap(&pidfd);
        return Err(error);
    }
    let terminal = wants_terminal.then(|| receive_fd(&terminal)).transpose()?;
    Ok(Entered { pidfd, terminal })
}

/// Enters the namespaces, joins the leaf, and clones the command as a sibling.
fn launch(parts: EnterParts<'_>, entry: &CgroupEntry, report: &OwnedFd, pid_in: &OwnedFd) -> ! {
    let namespaces = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    // From inside, this program could be looked at and written through /proc until it is the command (CVE-2019-5736).
    let cloned = nix::sys::prctl::set_dumpable(false)
        .at(
            Stage::Privileges,
            "cannot shield the launcher from the task",
        )
        .and_then(|()| {
            setns(parts.task, namespaces).at(Stage::Clone, "cannot enter the task's namespaces")
        })
        .and_then(|()| join_leaf(entry))
        .and_then(|()| clone_into(entry));
    match cloned {
        Ok(Cloned::Child) => run(parts, report),
        Ok(Cloned::Parent { pid, .. }) => tell_pid_and_exit(pid_in, pid),
        Err(error) => report_and_exit(report, &error),
    }
}

/// Becomes the command. Does not return: what `parts` owns is closed on the way and must not be dropped.
fn run(parts: EnterParts<'_>, report: &OwnedFd) -> ! {
    let EnterParts {
        task,
        command,
        account,
        filter,
        users,
        connection,
        terminal,
    } = parts;
    // Only now: nobody of the task's users may be cloned into a cgroup of the host's.
    let entered = match users {
        UserMode::Shared => Ok(()),
        UserMode::Mapped => users::enter(task.as_fd()),
    };
    let became = entered
        .and_then(|()| nix::unistd::setsid().at(Stage::Command, "cannot begin a session"))
        .and_then(|_| match connection {
            Connection::Pipes(stdio) => Ok(stdio),
            Connection::Terminal { rows, columns } => {
                open_terminal(rows, columns, account.uid, &terminal)
                    .at(Stage::Terminal, "cannot open a terminal in the sandbox")
            }
        })
        .and_then(|stdio| become_command(command, account, filter, stdio, number(report)));
    let Err(error) = became;
    report_and_exit(report, &error)
}

/// Opens a terminal of the sandbox's own /dev/pts, makes it the session's, and sends its other side out.
fn open_terminal(rows: u16, columns: u16, uid: u32, out: &OwnedFd) -> rustix::io::Result<Stdio> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    rustix::termios::tcsetwinsize(
        &controller,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?;
    let user = ioctl_tiocgptpeer(
        &controller,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    rustix::fs::fchown(&user, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    rustix::process::ioctl_tiocsctty(&user)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [controller.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(out, &[IoSlice::new(b"t")], &mut control, SendFlags::empty())?;
    let copy = || rustix::io::fcntl_dupfd_cloexec(&user, 3);
    Ok(Stdio {
        stdin: copy()?,
        stdout: copy()?,
        stderr: copy()?,
    })
}

fn receive_fd(socket: &OwnedFd) -> Result<OwnedFd, StartError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    )
    .at(Stage::Terminal, "cannot receive the terminal")?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.ok_or_else(|| StartError::plain(Stage::Terminal, "the sandbox sent no terminal"))
}
