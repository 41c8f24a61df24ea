//! Spare helpers: started ahead, with all of a start done that does not depend on the task.
//!
//! A spare has loaded its program, joined the cgroup of the helpers, made a user namespace and the system call
//! filter, and on v1 its launcher sits in groups that are renamed for the task. What is left of a start is the
//! task's own: its limits, its root, its command. Whoever takes a spare refills the pool.
//!
//! The agent holds the other end of a spare's standard input. A spare whose agent has gone gives everything
//! back and ends.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::keeper::{
    CLEANUP_PATIENCE, HelperError, Ready, detach, join_helpers, keep_with, system,
};
use crate::cgroup::TreePath;
use crate::sandbox::{Prepared, UserMode};

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
    spares: Mutex<VecDeque<Spare>>,
}

/// A helper without a task.
#[derive(Debug)]
pub struct Spare {
    child: Child,
    control: UnixStream,
}

/// A helper that has been given its task.
#[derive(Debug)]
pub struct HandedOver {
    pub child: Child,
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
            spares: Mutex::default(),
        }
    }

    /// Gives the task in `folder`, which is ready but for its helper, to a spare, or to a new helper.
    pub fn start(&self, folder: &Path) -> io::Result<HandedOver> {
        loop {
            // Not held while a helper is started.
            let waiting = self.lock().pop_front();
            let Some(mut spare) = waiting else {
                return self.spawn()?.hand_over(folder);
            };
            match spare.child.try_wait()? {
                None => return spare.hand_over(folder),
                Some(_killed) => self.remove_cgroups_of(spare.child.id())?,
            }
        }
    }

    /// Starts the spares that are missing.
    pub fn refill(&self) -> io::Result<()> {
        while self.lock().len() < self.size {
            let spare = self.spawn()?;
            self.lock().push_back(spare);
        }
        Ok(())
    }

    /// Ends the spares and waits until they have given everything back.
    pub fn close(&self) {
        let spares: Vec<Spare> = self.lock().drain(..).collect();
        let ending = spares.into_iter().map(|spare| spare.child);
        // All are told before the first is waited for.
        for mut child in ending.collect::<Vec<Child>>() {
            let _status = child.wait();
        }
    }

    fn spawn(&self) -> io::Result<Spare> {
        let (control, theirs) = UnixStream::pair()?;
        let child = Command::new(&self.program)
            .arg("spare")
            .arg(serde_json::to_string(&self.request)?)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Spare { child, control })
    }

    /// Removes what a helper that was killed before it began its task has left; its launcher has died with it.
    pub fn remove_cgroups_of(&self, pid: u32) -> io::Result<()> {
        let removed = self
            .request
            .tree
            .open()
            .and_then(|tree| tree.remove(&reserved(pid), CLEANUP_PATIENCE));
        removed.map_err(io::Error::other)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Spare>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare {
    fn hand_over(self, folder: &Path) -> io::Result<HandedOver> {
        let mut line = folder.as_os_str().as_bytes().to_owned();
        line.push(b'\n');
        (&self.control).write_all(&line)?;
        Ok(HandedOver {
            child: self.child,
            listening: self.control,
        })
    }
}

/// Waits for a task as a spare, then keeps it to its end. The calling process must have one thread only.
pub fn serve(request: &SpareRequest, control: UnixStream) -> Result<(), HelperError> {
    detach()?;
    let tree = request.tree.open()?;
    join_helpers(tree.as_ref(), &request.helpers_leaf)?;
    let reserved = reserved(std::process::id());
    let procs = tree.reserve(&reserved)?;
    let ready = Ready {
        prepared: Prepared::new(request.users, procs).map_err(HelperError::Spare)?,
        users: request.users,
        reserved,
    };
    let mut line = Vec::new();
    let read = BufReader::new(&control).read_until(b'\n', &mut line);
    let folder = match (read, line.split_last()) {
        (Ok(_), Some((b'\n', folder))) => Path::new(OsStr::from_bytes(folder)),
        // The agent has gone.
        _ => return Ok(ready.abandon(tree.as_ref())?),
    };
    say_errors_to(&folder.join("helper.log")).map_err(system("open the helper's log"))?;
    keep_with(folder, Some(ready), move || {
        // An agent that has gone finds the helper by its socket when it is back.
        let _told = (&control).write_all(b"l");
    })
}

/// The name of a spare's cgroups.
fn reserved(pid: u32) -> String {
    format!("{RESERVED}{pid}")
}

/// Whether a leaf is reserved by a helper that lives: a spare that is about to notice that its agent has gone,
/// or one that has just been given a task.
pub fn is_reserved_by_living(leaf: &str) -> bool {
    let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe"));
    let pid = leaf.strip_prefix(RESERVED).and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| program(pid).is_ok_and(|path| path.ends_with("tw-helper")))
}

/// Lets standard error be the task's own, and standard input nothing.
fn say_errors_to(path: &Path) -> io::Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    nix::unistd::dup2_stderr(&log)?;
    let nothing = OpenOptions::new().read(true).open("/dev/null")?;
    Ok(nix::unistd::dup2_stdin(&nothing)?)
}
