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

/// Kills the helpers and tasks of the agent in `state`, and removes its cgroups. Its records and logs stay. A task whose
/// records cannot be read ends with its cgroup; what is left of one all the same is said when all others are gone.
pub fn clean(state: &Path, cgroup: &str) -> anyhow::Result<()> {
    let tasks = state.join("tasks");
    let mut unclear = Vec::new();
    for task in folder::list(&tasks)? {
        let folder = TaskFolder::of(&tasks, &task);
        if let Err(cause) = end_helper(folder.path(), || kill_helper(folder.path())) {
            tracing::warn!(%task, cause = format!("{cause:#}"), "its helper is not known: skipped, and ended with its cgroup");
            unclear.push(task);
        }
    }
    let tree = ordinary::tree_of(state, cgroup);
    ordinary::make_ready(&tree)?;
    let tree = tree.open()?;
    remove_all(tree.as_ref())?;
    let left: Vec<String> = unclear
        .iter()
        .filter_map(|task| {
            let folder = TaskFolder::of(&tasks, task);
            let cause = end_helper(folder.path(), || Ok(())).err()?;
            Some(format!("{task}: {cause:#}"))
        })
        .collect();
    for task in folder::list(&tasks)? {
        TaskFolder::of(&tasks, &task).remove_scratch();
    }
    remove_parent(state, cgroup)?;
    anyhow::ensure!(
        left.is_empty(),
        "some helpers may still run: {}",
        left.join("; ")
    );
    Ok(())
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

/// Kills the helper of a task by `kill`, which takes the task with it, and makes sure that none begins any more.
fn end_helper(folder: &Path, kill: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Whoever has the lock knows that no helper lives, and with a record of the end none begins.
        if let Ok(_held) = lock(folder) {
            return record_end(folder);
        }
        kill()?;
        anyhow::ensure!(
            Instant::now() < deadline,
            "the helper in {} is still there after {PATIENCE:?}",
            folder.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills the helper that the records of a task name, if they name one yet.
fn kill_helper(folder: &Path) -> anyhow::Result<()> {
    let started = record::read::<StartedRecord>(folder, STARTED_FILE)?;
    let helper = started.map(|started| started.helper.open()).transpose()?;
    if let Some(helper) = helper.flatten() {
        // One that has gone in the meantime is as good as killed.
        let _gone = pidfd_send_signal(&helper, Signal::KILL);
    }
    Ok(())
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
