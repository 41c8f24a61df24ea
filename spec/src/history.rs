//! Which commit last touched a file, between two revisions.

use std::collections::BTreeMap;
use std::path::Path;

use git2::{Oid, Repository, Sort};

use crate::{Source, SourceError};

/// Finds, for each of `files`, the newest commit in `base..head` that touched it.
///
/// A work tree stands for what is checked out; a file that differs from that commit has no commit yet and is
/// left out, as is everything outside git.
pub(crate) fn newest_commits(
    base: &Source,
    head: &Source,
    files: &[String],
) -> Result<BTreeMap<String, String>, SourceError> {
    let base = base.with_repository(checked_out).flatten();
    let found = head.with_repository(|repository, commit| {
        let Some(tip) = checked_out(repository, commit) else {
            return Ok(BTreeMap::new());
        };
        let mut wanted = files.to_vec();
        if commit.is_none() {
            wanted.retain(|file| !is_edited(repository, tip, head, file));
        }
        walk(repository, base, tip, wanted)
    });
    Ok(found.transpose()?.unwrap_or_default())
}

fn checked_out(repository: &Repository, commit: Option<Oid>) -> Option<Oid> {
    commit.or_else(|| {
        repository
            .head()
            .ok()?
            .peel_to_commit()
            .ok()
            .map(|commit| commit.id())
    })
}

fn is_edited(repository: &Repository, tip: Oid, head: &Source, file: &str) -> bool {
    let on_disk = std::fs::read(head.root().join(file))
        .ok()
        .and_then(|bytes| Oid::hash_object(git2::ObjectType::Blob, &bytes).ok());
    on_disk != blob(repository, tip, file)
}

fn walk(
    repository: &Repository,
    base: Option<Oid>,
    tip: Oid,
    mut wanted: Vec<String>,
) -> Result<BTreeMap<String, String>, git2::Error> {
    let mut found = BTreeMap::new();
    let mut commits = repository.revwalk()?;
    commits.set_sorting(Sort::TOPOLOGICAL | Sort::TIME)?;
    commits.push(tip)?;
    if let Some(base) = base {
        commits.hide(base)?;
    }
    for commit in commits {
        if wanted.is_empty() {
            break;
        }
        let commit = repository.find_commit(commit?)?;
        let parents: Vec<Oid> = commit.parent_ids().collect();
        wanted.retain(|file| {
            let here = blob(repository, commit.id(), file);
            let touched = match parents.is_empty() {
                true => here.is_some(),
                false => parents
                    .iter()
                    .all(|parent| blob(repository, *parent, file) != here),
            };
            if touched {
                found.insert(file.clone(), commit.id().to_string());
            }
            !touched
        });
    }
    Ok(found)
}

/// What a commit has at a path.
fn blob(repository: &Repository, commit: Oid, file: &str) -> Option<Oid> {
    let tree = repository.find_commit(commit).ok()?.tree().ok()?;
    Some(tree.get_path(Path::new(file)).ok()?.id())
}
