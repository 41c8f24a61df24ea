//! The folders of tasks: records, logs, and the scratch space that goes with the task.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tw_api::Assignment;
use tw_model::TaskId;

use crate::helper::{record, remove_scratch};

/// What the agent last was told of a task, for the agent that comes after it.
const ASSIGNMENT_FILE: &str = "assignment.json";

/// A task's folder.
#[derive(Clone, Debug)]
pub(super) struct TaskFolder(PathBuf);

impl TaskFolder {
    pub(super) fn of(tasks: &Path, task: &TaskId) -> TaskFolder {
        TaskFolder(tasks.join(task.folder_name()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Mounted read-only at `/run/twill` in the task.
    pub(super) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    pub(super) fn write_assignment(&self, assignment: &Assignment) -> anyhow::Result<()> {
        Ok(record::write(&self.0, ASSIGNMENT_FILE, assignment)?)
    }

    pub(super) fn assignment(&self) -> anyhow::Result<Option<Assignment>> {
        Ok(record::read(&self.0, ASSIGNMENT_FILE)?)
    }

    /// Removes what only the running task needed.
    pub(super) fn remove_scratch(&self) {
        if let Err(cause) = remove_scratch(&self.0) {
            tracing::warn!(folder = %self.0.display(), %cause, "cannot remove the scratch space");
        }
    }

    pub(super) fn remove(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(cause).with_context(|| format!("cannot remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
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
