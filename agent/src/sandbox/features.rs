//! What the kernel and the file systems of this machine allow a sandbox.

use std::fs;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::clone::{CloneRequest, Cloned, clone3, exit_now};
use super::command::report_and_exit;
use super::launcher::{new_pipe, read_report, reap};
use super::user::Account;
use super::users::{UserMode, UserNamespace};
use super::{At, Stage, StartError, UPPER, WORK, mounts};
use crate::removal::remove_tree;

/// What was found out by trying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    pub users: UserMode,
    /// Why tasks share the host's user numbers, if they do.
    pub users_reason: Option<String>,
}

/// Tries in `folder`, where tasks will live. The calling process ends up in a mount namespace of its own: it must
/// have one thread only, and has nothing else to do.
pub fn probe(folder: &Path) -> Features {
    let tried = try_in(folder, |base, task| {
        let users = UserNamespace::new()?;
        unshare(CloneFlags::CLONE_NEWNS).at(Stage::Clone, "cannot make a mount namespace")?;
        mounts::try_root(base, task, UserMode::Mapped, Some(&users))
    });
    match tried {
        Ok(()) => Features {
            users: UserMode::Mapped,
            users_reason: None,
        },
        Err(error) => Features {
            users: UserMode::Shared,
            users_reason: Some(error.message),
        },
    }
}

/// As [`probe`], for the root of a user namespace of its own: whether a sandbox can be made at all.
pub fn probe_alone(folder: &Path) -> Result<Features, StartError> {
    try_in(folder, |base, task| {
        let _users = UserNamespace::single(Account { uid: 1, gid: 1 })?;
        unshare(CloneFlags::CLONE_NEWPID).at(Stage::Clone, "cannot make a pid namespace")?;
        in_child(|| {
            unshare(CloneFlags::CLONE_NEWNS).at(Stage::Clone, "cannot make a mount namespace")?;
            mounts::try_root(base, task, UserMode::Single, None)
        })
    })?;
    Ok(Features {
        users: UserMode::Single,
        users_reason: None,
    })
}

fn try_in(
    folder: &Path,
    attempt: impl FnOnce(&Path, &Path) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let probe = folder.join(format!("probe-{}", std::process::id()));
    // Beside each other, as they are for tasks: a mapped folder cannot be mapped again.
    let (base, task) = (probe.join("base"), probe.join("task"));
    let made = make(&base, &task).at(
        Stage::Mount,
        format_args!("cannot make {}", probe.display()),
    );
    let tried = made.and_then(|()| attempt(&base, &task));
    let removed = remove_tree(&probe);
    tried.and(removed.at(
        Stage::Mount,
        format_args!("cannot remove {}", probe.display()),
    ))
}

/// Runs `work` in a child, which is the first of a new pid namespace where the caller has made one.
fn in_child(work: impl FnOnce() -> Result<(), StartError>) -> Result<(), StartError> {
    let (report, report_in) = new_pipe()?;
    let request = CloneRequest {
        flags: 0,
        cgroup: None,
    };
    // SAFETY: the calling process has one thread; the child ends in `_exit`.
    match unsafe { clone3(&request) }.at(Stage::Clone, "cannot start a process")? {
        Cloned::Child => match work() {
            Ok(()) => exit_now(0),
            Err(error) => report_and_exit(&report_in, &error),
        },
        Cloned::Parent { pidfd, .. } => {
            drop(report_in);
            let said = read_report(report);
            reap(&pidfd);
            said
        }
    }
}

fn make(base: &Path, task: &Path) -> io::Result<()> {
    fs::create_dir_all(base)?;
    [UPPER, WORK]
        .into_iter()
        .try_for_each(|name| fs::create_dir_all(task.join(name)))
}
