//! For machines that give the calling user no cgroup: a leaf is a folder of notes of who was born in it.
//!
//! Nothing here limits. A leaf is killed through its inits, each PID 1 of a pid namespace that ends with it, and
//! measured by what the processes below them have used.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use super::files::{children, failed, make_dir, read, try_remove_dir, wait_until};
use super::{
    CgroupEntry, CgroupError, CgroupTree, CpuMeter, Limits, MemoryBreakdown, MemoryWatch, TreeKind,
    Usage, check_name,
};
use crate::process::ProcessIdentity;

/// Marks a root of such trees.
const MARK: &str = "without-cgroups";

/// Clock ticks a second, as `/proc` counts on every Linux of today.
const TICKS_PER_SECOND: u64 = 100;

/// An agent's leaves, as folders below a root of its own.
#[derive(Debug)]
pub struct ProcessTree {
    root: PathBuf,
    subtree: String,
}

/// What `/proc` says of one process.
#[derive(Clone, Copy, Default)]
struct Used {
    cpu_ticks: u64,
    resident_bytes: u64,
    shared_bytes: u64,
}

impl ProcessTree {
    pub fn new(root: &Path, subtree: &str) -> ProcessTree {
        ProcessTree {
            root: root.to_owned(),
            subtree: subtree.to_owned(),
        }
    }

    /// Makes `root` a place for such trees.
    pub fn make_root(root: &Path) -> Result<(), CgroupError> {
        make_dir(root)?;
        let mark = root.join(MARK);
        fs::write(&mark, "").map_err(|error| failed("write", &mark, error))
    }

    /// Whether [`ProcessTree::make_root`] has made `root`.
    pub(super) fn is_root(root: &Path) -> bool {
        root.join(MARK).exists()
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.subtree)
    }

    fn leaf(&self, leaf: &str) -> PathBuf {
        self.folder().join(leaf)
    }

    /// The inits of a leaf that live, each with its handle.
    fn inits(&self, leaf: &str) -> Result<Vec<(i32, OwnedFd)>, CgroupError> {
        let folder = self.leaf(leaf);
        let notes = match fs::read_dir(&folder) {
            Ok(notes) => notes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &folder, error)),
        };
        let mut living = Vec::new();
        for note in notes.flatten() {
            // Half a note is of a process whose helper has died with it.
            let Ok(identity) = serde_json::from_str::<ProcessIdentity>(&read(&note.path())?) else {
                continue;
            };
            let is_alive = identity.is_alive();
            let handle = identity.open();
            if let (Ok(true), Ok(Some(handle))) = (is_alive, handle) {
                living.push((identity.pid, handle));
            }
        }
        Ok(living)
    }
}

impl CgroupTree for ProcessTree {
    fn kind(&self) -> TreeKind {
        TreeKind::Processes
    }

    fn enforces(&self) -> Vec<&'static str> {
        vec!["without-cgroups", "pids"]
    }

    fn create(&self, leaf: &str) -> Result<(), CgroupError> {
        check_name(leaf)?;
        make_dir(&self.leaf(leaf))
    }

    fn reserve(&self, reserved: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        check_name(reserved)?;
        Ok(Vec::new())
    }

    fn assume(&self, _reserved: &str, leaf: &str) -> Result<(), CgroupError> {
        self.create(leaf)
    }

    fn admit(&self, leaf: &str, init: i32) -> Result<(), CgroupError> {
        let path = self.leaf(leaf).join(init.to_string());
        let noted = ProcessIdentity::of_pid(init)
            .and_then(|identity| Ok(serde_json::to_vec(&identity)?))
            .and_then(|text| fs::write(&path, text));
        noted.map_err(|error| failed("write", &path, error))
    }

    fn set_limits(&self, _leaf: &str, _limits: &Limits) -> Result<(), CgroupError> {
        Ok(())
    }

    fn resize(
        &self,
        _leaf: &str,
        _limits: &Limits,
        _patience: Duration,
    ) -> Result<(), CgroupError> {
        Ok(())
    }

    fn memory_limit_bytes(&self, leaf: &str) -> Result<u64, CgroupError> {
        Err(self.without("limit memory", leaf))
    }

    fn usage(&self, leaf: &str) -> Result<Usage, CgroupError> {
        let pids = self.processes(leaf)?;
        // One that has gone since is not counted any more.
        let used: Vec<Used> = pids.iter().filter_map(|pid| used_by(*pid)).collect();
        let memory_bytes = used.iter().map(|used| used.resident_bytes).sum();
        let shared_bytes: u64 = used.iter().map(|used| used.shared_bytes).sum();
        let cpu_ticks: u64 = used.iter().map(|used| used.cpu_ticks).sum();
        Ok(Usage {
            cpu_usage_us: cpu_ticks * 1_000_000 / TICKS_PER_SECOND,
            memory_bytes,
            memory_working_set_bytes: memory_bytes.saturating_sub(shared_bytes),
            memory_peak_bytes: memory_bytes,
            pids: pids.len() as u64,
            ..Usage::default()
        })
    }

    fn cpu_meter(&self, _leaf: &str) -> Option<CpuMeter> {
        None
    }

    fn memory_stalled_us(&self, _leaf: &str) -> Option<u64> {
        None
    }

    fn memory_breakdown(&self, leaf: &str) -> Result<MemoryBreakdown, CgroupError> {
        let usage = self.usage(leaf)?;
        Ok(MemoryBreakdown {
            anon_bytes: usage.memory_working_set_bytes,
            ..MemoryBreakdown::default()
        })
    }

    fn watch_memory(&self, leaf: &str) -> Result<MemoryWatch, CgroupError> {
        Err(self.without("watch memory", leaf))
    }

    fn raise_memory(&self, _leaf: &str, _bytes_max: u64) -> Result<(), CgroupError> {
        Ok(())
    }

    fn processes(&self, leaf: &str) -> Result<Vec<i32>, CgroupError> {
        let inits = self.inits(leaf)?;
        let mut found = BTreeSet::new();
        let mut waiting: Vec<i32> = inits.iter().map(|(pid, _)| *pid).collect();
        while let Some(pid) = waiting.pop() {
            if found.insert(pid) {
                waiting.extend(children_of(pid));
            }
        }
        Ok(found.into_iter().collect())
    }

    fn kill(&self, leaf: &str) -> Result<(), CgroupError> {
        for (_, init) in self.inits(leaf)? {
            // One that has just gone needs no signal.
            let _gone = pidfd_send_signal(&init, Signal::KILL);
        }
        Ok(())
    }

    fn is_empty(&self, leaf: &str) -> Result<bool, CgroupError> {
        Ok(self.inits(leaf)?.is_empty())
    }

    fn remove(&self, leaf: &str, patience: Duration) -> Result<(), CgroupError> {
        check_name(leaf)?;
        if !wait_until(patience, || self.is_empty(leaf))? {
            return Err(CgroupError::NotEmpty {
                leaf: leaf.to_owned(),
                waited: patience,
            });
        }
        let path = self.leaf(leaf);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn leaves(&self) -> Result<Vec<String>, CgroupError> {
        children(&self.folder())
    }

    fn remove_tree(&self) -> Result<(), CgroupError> {
        let path = self.folder();
        try_remove_dir(&path).map_err(|error| failed("remove", &path, error))
    }

    fn id(&self, leaf: &str) -> Result<u64, CgroupError> {
        let path = self.leaf(leaf);
        let found = fs::metadata(&path).map_err(|error| failed("look at", &path, error))?;
        Ok(found.ino())
    }

    fn entry(&self, leaf: &str) -> Result<CgroupEntry, CgroupError> {
        self.id(leaf)?;
        Ok(CgroupEntry {
            directory: None,
            procs: Vec::new(),
        })
    }

    fn join(&self, _leaf: &str) -> Result<(), CgroupError> {
        Ok(())
    }
}

impl ProcessTree {
    fn without(&self, what: &'static str, leaf: &str) -> CgroupError {
        CgroupError::WithoutCgroups {
            what,
            leaf: leaf.to_owned(),
        }
    }
}

/// The children of all threads of a process; none when it has gone.
fn children_of(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text.split_whitespace();
            pids.filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// What a process has used, with what the children have that it has reaped.
fn used_by(pid: i32) -> Option<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let field = |number: usize| fields.split(' ').nth(number)?.parse::<u64>().ok();
    let memory = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let page_bytes = rustix::param::page_size() as u64;
    let pages = |number: usize| memory.split(' ').nth(number)?.trim().parse::<u64>().ok();
    Some(Used {
        // Fields 14 to 17: its own time in user and kernel mode, and that of reaped children.
        cpu_ticks: (11..=14).map(field).sum::<Option<u64>>()?,
        resident_bytes: pages(1)? * page_bytes,
        shared_bytes: pages(2)? * page_bytes,
    })
}
