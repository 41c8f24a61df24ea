//! What the kernel and the file systems of this machine allow a sandbox.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use super::clone::{CloneRequest, Cloned, clone3, exit_now};
use super::command::report_and_exit;
use super::launcher::{new_pipe, read_report};
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

/// Why there is no finding.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel, its settings or the file system do not allow it, today or tomorrow.
    #[error("{0}")]
    Refused(StartError),
    /// The attempt failed for another reason, a full disk or too many processes, which says nothing about the sandbox.
    #[error("it cannot be found out what a sandbox can have here: {0}")]
    Undecided(StartError),
}

impl ProbeError {
    fn of_attempt(error: StartError) -> ProbeError {
        match is_final(&error, forbids_user_namespaces()) {
            true => ProbeError::Refused(error),
            false => ProbeError::Undecided(error),
        }
    }
}

/// Whether a failed attempt to make a sandbox would fail at any time, on a machine that forbids user namespaces or not.
fn is_final(error: &StartError, forbids_users: bool) -> bool {
    match error.errno {
        Some(
            libc::EPERM
            | libc::EACCES
            | libc::EINVAL
            | libc::ENOSYS
            | libc::EOPNOTSUPP
            | libc::ENODEV
            | libc::EOVERFLOW,
        ) => true,
        // Of a file system it is full. Of the clone it is a limit on user namespaces, which those that live may have reached
        // for the moment.
        Some(libc::ENOSPC | libc::EUSERS) => error.stage == Stage::Clone && forbids_users,
        _ => false,
    }
}

/// Whether this machine is set to allow no user namespaces at all.
fn forbids_user_namespaces() -> bool {
    fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() == "0")
}

/// Tries in `folder`, where tasks will live. The calling process must have one thread only. Tasks share the users of the
/// machine only where the attempt says that they cannot have their own.
pub fn probe(folder: &Path) -> Result<Features, ProbeError> {
    let tried = try_in(folder, |base, task| {
        let users = UserNamespace::new()?;
        in_child(|| {
            unshare(CloneFlags::CLONE_NEWNS).at(Stage::Mount, "cannot make a mount namespace")?;
            mounts::try_root(base, task, UserMode::Mapped, Some(&users))
        })
    });
    match tried {
        Ok(()) => Ok(Features {
            users: UserMode::Mapped,
            users_reason: None,
        }),
        Err(ProbeError::Refused(error)) => Ok(Features {
            users: UserMode::Shared,
            users_reason: Some(error.message),
        }),
        Err(undecided) => Err(undecided),
    }
}

/// As [`probe`], for the root of a user namespace of its own: whether a sandbox can be made at all.
pub fn probe_alone(folder: &Path) -> Result<Features, ProbeError> {
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

/// Makes an attempt in a folder below `folder`. That this folder cannot be made or removed says nothing about a sandbox.
fn try_in(
    folder: &Path,
    attempt: impl FnOnce(&Path, &Path) -> Result<(), StartError>,
) -> Result<(), ProbeError> {
    let probe = folder.join(format!("probe-{}", std::process::id()));
    // Beside each other, as they are for tasks: a mapped folder cannot be mapped again.
    let (base, task) = (probe.join("base"), probe.join("task"));
    // A probe of the same number may have been killed in the middle.
    let made = remove_tree(&probe)
        .and_then(|()| make(&base, &task))
        .at(
            Stage::Mount,
            format_args!("cannot make {}", probe.display()),
        )
        .map_err(ProbeError::Undecided);
    let tried = made.and_then(|()| attempt(&base, &task).map_err(ProbeError::of_attempt));
    let removed = remove_tree(&probe).at(
        Stage::Mount,
        format_args!("cannot remove {}", probe.display()),
    );
    tried.and(removed.map_err(ProbeError::Undecided))
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
            let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            let has_succeeded =
                matches!(ended, Ok(Some(status)) if status.exit_status() == Some(0));
            said.and_then(|()| match has_succeeded {
                true => Ok(()),
                false => Err(StartError::plain(
                    Stage::Lost,
                    "the attempt died without a word",
                )),
            })
        }
    }
}

fn make(base: &Path, task: &Path) -> io::Result<()> {
    fs::create_dir_all(base)?;
    [UPPER, WORK]
        .into_iter()
        .try_for_each(|name| fs::create_dir_all(task.join(name)))
}

#[cfg(test)]
mod tests {
    use super::{Stage, StartError, exit_now, in_child, is_final};

    #[test]
    fn only_errors_of_the_kernel_and_the_file_system_are_final() {
        let failed =
            |stage, errno| StartError::os(stage, "x", std::io::Error::from_raw_os_error(errno));
        for errno in [libc::EPERM, libc::EINVAL, libc::ENOSYS, libc::EACCES] {
            assert!(is_final(&failed(Stage::Mount, errno), false), "{errno}");
        }
        for errno in [
            libc::EROFS,
            libc::EDQUOT,
            libc::EIO,
            libc::ENOMEM,
            libc::EAGAIN,
            libc::EMFILE,
        ] {
            assert!(!is_final(&failed(Stage::Clone, errno), true), "{errno}");
        }
        assert!(!is_final(&StartError::plain(Stage::Lost, "x"), true));
    }

    #[test]
    fn an_attempt_that_dies_without_a_word_has_not_succeeded() {
        assert_eq!(in_child(|| Ok(())).map_err(|error| error.message), Ok(()));
        let died = in_child(|| exit_now(3)).unwrap_err();
        assert_eq!(died.stage, Stage::Lost);
    }

    #[test]
    fn too_many_user_namespaces_are_final_only_where_there_may_be_none() {
        for errno in [libc::ENOSPC, libc::EUSERS] {
            let failed =
                |stage| StartError::os(stage, "x", std::io::Error::from_raw_os_error(errno));
            assert!(is_final(&failed(Stage::Clone), true), "{errno}");
            assert!(!is_final(&failed(Stage::Clone), false), "{errno}");
            assert!(!is_final(&failed(Stage::Mount), true), "{errno}");
        }
    }
}
