//! Control groups: how a task is limited, measured and killed as a whole.
//!
//! One trait with two backends. [`HybridTree`] serves machines that mount the v1 controllers beside an
//! empty cgroup2 (v1 for limits and measures, the unified hierarchy for kill, events and clone);
//! [`UnifiedTree`] serves pure v2. [`ProcessTree`] stands in where the calling user has no cgroups, and limits
//! nothing. All work below a root path, so that they can be tested in a folder.
//! Every agent owns one subtree and touches nothing outside it.

mod cores;
mod files;
mod hybrid;
mod memory;
mod meter;
mod pressure;
mod processes;
mod unified;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use hybrid::HybridTree;
pub use memory::{MemoryBreakdown, MemoryWatch};
pub use meter::CpuMeter;
pub use processes::ProcessTree;
pub use unified::UnifiedTree;

/// Where cgroups are mounted on every machine of today.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What one task may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Share of the processor under contention, in thousandths of a core.
    pub cpu_millicores: u64,
    /// Hard ceiling on the processor, in thousandths of a core; none lets the task borrow idle cores.
    pub cpu_quota_millicores: Option<u64>,
    /// Ceiling on memory, page cache included.
    pub memory_bytes_max: u64,
    /// Ceiling on processes and threads.
    pub pids_max: u64,
    /// Ceiling on swap beyond the memory, where the machine accounts for swap.
    #[serde(default)]
    pub swap_bytes_max: u64,
    /// Share of the disks' time under contention, from 1 to 10000, where the machine's disks can be shared.
    #[serde(default = "default_io_weight")]
    pub io_weight: u32,
}

/// What every task has by default.
fn default_io_weight() -> u32 {
    100
}

/// What a task has used. Counters only grow over the life of a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_usage_us: u64,
    /// Time in which the quota kept the task from running.
    pub cpu_throttled_us: u64,
    /// In use now, page cache included.
    pub memory_bytes: u64,
    /// In use now without page cache that could be dropped at once.
    pub memory_working_set_bytes: u64,
    pub memory_peak_bytes: u64,
    /// Processes that the kernel killed because the ceiling was reached.
    pub oom_kills: u64,
    pub pids: u64,
}

/// Why a cgroup could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds '{found}', expected {expected}", path.display())]
    Format {
        path: PathBuf,
        found: String,
        expected: &'static str,
    },
    #[error(
        "memory limit of {asked_bytes} bytes refused: the task uses {used_bytes}; its old limit stands"
    )]
    MemoryInUse { asked_bytes: u64, used_bytes: u64 },
    #[error("no usable cgroups below {}: found {found}; mount cgroup2, or v1 with the controllers cpu, cpuacct, memory and pids", root.display())]
    Unsupported { root: PathBuf, found: String },
    #[error("cgroup {leaf} still has processes {waited:?} after the kill")]
    NotEmpty { leaf: String, waited: Duration },
    #[error("cannot {what} of {leaf}: the user of this agent has no cgroups")]
    WithoutCgroups { what: &'static str, leaf: String },
    #[error("'{name}' is not a cgroup name: use letters, digits, '.', '_', '-' and no leading dot")]
    Name { name: String },
}

/// One agent's subtree of leaves.
pub trait CgroupTree: Send + Sync + fmt::Debug {
    /// Which files this backend works on.
    fn kind(&self) -> TreeKind;

    /// What this machine can hold a task to, as registered with the controller: the layout, then the limits.
    fn enforces(&self) -> Vec<&'static str>;

    /// Makes the leaf; one that exists already is fine.
    fn create(&self, leaf: &str) -> Result<(), CgroupError>;

    /// Makes, ahead of time, what of a leaf is slow to join, and answers the files that a launcher writes `0` to.
    /// Empty where a process can be cloned straight into a leaf.
    fn reserve(&self, reserved: &str) -> Result<Vec<OwnedFd>, CgroupError>;

    /// Turns what [`CgroupTree::reserve`] made, with the launcher in it, into the leaf.
    fn assume(&self, reserved: &str, leaf: &str) -> Result<(), CgroupError>;

    /// Notes the first process of a sandbox in the leaf, where the kernel does not know of leaves.
    fn admit(&self, _leaf: &str, _init: i32) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Sets every limit of a leaf that runs no command yet.
    fn set_limits(&self, leaf: &str, limits: &Limits) -> Result<(), CgroupError>;

    /// Changes the limits of a running leaf without killing it. A memory limit that the task already
    /// exceeds is refused with [`CgroupError::MemoryInUse`] and the old one stands; the rest is applied.
    /// May take up to `patience` while the kernel reclaims.
    fn resize(&self, leaf: &str, limits: &Limits, patience: Duration) -> Result<(), CgroupError>;

    /// The cores that leaves can be held to; none where they cannot.
    fn cores(&self) -> Result<Option<Vec<u32>>, CgroupError> {
        Ok(None)
    }

    /// Gives a leaf these cores and no others, what runs in it included.
    fn give_cores(&self, _leaf: &str, _cores: &[u32]) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Puts a leaf that had cores of its own back among those that share.
    fn take_cores(&self, _leaf: &str) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Holds all leaves but `own` to these cores.
    fn share_cores(&self, _cores: &[u32], _own: &BTreeSet<String>) -> Result<(), CgroupError> {
        Ok(())
    }

    /// The limits in force, as the kernel rounded them.
    fn memory_limit_bytes(&self, leaf: &str) -> Result<u64, CgroupError>;

    /// What the leaf has used and what it holds now.
    fn usage(&self, leaf: &str) -> Result<Usage, CgroupError>;

    /// As [`CgroupTree::usage`], with nothing of what it holds now: all there is to know of one whose processes have gone.
    fn used(&self, leaf: &str) -> Result<Usage, CgroupError> {
        self.usage(leaf)
    }

    /// Reads the part of [`CgroupTree::usage`] that moves whenever anything in the leaf has run, again and again; none
    /// where that costs as much as all of it.
    fn cpu_meter(&self, leaf: &str) -> Option<CpuMeter>;

    /// For how long, ever, all processes of the leaf waited for memory at once; none where the kernel does not say.
    fn memory_stalled_us(&self, leaf: &str) -> Option<u64>;

    /// What the leaf's memory is made of.
    fn memory_breakdown(&self, leaf: &str) -> Result<MemoryBreakdown, CgroupError>;

    /// Begins to watch for the moment in which the leaf needs more memory than it may have. From here on the
    /// kernel holds its processes there, where it can, instead of killing one: whoever watches must act.
    fn watch_memory(&self, leaf: &str) -> Result<MemoryWatch, CgroupError>;

    /// Raises the ceiling on memory and lifts what holds the leaf below it.
    fn raise_memory(&self, leaf: &str, bytes_max: u64) -> Result<(), CgroupError>;

    /// The leaf's processes, by their pids in the calling process's namespace.
    fn processes(&self, leaf: &str) -> Result<Vec<i32>, CgroupError>;

    /// Sends SIGKILL to every process of the leaf, also to those being forked.
    fn kill(&self, leaf: &str) -> Result<(), CgroupError>;

    /// Whether no process is left; a leaf that does not exist is empty.
    fn is_empty(&self, leaf: &str) -> Result<bool, CgroupError>;

    /// Removes an empty leaf, waiting up to `patience` for killed processes to be gone.
    fn remove(&self, leaf: &str, patience: Duration) -> Result<(), CgroupError>;

    /// Every leaf of the subtree, in order.
    fn leaves(&self) -> Result<Vec<String>, CgroupError>;

    /// Removes the subtree when it has no leaves.
    fn remove_tree(&self) -> Result<(), CgroupError>;

    /// The kernel's number of the leaf, unique since boot.
    fn id(&self, leaf: &str) -> Result<u64, CgroupError>;

    /// The directory to clone into; none where there is no cgroup2.
    fn directory(&self, leaf: &str) -> Result<Option<OwnedFd>, CgroupError> {
        Ok(self.entry(leaf)?.directory)
    }

    /// The directory to clone into, and the files a launcher writes itself to before it clones.
    fn entry(&self, leaf: &str) -> Result<CgroupEntry, CgroupError>;

    /// Files that move the calling process into a leaf, one a hierarchy.
    fn join(&self, leaf: &str) -> Result<(), CgroupError>;
}

/// How a process is born inside a leaf.
#[derive(Debug)]
pub struct CgroupEntry {
    /// For CLONE_INTO_CGROUP; none where there is no cgroup2.
    pub directory: Option<OwnedFd>,
    /// `cgroup.procs` of each v1 controller; empty on v2. A launcher writes `0` to each.
    pub procs: Vec<OwnedFd>,
}

/// The two layouts, and none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeKind {
    Hybrid,
    Unified,
    Processes,
}

/// Where a tree is, in a form that a helper can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreePath {
    /// Where cgroups are mounted.
    pub root: PathBuf,
    /// The agent's subtree, relative to every hierarchy.
    pub subtree: String,
}

impl TreePath {
    pub fn new(root: impl Into<PathBuf>, subtree: impl Into<String>) -> TreePath {
        TreePath {
            root: root.into(),
            subtree: subtree.into(),
        }
    }

    /// Finds out which layout the machine has and opens the subtree in it, without making it.
    pub fn open(&self) -> Result<Box<dyn CgroupTree>, CgroupError> {
        self.subtree.split('/').try_for_each(check_name)?;
        match detect(&self.root)? {
            TreeKind::Hybrid => Ok(Box::new(HybridTree::new(&self.root, &self.subtree))),
            TreeKind::Unified => Ok(Box::new(UnifiedTree::new(&self.root, &self.subtree))),
            TreeKind::Processes => Ok(Box::new(ProcessTree::new(&self.root, &self.subtree))),
        }
    }
}

/// Which layout is mounted below `root`.
pub fn detect(root: &Path) -> Result<TreeKind, CgroupError> {
    if ProcessTree::is_root(root) {
        return Ok(TreeKind::Processes);
    }
    if root.join("cgroup.controllers").exists() {
        return Ok(TreeKind::Unified);
    }
    let missing: Vec<&str> = hybrid::CONTROLLERS
        .into_iter()
        .filter(|name| !root.join(name).join("cgroup.procs").exists())
        .collect();
    match missing.is_empty() {
        true => Ok(TreeKind::Hybrid),
        false => Err(CgroupError::Unsupported {
            root: root.to_owned(),
            found: format!(
                "no cgroup.controllers and no v1 controller {}",
                missing.join(", ")
            ),
        }),
    }
}

/// Refuses names that would leave the subtree.
fn check_name(name: &str) -> Result<(), CgroupError> {
    let valid = !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    match valid {
        true => Ok(()),
        false => Err(CgroupError::Name {
            name: name.to_owned(),
        }),
    }
}
