//! Which trees a change of one file is a change between, where only the file's blobs are known: as git tells its diff
//! drivers.

use std::path::Path;

use git2::{Oid, Patch, Repository, Sort};

use crate::{Source, SourceError};

/// Commits that are looked through.
const COMMITS_MAX: usize = 5000;

/// The trees between which `path` went from one blob to the other; none where the old one is in no commit that is
/// near. `renamed` is the path on the new side. A new blob of zeros is that of the work tree.
///
/// A commit that made the change exactly is taken with its parent; else the newest commits that have the blobs.
pub fn trees_of_blobs(
    root: &Path,
    path: &str,
    renamed: &str,
    old: &str,
    new: &str,
) -> Result<Option<(Source, Source)>, SourceError> {
    let blob = |hex: &str| Oid::from_str(hex).unwrap_or(Oid::ZERO_SHA1);
    let (old, new) = (blob(old), blob(new));
    let work_tree = Source::work_tree(root)?;
    let commits =
        work_tree.with_repository(|repository, _| find(repository, path, renamed, old, new));
    let (base, head) = match commits {
        Some(found) => found?,
        None => return Ok(None),
    };
    let Some(base) = base else {
        return Ok(None);
    };
    let base = Source::revision(root, &base.to_string())?;
    let head = match head {
        Some(head) => Source::revision(root, &head.to_string())?,
        None => work_tree,
    };
    Ok(Some((base, head)))
}

/// (the commit with the old blob, the one with the new blob; none for the work tree).
type Found = (Option<Oid>, Option<Oid>);

fn find(
    repository: &Repository,
    path: &str,
    renamed: &str,
    old: Oid,
    new: Oid,
) -> Result<Found, git2::Error> {
    let mut commits = repository.revwalk()?;
    commits.set_sorting(Sort::TOPOLOGICAL | Sort::TIME)?;
    if commits.push_head().is_err() {
        return Ok((None, None));
    }
    let (mut newest_old, mut newest_new) = (None, None);
    for commit in commits.take(COMMITS_MAX) {
        let commit = repository.find_commit(commit?)?;
        if blob_at(&commit, renamed) == new && !new.is_zero() {
            newest_new = newest_new.or(Some(commit.id()));
            let parent = commit.parents().find(|parent| blob_at(parent, path) == old);
            if let Some(parent) = parent {
                return Ok((Some(parent.id()), Some(commit.id())));
            }
        }
        if blob_at(&commit, path) == old {
            newest_old = newest_old.or(Some(commit.id()));
            // The work tree is compared with what is checked out, or with what is staged on top of it.
            if new.is_zero() {
                break;
            }
        }
    }
    Ok((newest_old, newest_new))
}

/// The blob at a path of a commit; zeros where there is none, as git says it.
fn blob_at(commit: &git2::Commit<'_>, path: &str) -> Oid {
    let tree = commit.tree();
    let entry = tree.and_then(|tree| tree.get_path(Path::new(path)));
    entry.map_or(Oid::ZERO_SHA1, |entry| entry.id())
}

/// The lines of a file that differ, as git shows them.
pub fn source_diff(path: &str, old: &[u8], new: &[u8]) -> String {
    let file = Path::new(path);
    let patch = Patch::from_buffers(old, Some(file), new, Some(file), None);
    let bytes = patch.and_then(|mut patch| patch.to_buf());
    match bytes {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(cause) => format!("git: {}\n", cause.message()),
    }
}
