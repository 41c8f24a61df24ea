//! An agent of an ordinary user: what its tasks have, and what they lack.
//!
//! Everything that needs rights is done in a user namespace whose root is that user ([`crate::sandbox::become_root_of_own`]).
//! The sandbox is the same; who the task is on the machine, and what bounds it, is not.

use std::path::Path;

use anyhow::Context as _;

use super::config;
use crate::cgroup::{CGROUP_ROOT, ProcessTree, TreePath};

/// Below an agent's state folder, for one without cgroups.
const LEAVES: &str = "leaves";

/// One thing that tasks lack, and what would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    pub what: &'static str,
    pub remedy: &'static str,
}

/// What tasks of an agent without root lack whatever the machine is.
const LACKS: [Lack; 5] = [
    Lack {
        what: "limits: processor and memory are measured and not limited; the number of processes is limited",
        remedy: "an agent with root limits them",
    },
    Lack {
        what: "users: every task is your own user on this machine, and keeps your groups; inside it has the one user of its spec",
        remedy: "images and volumes with files of several users need an agent with root",
    },
    Lack {
        what: "network: tasks reach what listens on this machine, abstract sockets of your session among them",
        remedy: "run jobs that you would run yourself",
    },
    Lack {
        what: "disk: scratch space is counted and volumes are not bounded",
        remedy: "keep the state on a file system of its own",
    },
    Lack {
        what: "ports below 1024 cannot be listened on",
        remedy: "use higher ones",
    },
];

/// What tasks would lack here; none for root. Refused where a task would run without a sandbox.
pub fn lacks(state: &Path) -> anyhow::Result<Vec<Lack>> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Vec::new());
    }
    std::fs::create_dir_all(state).with_context(|| format!("cannot make {}", state.display()))?;
    config::features(&config::helper_program()?, state)?;
    Ok(LACKS.to_vec())
}

/// Where the leaves of the agent of `state` are.
pub(super) fn tree_of(state: &Path, cgroup: &str) -> TreePath {
    if nix::unistd::geteuid().is_root() {
        return TreePath::new(CGROUP_ROOT, cgroup);
    }
    TreePath::new(state.join(LEAVES), cgroup)
}

/// Makes the place for leaves without cgroups, where that is what `tree` is.
pub(super) fn make_ready(tree: &TreePath) -> anyhow::Result<()> {
    match tree.root == Path::new(CGROUP_ROOT) {
        true => Ok(()),
        false => Ok(ProcessTree::make_root(&tree.root)?),
    }
}
