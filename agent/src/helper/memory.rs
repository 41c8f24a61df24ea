//! What a helper finds out, and does, when its task has run out of memory.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupTree, MemoryBreakdown};

/// How many processes a record names.
const HOLDERS_MAX: usize = 10;

/// Bounds of what a task gets on top of its limit, so that it can end in order.
const GRACE_BYTES_MIN: u64 = 10 << 20;
const GRACE_BYTES_MAX: u64 = 64 << 20;

/// The moment in which a task needed more memory than it may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomRecord {
    /// In microseconds since 1970.
    pub at_us: i64,
    pub limit_bytes: u64,
    /// What the task was given on top of its limit to end in order.
    pub grace_bytes: u64,
    pub memory: MemoryBreakdown,
    /// Who held most, largest first.
    pub holders: Vec<MemoryHolder>,
}

/// One process and the memory that it held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryHolder {
    /// On the host.
    pub pid: i32,
    /// In the task.
    pub task_pid: i32,
    /// Its command line, cut off where it is long.
    pub command: String,
    pub anon_bytes: u64,
    pub file_bytes: u64,
    pub shmem_bytes: u64,
}

impl MemoryHolder {
    fn total_bytes(&self) -> u64 {
        self.anon_bytes + self.file_bytes + self.shmem_bytes
    }
}

impl OomRecord {
    /// Looks at a leaf and its processes as they are now. What cannot be read is left out: a task that is out
    /// of memory must not wait for its diagnosis.
    pub fn of(tree: &dyn CgroupTree, leaf: &str, at_us: i64) -> OomRecord {
        let limit_bytes = tree.memory_limit_bytes(leaf).unwrap_or_default();
        let pids = tree.processes(leaf).unwrap_or_default();
        let mut holders: Vec<MemoryHolder> = pids
            .into_iter()
            .filter_map(|pid| holder(Path::new("/proc"), pid))
            .collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.total_bytes()));
        holders.truncate(HOLDERS_MAX);
        OomRecord {
            at_us,
            limit_bytes,
            grace_bytes: (limit_bytes / 8).clamp(GRACE_BYTES_MIN, GRACE_BYTES_MAX),
            memory: tree.memory_breakdown(leaf).unwrap_or_default(),
            holders,
        }
    }
}

impl std::fmt::Display for OomRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let memory = &self.memory;
        write!(
            f,
            "limit {} reached (anon {}, file {}, shared {}",
            mib(self.limit_bytes),
            mib(memory.anon_bytes),
            mib(memory.file_bytes),
            mib(memory.shmem_bytes)
        )?;
        match memory.kernel_bytes {
            0 => write!(f, ")")?,
            bytes => write!(f, ", kernel {})", mib(bytes))?,
        }
        for (index, holder) in self.holders.iter().take(3).enumerate() {
            let before = if index == 0 { "; held by" } else { "," };
            write!(
                f,
                "{before} `{}` (pid {}) {}",
                holder.command,
                holder.task_pid,
                mib(holder.total_bytes())
            )?;
        }
        match self.holders.len().saturating_sub(3) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Reads one process below `proc`; none when it has gone.
fn holder(proc: &Path, pid: i32) -> Option<MemoryHolder> {
    let folder = proc.join(pid.to_string());
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default()
    };
    let bytes = |name: &str| -> u64 {
        let kib = field(name).trim_end_matches("kB").trim().parse::<u64>();
        kib.unwrap_or(0) * 1024
    };
    let task_pid = field("NSpid:").split_whitespace().last();
    Some(MemoryHolder {
        pid,
        task_pid: task_pid.and_then(|pid| pid.parse().ok()).unwrap_or(pid),
        command: command_line(&folder).unwrap_or_else(|| field("Name:").to_owned()),
        anon_bytes: bytes("RssAnon:"),
        file_bytes: bytes("RssFile:"),
        shmem_bytes: bytes("RssShmem:"),
    })
}

/// The first words of a command line; none for one that cannot be read or is empty.
fn command_line(folder: &Path) -> Option<String> {
    const CHARACTERS_MAX: usize = 60;
    let raw = fs::read(folder.join("cmdline")).ok()?;
    let text = String::from_utf8_lossy(&raw).replace('\0', " ");
    let text: String = text
        .trim()
        .chars()
        .map(|character| match character.is_control() {
            true => ' ',
            false => character,
        })
        .collect();
    let cut: String = text.chars().take(CHARACTERS_MAX).collect();
    match (cut.is_empty(), cut.len() < text.len()) {
        (true, _) => None,
        (false, true) => Some(format!("{cut}…")),
        (false, false) => Some(cut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_the_limit_the_kinds_of_memory_and_who_held_most() {
        let proc = tempfile::tempdir().unwrap();
        let folder = proc.path().join("41");
        fs::create_dir(&folder).unwrap();
        let status = "Name:\tpython3\nNSpid:\t41\t2\nRssAnon:\t  61440 kB\nRssFile:\t 2048 kB\nRssShmem:\t 0 kB\n";
        fs::write(folder.join("status"), status).unwrap();
        fs::write(folder.join("cmdline"), "python3\0-c\0x = 1\ny = 2\0").unwrap();
        let record = OomRecord {
            at_us: 0,
            limit_bytes: 64 << 20,
            grace_bytes: 10 << 20,
            memory: MemoryBreakdown {
                anon_bytes: 60 << 20,
                ..MemoryBreakdown::default()
            },
            holders: vec![holder(proc.path(), 41).unwrap()],
        };
        assert_eq!(
            record.to_string(),
            "limit 64.0 MiB reached (anon 60.0 MiB, file 0.0 MiB, shared 0.0 MiB); \
             held by `python3 -c x = 1 y = 2` (pid 2) 62.0 MiB"
        );
        assert_eq!(holder(proc.path(), 42), None);
    }
}
