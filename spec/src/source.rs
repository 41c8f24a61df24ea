//! Where specs are read from: a work tree, or a git revision without a checkout.

mod changed;
mod ignore;
mod near;
pub(crate) mod path;
mod revision;
mod scan;
mod snapshot;
mod work_tree;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use git2::Repository;
use serde::{Deserialize, Serialize};

use crate::Cache;
use crate::cache::Key;
pub use near::Near;
use revision::Revision;
pub(crate) use scan::Folder;
pub(crate) use snapshot::{Hash, Snapshot};
use work_tree::{Folders, WorkTree};

/// The most bytes a file may have that a spec reads.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024 - 4096;

/// From so many folders on, those of a work tree are looked through by several threads.
const FOLDERS_SHARED_FROM: usize = 64;

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("there is no folder {}", path.display())]
    NoFolder { path: PathBuf },
    #[error("{} is not in a git repository, so it has no revision '{revision}'", path.display())]
    NotInGit { path: PathBuf, revision: String },
    #[error("the repository has no revision '{revision}': {}", cause.message())]
    NoRevision {
        revision: String,
        cause: git2::Error,
    },
    #[error("the revision '{revision}' is ambiguous: {refs}")]
    Ambiguous { revision: String, refs: String },
    #[error("this clone is shallow, and has no revision '{revision}'")]
    Shallow { revision: String },
    #[error("{} is not below {}", path.display(), root.display())]
    Outside { path: PathBuf, root: PathBuf },
    #[error("there is no file or folder '{path}' in {tree}{near}")]
    NotFound {
        path: String,
        tree: String,
        near: Near,
    },
    #[error("there is no *.tw file in {searched}")]
    NoSpecs { searched: String },
    #[error("'{path}' leads out of the repository by a symbolic link")]
    LinkOutside { path: String },
    #[error("'{path}' has {bytes} bytes; a spec can read files of at most {FILE_BYTES_MAX}")]
    TooLarge { path: String, bytes: u64 },
    #[error("cannot read '{path}'")]
    Io {
        path: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("git: {}", .0.message())]
    Git(#[from] git2::Error),
}

/// Gives the names in a folder; none if there is no folder at the path.
type FolderOf<'a> = dyn Fn(&str) -> Result<Option<Arc<Folder>>, SourceError> + 'a;

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    File { executable: bool },
    Folder,
    Symlink,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: EntryKind,
}

/// A tree of files. Paths are relative to its root, with `/` between names and none at the ends; `""` is the root.
///
/// Cloning is cheap; clones share one repository handle.
#[derive(Clone, Debug)]
pub struct Source {
    root: PathBuf,
    tree: Tree,
    /// Files that read otherwise than in the tree.
    edits: Option<Arc<BTreeMap<String, Vec<u8>>>>,
    cache: Option<Arc<Cache>>,
}

#[derive(Clone, Debug)]
enum Tree {
    WorkTree(Arc<WorkTree>),
    Revision(Arc<Revision>),
}

impl Source {
    /// Takes the work tree around `path`: of its git repository, or outside git the folder itself.
    pub fn work_tree(path: &Path) -> Result<Source, SourceError> {
        let folder = folder_of(path)?;
        let repository = discover(&folder);
        let root = match repository
            .as_ref()
            .and_then(|repository| repository.workdir())
        {
            Some(root) => canonical(root)?,
            None => folder,
        };
        let tree = Tree::WorkTree(Arc::new(WorkTree::new(root.clone(), repository)));
        Ok(Source {
            root,
            tree,
            edits: None,
            cache: None,
        })
    }

    /// Takes a revision (any git expression) of the repository around `path`. Nothing is checked out.
    pub fn revision(path: &Path, revision: &str) -> Result<Source, SourceError> {
        let folder = folder_of(path)?;
        let Some(repository) = discover(&folder) else {
            return Err(SourceError::NotInGit {
                path: folder,
                revision: revision.to_owned(),
            });
        };
        let root = canonical(repository.workdir().unwrap_or_else(|| repository.path()))?;
        let tree = Tree::Revision(Arc::new(Revision::new(repository, revision)?));
        Ok(Source {
            root,
            tree,
            edits: None,
            cache: None,
        })
    }

    /// Lets the source use what an earlier look at the same tree has left in `cache`, and leave its own.
    pub fn with_cache(self, cache: &Arc<Cache>) -> Source {
        if let Tree::WorkTree(tree) = &self.tree {
            tree.use_cache(cache);
        }
        Source {
            cache: Some(Arc::clone(cache)),
            ..self
        }
    }

    /// The same tree, in which some of its files have other contents.
    pub(crate) fn with_edits(&self, edits: BTreeMap<String, Vec<u8>>) -> Source {
        Source {
            edits: Some(Arc::new(edits)),
            ..self.clone()
        }
    }

    fn edited(&self, path: &str) -> Option<&Vec<u8>> {
        self.edits.as_ref()?.get(path)
    }

    /// Leaves what was seen of a work tree in the cache, if there is one and anything was new.
    pub(crate) fn remember(&self) {
        if let (Tree::WorkTree(tree), None) = (&self.tree, &self.edits) {
            tree.remember();
        }
    }

    /// The repository's root on disk, or outside git the folder given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The commit's id; none for a work tree.
    pub fn commit(&self) -> Option<String> {
        match &self.tree {
            Tree::WorkTree(_) => None,
            Tree::Revision(revision) => Some(revision.commit.to_string()),
        }
    }

    /// The commit whose files these are: that of a revision, or the last one of a work tree in which nothing has changed
    /// since. What git ignores does not count.
    pub fn unchanged_commit(&self) -> Option<String> {
        if self.edits.is_some() || matches!(self.tree, Tree::Revision(_)) {
            return self.commit();
        }
        let head = Source::revision(&self.root, "HEAD").ok()?;
        let changed = self.files_changed_since(&head, &|path| self.folder(path))?;
        (changed == 0).then(|| head.commit()).flatten()
    }

    /// The source as a message names it: `the work tree`, or `revision 1a2b3c4d5e6f`.
    pub fn describe(&self) -> String {
        match self.commit() {
            None => "the work tree".to_owned(),
            Some(commit) => format!("revision {}", &commit[..12]),
        }
    }

    /// The contents of a file; none if there is no file at `path`.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        if !path::is_inside(path) {
            return Ok(None);
        }
        if let Some(edited) = self.edited(path) {
            return Ok(Some(edited.clone()));
        }
        match &self.tree {
            Tree::WorkTree(tree) => tree.read(path),
            Tree::Revision(tree) => tree.read(path),
        }
    }

    /// The names in a folder, sorted; none if there is no folder at `path`. Files that git ignores are left out.
    pub fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, SourceError> {
        if !path::is_inside(path) {
            return Ok(None);
        }
        match &self.tree {
            Tree::WorkTree(tree) => tree.list(path),
            Tree::Revision(tree) => tree.list(path),
        }
    }

    /// The names in a folder, ignored ones included; none if there is no folder at `path`. Whether a link on the
    /// way leads out of the root is not looked at.
    pub(crate) fn folder(&self, path: &str) -> Result<Option<Arc<Folder>>, SourceError> {
        let found = match &self.tree {
            Tree::WorkTree(tree) => tree.folder(path),
            Tree::Revision(tree) => tree.folder(path),
        }?;
        Ok(found.map(|folder| self.without_stale_ids(path, folder)))
    }

    /// Git's object of an edited file is that of its old contents.
    fn without_stale_ids(&self, path: &str, folder: Arc<Folder>) -> Arc<Folder> {
        let is_edited = |name: &str| self.edited(&path::join(path, name)).is_some();
        if self.edits.is_none() || !folder.names.iter().any(|named| is_edited(&named.name)) {
            return folder;
        }
        let mut folder = Folder::clone(&folder);
        for named in &mut folder.names {
            if is_edited(&named.name) {
                named.id = None;
            }
        }
        Arc::new(folder)
    }

    /// The contents of the file at `path`, and their hash. Whether a link on the way leads out of the root is not
    /// looked at.
    pub(crate) fn file(&self, path: &str) -> Result<Option<(Vec<u8>, Hash)>, SourceError> {
        if let Some(edited) = self.edited(path) {
            return Ok(Some((edited.clone(), *blake3::hash(edited).as_bytes())));
        }
        match &self.tree {
            Tree::WorkTree(tree) => tree.file(path),
            Tree::Revision(tree) => Ok(tree.read(path)?.map(|bytes| {
                let hash = *blake3::hash(&bytes).as_bytes();
                (bytes, hash)
            })),
        }
    }

    /// The hash of the file at `path`, if it is known without reading the file.
    pub(crate) fn known_hash(&self, path: &str) -> Option<Hash> {
        if let Some(edited) = self.edited(path) {
            return Some(*blake3::hash(edited).as_bytes());
        }
        match &self.tree {
            Tree::WorkTree(tree) => tree.known_hash(path),
            Tree::Revision(_) => None,
        }
    }

    /// The id of the root's git tree; none for a work tree.
    pub(crate) fn root_tree(&self) -> Option<git2::Oid> {
        match &self.tree {
            Tree::WorkTree(_) => None,
            Tree::Revision(revision) => self.edits.is_none().then_some(revision.tree),
        }
    }

    /// The paths that differ from another root tree of the same repository; none for a work tree, or if that
    /// tree is not there any more.
    pub(crate) fn paths_changed_since(&self, root_tree: git2::Oid) -> Option<Vec<String>> {
        match &self.tree {
            Tree::WorkTree(_) => None,
            Tree::Revision(_) if self.edits.is_some() => None,
            Tree::Revision(revision) => revision.paths_changed_since(root_tree),
        }
    }

    /// The folders of a search for specs that has just ended.
    fn take_seen(&self) -> Folders {
        match (&self.tree, &self.edits) {
            (Tree::WorkTree(tree), None) => tree.take_seen(),
            _ => Folders::default(),
        }
    }

    /// How many files differ from another tree of the same repository; none where that is not known. `folder` gives the
    /// names in a folder of this source.
    fn files_changed_since(&self, base: &Source, folder: &FolderOf<'_>) -> Option<usize> {
        let before = base.root_tree()?;
        match &self.tree {
            Tree::Revision(_) => {
                let paths = self.paths_changed_since(before)?;
                Some(
                    paths
                        .into_iter()
                        .collect::<std::collections::BTreeSet<_>>()
                        .len(),
                )
            }
            Tree::WorkTree(tree) => {
                changed::files_changed(tree, before, self.cache.as_deref(), folder)
            }
        }
    }

    /// What stands at `path`, links followed.
    pub fn kind(&self, path: &str) -> Result<Option<EntryKind>, SourceError> {
        if !path::is_inside(path) {
            return Ok(None);
        }
        match &self.tree {
            Tree::WorkTree(tree) => tree.kind(path),
            Tree::Revision(tree) => tree.kind(path),
        }
    }

    /// What a symbolic link says; none if `path` is no link.
    pub(crate) fn link_target(&self, path: &str) -> Result<Option<String>, SourceError> {
        match &self.tree {
            Tree::WorkTree(tree) => tree.link_target(path),
            Tree::Revision(tree) => tree.link_target(path),
        }
    }

    /// The repository and, for a revision, its commit.
    pub(crate) fn with_repository<T>(
        &self,
        ask: impl FnOnce(&Repository, Option<git2::Oid>) -> T,
    ) -> Option<T> {
        match &self.tree {
            Tree::WorkTree(tree) => tree.with_repository(|repository| ask(repository, None)),
            Tree::Revision(tree) => {
                Some(tree.with_repository(|repository| ask(repository, Some(tree.commit))))
            }
        }
    }

    /// Turns a path that a person typed, absolute or from `folder`, into one from the root.
    pub fn relative(&self, folder: &Path, typed: &Path) -> Result<String, SourceError> {
        let absolute = path::normalized(&folder.join(typed));
        let outside = || SourceError::Outside {
            path: absolute.clone(),
            root: self.root.clone(),
        };
        let real = path::canonical_as_far_as_possible(&absolute);
        let inside = absolute
            .strip_prefix(&self.root)
            .or_else(|_| real.strip_prefix(&self.root));
        let inside = inside.map_err(|_| outside())?;
        inside.to_str().map(str::to_owned).ok_or_else(outside)
    }

    /// Finds specs: each path is a file, or a folder of which every `*.tw` below it is meant. Sorted, none twice.
    ///
    /// Names that begin with a dot are passed over, and so is what git ignores.
    pub fn find_specs(&self, paths: &[String]) -> Result<Vec<String>, SourceError> {
        let mut found = Vec::new();
        for path in paths {
            match self.kind(path)? {
                Some(EntryKind::Folder) => found.extend(self.specs_in(path)?),
                Some(_) => found.push(path.clone()),
                None => {
                    return Err(self.not_found(path));
                }
            }
        }
        found.sort();
        found.dedup();
        match found.is_empty() {
            true => Err(SourceError::NoSpecs {
                searched: self.searched(paths),
            }),
            false => Ok(found),
        }
    }

    /// As [`Source::find_specs`], where paths that are not there hold no specs: the base of a comparison need
    /// not have what the head has.
    pub fn specs_if_any(&self, paths: &[String]) -> Result<Vec<String>, SourceError> {
        let mut present = Vec::new();
        for path in paths {
            if self.kind(path)?.is_some() {
                present.push(path.clone());
            }
        }
        match self.find_specs(&present) {
            Err(SourceError::NoSpecs { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The specs below a folder. Those of a revision are remembered, for to list them reads each of its folders.
    fn specs_in(&self, folder: &str) -> Result<Vec<String>, SourceError> {
        let mut found = Vec::new();
        let mut seen = Folders::default();
        let Some((cache, tree)) = self.cache.as_ref().zip(self.root_tree()) else {
            self.specs_below(folder, &mut found, &mut seen)?;
            if let (Tree::WorkTree(tree), None) = (&self.tree, &self.edits) {
                tree.saw(seen);
            }
            return Ok(found);
        };
        let key = Key::new("specs of a tree", &[tree.as_bytes(), folder.as_bytes()]);
        let known = cache.get(&key);
        if let Some(known) = known.and_then(|bytes| postcard::from_bytes(&bytes).ok()) {
            return Ok(known);
        }
        self.specs_below(folder, &mut found, &mut seen)?;
        if let Ok(bytes) = postcard::to_stdvec(&found) {
            cache.put(key, bytes);
        }
        Ok(found)
    }

    /// What it looks at is added to `seen`. A large work tree is looked through on every core.
    fn specs_below(
        &self,
        folder: &str,
        found: &mut Vec<String>,
        seen: &mut Folders,
    ) -> Result<(), SourceError> {
        let is_shared = matches!(self.tree, Tree::WorkTree(_));
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let mut next = VecDeque::from([folder.to_owned()]);
        while let Some(folder) = next.pop_front() {
            next.extend(self.look_into(&folder, found, seen)?);
            if is_shared && workers > 1 && next.len() >= FOLDERS_SHARED_FROM {
                break;
            }
        }
        if next.is_empty() {
            return Ok(());
        }
        let parts = next.make_contiguous();
        let parts = parts.chunks(parts.len().div_ceil(workers));
        type Looked = Result<(Vec<String>, Folders), SourceError>;
        let looked: Vec<Looked> = std::thread::scope(|scope| {
            let look = |part: &[String]| {
                let (mut found, mut seen) = (Vec::new(), Folders::default());
                let mut next = part.to_vec();
                while let Some(folder) = next.pop() {
                    next.extend(self.look_into(&folder, &mut found, &mut seen)?);
                }
                Ok((found, seen))
            };
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || look(part))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|looked| looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        for looked in looked {
            let (more, folders) = looked?;
            found.extend(more);
            seen.extend(folders);
        }
        Ok(())
    }

    /// Adds the specs in a folder itself to `found`, and returns the folders in it.
    fn look_into(
        &self,
        folder: &str,
        found: &mut Vec<String>,
        seen: &mut Folders,
    ) -> Result<Vec<String>, SourceError> {
        let names = self.folder(folder)?;
        seen.insert(folder.to_owned(), names.clone());
        let mut below = Vec::new();
        let named = names.iter().flat_map(|names| &names.names);
        for named in named.filter(|named| !named.is_ignored) {
            let path = || path::join(folder, &named.name);
            match named.kind {
                _ if named.name.starts_with('.') => {}
                EntryKind::Folder => below.push(path()),
                EntryKind::File { .. } if named.name.ends_with(".tw") => found.push(path()),
                EntryKind::File { .. } | EntryKind::Symlink => {}
            }
        }
        Ok(below)
    }

    /// The error that nothing stands at `path`, with what is near to it.
    pub(crate) fn not_found(&self, path: &str) -> SourceError {
        SourceError::NotFound {
            path: path.to_owned(),
            tree: self.describe(),
            near: Near::of(self, path),
        }
    }

    fn searched(&self, paths: &[String]) -> String {
        let named: Vec<String> = paths
            .iter()
            .filter(|path| !path.is_empty())
            .map(|path| format!("'{path}'"))
            .collect();
        match named.is_empty() {
            true => self.describe(),
            false => format!("{} of {}", named.join(", "), self.describe()),
        }
    }
}

/// The folder that `path` is, or is in, with links resolved. A path that is gone stands for its nearest folder.
fn folder_of(path: &Path) -> Result<PathBuf, SourceError> {
    let real = path::canonical_as_far_as_possible(&path::normalized(path));
    let folder = real.ancestors().find(|ancestor| ancestor.is_dir());
    folder.map(Path::to_owned).ok_or(SourceError::NoFolder {
        path: path.to_owned(),
    })
}

fn canonical(path: &Path) -> Result<PathBuf, SourceError> {
    path.canonicalize().map_err(|cause| SourceError::Io {
        path: path.display().to_string(),
        cause,
    })
}

fn discover(folder: &Path) -> Option<Repository> {
    trust_owners();
    Repository::discover(folder).ok()
}

/// Lets repositories of other users be opened.
pub(crate) fn trust_owners() {
    static OWNERS: Once = Once::new();
    OWNERS.call_once(|| {
        // A repository of another user is refused by default, for what its configuration could make git
        // run. Twill only reads objects, and libgit2 runs nothing for that.
        // SAFETY: runs once, before any repository is opened by this library.
        let _ = unsafe { git2::opts::set_verify_owner_validation(false) };
    });
}
