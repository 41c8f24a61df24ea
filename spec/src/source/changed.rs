//! How many files of a work tree differ from a commit.
//!
//! Git answers that by a look at every file, at every folder, and for each at the attributes that apply. Where its
//! index knows the state of all files, their stamps are enough.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use git2::{DiffOptions, Index, IndexEntry, Oid, Repository, Tree};

use super::work_tree::WorkTree;
use super::{EntryKind, FolderOf, path};
use crate::Cache;
use crate::cache::Key;

/// With more files whose stamps are not those of the index than this, git looks at all of them.
const UNKNOWN_MAX: usize = 32;
/// What an entry of the index says of a file that is there: an ordinary one, not a repository in the repository.
const MODE_KIND: u32 = 0o170_000;
const MODE_GITLINK: u32 = 0o160_000;

/// Counts the files that differ from `base`, new ones that git does not ignore included; none where git cannot tell.
pub(super) fn files_changed(
    work_tree: &WorkTree,
    base: Oid,
    cache: Option<&Cache>,
    folder: &FolderOf<'_>,
) -> Option<usize> {
    let root = work_tree.root();
    let indexed = work_tree.with_repository(|repository| by_stamps(root, repository, base, cache));
    let by_stamps = indexed?.and_then(|indexed| {
        let untracked = untracked(folder, "", &indexed.tracked)?;
        Some(indexed.changed.len() + untracked)
    });
    by_stamps.or_else(|| work_tree.with_repository(|repository| by_git(repository, base))?)
}

fn by_git(repository: &Repository, base: Oid) -> Option<usize> {
    let base = repository.find_tree(base).ok()?;
    let mut options = DiffOptions::new();
    options.include_untracked(true).recurse_untracked_dirs(true);
    options.include_typechange(true).skip_binary_check(true);
    let diff = repository.diff_tree_to_workdir_with_index(Some(&base), Some(&mut options));
    diff.ok().map(|diff| diff.deltas().len())
}

/// What the index and the stamps of its files tell.
struct Indexed {
    changed: BTreeSet<Vec<u8>>,
    tracked: HashSet<Vec<u8>>,
}

/// None where stamps do not tell enough.
fn by_stamps(
    root: &Path,
    repository: &Repository,
    base: Oid,
    cache: Option<&Cache>,
) -> Option<Indexed> {
    let base = repository.find_tree(base).ok()?;
    let index = repository.index().ok()?;
    let written = fs::metadata(index.path()?).ok()?;
    let mut changed: BTreeSet<Vec<u8>> = staged(repository, &base, &index, cache)?;
    let mut tracked = HashSet::with_capacity(index.len());
    let mut unknown = Vec::new();
    for entry in index.iter() {
        let is_plain = entry.flags_extended == 0 && entry.mode & MODE_KIND != MODE_GITLINK;
        // Bits 12 and 13 of the flags: the stage of an entry in a conflict.
        if !is_plain || entry.flags & 0x3000 != 0 {
            return None;
        }
        let file = std::str::from_utf8(&entry.path).ok()?;
        match fs::symlink_metadata(root.join(file)) {
            Ok(found) if is_as_noted(&entry, &found, &written) => {}
            Ok(_) => unknown.push(file.to_owned()),
            Err(_) => drop(changed.insert(entry.path.clone())),
        }
        tracked.insert(entry.path);
    }
    if unknown.len() > UNKNOWN_MAX {
        return None;
    }
    for file in unknown {
        let state = repository.status_file(Path::new(&file)).ok()?;
        if state.is_wt_modified() || state.is_wt_typechange() {
            changed.insert(file.into_bytes());
        }
    }
    Some(Indexed { changed, tracked })
}

/// The paths of the index that differ from the tree. Reading all folders of a tree takes long, so that is remembered.
fn staged(
    repository: &Repository,
    base: &Tree<'_>,
    index: &Index,
    cache: Option<&Cache>,
) -> Option<BTreeSet<Vec<u8>>> {
    let bytes = fs::read(index.path()?).ok()?;
    let key = Key::new(
        "staged",
        &[base.id().as_bytes(), blake3::hash(&bytes).as_bytes()],
    );
    let known = cache.and_then(|cache| cache.get(&key));
    if let Some(known) = known.and_then(|bytes| postcard::from_bytes(&bytes).ok()) {
        return Some(known);
    }
    let mut options = DiffOptions::new();
    options.include_typechange(true).skip_binary_check(true);
    let diff = repository
        .diff_tree_to_index(Some(base), Some(index), Some(&mut options))
        .ok()?;
    let sides = diff
        .deltas()
        .flat_map(|delta| [delta.old_file().path_bytes(), delta.new_file().path_bytes()]);
    let paths: BTreeSet<Vec<u8>> = sides.flatten().map(<[u8]>::to_vec).collect();
    if let (Some(cache), Ok(bytes)) = (cache, postcard::to_stdvec(&paths)) {
        cache.put(key, bytes);
    }
    Some(paths)
}

/// Whether a file is as it was when it came into the index. One that changed when the index was written may have
/// changed once more since.
fn is_as_noted(entry: &IndexEntry, found: &Metadata, index: &Metadata) -> bool {
    let time = |seconds: i32, nanoseconds: u32| (i64::from(seconds), i64::from(nanoseconds));
    let noted = time(entry.mtime.seconds(), entry.mtime.nanoseconds());
    let modified = (found.mtime(), found.mtime_nsec());
    let is_same_time = noted == modified || (noted.1 == 0 && noted.0 == modified.0);
    is_same_time
        && modified < (index.mtime(), index.mtime_nsec())
        && entry.ino == found.ino() as u32
        && entry.file_size == found.size() as u32
        && entry.mode & MODE_KIND == found.mode() & MODE_KIND
        && (entry.mode & 0o100 != 0) == (found.mode() & 0o100 != 0 && !found.is_symlink())
}

/// How many files below a folder are neither tracked nor ignored.
fn untracked(folder_of: &FolderOf<'_>, folder: &str, tracked: &HashSet<Vec<u8>>) -> Option<usize> {
    let Some(listed) = folder_of(folder).ok()? else {
        return Some(0);
    };
    let mut count = 0;
    for named in listed.names.iter().filter(|named| !named.is_ignored) {
        let path = path::join(folder, &named.name);
        count += match named.kind {
            EntryKind::Folder => untracked(folder_of, &path, tracked)?,
            EntryKind::File { .. } | EntryKind::Symlink => {
                usize::from(!tracked.contains(path.as_bytes()))
            }
        };
    }
    Some(count)
}
