//! Ends all that an agent has left on its machine: as if the power had been cut.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use super::volume::{self, TaskFolder};
use crate::cgroup::{CGROUP_ROOT, TreePath};
use crate::helper::record::{self, STARTED_FILE, StartedRecord};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the helpers and tasks of the agent in `state`, and removes its cgroups. Its records and logs stay.
pub fn clean(state: &Path, cgroup: &str) -> anyhow::Result<()> {
    let tasks = state.join("tasks");
    for task in volume::list(&tasks)? {
        let folder = TaskFolder::of(&tasks, &task);
        if let Ok(Some(started)) = record::read::<StartedRecord>(folder.path(), STARTED_FILE)
            && let Some(helper) = started.helper.open()?
        {
            // One that has gone in the meantime is as good as killed.
            let _gone = pidfd_send_signal(&helper, Signal::KILL);
        }
    }
    let tree = TreePath::new(CGROUP_ROOT, cgroup).open()?;
    for leaf in tree.leaves()? {
        tree.kill(&leaf)?;
        tree.remove(&leaf, PATIENCE)?;
    }
    tree.remove_tree()?;
    for task in volume::list(&tasks)? {
        TaskFolder::of(&tasks, &task).remove_scratch();
    }
    remove_parent(cgroup)
}

/// Removes the group around the agent's, when it was the last in there.
fn remove_parent(cgroup: &str) -> anyhow::Result<()> {
    let Some((parent, _)) = cgroup.rsplit_once('/') else {
        return Ok(());
    };
    let tree = TreePath::new(CGROUP_ROOT, parent).open()?;
    if tree.leaves()?.is_empty() {
        tree.remove_tree()?;
    }
    Ok(())
}
