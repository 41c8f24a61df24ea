//! Folders of tasks that are forgotten, for the tasks to come.
//!
//! To make a folder and its files costs ext4 several times what it costs to find them: it looks all over the disk for the
//! place of a task's folder, and gives each block back to the disk. So a folder is used again with the files of its records:
//! they are drafts, which nobody reads, until the next task's are written over them. What a task could reach is always new.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::folder::lock;
use super::record::{ASSIGNMENT_FILE, EXIT_FILE, LAUNCH_FILE, STARTED_FILE, draft_of};
use crate::removal::remove_tree;

/// Each holds up to 50 KiB on disk.
const SPARES_MAX: usize = 64;

/// The records whose files stay.
const RECORDS: [&str; 4] = [LAUNCH_FILE, STARTED_FILE, EXIT_FILE, ASSIGNMENT_FILE];

/// The spare folders of one state folder.
#[derive(Debug)]
pub struct SpareFolders {
    folder: PathBuf,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    spares: VecDeque<PathBuf>,
    /// How many were ever made.
    made: u64,
}

impl SpareFolders {
    /// None at first: those that an earlier agent has left in `folder` are removed.
    pub fn open(folder: &Path) -> io::Result<SpareFolders> {
        remove_tree(folder)?;
        DirBuilder::new().mode(0o700).create(folder)?;
        Ok(SpareFolders {
            folder: folder.to_owned(),
            waiting: Mutex::default(),
        })
    }

    /// Has a spare folder become `folder`, unless that is there. Whoever calls makes it where none waits.
    pub fn take(&self, folder: &Path) {
        let Some(spare) = self.lock().spares.pop_front() else {
            return;
        };
        if renameat_with(CWD, &spare, CWD, folder, RenameFlags::NOREPLACE).is_err() {
            // What cannot be removed now is removed by the next agent.
            let _removed = remove_tree(&spare);
        }
    }

    /// Removes a task's folder; none is fine. What is left of it on disk is nobody's, and may become another task's.
    pub fn give_back(&self, folder: &Path) -> io::Result<()> {
        let spare = self.name();
        // In one step: from here on nobody takes half of it for the task.
        if fs::rename(folder, &spare).is_err() {
            return remove_tree(folder);
        }
        let is_full = self.lock().spares.len() >= SPARES_MAX;
        if is_full || !is_left(&spare) || strip(&spare).is_err() {
            return remove_tree(&spare);
        }
        self.lock().spares.push_back(spare);
        Ok(())
    }

    fn name(&self) -> PathBuf {
        let mut waiting = self.lock();
        waiting.made += 1;
        self.folder.join(waiting.made.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the helper that a folder was given to has ended. One that has not said that it began may still be on its way.
fn is_left(folder: &Path) -> bool {
    folder.join(STARTED_FILE).exists() && lock(folder).is_ok()
}

/// Leaves nothing in a folder but the drafts of records.
fn strip(folder: &Path) -> io::Result<()> {
    let drafts = RECORDS.map(draft_of);
    for entry in fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()? {
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            remove_tree(&path)?;
        } else if let Some(record) = RECORDS.iter().position(|record| name == *record) {
            fs::rename(&path, folder.join(&drafts[record]))?;
        } else if !drafts.iter().any(|draft| name == **draft) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{SPARES_MAX, SpareFolders};
    use crate::helper::folder::lock;
    use crate::helper::record::{self, EXIT_FILE, LAUNCH_FILE, STARTED_FILE};

    /// A state folder, and no spare folder yet.
    fn none() -> (tempfile::TempDir, SpareFolders) {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("tasks")).unwrap();
        let spares = SpareFolders::open(&state.path().join("spares")).unwrap();
        (state, spares)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What a task leaves.
    fn ended(folder: &Path) {
        fs::create_dir_all(folder.join("log")).unwrap();
        fs::write(folder.join("log/00000000"), "printed").unwrap();
        fs::write(folder.join("helper.log"), "said").unwrap();
        record::write(folder, LAUNCH_FILE, &"many words").unwrap();
        record::write(folder, STARTED_FILE, &"began").unwrap();
        record::write(folder, EXIT_FILE, &"ended").unwrap();
        record::reserve(folder, EXIT_FILE).unwrap();
    }

    #[test]
    fn nothing_of_a_task_is_found_in_the_folder_of_the_next() {
        let (state, spares) = none();
        let tasks = state.path().join("tasks");
        let (first, second) = (tasks.join("first"), tasks.join("second"));
        ended(&first);
        spares.give_back(&first).unwrap();
        assert!(!first.exists());
        spares.take(&second);
        assert_eq!(names(&tasks), ["second"]);
        let drafts = ["exit.json.draft", "launch.json.draft", "started.json.draft"];
        assert_eq!(names(&second), drafts);
        assert_eq!(record::read::<String>(&second, EXIT_FILE).unwrap(), None);
        record::write(&second, LAUNCH_FILE, &"few").unwrap();
        let text = fs::read_to_string(second.join(LAUNCH_FILE)).unwrap();
        assert_eq!(text.trim_end(), "\"few\"");
    }

    #[test]
    fn a_folder_that_a_helper_is_in_or_may_come_to_is_removed() {
        let (state, spares) = none();
        let tasks = state.path().join("tasks");
        let folder = tasks.join("task");
        ended(&folder);
        let helper = lock(&folder).unwrap();
        spares.give_back(&folder).unwrap();
        assert!(!folder.exists());
        drop(helper);
        ended(&folder);
        fs::remove_file(folder.join(STARTED_FILE)).unwrap();
        spares.give_back(&folder).unwrap();
        assert!(!folder.exists());
        assert_eq!(names(&spares.folder), Vec::<String>::new());
    }

    #[test]
    fn a_folder_that_is_there_is_not_replaced() {
        let (state, spares) = none();
        let tasks = state.path().join("tasks");
        let (old, new) = (tasks.join("old"), tasks.join("new"));
        ended(&old);
        spares.give_back(&old).unwrap();
        ended(&new);
        spares.take(&new);
        assert!(record::read::<String>(&new, EXIT_FILE).unwrap().is_some());
        assert_eq!(names(&tasks), ["new"]);
    }

    #[test]
    fn no_more_than_some_are_kept_and_none_over_the_end_of_an_agent() {
        let (state, spares) = none();
        let tasks = state.path().join("tasks");
        for number in 0..SPARES_MAX + 2 {
            let folder = tasks.join(format!("task-{number}"));
            ended(&folder);
            spares.give_back(&folder).unwrap();
        }
        assert_eq!(names(&tasks), Vec::<String>::new());
        assert_eq!(names(&spares.folder).len(), SPARES_MAX);
        SpareFolders::open(&spares.folder).unwrap();
        assert_eq!(names(&spares.folder), Vec::<String>::new());
    }
}
