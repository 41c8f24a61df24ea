//! What the kernel and the file systems of this machine allow a sandbox.

use std::fs;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::users::{UserMode, UserNamespace};
use super::{At, Stage, StartError, mounts};

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
    match try_mapping(folder) {
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

fn try_mapping(folder: &Path) -> Result<(), StartError> {
    let task = folder.join(format!("probe-{}", std::process::id()));
    let made = make(&task).at(Stage::Mount, format_args!("cannot make {}", task.display()));
    let tried = made.and_then(|()| {
        let users = UserNamespace::new()?;
        unshare(CloneFlags::CLONE_NEWNS).at(Stage::Clone, "cannot make a mount namespace")?;
        mounts::try_root(&task.join("base"), &task, &users)
    });
    let removed = fs::remove_dir_all(&task);
    tried.and(removed.at(
        Stage::Mount,
        format_args!("cannot remove {}", task.display()),
    ))
}

fn make(task: &Path) -> io::Result<()> {
    ["base", "upper", "work", "root"]
        .into_iter()
        .try_for_each(|name| fs::create_dir_all(task.join(name)))
}
