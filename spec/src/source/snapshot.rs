//! A source as one run sees it: what was looked up once stays as it was found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tw_model::Digest;

use super::scan::{Folder, Named};
use super::work_tree::Folders;
use super::{EntryKind, Source, SourceError, path};
use crate::cache::Key;
use crate::package::{self, PackageError};
use crate::{Cache, QuestionKind};

/// A BLAKE3 hash.
pub(crate) type Hash = [u8; 32];

/// Contents that are kept because they are asked for again and again.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The answers of one source.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) source: &'a Source,
    cache: Option<Arc<Cache>>,
    folders: Mutex<Folders>,
    files: Mutex<Files>,
    packages: Mutex<HashMap<String, Result<Digest, Arc<PackageError>>>>,
}

#[derive(Debug, Default)]
struct Files {
    /// Hashes by path; none where there is no file.
    hashes: HashMap<String, Option<Hash>>,
    contents: HashMap<String, Arc<[u8]>>,
    bytes: usize,
}

/// A file's contents and their hash.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) content: Arc<[u8]>,
    pub(crate) hash: Hash,
}

/// What a path leads to.
enum Place {
    Nothing,
    Folder,
    File,
    /// There is a link on the way, which the source follows.
    Link,
}

impl<'a> Snapshot<'a> {
    pub(crate) fn new(source: &'a Source, cache: Option<Arc<Cache>>) -> Snapshot<'a> {
        Snapshot {
            source,
            cache,
            folders: Mutex::new(source.take_seen()),
            files: Mutex::default(),
            packages: Mutex::default(),
        }
    }

    /// The contents of a file; none if there is no file at `path`.
    pub(crate) fn read(&self, path: &str) -> Result<Option<File>, SourceError> {
        let known = {
            let files = lock(&self.files);
            let hash = files.hashes.get(path).copied();
            hash.map(|hash| hash.zip(files.contents.get(path).map(Arc::clone)))
        };
        if let Some(Some((hash, content))) = known {
            return Ok(Some(File { content, hash }));
        }
        let found = match self.place(path)? {
            Place::File => self.source.file(path)?,
            Place::Link => self.source.read(path)?.map(|bytes| {
                let hash = *blake3::hash(&bytes).as_bytes();
                (bytes, hash)
            }),
            Place::Nothing | Place::Folder => None,
        };
        let found = found.map(|(content, hash)| File {
            content: content.into(),
            hash,
        });
        self.keep(path, found.as_ref());
        Ok(found)
    }

    fn keep(&self, path: &str, found: Option<&File>) {
        let mut files = lock(&self.files);
        files
            .hashes
            .insert(path.to_owned(), found.map(|file| file.hash));
        // A spec is read once, a module by every spec that imports it.
        if let Some(file) = found
            && !path.ends_with(".tw")
            && files.bytes + file.content.len() <= KEPT_BYTES_MAX
        {
            files.bytes += file.content.len();
            files
                .contents
                .insert(path.to_owned(), Arc::clone(&file.content));
        }
    }

    /// The names in a folder, a line each, those of folders with a slash; none if there is no folder at `path`.
    pub(crate) fn list(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let line = |kind: EntryKind| match kind {
            EntryKind::Folder => "/\n",
            EntryKind::File { .. } | EntryKind::Symlink => "\n",
        };
        let mut text = String::new();
        if matches!(self.place(path)?, Place::Link) {
            let Some(entries) = self.source.list(path)? else {
                return Ok(None);
            };
            for entry in entries {
                text += &entry.name;
                text += line(entry.kind);
            }
            return Ok(Some(text.into_bytes()));
        }
        let Some(folder) = self.folder(path)? else {
            return Ok(None);
        };
        for named in folder.names.iter().filter(|named| !named.is_ignored) {
            text += &named.name;
            text += line(named.kind);
        }
        Ok(Some(text.into_bytes()))
    }

    /// What stands at a path: `folder` or `file`.
    pub(crate) fn what(&self, path: &str) -> Result<Option<&'static str>, SourceError> {
        Ok(match self.place(path)? {
            Place::Nothing => None,
            Place::Folder => Some("folder"),
            Place::File => Some("file"),
            Place::Link => self.source.kind(path)?.map(|kind| match kind {
                EntryKind::Folder => "folder",
                EntryKind::File { .. } | EntryKind::Symlink => "file",
            }),
        })
    }

    /// The digest of a folder as a package. Folders of the same contents are packed once, also by later runs.
    pub(crate) fn package(&self, folder: &str) -> Result<Digest, Arc<PackageError>> {
        if let Some(known) = lock(&self.packages).get(folder) {
            return known.clone();
        }
        let found = self.packed(folder).map_err(Arc::new);
        lock(&self.packages).insert(folder.to_owned(), found.clone());
        found
    }

    fn packed(&self, folder: &str) -> Result<Digest, PackageError> {
        let key = self.contents_key(folder)?;
        if let (Some(cache), Some(key)) = (&self.cache, &key)
            && let Some(digest) = cache.get(key).and_then(|text| String::from_utf8(text).ok())
        {
            return Ok(Digest(digest));
        }
        let digest = package::pack(self.source, folder)?.digest;
        if let (Some(cache), Some(key)) = (&self.cache, key) {
            cache.put(key, digest.0.clone().into_bytes());
        }
        Ok(digest)
    }

    /// A key for the contents of a folder; none where links make it hard to tell, or nothing is kept.
    fn contents_key(&self, folder: &str) -> Result<Option<Key>, SourceError> {
        if self.cache.is_none() || !matches!(self.place(folder)?, Place::Folder) {
            return Ok(None);
        }
        let mut parts = Vec::new();
        let is_plain = self.contents(folder, "", &mut parts)?;
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Ok(is_plain.then(|| Key::new("package", &parts)))
    }

    /// Lists all that is in a folder with its hashes; says whether there is no link among it.
    fn contents(
        &self,
        folder: &str,
        inside: &str,
        parts: &mut Vec<Vec<u8>>,
    ) -> Result<bool, SourceError> {
        let Some(found) = self.folder(&path::join(folder, inside))? else {
            return Ok(true);
        };
        for named in found.names.iter().filter(|named| !named.is_ignored) {
            let inside = path::join(inside, &named.name);
            match named.kind {
                EntryKind::Symlink => return Ok(false),
                EntryKind::Folder => {
                    if !self.contents(folder, &inside, parts)? {
                        return Ok(false);
                    }
                }
                EntryKind::File { executable } => {
                    let hash = self.hash_of_file(&path::join(folder, &inside), named)?;
                    parts.push(inside.into_bytes());
                    parts.push([hash.as_slice(), &[u8::from(executable)]].concat());
                }
            }
        }
        Ok(true)
    }

    /// What stands for the contents of a file: its git object where there is one, else its hash.
    fn hash_of_file(&self, path: &str, named: &Named) -> Result<Vec<u8>, SourceError> {
        match named.id {
            Some(id) => Ok(id.to_vec()),
            None => Ok(self.hash(path)?.unwrap_or_default().to_vec()),
        }
    }

    /// The hash of the answer to a question, as a closure has it; none if the answer is an error.
    #[expect(
        clippy::option_option,
        reason = "the inner none is the answer that there is no such thing"
    )]
    pub(crate) fn answer(&self, kind: QuestionKind, path: &str) -> Option<Option<Hash>> {
        let hash_of = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        match kind {
            QuestionKind::Read => self.hash(path).ok(),
            QuestionKind::List => {
                let listing = self.list(path).ok()?;
                Some(listing.as_deref().map(hash_of))
            }
            QuestionKind::Exists => {
                let what = self.what(path).ok()?;
                Some(what.map(str::as_bytes).map(hash_of))
            }
            QuestionKind::Package => {
                let digest = self.package(path).ok()?;
                blake3::Hash::from_hex(&digest.0)
                    .ok()
                    .map(|hash| Some(*hash.as_bytes()))
            }
        }
    }

    /// Whether there is a file at `path`.
    pub(crate) fn is_there(&self, path: &str) -> bool {
        self.what(path).is_ok_and(|what| what == Some("file"))
    }

    /// Whether a link is on the way to `path`, or that cannot be told.
    pub(crate) fn is_linked(&self, path: &str) -> bool {
        !matches!(
            self.place(path),
            Ok(Place::Nothing | Place::Folder | Place::File)
        )
    }

    /// How many files differ from another tree of the same repository; none where that is not known.
    pub(crate) fn files_changed_since(&self, base: &Source) -> Option<usize> {
        self.source
            .files_changed_since(base, &|path| self.folder(path))
    }

    /// The hash of a file; none if there is no file at `path`.
    fn hash(&self, path: &str) -> Result<Option<Hash>, SourceError> {
        if let Some(known) = lock(&self.files).hashes.get(path) {
            return Ok(*known);
        }
        let hash = match self.place(path)? {
            Place::Nothing | Place::Folder => None,
            Place::Link => self.read(path)?.map(|file| file.hash),
            Place::File => match self.source.known_hash(path) {
                Some(hash) => Some(hash),
                None => self.source.file(path)?.map(|(_, hash)| hash),
            },
        };
        lock(&self.files).hashes.insert(path.to_owned(), hash);
        Ok(hash)
    }

    /// Walks to a path by the names in the folders on the way.
    fn place(&self, path: &str) -> Result<Place, SourceError> {
        if path.is_empty() {
            return Ok(Place::Folder);
        }
        let parent = path::parent(path);
        match self.place(parent)? {
            Place::Folder => {}
            Place::Link => return Ok(Place::Link),
            Place::Nothing | Place::File => return Ok(Place::Nothing),
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        let Some(folder) = self.folder(parent)? else {
            return Ok(Place::Nothing);
        };
        Ok(match folder.get(name).map(|named| named.kind) {
            None => Place::Nothing,
            Some(EntryKind::Folder) => Place::Folder,
            Some(EntryKind::File { .. }) => Place::File,
            Some(EntryKind::Symlink) => Place::Link,
        })
    }

    fn folder(&self, path: &str) -> Result<Option<Arc<Folder>>, SourceError> {
        if let Some(known) = lock(&self.folders).get(path) {
            return Ok(known.clone());
        }
        let found = self.source.folder(path)?;
        lock(&self.folders).insert(path.to_owned(), found.clone());
        Ok(found)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
