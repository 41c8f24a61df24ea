//! Folders of the machine as the root of a task.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Bind;

/// Files that follow the machine, whatever the image says.
const LIVE: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

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
    #[error("cannot look at {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Refuses what is no folder, and what somebody else could change below running tasks. Neither the folder nor one
/// above it may be a link that others could turn elsewhere. An agent without root trusts its own user as well.
pub fn check(path: &Path) -> Result<(), ImageError> {
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
