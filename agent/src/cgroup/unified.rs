//! Pure cgroup v2.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{
    children, failed, is_busy, keyed, make_dir, number, read, try_remove_dir, wait_until, write,
};
use super::memory::{hold_bytes, kept_bytes};
use super::{
    CgroupEntry, CgroupError, CgroupTree, CpuMeter, Limits, MemoryBreakdown, MemoryWatch, TreeKind,
    Usage, check_name, cores, pressure,
};

/// What a parent hands down so that a leaf can be limited.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// What it hands down where the machine has it.
const OPTIONAL: [&str; 2] = ["cpuset", "io"];

/// The period over which a quota counts.
const CPU_PERIOD_US: u64 = 100_000;

/// Use must stay this far below a lower limit before it becomes hard.
const SHRINK_MARGIN_BYTES: u64 = 1 << 20;

/// An agent's subtree of the one hierarchy.
#[derive(Debug)]
pub struct UnifiedTree {
    root: PathBuf,
    subtree: String,
}

impl UnifiedTree {
    /// `root` is the mount point of cgroup2.
    pub fn new(root: &Path, subtree: &str) -> UnifiedTree {
        UnifiedTree {
            root: root.to_owned(),
            subtree: subtree.to_owned(),
        }
    }

    fn tree(&self) -> PathBuf {
        self.root.join(&self.subtree)
    }

    fn leaf(&self, leaf: &str) -> PathBuf {
        self.tree().join(leaf)
    }

    fn file(&self, leaf: &str, name: &str) -> PathBuf {
        self.leaf(leaf).join(name)
    }

    /// Hands the controllers down from the root to the subtree.
    fn delegate(&self) -> Result<(), CgroupError> {
        let offered = read(&self.root.join("cgroup.controllers"))?;
        let optional = OPTIONAL
            .into_iter()
            .filter(|name| offered.split_whitespace().any(|found| found == *name));
        let wanted: Vec<String> = CONTROLLERS
            .into_iter()
            .chain(optional)
            .map(|name| format!("+{name}"))
            .collect();
        let wanted = wanted.join(" ");
        let mut path = self.root.clone();
        write(&path.join("cgroup.subtree_control"), &wanted)?;
        for part in self.subtree.split('/') {
            path.push(part);
            make_dir(&path)?;
            write(&path.join("cgroup.subtree_control"), &wanted)?;
        }
        Ok(())
    }

    /// How much more of a leaf may go to swap, whether the machine has any or not.
    fn swap_left_bytes(&self, leaf: &str) -> Result<u64, CgroupError> {
        let limit = self.file(leaf, "memory.swap.max");
        if !limit.exists() {
            return Ok(0);
        }
        let used = number(&self.file(leaf, "memory.swap.current"))?;
        Ok(number(&limit)?.saturating_sub(used))
    }

    /// Limits that not every machine has.
    fn set_optional(&self, leaf: &str, limits: &Limits) -> Result<(), CgroupError> {
        for (name, value) in [
            ("memory.swap.max", limits.swap_bytes_max.to_string()),
            ("io.weight", format!("default {}", limits.io_weight)),
        ] {
            let file = self.file(leaf, name);
            if file.exists() {
                write(&file, value)?;
            }
        }
        Ok(())
    }

    fn is_delegated(&self) -> bool {
        read(&self.tree().join("cgroup.subtree_control"))
            .is_ok_and(|found| found.contains("memory"))
    }

    fn set_cpu(&self, leaf: &str, limits: &Limits) -> Result<(), CgroupError> {
        write(
            &self.file(leaf, "cpu.weight"),
            cpu_weight(limits.cpu_millicores),
        )?;
        let quota_us = limits
            .cpu_quota_millicores
            .map(|millicores| (millicores * CPU_PERIOD_US / 1000).max(1000));
        let quota = quota_us.map_or("max".to_owned(), |us| us.to_string());
        write(
            &self.file(leaf, "cpu.max"),
            format!("{quota} {CPU_PERIOD_US}"),
        )
    }

    fn grow_memory(&self, leaf: &str, bytes: u64) -> Result<(), CgroupError> {
        write(&self.file(leaf, "memory.max"), bytes)?;
        write(&self.file(leaf, "memory.high"), hold_bytes(bytes))
    }

    /// `memory.max` below use kills at once: press with `memory.high` first and make the limit hard only
    /// when use has gone below it; otherwise take the pressure back. What cannot be pressed out is not pressed: the
    /// task would only be held.
    fn shrink_memory(&self, leaf: &str, bytes: u64, patience: Duration) -> Result<(), CgroupError> {
        let current = self.file(leaf, "memory.current");
        let high = self.file(leaf, "memory.high");
        let ceiling = hold_bytes(bytes).min(bytes.saturating_sub(SHRINK_MARGIN_BYTES));
        let limit = number(&self.file(leaf, "memory.max"))?;
        let kept = kept_bytes(&self.leaf(leaf))?;
        if kept.saturating_sub(self.swap_left_bytes(leaf)?) > ceiling {
            return Err(CgroupError::MemoryInUse {
                asked_bytes: bytes,
                used_bytes: kept,
            });
        }
        write(&high, ceiling)?;
        let fits = wait_until(patience, || {
            Ok::<_, CgroupError>(number(&current)? <= ceiling)
        })?;
        if fits {
            write(&self.file(leaf, "memory.max"), bytes)?;
            return write(&high, hold_bytes(bytes));
        }
        let used_bytes = number(&current)?;
        write(&high, hold_bytes(limit))?;
        Err(CgroupError::MemoryInUse {
            asked_bytes: bytes,
            used_bytes,
        })
    }
}

/// Translates a share of cores to v2's weight: one core is the default weight of 100.
fn cpu_weight(millicores: u64) -> u64 {
    (millicores / 10).clamp(1, 10_000)
}

impl CgroupTree for UnifiedTree {
    fn kind(&self) -> TreeKind {
        TreeKind::Unified
    }

    fn enforces(&self) -> Vec<&'static str> {
        // The subtree shows what its leaves will have.
        let found = [
            ("swap", self.tree().join("memory.swap.max").exists()),
            ("io", self.tree().join("io.weight").exists()),
            ("whole-cores", self.tree().join("cpuset.cpus").exists()),
        ];
        let optional = found.into_iter().filter(|(_, has)| *has);
        ["cgroup-v2", "cpu", "memory", "memory-high", "pids"]
            .into_iter()
            .chain(optional.map(|(name, _)| name))
            .collect()
    }

    fn create(&self, leaf: &str) -> Result<(), CgroupError> {
        check_name(leaf)?;
        if !self.is_delegated() {
            self.delegate()?;
        }
        make_dir(&self.leaf(leaf))
    }

    fn reserve(&self, _reserved: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        Ok(Vec::new())
    }

    fn assume(&self, _reserved: &str, leaf: &str) -> Result<(), CgroupError> {
        self.create(leaf)
    }

    fn set_limits(&self, leaf: &str, limits: &Limits) -> Result<(), CgroupError> {
        self.set_cpu(leaf, limits)?;
        self.grow_memory(leaf, limits.memory_bytes_max)?;
        // Where the kernel has to kill after all, it takes the task as a whole.
        write(&self.file(leaf, "memory.oom.group"), 1)?;
        self.set_optional(leaf, limits)?;
        write(&self.file(leaf, "pids.max"), limits.pids_max)
    }

    fn resize(&self, leaf: &str, limits: &Limits, patience: Duration) -> Result<(), CgroupError> {
        self.set_cpu(leaf, limits)?;
        self.set_optional(leaf, limits)?;
        write(&self.file(leaf, "pids.max"), limits.pids_max)?;
        match limits.memory_bytes_max >= self.memory_limit_bytes(leaf)? {
            true => self.grow_memory(leaf, limits.memory_bytes_max),
            false => self.shrink_memory(leaf, limits.memory_bytes_max, patience),
        }
    }

    fn cores(&self) -> Result<Option<Vec<u32>>, CgroupError> {
        let file = self.tree().join("cpuset.cpus.effective");
        if !file.exists() {
            return Ok(None);
        }
        cores::read_from(file).map(Some)
    }

    fn give_cores(&self, leaf: &str, cores: &[u32]) -> Result<(), CgroupError> {
        write(&self.file(leaf, "cpuset.cpus"), cores::write(cores))
    }

    fn take_cores(&self, leaf: &str) -> Result<(), CgroupError> {
        // An empty line gives it those of the group above.
        write(&self.file(leaf, "cpuset.cpus"), "\n")
    }

    fn share_cores(&self, cores: &[u32], own: &BTreeSet<String>) -> Result<(), CgroupError> {
        for leaf in self.leaves()?.iter().filter(|leaf| !own.contains(*leaf)) {
            let file = self.file(leaf, "cpuset.cpus");
            // It may be removed in this moment.
            if file.exists() {
                write(&file, cores::write(cores))?;
            }
        }
        Ok(())
    }

    fn memory_limit_bytes(&self, leaf: &str) -> Result<u64, CgroupError> {
        number(&self.file(leaf, "memory.max"))
    }

    fn usage(&self, leaf: &str) -> Result<Usage, CgroupError> {
        let memory_bytes = number(&self.file(leaf, "memory.current"))?;
        let inactive_file_bytes = keyed(&self.file(leaf, "memory.stat"), "inactive_file")?;
        Ok(Usage {
            memory_bytes,
            memory_working_set_bytes: memory_bytes.saturating_sub(inactive_file_bytes),
            pids: number(&self.file(leaf, "pids.current"))?,
            ..self.used(leaf)?
        })
    }

    fn used(&self, leaf: &str) -> Result<Usage, CgroupError> {
        // Kernels before 5.19 keep no peak.
        let peak = match self.file(leaf, "memory.peak") {
            peak if peak.exists() => peak,
            _ => self.file(leaf, "memory.current"),
        };
        Ok(Usage {
            cpu_usage_us: keyed(&self.file(leaf, "cpu.stat"), "usage_usec")?,
            cpu_throttled_us: keyed(&self.file(leaf, "cpu.stat"), "throttled_usec")?,
            memory_peak_bytes: number(&peak)?,
            oom_kills: keyed(&self.file(leaf, "memory.events"), "oom_kill")?,
            ..Usage::default()
        })
    }

    fn cpu_meter(&self, leaf: &str) -> Option<CpuMeter> {
        CpuMeter::open(&self.file(leaf, "cpu.stat"))
    }

    fn memory_stalled_us(&self, leaf: &str) -> Option<u64> {
        pressure::full_us(&self.file(leaf, "memory.pressure"))
    }

    fn memory_breakdown(&self, leaf: &str) -> Result<MemoryBreakdown, CgroupError> {
        let stat = self.file(leaf, "memory.stat");
        let shmem_bytes = keyed(&stat, "shmem")?;
        Ok(MemoryBreakdown {
            anon_bytes: keyed(&stat, "anon")?,
            file_bytes: keyed(&stat, "file")?.saturating_sub(shmem_bytes),
            shmem_bytes,
            kernel_bytes: keyed(&stat, "kernel")?,
        })
    }

    fn watch_memory(&self, leaf: &str) -> Result<MemoryWatch, CgroupError> {
        MemoryWatch::by_pressure(&self.leaf(leaf))
    }

    fn raise_memory(&self, leaf: &str, bytes_max: u64) -> Result<(), CgroupError> {
        write(&self.file(leaf, "memory.max"), bytes_max)?;
        write(&self.file(leaf, "memory.high"), "max")
    }

    fn processes(&self, leaf: &str) -> Result<Vec<i32>, CgroupError> {
        let pids = read(&self.file(leaf, "cgroup.procs"))?;
        Ok(pids.lines().filter_map(|pid| pid.parse().ok()).collect())
    }

    fn kill(&self, leaf: &str) -> Result<(), CgroupError> {
        match self.leaf(leaf).exists() {
            true => write(&self.file(leaf, "cgroup.kill"), 1),
            false => Ok(()),
        }
    }

    fn is_empty(&self, leaf: &str) -> Result<bool, CgroupError> {
        match self.leaf(leaf).exists() {
            true => Ok(keyed(&self.file(leaf, "cgroup.events"), "populated")? == 0),
            false => Ok(true),
        }
    }

    fn remove(&self, leaf: &str, patience: Duration) -> Result<(), CgroupError> {
        check_name(leaf)?;
        let path = self.leaf(leaf);
        let is_gone = wait_until(patience, || match try_remove_dir(&path) {
            Ok(()) => Ok(true),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) => Err(failed("remove", &path, error)),
        })?;
        match is_gone {
            true => Ok(()),
            false => Err(CgroupError::NotEmpty {
                leaf: leaf.to_owned(),
                waited: patience,
            }),
        }
    }

    fn leaves(&self) -> Result<Vec<String>, CgroupError> {
        children(&self.tree())
    }

    fn remove_tree(&self) -> Result<(), CgroupError> {
        let path = self.tree();
        try_remove_dir(&path).map_err(|error| failed("remove", &path, error))
    }

    fn id(&self, leaf: &str) -> Result<u64, CgroupError> {
        let path = self.leaf(leaf);
        Ok(fs::metadata(&path)
            .map_err(|error| failed("look at", &path, error))?
            .ino())
    }

    fn entry(&self, leaf: &str) -> Result<CgroupEntry, CgroupError> {
        let path = self.leaf(leaf);
        let directory = fs::File::open(&path).map_err(|error| failed("open", &path, error))?;
        Ok(CgroupEntry {
            directory: Some(directory.into()),
            procs: Vec::new(),
        })
    }

    fn join(&self, leaf: &str) -> Result<(), CgroupError> {
        write(&self.file(leaf, "cgroup.procs"), 0)
    }
}
