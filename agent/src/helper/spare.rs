//! Spare helpers: started ahead, with all of a start done that does not depend on the task.
//!
//! A nursery, one process an agent, has loaded the program and joined the cgroup of the helpers; a spare is its
//! fork. A spare has made a user namespace and the system call filter, and on v1 its launcher sits in groups that
//! are renamed for the task. What is left of a start is the task's own: its limits, its root, its command.
//! Whoever takes a spare refills the pool.
//!
//! The agent holds the other end of everyone's standard input. A nursery whose agent has gone ends; a spare gives
//! everything back first; a helper with a task stays.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use super::diagnostics;
use super::keeper::{CLEANUP_PATIENCE, HelperError, Ready, detach, keep_with, system};
use crate::cgroup::{CgroupTree, TreePath};
use crate::sandbox::seccomp::Filter;
use crate::sandbox::{Fork, Prepared, UserMode, UserNamespace, exit_now, fork, passing};

/// How the names of reserved cgroups begin.
const RESERVED: &str = "spare-";

/// What every task of an agent has in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareRequest {
    pub tree: TreePath,
    /// The leaf all helpers of the agent share.
    pub helpers_leaf: String,
    pub users: UserMode,
}

/// Spare helpers that wait for tasks.
#[derive(Debug)]
pub struct SparePool {
    /// The program `tw-helper`.
    program: PathBuf,
    request: SpareRequest,
    size: usize,
    nursery: Mutex<Option<Nursery>>,
    spares: Mutex<VecDeque<Spare>>,
    refilling: Mutex<()>,
}

/// The process that spares are forks of.
#[derive(Debug)]
struct Nursery {
    process: Child,
    control: UnixStream,
}

/// A helper without a task.
#[derive(Debug)]
struct Spare {
    pid: i32,
    process: OwnedFd,
    control: UnixStream,
}

/// A helper that has been given its task. It is a child of the nursery, which reaps it.
#[derive(Debug)]
pub struct HandedOver {
    pub pid: i32,
    /// A pidfd: readable once the helper has ended.
    pub process: OwnedFd,
    /// Gives one byte when the helper listens on its socket, and end of file when it does not any more.
    pub listening: UnixStream,
}

impl SparePool {
    /// A pool that [`SparePool::refill`] fills up to `size`.
    pub fn new(program: PathBuf, request: SpareRequest, size: usize) -> SparePool {
        SparePool {
            program,
            request,
            size,
            nursery: Mutex::default(),
            spares: Mutex::default(),
            refilling: Mutex::default(),
        }
    }

    /// Gives the task in `folder`, which is ready but for its helper, to a spare, or to a new helper. `secrets` is what
    /// [`crate::sandbox::secrets::seal`] made, for a task that has some.
    pub fn start(&self, folder: &Path, secrets: Option<BorrowedFd<'_>>) -> io::Result<HandedOver> {
        loop {
            // Not held while a helper is started.
            let waiting = lock(&self.spares).pop_front();
            let Some(spare) = waiting else {
                return self.fork()?.hand_over(folder, secrets);
            };
            match spare.has_ended()? {
                false => return spare.hand_over(folder, secrets),
                true => self.remove_cgroups_of(spare.pid)?,
            }
        }
    }

    /// Starts the spares that are missing.
    pub fn refill(&self) -> io::Result<()> {
        // Two that fill at once would each make what is missing.
        let _alone = lock(&self.refilling);
        while lock(&self.spares).len() < self.size {
            let spare = self.fork()?;
            lock(&self.spares).push_back(spare);
        }
        Ok(())
    }

    /// Ends the spares and the nursery, and waits until they have given everything back.
    pub fn close(&self) {
        let spares: Vec<Spare> = lock(&self.spares).drain(..).collect();
        // All are told before the first is waited for.
        let ending: Vec<OwnedFd> = spares.into_iter().map(|spare| spare.process).collect();
        for process in &ending {
            let _ended = poll(&mut [PollFd::new(process, PollFlags::IN)], None);
        }
        if let Some(Nursery {
            mut process,
            control,
        }) = lock(&self.nursery).take()
        {
            drop(control);
            let _status = process.wait();
        }
    }

    /// A new spare, from the nursery, or from a new nursery where the old one has died.
    fn fork(&self) -> io::Result<Spare> {
        let mut nursery = lock(&self.nursery);
        if let Some(living) = nursery.as_ref()
            && let Ok(spare) = living.fork()
        {
            return Ok(spare);
        }
        if let Some(mut dead) = nursery.take() {
            dead.process.kill()?;
            dead.process.wait()?;
        }
        nursery.insert(self.start_nursery()?).fork()
    }

    fn start_nursery(&self) -> io::Result<Nursery> {
        let tree = self.request.tree.open().map_err(io::Error::other)?;
        tree.create(&self.request.helpers_leaf)
            .map_err(io::Error::other)?;
        let (control, theirs) = UnixStream::pair()?;
        let process = Command::new(&self.program)
            .args(super::alone_word(self.request.users))
            .arg("nursery")
            .arg(serde_json::to_string(&self.request)?)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Nursery { process, control })
    }

    /// Removes what a helper that was killed before it began its task has left; its launcher has died with it.
    pub fn remove_cgroups_of(&self, pid: i32) -> io::Result<()> {
        let removed = self
            .request
            .tree
            .open()
            .and_then(|tree| tree.remove(&reserved(pid), CLEANUP_PATIENCE));
        removed.map_err(io::Error::other)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nursery {
    fn fork(&self) -> io::Result<Spare> {
        let (control, theirs) = UnixStream::pair()?;
        passing::send(&self.control, &[0; 4], &[theirs.as_fd()])?;
        let mut pid = [0; 4];
        let process = receive(&self.control, &mut pid)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Spare {
            pid: i32::from_ne_bytes(pid),
            process,
            control,
        })
    }
}

impl Spare {
    fn has_ended(&self) -> io::Result<bool> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut polled = [PollFd::new(&self.process, PollFlags::IN)];
        Ok(poll(&mut polled, Some(&now))? > 0)
    }

    fn hand_over(self, folder: &Path, secrets: Option<BorrowedFd<'_>>) -> io::Result<HandedOver> {
        let mut line = folder.as_os_str().as_bytes().to_owned();
        line.push(b'\n');
        let (first, rest) = line.split_at(1);
        passing::send(&self.control, first, secrets.as_slice())?;
        (&self.control).write_all(rest)?;
        Ok(HandedOver {
            pid: self.pid,
            process: self.process,
            listening: self.control,
        })
    }
}

/// Receives four bytes with a descriptor; none at the end of the stream.
fn receive(socket: &UnixStream, bytes: &mut [u8; 4]) -> io::Result<Option<OwnedFd>> {
    let (count, mut fds) = passing::receive(socket, bytes, RecvFlags::empty())?;
    match (count, fds.pop_front()) {
        (4, Some(fd)) => Ok(Some(fd)),
        (0, _) => Ok(None),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Receives a task's folder, and its secrets if it has any; none when the agent has gone.
fn receive_task(control: &UnixStream) -> io::Result<Option<(PathBuf, Option<OwnedFd>)>> {
    let (mut line, mut secrets) = (Vec::new(), None);
    loop {
        let mut bytes = [0; 256];
        let (count, mut fds) = passing::receive(control, &mut bytes, RecvFlags::empty())?;
        line.extend_from_slice(&bytes[..count]);
        secrets = secrets.or(fds.pop_front());
        match line.split_last() {
            Some((b'\n', folder)) => {
                return Ok(Some((OsStr::from_bytes(folder).into(), secrets)));
            }
            _ if count == 0 => return Ok(None),
            _ => {}
        }
    }
}

/// Forks spares for as long as the agent lives. The calling process must have one thread only.
pub fn serve_nursery(request: &SpareRequest, control: UnixStream) -> Result<(), HelperError> {
    detach()?;
    // SAFETY: no code of ours runs on the signal; ignoring it has the kernel reap the helpers.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map_err(system("ignore children"))?;
    // Made by the agent: a nursery that is late must not make again what was removed behind a killed agent.
    let tree: Arc<dyn CgroupTree> = request.tree.open()?.into();
    tree.join(&request.helpers_leaf)?;
    // Before the first fork, so that no spare makes it again.
    Filter::of_tasks();
    // Users whose tasks have gone wait in here for the next; a helper does not wait where enough do.
    let (free_users, nursery) = UnixDatagram::pair()
        .and_then(|(free, nursery)| nursery.set_nonblocking(true).map(|()| (free, nursery)))
        .map_err(system("make a socket pair"))?;
    let mut bytes = [0; 4];
    while let Some(theirs) = receive(&control, &mut bytes).map_err(system("hear the agent"))? {
        let users = UserNamespace::receive(free_users.as_fd());
        // SAFETY: this process has one thread, and the child goes on to the end of the process.
        match unsafe { fork() }.map_err(system("fork a helper"))? {
            Fork::Parent { pid, process } => {
                drop(theirs);
                passing::send(&control, &pid.to_ne_bytes(), &[process.as_fd()])
                    .map_err(system("tell the agent"))?;
            }
            Fork::Child => {
                drop((control, free_users));
                // The nursery's end is standard input as well: held by a spare, it would keep from the agent that the nursery
                // has died, and an agent that waits for its answer would wait for ever.
                leave_nursery().map_err(system("open /dev/null"))?;
                // SAFETY: the default disposition runs no code of ours.
                unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }
                    .map_err(system("wait for children"))?;
                serve(request, tree, users, nursery, UnixStream::from(theirs))?;
                // What the nursery would do at its end is not its copy's to do.
                exit_now(0);
            }
        }
    }
    Ok(())
}

/// Waits for a task as a spare, then keeps it to its end.
fn serve(
    request: &SpareRequest,
    tree: Arc<dyn CgroupTree>,
    users: Option<UserNamespace>,
    nursery: UnixDatagram,
    control: UnixStream,
) -> Result<(), HelperError> {
    detach()?;
    let reserved = reserved(std::process::id().cast_signed());
    let procs = tree.reserve(&reserved)?;
    let ready = Ready {
        prepared: Prepared::with_users(request.users, users, procs).map_err(HelperError::Spare)?,
        users: request.users,
        tree_path: request.tree.clone(),
        tree,
        reserved,
        nursery: Arc::new(nursery),
    };
    let Ok(Some((folder, secrets))) = receive_task(&control) else {
        // The agent has gone.
        return Ok(ready.abandon()?);
    };
    diagnostics::go_to(&folder);
    leave_agent().map_err(system("open /dev/null"))?;
    keep_with(&folder, Some(ready), secrets, move || {
        // An agent that has gone finds the helper by its socket when it is back.
        let _told = (&control).write_all(b"l");
    })
}

/// The name of a spare's cgroups.
fn reserved(pid: i32) -> String {
    format!("{RESERVED}{pid}")
}

/// Whether a leaf is reserved by a helper that lives: a spare that is about to notice that its agent has gone,
/// or one that has just been given a task.
pub fn is_reserved_by_living(leaf: &str) -> bool {
    let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let pid = leaf.strip_prefix(RESERVED).and_then(|pid| pid.parse().ok());
    let name = pid
        .and_then(program)
        .and_then(|path| path.file_name().map(OsStr::to_owned));
    // So the kernel calls it when an upgrade has put another in its place.
    name.is_some_and(|name| name == "tw-helper" || name == "tw-helper (deleted)")
}

/// Lets go of the nursery's socket.
fn leave_nursery() -> io::Result<()> {
    let nothing = File::open("/dev/null")?;
    Ok(nix::unistd::dup2_stdin(&nothing)?)
}

/// Lets go of the agent's standard error, which a helper outlives.
fn leave_agent() -> io::Result<()> {
    let nothing = File::options().write(true).open("/dev/null")?;
    Ok(nix::unistd::dup2_stderr(&nothing)?)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process::{Command, Stdio};

    use super::{is_reserved_by_living, reserved};

    #[test]
    fn a_spare_of_a_program_that_was_replaced_still_holds_its_leaf() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("tw-helper");
        std::fs::copy("/bin/cat", &program).unwrap();
        let mut helper = loop {
            match Command::new(&program).stdin(Stdio::piped()).spawn() {
                // A process that another test forks at this time holds the copy open for a moment.
                Err(busy) if busy.kind() == ErrorKind::ExecutableFileBusy => continue,
                started => break started.unwrap(),
            }
        };
        let leaf = reserved(helper.id().cast_signed());
        assert!(is_reserved_by_living(&leaf));
        std::fs::remove_file(&program).unwrap();
        assert!(is_reserved_by_living(&leaf));
        drop(helper.stdin.take());
        helper.wait().unwrap();
        assert!(!is_reserved_by_living(&leaf));
        // Any other program may have its number.
        assert!(!is_reserved_by_living(&reserved(
            std::process::id().cast_signed()
        )));
    }
}
