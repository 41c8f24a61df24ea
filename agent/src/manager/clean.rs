//! Ends all that an agent has left on its machine: as if the power had been cut.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Signal, pidfd_send_signal};

use super::folder::{self, TaskFolder};
use super::ordinary;
use crate::cgroup::CgroupTree;
use crate::helper::lock;
use crate::helper::protocol::PROTO;
use crate::helper::record::{self, EXIT_FILE, ExitRecord, Outcome, STARTED_FILE, StartedRecord};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the helpers and tasks of the agent in `state`, and removes its cgroups. Its records and logs stay.
pub fn clean(state: &Path, cgroup: &str) -> anyhow::Result<()> {
    let tasks = state.join("tasks");
    for task in folder::list(&tasks)? {
        end_helper(TaskFolder::of(&tasks, &task).path())?;
    }
    let tree = ordinary::tree_of(state, cgroup);
    ordinary::make_ready(&tree)?;
    let tree = tree.open()?;
    remove_all(tree.as_ref())?;
    for task in folder::list(&tasks)? {
        TaskFolder::of(&tasks, &task).remove_scratch();
    }
    remove_parent(state, cgroup)
}

/// Removes the subtree with all that is in it. Spare helpers of an agent that was killed give back what they
/// have reserved at the same time.
fn remove_all(tree: &dyn CgroupTree) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for leaf in tree.leaves()? {
            tree.kill(&leaf)?;
            tree.remove(&leaf, PATIENCE)?;
        }
        match tree.remove_tree() {
            Err(_busy) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            removed => return Ok(removed?),
        }
    }
}

/// Kills the helper of a task, which takes the task with it, and makes sure that none begins any more.
fn end_helper(folder: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Whoever has the lock knows that no helper lives, and with a record of the end none begins.
        if let Ok(_held) = lock(folder) {
            return record_end(folder);
        }
        if let Some(started) = record::read::<StartedRecord>(folder, STARTED_FILE)?
            && let Some(helper) = started.helper.open()?
        {
            // One that has gone in the meantime is as good as killed.
            let _gone = pidfd_send_signal(&helper, Signal::KILL);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "the helper in {} is still there after {PATIENCE:?}",
            folder.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn record_end(folder: &Path) -> anyhow::Result<()> {
    if folder.join(EXIT_FILE).exists() {
        return Ok(());
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let record = ExitRecord {
        proto: PROTO,
        outcome: Outcome::HelperLost,
        ended_at_us: since_1970.as_micros() as i64,
        is_oom: false,
        oom: None,
        hooks: Vec::new(),
        usage: Default::default(),
        log: Default::default(),
    };
    Ok(record::write_durably(folder, EXIT_FILE, &record)?)
}

/// Removes the group around the agent's, when it was the last in there.
fn remove_parent(state: &Path, cgroup: &str) -> anyhow::Result<()> {
    let Some((parent, _)) = cgroup.rsplit_once('/') else {
        return Ok(());
    };
    let tree = ordinary::tree_of(state, parent).open()?;
    if tree.leaves()?.is_empty() {
        tree.remove_tree()?;
    }
    Ok(())
}
