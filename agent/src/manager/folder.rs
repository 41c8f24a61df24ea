//! The folders of tasks: records, logs, and the scratch space that goes with the task.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tw_api::Assignment;
use tw_model::{JobSpec, TaskId};

use super::btrfs;
use crate::helper::record::SIDECARS_FOLDER;
use crate::helper::{record, remove_scratch};
use crate::log::LogLimits;
use crate::removal::remove_tree;
use crate::sandbox::{OWN_ROOT, UPPER};

/// What the agent last was told of a task, for the agent that comes after it.
const ASSIGNMENT_FILE: &str = "assignment.json";

/// What the records beside a task's own files and logs may take.
const RECORDS_BYTES_MAX: u64 = 4 << 20;

/// What the agent tells a task while it runs.
pub(super) const RUN: &str = "run";

/// A task's folder.
#[derive(Clone, Debug)]
pub(super) struct TaskFolder(PathBuf);

/// Where a task and its sidecars keep what they write, where their roots are layers over a base.
pub(super) fn layers(folder: &Path) -> Vec<PathBuf> {
    let sidecars = fs::read_dir(folder.join(SIDECARS_FOLDER));
    let sidecars = sidecars.into_iter().flatten().flatten();
    sidecars
        .map(|entry| entry.path())
        .chain([folder.to_owned()])
        .map(|folder| folder.join(UPPER))
        .collect()
}

impl TaskFolder {
    pub(super) fn of(tasks: &Path, task: &TaskId) -> TaskFolder {
        TaskFolder(tasks.join(task.folder_name()))
    }

    /// Makes the folder. On btrfs it is a subvolume, so that what the task may write is bounded; elsewhere it is counted,
    /// and the machine does not name `disk` among what it enforces.
    pub(super) fn create(&self, spec: &JobSpec) -> anyhow::Result<()> {
        let (Some(tasks), Some(name)) = (self.0.parent(), self.0.file_name()) else {
            anyhow::bail!("{} is not below the folder of tasks", self.0.display());
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(tasks)
            .with_context(|| format!("cannot make {}", tasks.display()))?;
        if btrfs::is_btrfs(tasks) && !self.0.exists() {
            btrfs::create(tasks, &name.to_string_lossy())
                .and_then(|()| fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700)))
                .with_context(|| format!("cannot make {}", self.0.display()))?;
        }
        self.bound(spec)
    }

    /// Bounds what the task may write, where the file system can.
    pub(super) fn bound(&self, spec: &JobSpec) -> anyhow::Result<()> {
        if !btrfs::is_subvolume(&self.0) {
            return Ok(());
        }
        for root in self.own_roots() {
            btrfs::limit_own(&root, spec.resources.disk.0)
                .with_context(|| format!("cannot bound {}", root.display()))?;
        }
        let logs = 1 + spec.sidecars.len() as u64;
        let beside = logs * LogLimits::default().bytes_max + RECORDS_BYTES_MAX;
        let bytes_max = spec.resources.disk.0.saturating_add(beside);
        btrfs::limit(&self.0, bytes_max)
            .with_context(|| format!("cannot bound {}", self.0.display()))
    }

    /// Gives the task and each of its sidecars a snapshot of the subvolume `base` as a root of its own.
    pub(super) fn copy_root(&self, base: &Path, spec: &JobSpec) -> anyhow::Result<()> {
        let sidecars = spec.sidecars.iter();
        let beside = sidecars.map(|it| self.0.join(SIDECARS_FOLDER).join(it.name.as_str()));
        for folder in beside.chain([self.0.clone()]) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .and_then(|()| btrfs::snapshot(base, &folder, OWN_ROOT, false))
                .with_context(|| {
                    format!("cannot make a copy of the image in {}", folder.display())
                })?;
        }
        self.bound(spec)
    }

    /// The roots that [`TaskFolder::copy_root`] made.
    fn own_roots(&self) -> impl Iterator<Item = PathBuf> {
        let sidecars = fs::read_dir(self.0.join(SIDECARS_FOLDER));
        let sidecars = sidecars.into_iter().flatten().flatten();
        sidecars
            .map(|entry| entry.path())
            .chain([self.0.clone()])
            .map(|folder| folder.join(OWN_ROOT))
            .filter(|root| btrfs::is_subvolume(root))
    }

    fn remove_own_roots(&self) {
        for root in self.own_roots() {
            if let Err(cause) = btrfs::remove(&root) {
                tracing::warn!(root = %root.display(), %cause, "cannot remove a task's root");
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Mounted read-only at `/run/twill` in a task whose job names services; others have none.
    pub(super) fn run(&self) -> PathBuf {
        self.0.join(RUN)
    }

    pub(super) fn write_assignment(&self, assignment: &Assignment) -> anyhow::Result<()> {
        Ok(record::write(&self.0, ASSIGNMENT_FILE, assignment)?)
    }

    pub(super) fn assignment(&self) -> anyhow::Result<Option<Assignment>> {
        Ok(record::read(&self.0, ASSIGNMENT_FILE)?)
    }

    /// Removes what only the running task needed.
    pub(super) fn remove_scratch(&self) {
        self.remove_own_roots();
        if let Err(cause) = remove_scratch(&self.0) {
            tracing::warn!(folder = %self.0.display(), %cause, "cannot remove the scratch space");
        }
    }

    /// As [`TaskFolder::remove_scratch`], while the agent goes on: a task may leave a million files, and a machine whose agent
    /// says nothing for so long would be taken for lost.
    pub(super) async fn remove_scratch_aside(&self) {
        let folder = self.clone();
        let removed = tokio::task::spawn_blocking(move || folder.remove_scratch());
        if let Err(cause) = removed.await {
            tracing::error!(folder = %self.0.display(), %cause, "the scratch space was not removed");
        }
    }

    pub(super) fn remove(&self) -> anyhow::Result<()> {
        self.remove_own_roots();
        remove_tree(&self.0).with_context(|| format!("cannot remove {}", self.0.display()))
    }
}

/// Every task that has a folder below `tasks`.
pub(super) fn list(tasks: &Path) -> anyhow::Result<Vec<TaskId>> {
    let entries = match std::fs::read_dir(tasks) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => {
            return Err(cause).with_context(|| format!("cannot list {}", tasks.display()));
        }
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| TaskId::from_folder_name(entry.file_name().to_str()?))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn an_agent_goes_on_while_the_scratch_space_of_a_task_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let folder = TaskFolder::of(state.path(), &"web.0#1".parse().unwrap());
        fs::create_dir_all(folder.path().join(UPPER).join("tmp")).unwrap();
        let went_on = Cell::new(false);
        let removal = async {
            folder.remove_scratch_aside().await;
            assert!(went_on.get(), "nothing else was done meanwhile");
        };
        tokio::join!(removal, async { went_on.set(true) });
        assert!(!folder.path().join(UPPER).exists());
    }
}
