//! The moment in which a leaf needs more memory than it may have.
//!
//! On v1 an eventfd tells of it and `oom_kill_disable` makes the kernel wait for us. On v2 the leaf is held
//! at `memory.high`, below its limit, and a pressure trigger (PSI) tells that it stalls there; it has run out
//! when what it holds there cannot be taken back. Measured on v1: the event comes within 50 ms.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use serde::{Deserialize, Serialize};

use super::CgroupError;
use super::files::{failed, keyed, number, write};

/// Wakes when processes stalled on memory for this long within the window, both in microseconds. Without
/// CAP_SYS_RESOURCE the window must be a multiple of two seconds.
const PRESSURE_TRIGGER: &[u8] = b"some 150000 2000000\0";

/// How much of what holds a leaf must be beyond reclaim for it to have run out, in hundredths.
const STUCK_PERCENT: u64 = 97;

/// What a leaf's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBreakdown {
    /// Heaps, stacks and the like.
    pub anon_bytes: u64,
    /// Page cache, without shared memory.
    pub file_bytes: u64,
    /// Shared memory and files on tmpfs.
    pub shmem_bytes: u64,
    /// What the kernel holds for its processes, where it says so.
    pub kernel_bytes: u64,
}

/// A watch over one leaf's memory.
#[derive(Debug)]
pub struct MemoryWatch {
    leaf: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// v1: an eventfd, and the file it is registered on, which must stay open.
    OomEvent { event: File, _control: File },
    /// v2: an armed `memory.pressure`.
    Pressure { trigger: File },
}

impl MemoryWatch {
    /// v1. The kernel waits, rather than kill, once the event is registered.
    pub(super) fn by_oom_event(leaf: &Path) -> Result<MemoryWatch, CgroupError> {
        let path = leaf.join("memory.oom_control");
        let control = File::open(&path).map_err(|error| failed("open", &path, error))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event = eventfd(0, flags).map_err(|error| failed("watch", &path, error.into()))?;
        let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        write(&leaf.join("cgroup.event_control"), registration)?;
        write(&path, 1)?;
        Ok(MemoryWatch {
            leaf: leaf.to_owned(),
            source: Source::OomEvent {
                event: event.into(),
                _control: control,
            },
        })
    }

    /// v2.
    pub(super) fn by_pressure(leaf: &Path) -> Result<MemoryWatch, CgroupError> {
        let path = leaf.join("memory.pressure");
        let open = || -> io::Result<File> {
            let mut trigger = OpenOptions::new().read(true).write(true).open(&path)?;
            trigger.write_all(PRESSURE_TRIGGER)?;
            Ok(trigger)
        };
        Ok(MemoryWatch {
            leaf: leaf.to_owned(),
            source: Source::Pressure {
                trigger: open().map_err(|error| failed("watch", &path, error))?,
            },
        })
    }

    /// What to wait for before [`MemoryWatch::is_out`] is asked.
    pub fn poll(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.source {
            Source::OomEvent { event, .. } => (event.as_fd(), PollFlags::IN),
            Source::Pressure { trigger } => (trigger.as_fd(), PollFlags::PRI),
        }
    }

    /// Whether the leaf has run out of memory and is held.
    pub fn is_out(&mut self) -> Result<bool, CgroupError> {
        match &mut self.source {
            Source::OomEvent { event, .. } => {
                // The count says nothing beyond that the event came; it also comes when the leaf is removed.
                let _count = event.read(&mut [0; 8]);
                let control = self.leaf.join("memory.oom_control");
                Ok(control.exists() && keyed(&control, "under_oom")? > 0)
            }
            Source::Pressure { .. } => self.is_stuck(),
        }
    }

    /// Whether hardly anything of what a leaf holds below its limit could be taken back. A lower `memory.high` is that
    /// of a limit that shrinks, which is given up where the task needs more.
    fn is_stuck(&self) -> Result<bool, CgroupError> {
        if number(&self.leaf.join("memory.high"))? == u64::MAX {
            return Ok(false);
        }
        let held_at = hold_bytes(number(&self.leaf.join("memory.max"))?);
        Ok(kept_bytes(&self.leaf)? >= held_at / 100 * STUCK_PERCENT)
    }
}

/// v2: where a task is held before it reaches its limit of `bytes_max`: what it takes above this comes ever more
/// slowly, so that there is time to act before the kernel kills.
pub(super) fn hold_bytes(bytes_max: u64) -> u64 {
    bytes_max - bytes_max / 16
}

/// v2: what a leaf uses and the kernel cannot take back, but to swap.
pub(super) fn kept_bytes(leaf: &Path) -> Result<u64, CgroupError> {
    let stat = leaf.join("memory.stat");
    let mut kept = number(&leaf.join("memory.current"))?;
    for key in ["active_file", "inactive_file", "slab_reclaimable"] {
        kept = kept.saturating_sub(keyed(&stat, key)?);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_stuck_when_what_it_holds_cannot_be_taken_back() {
        let leaf = tempfile::tempdir().unwrap();
        let set = |name: &str, text: &str| std::fs::write(leaf.path().join(name), text).unwrap();
        set("memory.pressure", "");
        set("memory.max", "1066667\n");
        set("memory.high", "1000001\n");
        set("memory.current", "1000000\n");
        set(
            "memory.stat",
            "anon 500000\nactive_file 200000\ninactive_file 200000\nslab_reclaimable 1\n",
        );
        let mut watch = MemoryWatch::by_pressure(leaf.path()).unwrap();
        assert!(!watch.is_out().unwrap());
        set("memory.stat", "anon 990000\nactive_file 10000\n");
        assert!(watch.is_out().unwrap());
        set("memory.high", "max\n");
        assert!(!watch.is_out().unwrap(), "nothing holds it");
        // Pressed to where its use is, while its limit is still twice that.
        set("memory.max", "2000000\n");
        set("memory.high", "1000000\n");
        assert!(!watch.is_out().unwrap());
    }
}
