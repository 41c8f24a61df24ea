//! Starting a task's init inside its cgroup.
//!
//! On v2 the init is cloned straight into the leaf. On v1 there is no such call, and a process that joined
//! by itself would have been charged elsewhere before: a launcher joins the leaf and clones the init as its
//! own sibling, so that the helper is the init's parent and is never charged to the task. Joining waits for the
//! kernel for 7 to 19 ms on an idle machine, so that it is done ahead where it can be: [`Prepared`] is all of a
//! start that does not depend on the task.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal as KillSignal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal,
    waitid,
};
use serde::{Deserialize, Serialize};

use super::clone::{CloneRequest, Cloned, Never, Stack, clone3, exit_now, share_memory};
use super::command::report_and_exit;
use super::init::{self, InitParts};
use super::seccomp::Filter;
use super::user::Account;
use super::users::{self, UserMode, UserNamespace};
use super::{At, SandboxSpec, Stage, StartError, passing, user};
use crate::cgroup::CgroupEntry;

/// How long a start may take before it is given up, for instance on a file system that does not answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

const NAMESPACES: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) as u64;

/// How much sooner than others the kernel takes a task when all of the machine is out of memory, in thousandths of it: the
/// agent, the helpers and the machine's own services go after the tasks.
const OOM_SCORE: &str = "200";

const CANNOT_CLONE: &str = "cannot start a process with namespaces of its own";

/// A task whose command is running.
#[derive(Debug)]
pub struct Started {
    /// The init's pid, in the caller's namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Gives two bytes when the command ends; end of file without them if the init was killed.
    pub status: OwnedFd,
    /// The task's users, whom no other task is given while this is held.
    pub(crate) users: Option<UserNamespace>,
}

/// What a start can have ready before it is known which task it is for.
#[derive(Debug)]
pub struct Prepared {
    filter: &'static Filter,
    users: Option<UserNamespace>,
    launcher: Option<Launcher>,
}

impl Prepared {
    /// Prepares a start. `procs` are the files of the v1 groups that the task will be in, if it will be in any: a
    /// launcher joins them now, as that takes the kernel milliseconds. The caller must have one thread only.
    pub fn new(mode: UserMode, procs: Vec<OwnedFd>) -> Result<Prepared, StartError> {
        Prepared::with_users(mode, None, procs)
    }

    /// As [`Prepared::new`], with users that a task before had, where there are some.
    pub(crate) fn with_users(
        mode: UserMode,
        free: Option<UserNamespace>,
        procs: Vec<OwnedFd>,
    ) -> Result<Prepared, StartError> {
        let filter = Filter::of_tasks();
        let users = match (mode, free) {
            // Whom a single user is mapped to depends on the task.
            (UserMode::Shared | UserMode::Single, _) => None,
            (UserMode::Mapped, Some(free)) => Some(free),
            (UserMode::Mapped, None) => Some(UserNamespace::new()?),
        };
        let launcher = match procs.is_empty() {
            true => None,
            false => Some(Launcher::start(procs, filter, users.as_ref())?),
        };
        Ok(Prepared {
            filter,
            users,
            launcher,
        })
    }

    /// Starts a task in the cgroup2 `directory`, with the values of its secrets, and waits until its command runs. The
    /// caller becomes the init's parent: it must reap it, and the task dies with it.
    pub fn start(
        self,
        spec: &SandboxSpec,
        directory: Option<OwnedFd>,
        secrets: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> Result<Started, StartError> {
        let account = user::look_up(&spec.base, &spec.command.user)?;
        if self.users.is_some() {
            users::check(account)?;
        }
        let (report, report_in) = new_pipe()?;
        let (status, status_in) = new_pipe()?;
        let order = Order {
            account,
            stdout,
            stderr,
            report: report_in,
            status: status_in,
            directory,
            secrets,
        };
        let (pid, pidfd) = match self.launcher {
            None => {
                let ours = [report.as_fd(), status.as_fd()];
                start_directly(spec, order, self.filter, self.users.as_ref(), ours)?
            }
            Some(launcher) => launcher.give(spec, order, &report)?,
        };
        match read_report(report) {
            Ok(()) => Ok(Started {
                pid,
                pidfd,
                status,
                users: self.users,
            }),
            Err(error) => {
                // It has reported and is ending, or hangs; either way it must be gone.
                let _ended = pidfd_send_signal(&pidfd, KillSignal::KILL);
                reap(&pidfd);
                Err(error)
            }
        }
    }

    /// Gives up what was prepared, and waits until the launcher has gone.
    pub fn abandon(self) {
        if let Some(launcher) = self.launcher {
            let _ended = pidfd_send_signal(&launcher.process, KillSignal::KILL);
            reap(&launcher.process);
        }
    }
}

/// Prepares and starts a task at once.
pub fn spawn(
    spec: &SandboxSpec,
    entry: CgroupEntry,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Started, StartError> {
    Prepared::new(spec.users, entry.procs)?.start(spec, entry.directory, None, stdout, stderr)
}

/// What an init is given besides its spec.
struct Order {
    account: Account,
    stdout: OwnedFd,
    stderr: OwnedFd,
    report: OwnedFd,
    status: OwnedFd,
    directory: Option<OwnedFd>,
    secrets: Option<OwnedFd>,
}

/// The namespace of a task's only user, where it is to have one.
fn single_user(spec: &SandboxSpec, account: Account) -> Result<Option<UserNamespace>, StartError> {
    match spec.users {
        UserMode::Single => UserNamespace::single(account).map(Some),
        UserMode::Shared | UserMode::Mapped => Ok(None),
    }
}

fn start_directly(
    spec: &SandboxSpec,
    order: Order,
    filter: &Filter,
    users: Option<&UserNamespace>,
    ours: [BorrowedFd<'_>; 2],
) -> Result<(i32, OwnedFd), StartError> {
    let single = single_user(spec, order.account)?;
    let users = users.or(single.as_ref());
    let request = CloneRequest {
        flags: NAMESPACES,
        cgroup: order.directory.as_ref().map(AsFd::as_fd),
    };
    // SAFETY: the caller vouches for one thread; `init::run` never returns.
    match unsafe { clone3(&request) } {
        Ok(Cloned::Parent { pid, pidfd }) => Ok((pid, pidfd)),
        Ok(Cloned::Child) => {
            ours.into_iter().for_each(close);
            go_first();
            run_init(spec, order, filter, users)
        }
        Err(source) => Err(StartError::os(Stage::Clone, CANNOT_CLONE, source)),
    }
}

/// Has the calling process, and all that it starts, taken before others. Only those with CAP_SYS_RESOURCE can take it back
/// where the agent has that.
fn go_first() {
    // A task that ranks as all others do is better than none.
    let _ranked = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
}

fn run_init(spec: &SandboxSpec, order: Order, filter: &Filter, users: Option<&UserNamespace>) -> ! {
    init::run(InitParts {
        spec,
        account: order.account,
        filter,
        users,
        stdout: order.stdout,
        stderr: order.stderr,
        report: order.report,
        status: order.status,
        secrets: order.secrets,
    })
}

/// A process that has joined a task's v1 groups and waits for the task.
#[derive(Debug)]
pub(super) struct Launcher {
    process: OwnedFd,
    orders: UnixStream,
}

/// The part of an order that is no descriptor.
#[derive(Serialize, Deserialize)]
struct OrderText {
    spec: SandboxSpec,
    uid: u32,
    gid: u32,
    has_directory: bool,
    has_secrets: bool,
}

impl Launcher {
    /// Runs `work`, which must not return, in a process of its own, with its end of a socket. The caller must have
    /// one thread only.
    pub(super) fn begin(work: impl FnOnce(UnixStream)) -> Result<Launcher, StartError> {
        let (orders, theirs) =
            UnixStream::pair().at(Stage::Clone, "cannot make a socket pair for a launcher")?;
        // SAFETY: the caller vouches for one thread; the child ends in `exec` or `_exit`.
        let cloned = unsafe {
            clone3(&CloneRequest {
                flags: 0,
                cgroup: None,
            })
        };
        match cloned.at(Stage::Clone, "cannot start a launcher")? {
            Cloned::Parent { pidfd, .. } => Ok(Launcher {
                process: pidfd,
                orders,
            }),
            Cloned::Child => {
                close(orders.as_fd());
                go_first();
                work(theirs);
                exit_now(1)
            }
        }
    }

    /// Starts a launcher and waits until it has joined.
    fn start(
        procs: Vec<OwnedFd>,
        filter: &Filter,
        users: Option<&UserNamespace>,
    ) -> Result<Launcher, StartError> {
        let launcher = Launcher::begin(|orders| launch(&orders, procs, filter, users))?;
        match launcher.hear() {
            Ok(Word::Joined) => Ok(launcher),
            said => Err(launcher.failed(said)),
        }
    }

    /// Hands a task over; answers its init, which is a child of the calling process.
    fn give(
        self,
        spec: &SandboxSpec,
        order: Order,
        report: &OwnedFd,
    ) -> Result<(i32, OwnedFd), StartError> {
        let text = OrderText {
            spec: spec.clone(),
            uid: order.account.uid,
            gid: order.account.gid,
            has_directory: order.directory.is_some(),
            has_secrets: order.secrets.is_some(),
        };
        let sent = serde_json::to_vec(&text)
            .map_err(io::Error::from)
            .and_then(|text| send_order(&self.orders, &text, &order));
        // The report ends when its last writer has gone, which must not be this process.
        drop(order);
        sent.at(Stage::Clone, "cannot tell the launcher what to start")?;
        self.started(report)
    }

    /// Waits for what the launcher starts, which is a child of the calling process, and frees the launcher.
    pub(super) fn started(self, report: &OwnedFd) -> Result<(i32, OwnedFd), StartError> {
        match self.hear() {
            // Not reaped before the pid is turned into a handle: what was started is our child and keeps its pid.
            Ok(Word::Started { pid }) => {
                let handle = Pid::from_raw(pid)
                    .ok_or(rustix::io::Errno::SRCH)
                    .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
                reap(&self.process);
                Ok((pid, handle.at(Stage::Clone, "cannot hold on to the task")?))
            }
            said => {
                let error = self.failed(said);
                // A launcher that could not clone has said so where the command would have.
                let report = report.try_clone().map(read_report);
                Err(report.ok().and_then(Result::err).unwrap_or(error))
            }
        }
    }

    fn hear(&self) -> io::Result<Word> {
        let mut bytes = [0; 4];
        (&self.orders).read_exact(&mut bytes)?;
        Ok(match i32::from_ne_bytes(bytes) {
            0 => Word::Joined,
            pid @ 1.. => Word::Started { pid },
            errno => Word::Failed { errno: -errno },
        })
    }

    /// Ends a launcher that has not done its work.
    fn failed(&self, said: io::Result<Word>) -> StartError {
        let _ended = pidfd_send_signal(&self.process, KillSignal::KILL);
        reap(&self.process);
        match said {
            Ok(Word::Failed { errno }) => StartError::os(
                Stage::Cgroup,
                "cannot join the task's cgroup",
                io::Error::from_raw_os_error(errno),
            ),
            _ => StartError::plain(Stage::Lost, "the launcher died without a word"),
        }
    }
}

/// What a launcher says, as one number: 0, a pid, or an error number below zero.
enum Word {
    Joined,
    Started { pid: i32 },
    Failed { errno: i32 },
}

fn say(orders: &UnixStream, number: i32) {
    // A helper that has gone takes the launcher with it.
    let _written = (&mut &*orders).write_all(&number.to_ne_bytes());
}

/// Tells the pid of what was started; the launcher's work is done.
pub(super) fn tell_and_exit(orders: &UnixStream, pid: i32) -> ! {
    say(orders, pid);
    exit_now(0)
}

fn send_order(orders: &UnixStream, text: &[u8], order: &Order) -> io::Result<()> {
    let mut fds = vec![
        order.stdout.as_fd(),
        order.stderr.as_fd(),
        order.report.as_fd(),
        order.status.as_fd(),
    ];
    fds.extend(order.directory.as_ref().map(AsFd::as_fd));
    fds.extend(order.secrets.as_ref().map(AsFd::as_fd));
    let length = (text.len() as u64).to_ne_bytes();
    passing::send(orders, &length, &fds)?;
    (&mut &*orders).write_all(text)
}

fn receive_order(orders: &UnixStream) -> io::Result<(SandboxSpec, Order)> {
    let mut length = [0; 8];
    let (count, mut fds) = passing::receive(orders, &mut length, RecvFlags::empty())?;
    if count < length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut text = vec![0; u64::from_ne_bytes(length) as usize];
    (&mut &*orders).read_exact(&mut text)?;
    let text: OrderText = serde_json::from_slice(&text)?;
    let mut next = || fds.pop_front().ok_or(io::ErrorKind::InvalidData);
    let order = Order {
        account: Account {
            uid: text.uid,
            gid: text.gid,
        },
        stdout: next()?,
        stderr: next()?,
        report: next()?,
        status: next()?,
        directory: text.has_directory.then(&mut next).transpose()?,
        secrets: text.has_secrets.then(next).transpose()?,
    };
    Ok((text.spec, order))
}

/// Joins the groups, waits for a task, starts its init as a sibling, and tells its pid. The init takes the launcher's
/// memory over, as that costs less than a copy.
fn launch(
    orders: &UnixStream,
    procs: Vec<OwnedFd>,
    filter: &Filter,
    users: Option<&UserNamespace>,
) -> ! {
    let errno = |error: io::Error| -error.raw_os_error().unwrap_or(libc::EIO);
    if let Err(error) = join(&procs) {
        say(orders, errno(error));
        exit_now(1);
    }
    drop(procs);
    say(orders, 0);
    let Ok((spec, order)) = receive_order(orders) else {
        exit_now(1);
    };
    let single = match single_user(&spec, order.account) {
        Ok(single) => single,
        Err(error) => report_and_exit(&order.report, &error),
    };
    let users = users.or(single.as_ref());
    let stack = match Stack::new() {
        Ok(stack) => stack,
        Err(error) => report_and_exit(
            &order.report,
            &StartError::os(Stage::Clone, "cannot make a stack", error),
        ),
    };
    let directory = order.directory.as_ref().map(AsFd::as_fd);
    let request = CloneRequest {
        flags: NAMESPACES | libc::CLONE_PARENT as u64,
        cgroup: directory,
    };
    let (spec, mine) = (&spec, &order);
    let init = || -> Never {
        close(orders.as_fd());
        // SAFETY: the order is this process's from here on: its maker ends without using or dropping it.
        run_init(spec, unsafe { ptr::read(mine) }, filter, users)
    };
    // SAFETY: a launcher is a clone of a single-threaded process. It tells the pid and ends, or tells the error where
    // there is no child, and so the init has the memory, with this stack, for itself.
    match unsafe { share_memory(&request, &stack, init) } {
        Ok(pid) => tell_and_exit(orders, pid),
        Err(error) => report_and_exit(
            &order.report,
            &StartError::os(Stage::Clone, CANNOT_CLONE, error),
        ),
    }
}

/// Moves the calling process into the groups, and has it die with its parent.
fn join(procs: &[OwnedFd]) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    for file in procs {
        rustix::io::write(file, b"0")?;
    }
    Ok(())
}

/// Moves the calling process into the leaf.
pub(super) fn join_leaf(entry: &CgroupEntry) -> Result<(), StartError> {
    join(&entry.procs).at(Stage::Cgroup, "cannot join the task's cgroup")
}

/// Clones a child of the calling process's parent, in the leaf.
pub(super) fn clone_into(entry: &CgroupEntry) -> Result<Cloned, StartError> {
    let request = CloneRequest {
        flags: libc::CLONE_PARENT as u64,
        cgroup: entry.directory.as_ref().map(AsFd::as_fd),
    };
    // SAFETY: a launcher is a clone of a single-threaded process; its child ends in `exec` or `_exit`.
    unsafe { clone3(&request) }.at(Stage::Clone, CANNOT_CLONE)
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
pub(super) fn close(fd: BorrowedFd<'_>) {
    use std::os::fd::AsRawFd;
    // SAFETY: the owner is on the parent's side of the clone; in this copy of the process nothing uses or
    // drops it any more, as the child ends in `exec` or `_exit`.
    unsafe { libc::close(fd.as_raw_fd()) };
}
