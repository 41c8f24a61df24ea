//! The files as they are on disk.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use git2::Repository;

use super::{Entry, EntryKind, FILE_BYTES_MAX, SourceError, path};

pub(super) struct WorkTree {
    root: PathBuf,
    repository: Option<Mutex<Repository>>,
}

impl std::fmt::Debug for WorkTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkTree")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl WorkTree {
    pub(super) fn new(root: PathBuf, repository: Option<Repository>) -> WorkTree {
        WorkTree {
            root,
            repository: repository.map(Mutex::new),
        }
    }

    pub(super) fn with_repository<T>(&self, ask: impl FnOnce(&Repository) -> T) -> Option<T> {
        let repository = self
            .repository
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(ask(&repository))
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let Some(real) = self.real(path)? else {
            return Ok(None);
        };
        let failed = |cause| SourceError::Io {
            path: path.to_owned(),
            cause,
        };
        let metadata = fs::metadata(&real).map_err(failed)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(SourceError::TooLarge {
                path: path.to_owned(),
                bytes: metadata.len(),
            });
        }
        fs::read(&real).map(Some).map_err(failed)
    }

    pub(super) fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, SourceError> {
        let Some(real) = self.real(path)? else {
            return Ok(None);
        };
        if !real.is_dir() {
            return Ok(None);
        }
        let failed = |cause| SourceError::Io {
            path: path.to_owned(),
            cause,
        };
        let mut entries = Vec::new();
        for found in fs::read_dir(&real).map_err(failed)? {
            let found = found.map_err(failed)?;
            let Ok(name) = found.file_name().into_string() else {
                continue;
            };
            let kind = kind_of(&found.metadata().map_err(failed)?);
            if let Some(kind) =
                kind.filter(|_| name != ".git" && !self.is_ignored(&path::join(path, &name)))
            {
                entries.push(Entry { name, kind });
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(entries))
    }

    pub(super) fn kind(&self, path: &str) -> Result<Option<EntryKind>, SourceError> {
        let Some(real) = self.real(path)? else {
            return Ok(None);
        };
        let metadata = fs::metadata(&real).map_err(|cause| SourceError::Io {
            path: path.to_owned(),
            cause,
        })?;
        Ok(kind_of(&metadata))
    }

    pub(super) fn link_target(&self, path: &str) -> Result<Option<String>, SourceError> {
        match fs::read_link(self.root.join(path)) {
            Ok(target) => Ok(target.to_str().map(str::to_owned)),
            Err(cause) if is_absence(&cause) || cause.kind() == ErrorKind::InvalidInput => Ok(None),
            Err(cause) => Err(SourceError::Io {
                path: path.to_owned(),
                cause,
            }),
        }
    }

    /// Follows links; none if nothing is there, an error if the way leaves the root.
    fn real(&self, path: &str) -> Result<Option<PathBuf>, SourceError> {
        if path.split('/').any(|part| part == ".git" || part == "..") || path.contains('\0') {
            return Ok(None);
        }
        match self.root.join(path).canonicalize() {
            Ok(real) if real.starts_with(&self.root) => Ok(Some(real)),
            Ok(_) => Err(SourceError::LinkOutside {
                path: path.to_owned(),
            }),
            Err(cause) if is_absence(&cause) => Ok(None),
            Err(cause) => Err(SourceError::Io {
                path: path.to_owned(),
                cause,
            }),
        }
    }

    /// Whether git ignores a path and does not track it all the same.
    fn is_ignored(&self, path: &str) -> bool {
        let ask = |repository: &Repository| {
            let ignored = repository.is_path_ignored(path).unwrap_or(false);
            let tracked = || {
                repository
                    .index()
                    .is_ok_and(|index| index.get_path(Path::new(path), 0).is_some())
            };
            ignored && !tracked()
        };
        self.with_repository(ask).unwrap_or(false)
    }
}

fn is_absence(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
    )
}

/// None for sockets, devices and the like.
fn kind_of(metadata: &fs::Metadata) -> Option<EntryKind> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        Some(EntryKind::Symlink)
    } else if kind.is_dir() {
        Some(EntryKind::Folder)
    } else if kind.is_file() {
        Some(EntryKind::File {
            executable: metadata.permissions().mode() & 0o100 != 0,
        })
    } else {
        None
    }
}
