//! The files as a commit has them, read from git's objects.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use git2::{ObjectType, Oid, Repository, Tree};

use super::scan::{Folder, Named};
use super::{Entry, EntryKind, FILE_BYTES_MAX, SourceError, path};

const MODE_EXECUTABLE: i32 = 0o100_755;
const MODE_SYMLINK: i32 = 0o120_000;
/// Links followed before a path counts as one that leads nowhere, as in Linux.
const LINKS_MAX: usize = 40;

pub(super) struct Revision {
    repository: Mutex<Repository>,
    pub(super) commit: Oid,
    pub(super) tree: Oid,
}

impl std::fmt::Debug for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revision")
            .field("commit", &self.commit)
            .finish_non_exhaustive()
    }
}

/// An object at a path.
struct Found {
    id: Oid,
    mode: i32,
    is_folder: bool,
}

impl Found {
    fn kind(&self) -> EntryKind {
        match self {
            Found {
                is_folder: true, ..
            } => EntryKind::Folder,
            Found {
                mode: MODE_SYMLINK, ..
            } => EntryKind::Symlink,
            Found { mode, .. } => EntryKind::File {
                executable: *mode == MODE_EXECUTABLE,
            },
        }
    }
}

/// The branch and the tag of one name that are different commits, in words; git would silently take the tag.
fn ambiguous(repository: &Repository, revision: &str) -> Option<String> {
    let commit = |kind: &str| {
        let name = format!("refs/{kind}/{revision}");
        let reference = repository.find_reference(&name).ok()?;
        Some((name, reference.peel_to_commit().ok()?.id()))
    };
    let (tag, branch) = (commit("tags")?, commit("heads")?);
    (tag.1 != branch.1).then(|| format!("{} and {}", tag.0, branch.0))
}

impl Revision {
    pub(super) fn new(repository: Repository, revision: &str) -> Result<Revision, SourceError> {
        let resolve = || {
            let commit = repository.revparse_single(revision)?.peel_to_commit()?;
            Ok((commit.id(), commit.tree_id()))
        };
        if let Some(refs) = ambiguous(&repository, revision) {
            return Err(SourceError::Ambiguous {
                revision: revision.to_owned(),
                refs,
            });
        }
        let (commit, tree) = resolve().map_err(|cause: git2::Error| {
            let revision = revision.to_owned();
            match cause.code() {
                git2::ErrorCode::Ambiguous => SourceError::Ambiguous {
                    revision,
                    refs: cause.message().to_owned(),
                },
                _ if repository.is_shallow() => SourceError::Shallow { revision },
                _ => SourceError::NoRevision { revision, cause },
            }
        })?;
        Ok(Revision {
            repository: Mutex::new(repository),
            commit,
            tree,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Repository> {
        self.repository
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with_repository<T>(&self, ask: impl FnOnce(&Repository) -> T) -> T {
        ask(&self.lock())
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let repository = self.lock();
        let Some(found) = self
            .find(&repository, path)?
            .filter(|found| !found.is_folder)
        else {
            return Ok(None);
        };
        // Asked before the file is unpacked, for a small pack can hold a very large one.
        let bytes = repository.odb()?.read_header(found.id)?.0 as u64;
        match bytes > FILE_BYTES_MAX {
            true => Err(SourceError::TooLarge {
                path: path.to_owned(),
                bytes,
            }),
            false => Ok(Some(repository.find_blob(found.id)?.content().to_vec())),
        }
    }

    pub(super) fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, SourceError> {
        let repository = self.lock();
        let Some(found) = self
            .find(&repository, path)?
            .filter(|found| found.is_folder)
        else {
            return Ok(None);
        };
        let tree = repository.find_tree(found.id)?;
        let mut entries: Vec<Entry> = tree.iter().filter_map(|entry| entry_of(&entry)).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(entries))
    }

    pub(super) fn folder(&self, path: &str) -> Result<Option<Arc<Folder>>, SourceError> {
        let repository = self.lock();
        let Some(found) = self
            .find(&repository, path)?
            .filter(|found| found.is_folder)
        else {
            return Ok(None);
        };
        let tree = repository.find_tree(found.id)?;
        let mut names: Vec<Named> = tree.iter().filter_map(|entry| named(&entry)).collect();
        names.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(Arc::new(Folder { names })))
    }

    pub(super) fn paths_changed_since(&self, root_tree: Oid) -> Option<Vec<String>> {
        let repository = self.lock();
        let before = repository.find_tree(root_tree).ok()?;
        let now = repository.find_tree(self.tree).ok()?;
        let mut options = git2::DiffOptions::new();
        options.include_typechange(true).skip_binary_check(true);
        let diff = repository
            .diff_tree_to_tree(Some(&before), Some(&now), Some(&mut options))
            .ok()?;
        let sides = diff
            .deltas()
            .flat_map(|delta| [delta.old_file().path_bytes(), delta.new_file().path_bytes()]);
        let paths = sides
            .flatten()
            .map(|path| String::from_utf8_lossy(path).into_owned());
        Some(paths.collect())
    }

    pub(super) fn kind(&self, path: &str) -> Result<Option<EntryKind>, SourceError> {
        Ok(self.find(&self.lock(), path)?.map(|found| found.kind()))
    }

    pub(super) fn link_target(&self, path: &str) -> Result<Option<String>, SourceError> {
        let repository = self.lock();
        let Some(folder) = self
            .find(&repository, path::parent(path))?
            .filter(|found| found.is_folder)
        else {
            return Ok(None);
        };
        let tree = repository.find_tree(folder.id)?;
        let name = path.rsplit('/').next().unwrap_or(path);
        match lookup(&tree, name) {
            Some(found) if found.mode == MODE_SYMLINK => target(&repository, found.id).map(Some),
            _ => Ok(None),
        }
    }

    /// Walks from the root, following links.
    fn find(&self, repository: &Repository, path: &str) -> Result<Option<Found>, SourceError> {
        let mut rest = path.to_owned();
        for _ in 0..LINKS_MAX {
            match self.walk(repository, &rest)? {
                Walk::End(found) => return Ok(found),
                Walk::Link {
                    folder,
                    target,
                    after,
                } => {
                    let followed = path::resolve(&folder, &target);
                    let followed = followed.ok_or_else(|| SourceError::LinkOutside {
                        path: path.to_owned(),
                    })?;
                    rest = path::join(&followed, &after);
                }
            }
        }
        Ok(None)
    }

    /// Walks from the root up to the first link.
    fn walk(&self, repository: &Repository, path: &str) -> Result<Walk, SourceError> {
        let mut here = Found {
            id: self.tree,
            mode: 0,
            is_folder: true,
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for (index, name) in parts.iter().enumerate() {
            if !here.is_folder {
                return Ok(Walk::End(None));
            }
            let tree = repository.find_tree(here.id)?;
            let Some(found) = lookup(&tree, name) else {
                return Ok(Walk::End(None));
            };
            if found.mode == MODE_SYMLINK {
                return Ok(Walk::Link {
                    folder: parts[..index].join("/"),
                    target: target(repository, found.id)?,
                    after: parts[index + 1..].join("/"),
                });
            }
            here = found;
        }
        Ok(Walk::End(Some(here)))
    }
}

enum Walk {
    End(Option<Found>),
    Link {
        folder: String,
        target: String,
        after: String,
    },
}

/// Submodules and names with NUL count as absent.
fn lookup(tree: &Tree<'_>, name: &str) -> Option<Found> {
    let entry = if name.contains('\0') {
        None
    } else {
        tree.get_name(name)
    }?;
    let is_folder = match entry.kind()? {
        ObjectType::Tree => true,
        ObjectType::Blob => false,
        _ => return None,
    };
    Some(Found {
        id: entry.id(),
        mode: entry.filemode(),
        is_folder,
    })
}

fn target(repository: &Repository, link: Oid) -> Result<String, SourceError> {
    Ok(String::from_utf8_lossy(repository.find_blob(link)?.content()).into_owned())
}

fn entry_of(entry: &git2::TreeEntry<'_>) -> Option<Entry> {
    let is_folder = match entry.kind()? {
        ObjectType::Tree => true,
        ObjectType::Blob => false,
        _ => return None,
    };
    let found = Found {
        id: entry.id(),
        mode: entry.filemode(),
        is_folder,
    };
    Some(Entry {
        name: entry.name().ok()?.to_owned(),
        kind: found.kind(),
    })
}

fn named(entry: &git2::TreeEntry<'_>) -> Option<Named> {
    let Entry { name, kind } = entry_of(entry)?;
    Some(Named {
        name,
        kind,
        is_ignored: false,
        id: entry.id().as_bytes().try_into().ok(),
    })
}
