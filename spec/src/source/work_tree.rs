//! The files as they are on disk.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use git2::Repository;

use super::ignore::{Ignore, RULES};
use super::scan::{Folder, KnownFile, KnownFolder, Named, Scan, Stamp};
use super::{Entry, EntryKind, FILE_BYTES_MAX, Hash, SourceError, path};
use crate::Cache;
use crate::cache::Key;

pub(super) struct WorkTree {
    root: PathBuf,
    repository: Option<Mutex<Repository>>,
    ignore: Ignore,
    scan: Mutex<Scan>,
    seen: Mutex<Seen>,
    cache: OnceLock<Arc<Cache>>,
}

/// The folders that a search for specs has just gone through, and when that was. Whoever looks at the tree next need not
/// look at them again.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    folders: Folders,
}

/// Folders by path; none where there is none.
pub(crate) type Folders = HashMap<String, Option<Arc<Folder>>>;

/// How long a search for specs tells what is there.
const SEEN: Duration = Duration::from_secs(1);

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
            ignore: Ignore::of(repository.as_ref()),
            root,
            repository: repository.map(Mutex::new),
            scan: Mutex::default(),
            seen: Mutex::default(),
            cache: OnceLock::new(),
        }
    }

    /// Takes over what an earlier look has left in the cache.
    pub(super) fn use_cache(&self, cache: &Arc<Cache>) {
        if self.cache.set(Arc::clone(cache)).is_ok()
            && let Some(known) = cache.get(&self.key())
            && let Ok(known) = postcard::from_bytes(&known)
        {
            *self.scan() = known;
        }
    }

    pub(super) fn remember(&self) {
        let mut scan = self.scan();
        let Some(cache) = self.cache.get().filter(|_| scan.is_worth_keeping()) else {
            return;
        };
        scan.tidy(&self.root);
        if let Ok(known) = postcard::to_stdvec(&*scan) {
            cache.put(self.key(), known);
        }
        scan.news = 0;
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn key(&self) -> Key {
        Key::new("work tree", &[self.root.as_os_str().as_encoded_bytes()])
    }

    fn scan(&self) -> MutexGuard<'_, Scan> {
        lock(&self.scan)
    }

    /// Takes note of folders that were just looked at.
    pub(super) fn saw(&self, folders: Folders) {
        *lock(&self.seen) = Seen {
            at: Some(Instant::now()),
            folders,
        };
    }

    /// The folders of a search for specs that has just ended; they are handed out once.
    pub(super) fn take_seen(&self) -> Folders {
        let Seen { at, folders } = std::mem::take(&mut *lock(&self.seen));
        match at.is_some_and(|at| at.elapsed() < SEEN) {
            true => folders,
            false => Folders::default(),
        }
    }

    /// The names in a folder. They are read from disk unless the folder's stamp is known.
    pub(super) fn folder(&self, path: &str) -> Result<Option<Arc<Folder>>, SourceError> {
        if leads_nowhere(path) {
            return Ok(None);
        }
        let place = self.root.join(path);
        let stamp = match fs::metadata(&place) {
            Ok(found) if found.is_dir() => Stamp::of(&found),
            Ok(_) => return Ok(None),
            Err(cause) if is_absence(&cause) => return Ok(None),
            Err(cause) => return Err(io_error(path, cause)),
        };
        let mut guard = self.scan();
        let scan = &mut *guard;
        let known = scan.folders.get(path).filter(|known| known.stamp == stamp);
        // The names in a folder that is as it was say whether there are rules in it.
        let has_rules = known.map(|known| known.folder.get(RULES).is_some());
        let rules = self
            .ignore
            .rules(&mut scan.rules, &self.root, path, has_rules);
        if let Some(known) = known
            && known.rules == rules
            && (known.index == 0 || known.index == self.ignore.index())
        {
            return Ok(Some(Arc::clone(&known.folder)));
        }
        drop(guard);
        let folder = Arc::new(self.read_folder(path, &place, rules)?);
        let mut scan = self.scan();
        if stamp.is_settled() {
            let has_ignored = folder.names.iter().any(|named| named.is_ignored);
            let known = KnownFolder {
                stamp,
                rules,
                index: if has_ignored { self.ignore.index() } else { 0 },
                folder: Arc::clone(&folder),
            };
            scan.folders.insert(path.to_owned(), known);
            scan.news += 1;
        }
        Ok(Some(folder))
    }

    fn read_folder(&self, path: &str, place: &Path, rules: u64) -> Result<Folder, SourceError> {
        let mut names = Vec::new();
        for found in fs::read_dir(place).map_err(|cause| io_error(path, cause))? {
            let found = found.map_err(|cause| io_error(path, cause))?;
            let Ok(name) = found.file_name().into_string() else {
                continue;
            };
            let metadata = match found.metadata() {
                Ok(metadata) => metadata,
                Err(cause) if is_absence(&cause) => continue,
                Err(cause) => return Err(io_error(path, cause)),
            };
            if let Some(kind) = kind_of(&metadata).filter(|_| name != ".git") {
                let is_ignored = rules != 0 && self.is_ignored(&path::join(path, &name));
                names.push(Named {
                    name,
                    kind,
                    is_ignored,
                    id: None,
                });
            }
        }
        names.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Folder { names })
    }

    /// The contents of a file and their hash, which is remembered with the file's stamp.
    pub(super) fn file(&self, path: &str) -> Result<Option<(Vec<u8>, Hash)>, SourceError> {
        let before = Stamp::at(&self.root.join(path));
        let Some(bytes) = self.read_at(path, &self.root.join(path))? else {
            return Ok(None);
        };
        let hash = *blake3::hash(&bytes).as_bytes();
        if let Some(stamp) = before.filter(Stamp::is_settled) {
            let mut scan = self.scan();
            scan.files
                .insert(path.to_owned(), KnownFile { stamp, hash });
            scan.news += 1;
        }
        Ok(Some((bytes, hash)))
    }

    pub(super) fn known_hash(&self, path: &str) -> Option<Hash> {
        let known = *self.scan().files.get(path)?;
        (Stamp::at(&self.root.join(path))? == known.stamp).then_some(known.hash)
    }

    /// The repository is locked meanwhile: `ask` must not ask the work tree for anything, which may ask git, too.
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
        self.read_at(path, &real)
    }

    fn read_at(&self, path: &str, place: &Path) -> Result<Option<Vec<u8>>, SourceError> {
        let metadata = match fs::metadata(place) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(cause) if is_absence(&cause) => return Ok(None),
            Err(cause) => return Err(io_error(path, cause)),
        };
        if metadata.len() > FILE_BYTES_MAX {
            return Err(SourceError::TooLarge {
                path: path.to_owned(),
                bytes: metadata.len(),
            });
        }
        let read = fs::read(place).map(Some);
        read.map_err(|cause| io_error(path, cause))
    }

    pub(super) fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, SourceError> {
        let Some(real) = self.real(path)? else {
            return Ok(None);
        };
        let Some(inside) = real.strip_prefix(&self.root).ok().and_then(Path::to_str) else {
            return Ok(None);
        };
        let Some(folder) = self.folder(inside)? else {
            return Ok(None);
        };
        let names = folder.names.iter().filter(|named| !named.is_ignored);
        let entries = names.map(|named| Entry {
            name: named.name.clone(),
            kind: named.kind,
        });
        Ok(Some(entries.collect()))
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
        if leads_nowhere(path) {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a path goes where specs see nothing: git's own folder, or out.
fn leads_nowhere(path: &str) -> bool {
    path.split('/').any(|part| part == ".git" || part == "..") || path.contains('\0')
}

fn io_error(path: &str, cause: io::Error) -> SourceError {
    SourceError::Io {
        path: path.to_owned(),
        cause,
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
