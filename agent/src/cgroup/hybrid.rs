//! The v1 controllers beside an empty cgroup2.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::files::{
    children, failed, is_busy, keyed, make_child, make_dir, number, read, try_remove_dir,
    try_write, wait_until, write,
};
use super::{
    CgroupEntry, CgroupError, CgroupTree, CpuMeter, Limits, MemoryBreakdown, MemoryWatch, TreeKind,
    Usage, check_name, cores, pressure,
};
use crate::kernel_file;

/// The controllers that limit and measure. A process joins them in this order.
pub(super) const CONTROLLERS: [&str; 4] = ["cpu", CPUACCT, "memory", "pids"];

/// The controller that counts the time on a core: only where no unified hierarchy does, as each group more costs every
/// start. Leaves of earlier releases have one all the same.
const CPUACCT: &str = "cpuacct";

/// The controller that holds processes to cores, where it is mounted. What has no cores of its own is in its group
/// [`SHARED`], by inheritance: a helper is forked from what has joined it, and a task from its helper.
const CPUSET: &str = "cpuset";
const SHARED: &str = "shared";

/// How often a leaf is looked through for processes that were forked while it moved.
const MOVES_MAX: u32 = 1000;

/// The period over which a quota counts.
const CPU_PERIOD_US: u64 = 100_000;

/// The fewest shares the kernel takes.
const CPU_SHARES_MIN: u64 = 2;

/// An agent's subtree in each of the v1 controllers and in the unified hierarchy.
#[derive(Debug)]
pub struct HybridTree {
    root: PathBuf,
    subtree: String,
    has_unified: bool,
    has_cpuset: bool,
}

impl HybridTree {
    /// `root` holds one folder a controller and, where there is one, `unified`.
    pub fn new(root: &Path, subtree: &str) -> HybridTree {
        let is_mounted = |name: &str| root.join(name).join("cgroup.procs").exists();
        HybridTree {
            root: root.to_owned(),
            subtree: subtree.to_owned(),
            has_unified: is_mounted("unified"),
            has_cpuset: is_mounted(CPUSET),
        }
    }

    fn file(&self, controller: &str, leaf: &str, name: &str) -> PathBuf {
        self.leaf(controller, leaf).join(name)
    }

    fn leaf(&self, controller: &str, leaf: &str) -> PathBuf {
        self.root.join(controller).join(&self.subtree).join(leaf)
    }

    /// The controllers that a leaf has a group of.
    fn controllers(&self) -> impl Iterator<Item = &'static str> {
        let has_unified = self.has_unified;
        let needed = move |name: &&str| !(has_unified && *name == CPUACCT);
        CONTROLLERS.into_iter().filter(needed)
    }

    /// Every hierarchy that has a leaf of its own. Controllers that are mounted together (`cpu,cpuacct`)
    /// are one hierarchy under two names; making or removing its folder twice does no harm.
    fn hierarchies(&self) -> impl Iterator<Item = &'static str> {
        let unified = self.has_unified.then_some("unified");
        unified.into_iter().chain(self.controllers())
    }

    /// Every hierarchy that a leaf of any release may be in.
    fn hierarchies_ever(&self) -> impl Iterator<Item = &'static str> {
        let unified = self.has_unified.then_some("unified");
        unified.into_iter().chain(CONTROLLERS).chain([CPUSET])
    }

    /// The file that begins with the time on a core, in units of its own.
    fn cpu_time(&self, leaf: &str) -> PathBuf {
        match self.has_unified {
            true => self.file("unified", leaf, "cpu.stat"),
            false => self.file(CPUACCT, leaf, "cpuacct.usage"),
        }
    }

    /// Makes a group of the cpuset controller, whose members may use all cores of the group above.
    fn make_cpuset(&self, name: &str) -> Result<PathBuf, CgroupError> {
        let mut path = self.root.join(CPUSET);
        for part in self.subtree.split('/').chain([name]) {
            let above = path.clone();
            path.push(part);
            make_dir(&path)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                // Nothing can be in a group that has none.
                if read(&path.join(file))?.trim().is_empty() {
                    write(&path.join(file), read(&above.join(file))?.trim())?;
                }
            }
        }
        Ok(path)
    }

    /// Moves all of a leaf into a group of the cpuset controller.
    fn move_to_cpuset(&self, leaf: &str, group: &Path) -> Result<(), CgroupError> {
        let procs = group.join("cgroup.procs");
        let members = |path: &Path| -> Result<BTreeSet<String>, CgroupError> {
            Ok(read(path)?.lines().map(str::to_owned).collect())
        };
        let of_leaf = self.file("memory", leaf, "cgroup.procs");
        for _ in 0..MOVES_MAX {
            let inside = members(&procs)?;
            let outside: Vec<String> = members(&of_leaf)?.difference(&inside).cloned().collect();
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match try_write(&procs, pid) {
                    // It has gone.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => moved.map_err(|error| failed("write", &procs, error))?,
                }
            }
        }
        Err(CgroupError::NotEmpty {
            leaf: leaf.to_owned(),
            waited: Duration::ZERO,
        })
    }

    fn set_shares(&self, leaf: &str, limits: &Limits) -> Result<(), CgroupError> {
        let shares = (limits.cpu_millicores * 1024 / 1000).max(CPU_SHARES_MIN);
        write(&self.file("cpu", leaf, "cpu.shares"), shares)
    }

    fn set_quota(&self, leaf: &str, millicores: Option<u64>) -> Result<(), CgroupError> {
        let quota_us = millicores.map(|millicores| (millicores * CPU_PERIOD_US / 1000).max(1000));
        let quota = quota_us.map_or("-1".to_owned(), |us| us.to_string());
        write(&self.file("cpu", leaf, "cpu.cfs_quota_us"), quota)
    }

    fn set_memory(&self, leaf: &str, bytes: u64, swap_bytes: u64) -> Result<(), CgroupError> {
        let memory = self.file("memory", leaf, "memory.limit_in_bytes");
        let with_swap = self.file("memory", leaf, "memory.memsw.limit_in_bytes");
        let set = |file: &Path, bytes: u64| {
            try_write(file, bytes).map_err(|error| self.memory_refused(leaf, bytes, file, error))
        };
        let set_sum = || match try_write(&with_swap, bytes.saturating_add(swap_bytes)) {
            // A kernel that does not count swap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.memory_refused(leaf, bytes, &with_swap, error)),
            Ok(()) => Ok(()),
        };
        match try_write(&memory, bytes) {
            Ok(()) => set_sum(),
            // The sum may never be below the memory alone: what grows beyond it grows behind it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                set_sum()?;
                set(&memory, bytes)
            }
            Err(error) => Err(self.memory_refused(leaf, bytes, &memory, error)),
        }
    }

    fn memory_refused(
        &self,
        leaf: &str,
        asked_bytes: u64,
        file: &Path,
        error: io::Error,
    ) -> CgroupError {
        let usage = number(&self.file("memory", leaf, "memory.usage_in_bytes"));
        match (is_busy(&error), usage) {
            (true, Ok(used_bytes)) => CgroupError::MemoryInUse {
                asked_bytes,
                used_bytes,
            },
            _ => failed("write", file, error),
        }
    }

    fn pids(&self, leaf: &str) -> Result<BTreeSet<i32>, CgroupError> {
        self.pids_in(self.hierarchies(), leaf)
    }

    fn pids_in(
        &self,
        hierarchies: impl Iterator<Item = &'static str>,
        leaf: &str,
    ) -> Result<BTreeSet<i32>, CgroupError> {
        let mut pids = BTreeSet::new();
        for hierarchy in hierarchies {
            let file = self.file(hierarchy, leaf, "cgroup.procs");
            match kernel_file::read(&file) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                // Removed, or never made in this hierarchy.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("read", &file, error)),
            }
        }
        Ok(pids)
    }

    /// Kills one process, if it is still in the leaf once it can no longer be mistaken for another.
    fn kill_one(&self, leaf: &str, pid: i32) -> Result<(), CgroupError> {
        let Some(process) = Pid::from_raw(pid) else {
            return Ok(());
        };
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else {
            return Ok(());
        };
        if self.pids(leaf)?.contains(&pid) {
            // A process that has just gone needs no signal.
            let _gone = pidfd_send_signal(&handle, Signal::KILL);
        }
        Ok(())
    }
}

/// Whether the kernel says that there is no such group any more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn open(path: &Path, write: bool) -> Result<OwnedFd, CgroupError> {
    let file = fs::OpenOptions::new().read(!write).write(write).open(path);
    Ok(file.map_err(|error| failed("open", path, error))?.into())
}

impl CgroupTree for HybridTree {
    fn kind(&self) -> TreeKind {
        TreeKind::Hybrid
    }

    fn enforces(&self) -> Vec<&'static str> {
        let swap = self.root.join("memory/memory.memsw.limit_in_bytes");
        let found = [("swap", swap.exists()), ("whole-cores", self.has_cpuset)];
        let optional = found.into_iter().filter(|(_, has)| *has);
        ["cgroup-v1", "cpu", "memory", "pids"]
            .into_iter()
            .chain(optional.map(|(name, _)| name))
            .collect()
    }

    fn create(&self, leaf: &str) -> Result<(), CgroupError> {
        check_name(leaf)?;
        if self.has_cpuset && !self.leaf(CPUSET, SHARED).exists() {
            self.make_cpuset(SHARED)?;
        }
        self.hierarchies()
            .try_for_each(|hierarchy| make_dir(&self.leaf(hierarchy, leaf)))
    }

    fn reserve(&self, reserved: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        check_name(reserved)?;
        self.controllers()
            .map(|controller| {
                make_child(&self.leaf(controller, reserved))?;
                open(&self.file(controller, reserved, "cgroup.procs"), true)
            })
            .collect()
    }

    /// Renames the v1 groups, which the unified hierarchy cannot do; its group is made now, as it costs little.
    fn assume(&self, reserved: &str, leaf: &str) -> Result<(), CgroupError> {
        check_name(leaf)?;
        for controller in self.controllers() {
            let (from, to) = (self.leaf(controller, reserved), self.leaf(controller, leaf));
            match fs::rename(&from, &to) {
                Ok(()) => {}
                // Controllers that are mounted together are renamed together.
                Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {}
                Err(error) => return Err(failed("rename", &from, error)),
            }
        }
        match self.has_unified {
            true => make_child(&self.leaf("unified", leaf)),
            false => Ok(()),
        }
    }

    fn set_limits(&self, leaf: &str, limits: &Limits) -> Result<(), CgroupError> {
        self.set_shares(leaf, limits)?;
        // A new leaf has none.
        if limits.cpu_quota_millicores.is_some() {
            self.set_quota(leaf, limits.cpu_quota_millicores)?;
        }
        self.set_memory(leaf, limits.memory_bytes_max, limits.swap_bytes_max)?;
        write(&self.file("pids", leaf, "pids.max"), limits.pids_max)
    }

    fn resize(&self, leaf: &str, limits: &Limits, _patience: Duration) -> Result<(), CgroupError> {
        self.set_shares(leaf, limits)?;
        self.set_quota(leaf, limits.cpu_quota_millicores)?;
        write(&self.file("pids", leaf, "pids.max"), limits.pids_max)?;
        self.set_memory(leaf, limits.memory_bytes_max, limits.swap_bytes_max)
    }

    fn cores(&self) -> Result<Option<Vec<u32>>, CgroupError> {
        if !self.has_cpuset {
            return Ok(None);
        }
        let file = self.root.join(CPUSET).join("cpuset.cpus");
        cores::read_from(file).map(Some)
    }

    fn give_cores(&self, leaf: &str, cores: &[u32]) -> Result<(), CgroupError> {
        let group = self.make_cpuset(leaf)?;
        write(&group.join("cpuset.cpus"), cores::write(cores))?;
        self.move_to_cpuset(leaf, &group)
    }

    fn take_cores(&self, leaf: &str) -> Result<(), CgroupError> {
        let group = self.leaf(CPUSET, leaf);
        if !group.exists() {
            return Ok(());
        }
        self.move_to_cpuset(leaf, &self.leaf(CPUSET, SHARED))?;
        try_remove_dir(&group).map_err(|error| failed("remove", &group, error))
    }

    fn share_cores(&self, cores: &[u32], _own: &BTreeSet<String>) -> Result<(), CgroupError> {
        match self.has_cpuset {
            true => write(
                &self.file(CPUSET, SHARED, "cpuset.cpus"),
                cores::write(cores),
            ),
            false => Ok(()),
        }
    }

    fn memory_limit_bytes(&self, leaf: &str) -> Result<u64, CgroupError> {
        number(&self.file("memory", leaf, "memory.limit_in_bytes"))
    }

    fn usage(&self, leaf: &str) -> Result<Usage, CgroupError> {
        let memory_bytes = number(&self.file("memory", leaf, "memory.usage_in_bytes"))?;
        let inactive_file_bytes = keyed(
            &self.file("memory", leaf, "memory.stat"),
            "total_inactive_file",
        )?;
        Ok(Usage {
            memory_bytes,
            memory_working_set_bytes: memory_bytes.saturating_sub(inactive_file_bytes),
            pids: number(&self.file("pids", leaf, "pids.current"))?,
            ..self.used(leaf)?
        })
    }

    fn used(&self, leaf: &str) -> Result<Usage, CgroupError> {
        let cpu_usage_us = match self.has_unified {
            true => keyed(&self.cpu_time(leaf), "usage_usec")?,
            false => number(&self.cpu_time(leaf))? / 1000,
        };
        Ok(Usage {
            cpu_usage_us,
            cpu_throttled_us: keyed(&self.file("cpu", leaf, "cpu.stat"), "throttled_time")? / 1000,
            memory_peak_bytes: number(&self.file("memory", leaf, "memory.max_usage_in_bytes"))?,
            oom_kills: keyed(&self.file("memory", leaf, "memory.oom_control"), "oom_kill")?,
            ..Usage::default()
        })
    }

    fn cpu_meter(&self, leaf: &str) -> Option<CpuMeter> {
        CpuMeter::open(&self.cpu_time(leaf))
    }

    fn memory_stalled_us(&self, leaf: &str) -> Option<u64> {
        pressure::full_us(&self.leaf("unified", leaf).join("memory.pressure"))
    }

    fn memory_breakdown(&self, leaf: &str) -> Result<MemoryBreakdown, CgroupError> {
        let stat = self.file("memory", leaf, "memory.stat");
        let kernel = self.file("memory", leaf, "memory.kmem.usage_in_bytes");
        let shmem_bytes = keyed(&stat, "total_shmem")?;
        Ok(MemoryBreakdown {
            anon_bytes: keyed(&stat, "total_rss")?,
            file_bytes: keyed(&stat, "total_cache")?.saturating_sub(shmem_bytes),
            shmem_bytes,
            kernel_bytes: if kernel.exists() { number(&kernel)? } else { 0 },
        })
    }

    fn watch_memory(&self, leaf: &str) -> Result<MemoryWatch, CgroupError> {
        MemoryWatch::by_oom_event(&self.leaf("memory", leaf))
    }

    fn raise_memory(&self, leaf: &str, bytes_max: u64) -> Result<(), CgroupError> {
        let with_swap = self.file("memory", leaf, "memory.memsw.limit_in_bytes");
        let swap_bytes = match with_swap.exists() {
            true => number(&with_swap)?.saturating_sub(self.memory_limit_bytes(leaf)?),
            false => 0,
        };
        self.set_memory(leaf, bytes_max, swap_bytes)
    }

    fn processes(&self, leaf: &str) -> Result<Vec<i32>, CgroupError> {
        Ok(self.pids(leaf)?.into_iter().collect())
    }

    fn kill(&self, leaf: &str) -> Result<(), CgroupError> {
        let kill = self.file("unified", leaf, "cgroup.kill");
        match try_write(&kill, 1) {
            Err(error) if !is_gone(&error) => return Err(failed("write", &kill, error)),
            _ => {}
        }
        // A launcher may be in the v1 leaf only, and is in the group that it joined first at least.
        let first = CONTROLLERS.into_iter().take(1);
        for pid in self.pids_in(first, leaf)? {
            self.kill_one(leaf, pid)?;
        }
        Ok(())
    }

    fn is_empty(&self, leaf: &str) -> Result<bool, CgroupError> {
        Ok(self.pids(leaf)?.is_empty())
    }

    fn remove(&self, leaf: &str, patience: Duration) -> Result<(), CgroupError> {
        check_name(leaf)?;
        for hierarchy in self.hierarchies_ever() {
            let path = self.leaf(hierarchy, leaf);
            let is_gone = wait_until(patience, || match try_remove_dir(&path) {
                Ok(()) => Ok(true),
                Err(error) if is_busy(&error) => Ok(false),
                Err(error) => Err(failed("remove", &path, error)),
            })?;
            if !is_gone {
                return Err(CgroupError::NotEmpty {
                    leaf: leaf.to_owned(),
                    waited: patience,
                });
            }
        }
        Ok(())
    }

    fn leaves(&self) -> Result<Vec<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for hierarchy in self.hierarchies_ever().filter(|name| *name != CPUSET) {
            names.extend(children(&self.root.join(hierarchy).join(&self.subtree))?);
        }
        Ok(names.into_iter().collect())
    }

    fn remove_tree(&self) -> Result<(), CgroupError> {
        let shared = self.leaf(CPUSET, SHARED);
        try_remove_dir(&shared).map_err(|error| failed("remove", &shared, error))?;
        for hierarchy in self.hierarchies_ever() {
            let path = self.root.join(hierarchy).join(&self.subtree);
            try_remove_dir(&path).map_err(|error| failed("remove", &path, error))?;
        }
        Ok(())
    }

    fn id(&self, leaf: &str) -> Result<u64, CgroupError> {
        let hierarchy = if self.has_unified {
            "unified"
        } else {
            "memory"
        };
        let path = self.leaf(hierarchy, leaf);
        Ok(fs::metadata(&path)
            .map_err(|error| failed("look at", &path, error))?
            .ino())
    }

    fn directory(&self, leaf: &str) -> Result<Option<OwnedFd>, CgroupError> {
        self.has_unified
            .then(|| open(&self.leaf("unified", leaf), false))
            .transpose()
    }

    fn entry(&self, leaf: &str) -> Result<CgroupEntry, CgroupError> {
        let directory = self.directory(leaf)?;
        let own_cores = self.leaf(CPUSET, leaf).exists().then_some(CPUSET);
        let joined = self.controllers().chain(own_cores);
        let procs =
            joined.map(|controller| open(&self.file(controller, leaf, "cgroup.procs"), true));
        Ok(CgroupEntry {
            directory,
            procs: procs.collect::<Result<_, _>>()?,
        })
    }

    fn join(&self, leaf: &str) -> Result<(), CgroupError> {
        let shared = self.file(CPUSET, SHARED, "cgroup.procs");
        if shared.exists() {
            write(&shared, 0)?;
        }
        self.hierarchies()
            .try_for_each(|hierarchy| write(&self.file(hierarchy, leaf, "cgroup.procs"), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTROLLERS, CgroupTree, Duration, HybridTree, fs};

    /// A machine with these hierarchies, and an agent's subtree in each.
    fn machine(hierarchies: &[&str]) -> (tempfile::TempDir, HybridTree) {
        let root = tempfile::tempdir().unwrap();
        for name in hierarchies {
            fs::create_dir_all(root.path().join(name).join("twill")).unwrap();
            fs::write(root.path().join(name).join("cgroup.procs"), "").unwrap();
        }
        let tree = HybridTree::new(root.path(), "twill");
        (root, tree)
    }

    #[test]
    fn time_on_a_core_has_a_group_only_where_nothing_else_counts_it() {
        for has_unified in [true, false] {
            let unified = has_unified.then_some("unified");
            let mounted: Vec<&str> = unified.into_iter().chain(CONTROLLERS).collect();
            let (root, tree) = machine(&mounted);
            tree.create("task").unwrap();
            let has = |name: &str| root.path().join(name).join("twill/task").exists();
            assert_eq!(has("cpuacct"), !has_unified);
            assert_eq!(mounted.iter().filter(|name| has(name)).count(), 4);
        }
    }

    #[test]
    fn a_leaf_of_an_earlier_release_is_removed_with_all_its_groups() {
        let mounted: Vec<&str> = CONTROLLERS.into_iter().chain(["unified"]).collect();
        let (root, tree) = machine(&mounted);
        for name in &mounted {
            fs::create_dir(root.path().join(name).join("twill/task")).unwrap();
        }
        assert_eq!(tree.leaves().unwrap(), ["task"]);
        tree.remove("task", Duration::ZERO).unwrap();
        assert_eq!(tree.leaves().unwrap(), Vec::<String>::new());
        tree.remove_tree().unwrap();
        assert!(!root.path().join("cpuacct/twill").exists());
    }
}
