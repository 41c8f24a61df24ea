//! Edited files: as a patch, on disk, or as a commit.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, Oid, Repository};

use tw_model::{JobId, JobSpec};

use super::{FieldChange, RewriteError, by_field, changes_of, difference};
use crate::{Outcome, Source};

/// Lines around a change.
const PATCH_CONTEXT: usize = 3;

/// Specs that say what was wished, checked by evaluating them.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// What the edits change, of which jobs.
    pub changes: Vec<FieldChange>,
    pub(super) files: Vec<RewrittenFile>,
}

#[derive(Clone, Debug)]
pub(super) struct RewrittenFile {
    /// From the root.
    pub(super) path: String,
    pub(super) old: String,
    pub(super) new: String,
}

impl Rewritten {
    /// The edited files, from the root.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }

    /// The edits as a unified diff, as `git apply` takes it.
    pub fn patch(&self) -> String {
        let files = self.files.iter();
        files
            .map(|file| unified(&file.path, &file.old, &file.new))
            .collect()
    }

    /// Writes the files: each beside its old one, then in its place. If one cannot be written, none is.
    pub fn write(&self, source: &Source) -> Result<(), RewriteError> {
        for (index, file) in self.files.iter().enumerate() {
            if let Err(error) = replace(source.root(), &file.path, &file.old, &file.new) {
                self.files[..index]
                    .iter()
                    .for_each(|done| restore(source.root(), done));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the tree with the files in it is as it was when the edits were tried: `before` and `after` are what came
    /// of all its specs.
    pub fn check(&self, before: &Outcome, after: &Outcome) -> Result<(), RewriteError> {
        let old: HashMap<JobId, &JobSpec> = before
            .jobs
            .iter()
            .map(|job| (job.spec.id(), &job.spec))
            .collect();
        let changes = after
            .jobs
            .iter()
            .flat_map(|job| changes_of(old.get(&job.spec.id()).copied(), &job.spec));
        let (found, wanted) = (by_field(changes), by_field(self.changes.iter().cloned()));
        match found == wanted && before.jobs.len() == after.jobs.len() {
            true => Ok(()),
            false => Err(RewriteError::Check {
                found: difference(&wanted, &found),
            }),
        }
    }

    /// Takes back what [`Rewritten::write`] wrote.
    pub fn restore(&self, source: &Source) {
        self.files
            .iter()
            .for_each(|file| restore(source.root(), file));
    }

    /// Commits the files on a new branch from the revision that `source` is of. Nothing is checked out.
    /// Returns the commit's id.
    pub fn commit(
        &self,
        source: &Source,
        branch: &str,
        message: &str,
    ) -> Result<String, RewriteError> {
        let made = source.with_repository(|repository, at| {
            let tip = at.ok_or(RewriteError::NotARevision)?;
            commit(repository, tip, &self.files, branch, message)
        });
        made.ok_or(RewriteError::NotARevision)?
    }
}

/// The difference of two versions of a file.
pub(super) fn unified(path: &str, old: &str, new: &str) -> String {
    similar::TextDiff::from_lines(old, new)
        .unified_diff()
        .context_radius(PATCH_CONTEXT)
        .header(&format!("a/{path}"), &format!("b/{path}"))
        .to_string()
}

fn restore(root: &Path, file: &RewrittenFile) {
    if let Err(cause) = replace(root, &file.path, &file.new, &file.old) {
        tracing::error!(file = file.path, %cause, "cannot put the file back as it was");
    }
}

/// Puts a file in the place of one with the contents `old`.
fn replace(root: &Path, path: &str, old: &str, new: &str) -> Result<(), RewriteError> {
    let failed = |cause| RewriteError::Write {
        file: path.to_owned(),
        cause,
    };
    let place = root.join(path);
    if std::fs::read(&place).map_err(failed)? != old.as_bytes() {
        return Err(RewriteError::Moved {
            file: path.to_owned(),
        });
    }
    let folder = place.parent().unwrap_or(root);
    let permissions = std::fs::metadata(&place).map_err(failed)?.permissions();
    let mut beside = tempfile::Builder::new()
        .prefix(".tw-")
        .permissions(std::fs::Permissions::from_mode(permissions.mode()))
        .tempfile_in(folder)
        .map_err(failed)?;
    beside.write_all(new.as_bytes()).map_err(failed)?;
    beside
        .as_file()
        .set_permissions(permissions)
        .map_err(failed)?;
    beside.as_file().sync_all().map_err(failed)?;
    beside
        .persist(&place)
        .map_err(|error| failed(error.error))?;
    Ok(())
}

fn commit(
    repository: &Repository,
    tip: Oid,
    files: &[RewrittenFile],
    branch: &str,
    message: &str,
) -> Result<String, RewriteError> {
    if repository
        .find_branch(branch, git2::BranchType::Local)
        .is_ok()
    {
        return Err(RewriteError::BranchExists {
            branch: branch.to_owned(),
        });
    }
    let parent = repository.find_commit(tip)?;
    let base = parent.tree()?;
    let mut update = TreeUpdateBuilder::new();
    for file in files {
        let blob = repository.blob(file.new.as_bytes())?;
        let mode = match base.get_path(Path::new(&file.path))?.filemode() {
            0o100_755 => FileMode::BlobExecutable,
            _ => FileMode::Blob,
        };
        update.upsert(file.path.as_str(), blob, mode);
    }
    let tree = repository.find_tree(update.create_updated(repository, &base)?)?;
    let who = repository.signature().map_err(|_| RewriteError::NoAuthor)?;
    let id = repository.commit(None, &who, &who, message, &tree, &[&parent])?;
    repository.branch(branch, &repository.find_commit(id)?, false)?;
    Ok(id.to_string())
}
