//! A second command inside a running task's sandbox, with or without a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::Winsize;

use super::clone::Cloned;
use super::command::{Rights, Stdio, become_command, number, report_and_exit};
use super::launcher::{
    Launcher, clone_into, close, join_leaf, new_pipe, read_report, reap, tell_and_exit,
};
use super::seccomp::Filter;
use super::user::Account;
use super::users::{self, UserMode};
use super::{At, CommandSpec, SandboxSpec, Stage, StartError, capabilities, mounts, passing, user};
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
    /// Also its process group's, which it leads.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The controlling side of the terminal, where one was asked for.
    pub terminal: Option<OwnedFd>,
}

/// The machine's programs, for a debugger that a task's own root does not have.
#[derive(Clone, Copy, Debug)]
pub struct Tools<'a> {
    /// The skeleton that [`super::base::prepare`] made.
    pub base: &'a Path,
}

/// What the process that enters is given.
struct EnterParts<'a> {
    task: &'a OwnedFd,
    helper: Option<&'a OwnedFd>,
    sandbox: &'a SandboxSpec,
    command: &'a CommandSpec,
    rights: Rights<'a>,
    tools: Option<Tools<'a>>,
    connection: Connection,
    /// Takes the terminal's controlling side.
    terminal: OwnedFd,
}

/// Starts `command` in the namespaces of the init behind `task` and in the cgroup of `entry`, under the same
/// restrictions as `sandbox`'s own command. With `tools` it sees the machine's programs instead, the task's root at
/// `/task`, and may trace the task's processes. `helper` is the task's, where the calling process is outside the user
/// namespace that it made. The caller must have one thread only and becomes the command's parent.
pub fn enter(
    task: &OwnedFd,
    helper: Option<&OwnedFd>,
    entry: CgroupEntry,
    sandbox: &SandboxSpec,
    command: &CommandSpec,
    connection: Connection,
    tools: Option<Tools<'_>>,
) -> Result<Entered, StartError> {
    let wants_terminal = matches!(connection, Connection::Terminal { .. });
    let (report, report_in) = new_pipe()?;
    let (terminal, terminal_in) = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .at(Stage::Terminal, "cannot make a socket pair")?;
    let filter = match tools {
        None => Filter::new(),
        Some(_) => Filter::for_debugging(),
    };
    let account = user::look_up(&sandbox.base, &command.user)?;
    let rights = match (tools, sandbox.users) {
        (Some(_), UserMode::Mapped) => Rights {
            account: Account { uid: 0, gid: 0 },
            capabilities: capabilities::of_debugger(),
            within_reach: caps::all(),
            filter: Some(&filter),
            keeps_groups: false,
        },
        // Without users of its own, more rights would reach beyond the task: it may trace what is the same user's.
        _ => Rights::of_task(account, Some(&filter), sandbox.users),
    };
    let helper = helper.filter(|_| sandbox.users == UserMode::Single);
    let parts = EnterParts {
        task,
        helper,
        sandbox,
        command,
        rights,
        tools,
        connection,
        terminal: terminal_in,
    };
    let ours = [report.as_fd(), terminal.as_fd()];
    let launcher = Launcher::begin(move |orders| {
        ours.into_iter().for_each(close);
        launch(parts, &entry, &report_in, &orders)
    })?;
    let (pid, pidfd) = launcher.started(&report)?;
    if let Err(error) = read_report(report) {
        reap(&pidfd);
        return Err(error);
    }
    let terminal = wants_terminal.then(|| receive_fd(&terminal)).transpose()?;
    Ok(Entered {
        pid,
        pidfd,
        terminal,
    })
}

/// Enters the namespaces, joins the leaf, and clones the command as a sibling.
fn launch(parts: EnterParts<'_>, entry: &CgroupEntry, report: &OwnedFd, orders: &UnixStream) -> ! {
    let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    let view = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    // From inside, this program could be looked at and written through /proc until it is the command (CVE-2019-5736).
    let shielded = nix::sys::prctl::set_dumpable(false).at(
        Stage::Privileges,
        "cannot shield the launcher from the task",
    );
    let cloned = shielded
        .and_then(|()| match parts.helper {
            None => Ok(()),
            Some(helper) => users::enter_that_of(helper.as_fd()),
        })
        .and_then(|()| match parts.tools {
            None => Ok((None, namespaces | view)),
            Some(_) => Ok((Some(mounts::tree_of(parts.task)?), namespaces)),
        })
        .and_then(|(tree, namespaces)| {
            setns(parts.task, namespaces).at(Stage::Clone, "cannot enter the task's namespaces")?;
            join_leaf(entry)?;
            Ok((tree, clone_into(entry)?))
        });
    match cloned {
        Ok((tree, Cloned::Child)) => run(parts, tree, report),
        Ok((_, Cloned::Parent { pid, .. })) => tell_and_exit(orders, pid),
        Err(error) => report_and_exit(report, &error),
    }
}

/// Becomes the command. Does not return: what `parts` owns is closed on the way and must not be dropped.
fn run(parts: EnterParts<'_>, tree: Option<OwnedFd>, report: &OwnedFd) -> ! {
    let EnterParts {
        task,
        helper: _,
        sandbox,
        command,
        rights,
        tools,
        connection,
        terminal,
    } = parts;
    let sees = match (tools, &tree) {
        (Some(tools), Some(tree)) => unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
            .at(Stage::Clone, "cannot make a mount namespace")
            .and_then(|()| {
                // Whoever started the agent decides about its own new files, not about the modes in a sandbox.
                nix::sys::stat::umask(nix::sys::stat::Mode::empty());
                mounts::build_tools_root(tools.base, sandbox, tree)
            }),
        _ => Ok(()),
    };
    // Only now: nobody of the task's users may be cloned into a cgroup of the host's.
    let entered = sees.and_then(|()| match sandbox.users {
        UserMode::Shared => Ok(()),
        UserMode::Mapped => users::enter(task.as_fd()),
        UserMode::Single => users::enter_as_single(task.as_fd()),
    });
    let became = entered
        .and_then(|()| nix::unistd::setsid().at(Stage::Command, "cannot begin a session"))
        .and_then(|_| match connection {
            Connection::Pipes(stdio) => Ok(stdio),
            Connection::Terminal { rows, columns } => {
                open_terminal(rows, columns, rights.account.uid, &terminal)
                    .at(Stage::Terminal, "cannot open a terminal in the sandbox")
            }
        })
        .and_then(|stdio| become_command(command, &rights, stdio, number(report)));
    let Err(error) = became;
    report_and_exit(report, &error)
}

/// Opens a terminal of the sandbox's own /dev/pts, makes it the session's, and sends its other side out.
fn open_terminal(rows: u16, columns: u16, uid: u32, out: &OwnedFd) -> io::Result<Stdio> {
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
    passing::send(out, b"t", &[controller.as_fd()])?;
    let copy = || rustix::io::fcntl_dupfd_cloexec(&user, 3);
    Ok(Stdio {
        stdin: copy()?,
        stdout: copy()?,
        stderr: copy()?,
    })
}

fn receive_fd(socket: &OwnedFd) -> Result<OwnedFd, StartError> {
    let (_, mut fds) = passing::receive(socket, &mut [0], RecvFlags::DONTWAIT)
        .at(Stage::Terminal, "cannot receive the terminal")?;
    fds.pop_front()
        .ok_or_else(|| StartError::plain(Stage::Terminal, "the sandbox sent no terminal"))
}
