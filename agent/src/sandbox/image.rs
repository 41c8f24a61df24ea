//! Folders of the machine as the root of a task.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Bind;

/// Files that follow the machine, whatever the image says.
const LIVE: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Folders of the machine that no image may hold: whose state and keys they have is none of a task's business, and its
/// root would read them.
const OF_MACHINE: [&str; 7] = ["/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run"];

/// Why a folder cannot be a root.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{} is not on this machine", path.display())]
    Missing { path: PathBuf },
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("{} can be changed by others than root (owner {owner}, mode {mode:o}); make root its owner and take the right to write from group and others", path.display())]
    Writable {
        path: PathBuf,
        owner: u32,
        mode: u32,
    },
    #[error("{} holds {of_machine} of the machine itself; an image is a folder of its own, and without one a task has the machine's programs", path.display())]
    Machine {
        path: PathBuf,
        of_machine: &'static str,
    },
    #[error("cannot look at {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Refuses what is no folder, what has the machine's own files, and what somebody else could change below running tasks. Neither the folder nor one
/// above it may be a link that others could turn elsewhere. An agent without root trusts its own user as well.
pub fn check(path: &Path) -> Result<(), ImageError> {
    // Whatever steps up it has.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(of_machine) = OF_MACHINE
        .into_iter()
        .find(|of_machine| Path::new(of_machine).starts_with(&real))
    {
        return Err(ImageError::Machine {
            path: path.to_owned(),
            of_machine,
        });
    }
    for above in path.ancestors() {
        let found = match fs::symlink_metadata(above) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::Missing {
                    path: path.to_owned(),
                });
            }
            Err(source) => {
                return Err(ImageError::File {
                    path: above.to_owned(),
                    source,
                });
            }
        };
        if !found.is_dir() {
            return Err(ImageError::NotAFolder {
                path: above.to_owned(),
            });
        }
        let mode = found.permissions().mode() & 0o7777;
        // In a folder such as /tmp nobody can move what is another's.
        let is_sticky = above != path && mode & 0o1000 != 0;
        let is_trusted = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
        if !is_trusted || (mode & 0o022 != 0 && !is_sticky) {
            return Err(ImageError::Writable {
                path: above.to_owned(),
                owner: found.uid(),
                mode,
            });
        }
    }
    Ok(())
}

/// What an image shows of the machine besides itself.
pub fn live_binds() -> Vec<Bind> {
    LIVE.into_iter()
        .map(|path| Bind {
            source: path.into(),
            target: path.into(),
            is_writable: false,
            is_optional: true,
            is_of_host: false,
        })
        .collect()
}
