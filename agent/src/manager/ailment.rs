//! What ails the machine as a whole, as far as its agent knows: the disk that tasks are kept on, and memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfs, StatVfsMountFlags};
use tw_model::Ailment;

/// How long memory has to be short: a task that starts takes much of it for a moment.
const SHORT_FOR: Duration = Duration::from_secs(60);

/// With fewer bytes free the disk counts as full.
const FREE_MIN: u64 = 64 << 20;

/// Of a small disk this part.
const FREE_PART_MIN: u64 = 100;

/// What was seen of the machine before.
#[derive(Debug, Default)]
pub(super) struct Ailments {
    short_since: Option<Instant>,
}

impl Ailments {
    /// What ails the machine now, whose tasks are kept in `folder`.
    pub(super) fn look(
        &mut self,
        folder: &Path,
        memory_is_short: bool,
        now: Instant,
    ) -> BTreeSet<Ailment> {
        let disk = rustix::fs::statvfs(folder).ok();
        let disk = disk.and_then(|disk| ailment_of(&disk));
        self.short_since = memory_is_short.then(|| self.short_since.unwrap_or(now));
        let lasts = |since: Instant| now.duration_since(since) >= SHORT_FOR;
        let memory = self.short_since.is_some_and(lasts);
        disk.into_iter()
            .chain(memory.then_some(Ailment::MemoryShort))
            .collect()
    }
}

fn ailment_of(disk: &StatVfs) -> Option<Ailment> {
    let whole = disk.f_blocks * disk.f_frsize;
    let free = disk.f_bavail * disk.f_frsize;
    let is_full = free < FREE_MIN.min(whole / FREE_PART_MIN);
    // File systems without a fixed number of files say 0 of both.
    let has_no_file_left = disk.f_files > 0 && disk.f_favail == 0;
    match disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        true => Some(Ailment::DiskReadOnly),
        false => (is_full || has_no_file_left).then_some(Ailment::DiskFull),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 100 GiB with so many bytes and files free.
    fn disk(free: u64, files: (u64, u64)) -> StatVfs {
        StatVfs {
            f_bsize: 4096,
            f_frsize: 4096,
            f_blocks: (100 << 30) / 4096,
            f_bfree: free / 4096,
            f_bavail: free / 4096,
            f_files: files.0,
            f_ffree: files.1,
            f_favail: files.1,
            f_fsid: 0,
            f_flag: StatVfsMountFlags::empty(),
            f_namemax: 255,
        }
    }

    #[test]
    fn a_disk_is_full_without_room_or_without_files_and_read_only_by_its_flag() {
        assert_eq!(ailment_of(&disk(1 << 30, (1000, 10))), None);
        assert_eq!(ailment_of(&disk(1 << 30, (0, 0))), None);
        assert_eq!(
            ailment_of(&disk(1 << 20, (1000, 10))),
            Some(Ailment::DiskFull)
        );
        assert_eq!(
            ailment_of(&disk(1 << 30, (1000, 0))),
            Some(Ailment::DiskFull)
        );
        let small = StatVfs {
            f_blocks: (16 << 20) / 4096,
            ..disk(1 << 20, (0, 0))
        };
        assert_eq!(ailment_of(&small), None);
        let read_only = StatVfs {
            f_flag: StatVfsMountFlags::RDONLY,
            ..disk(0, (0, 0))
        };
        assert_eq!(ailment_of(&read_only), Some(Ailment::DiskReadOnly));
    }

    #[test]
    fn memory_has_to_be_short_for_a_while() {
        let mut ailments = Ailments::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut look = |short, seconds| {
            let found = ailments.look(Path::new("/proc"), short, at(seconds));
            found.contains(&Ailment::MemoryShort)
        };
        assert!(!look(true, 0));
        assert!(!look(true, 59));
        assert!(look(true, 60));
        assert!(!look(false, 61));
        assert!(!look(true, 62), "it counts anew");
        assert!(look(true, 122));
    }
}
