//! Ends all that an agent has left on its machine: as if the power had been cut.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use rustix::process::{Signal, pidfd_send_signal};

use super::folder::{self, TaskFolder};
use super::ordinary;
use crate::cgroup::CgroupTree;
use crate::helper::lock;
use crate::helper::protocol::PROTO;
use crate::helper::record::{self, EXIT_FILE, ExitRecord, Outcome, STARTED_FILE, StartedRecord};

/// How long killed processes may take to be gone, all together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the helpers and tasks of the agent in `state`, and removes its cgroups. Its records and logs stay. A task whose
/// records cannot be read ends with its cgroup; what is left of one all the same is said when all others are gone.
pub fn clean(state: &Path, cgroup: &str) -> anyhow::Result<()> {
    let tasks = state.join("tasks");
    let mut unclear = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    for task in folder::list(&tasks)? {
        let folder = TaskFolder::of(&tasks, &task);
        if let Err(cause) = end_helper(folder.path(), deadline, kill_helper) {
            tracing::warn!(%task, cause = format!("{cause:#}"), "skipped, and ended with its cgroup");
            unclear.push(task);
        }
    }
    let tree = ordinary::tree_of(state, cgroup);
    ordinary::make_ready(&tree)?;
    let tree = tree.open()?;
    remove_all(tree.as_ref())?;
    let deadline = Instant::now() + PATIENCE;
    let left: Vec<String> = unclear
        .iter()
        .filter_map(|task| {
            let folder = TaskFolder::of(&tasks, task);
            let cause = end_helper(folder.path(), deadline, |_killed| Ok(())).err()?;
            Some(format!("{task}: {cause:#}"))
        })
        .collect();
    for task in folder::list(&tasks)? {
        TaskFolder::of(&tasks, &task).remove_scratch();
    }
    remove_parent(state, cgroup)?;
    anyhow::ensure!(
        left.is_empty(),
        "not ended for certain: {}",
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
/// After the deadline it is tried once.
fn end_helper(
    folder: &Path,
    deadline: Instant,
    kill: impl Fn(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        // Whoever has the lock knows that no helper lives, and with a record of the end none begins.
        if let Ok(_held) = lock(folder) {
            return record_end(folder).context("its end cannot be recorded");
        }
        kill(folder).context("its helper is not known")?;
        anyhow::ensure!(
            Instant::now() < deadline,
            "the helper in {} is still there",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_ended_by_the_deadline_is_killed_once_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let _helper = lock(folder.path()).unwrap();
        let kills = std::cell::Cell::new(0);
        let kill = |_: &Path| {
            kills.set(kills.get() + 1);
            Ok(())
        };
        let cause = end_helper(folder.path(), Instant::now(), kill).unwrap_err();
        assert!(format!("{cause:#}").contains("still there"), "{cause:#}");
        assert_eq!(kills.get(), 1);
    }

    #[test]
    fn an_end_that_cannot_be_recorded_is_not_said_to_be_an_unknown_helper() {
        let folder = tempfile::tempdir().unwrap();
        // A record is written here first.
        std::fs::create_dir(folder.path().join(format!("{EXIT_FILE}.draft"))).unwrap();
        let nobody = |_: &Path| panic!("no helper lives");
        let cause = end_helper(folder.path(), Instant::now(), nobody).unwrap_err();
        assert!(
            format!("{cause:#}").contains("cannot be recorded"),
            "{cause:#}"
        );
    }
}
