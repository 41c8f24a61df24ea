//! What a task has written, counted where the file system does not bound it.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tw_model::Bytes;
use walkdir::WalkDir;

use super::btrfs;
use super::folder;
use crate::cgroup::CpuMeter;

/// Counting may take one hundredth of a core, within these bounds.
const PAUSE_PER_COUNT: u32 = 100;
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Behind how many bytes a path begins anew, at a descriptor: the kernel takes none of more than 4,096, and a task can make
/// longer ones, one name after the other.
const PATH_BYTES_MAX: usize = 2048;

/// How often it does. What is still deeper is more than anything needs, and counts as beyond the bound.
const NESTED_MAX: u32 = 32;

/// Whether what a task writes has to be counted, because the file system of its folder does not bound it.
pub(super) fn is_to_count(folder: &Path) -> bool {
    !btrfs::is_subvolume(folder)
}

/// The layers of a task and its sidecars, counted again and again.
#[derive(Debug)]
pub(super) struct Layers {
    folder: PathBuf,
    most: Bytes,
    /// What has not run since the last count has written nothing.
    meter: Option<CpuMeter>,
    ran_at_count: Option<u64>,
    pause: Duration,
    is_beyond: bool,
}

impl Layers {
    /// `folder` is the task's, and `meter` that of its leaf, where there is one.
    pub(super) fn new(folder: PathBuf, most: Bytes, meter: Option<CpuMeter>) -> Layers {
        Layers {
            folder,
            most,
            meter,
            ran_at_count: None,
            pause: PAUSE_MIN,
            is_beyond: false,
        }
    }

    pub(super) fn most(&self) -> Bytes {
        self.most
    }

    /// Waits, then answers whether the layers hold more than they may.
    pub(super) async fn hold_more(&mut self) -> bool {
        tokio::time::sleep(self.pause).await;
        self.look().await
    }

    /// Counts if that can have changed.
    async fn look(&mut self) -> bool {
        // Before the count: what is written meanwhile is counted the next time.
        let ran = self.meter.as_ref().and_then(CpuMeter::read);
        if ran.is_none() || ran != self.ran_at_count {
            self.count().await;
            self.ran_at_count = ran;
        }
        self.is_beyond
    }

    async fn count(&mut self) {
        let (layers, most) = (folder::layers(&self.folder), self.most);
        let count = move || {
            let began = Instant::now();
            (is_beyond(&layers, most), began.elapsed())
        };
        if let Ok((is_beyond, took)) = tokio::task::spawn_blocking(count).await {
            self.pause = (took * PAUSE_PER_COUNT).clamp(PAUSE_MIN, PAUSE_MAX);
            self.is_beyond = is_beyond;
        }
    }
}

/// Stops at the first file beyond the bound. What vanishes meanwhile, or cannot be read, does not count.
fn is_beyond(layers: &[PathBuf], most: Bytes) -> bool {
    let mut count = Count {
        most,
        bytes: 0,
        linked: HashSet::new(),
    };
    layers.iter().any(|layer| count.goes_beyond(layer, 0))
}

/// What was found so far.
struct Count {
    most: Bytes,
    bytes: u64,
    /// The files of several names.
    linked: HashSet<u64>,
}

impl Count {
    /// Adds what is below `root`, and answers whether that is too much. `nested` is how often a path began anew.
    fn goes_beyond(&mut self, root: &Path, nested: u32) -> bool {
        let walk = WalkDir::new(root).follow_links(false);
        let mut files = walk.same_file_system(true).into_iter();
        while let Some(file) = files.next() {
            let Ok(file) = file else { continue };
            if file.file_type().is_dir() && file.path().as_os_str().len() > PATH_BYTES_MAX {
                files.skip_current_dir();
                let Ok(folder) = open_folder(file.path()) else {
                    continue;
                };
                let begun_anew = format!("/proc/self/fd/{}/.", folder.as_raw_fd());
                if nested == NESTED_MAX || self.goes_beyond(begun_anew.as_ref(), nested + 1) {
                    return true;
                }
            } else if let Ok(about) = file.metadata() {
                // A file of several names is one.
                let is_new =
                    about.is_dir() || about.nlink() == 1 || self.linked.insert(about.ino());
                self.bytes += if is_new { about.blocks() * 512 } else { 0 };
                if self.bytes > self.most.0 {
                    return true;
                }
            }
        }
        false
    }
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use rustix::fs::{Mode, OFlags};
    use tw_model::Bytes;

    use super::{Layers, is_beyond, open_folder};
    use crate::cgroup::CpuMeter;

    #[tokio::test]
    async fn layers_are_counted_again_only_when_something_has_run() {
        let around = tempfile::tempdir().unwrap();
        let (folder, usage) = (around.path().join("task"), around.path().join("usage"));
        fs::create_dir_all(folder.join("upper")).unwrap();
        fs::write(&usage, "100\n").unwrap();
        let meter = CpuMeter::open(&usage);
        let mut layers = Layers::new(folder.clone(), Bytes(1 << 16), meter);
        assert!(!layers.look().await);
        fs::write(folder.join("upper/file"), vec![1; 1 << 20]).unwrap();
        assert!(!layers.look().await, "nothing has run, so nobody looks");
        fs::write(&usage, "101\n").unwrap();
        assert!(layers.look().await);
        assert!(layers.look().await, "what was found stays true");
        fs::remove_file(folder.join("upper/file")).unwrap();
        fs::write(&usage, "102\n").unwrap();
        assert!(!layers.look().await);
    }

    #[test]
    fn what_lies_behind_a_path_of_any_length_counts_once() {
        let around = tempfile::tempdir().unwrap();
        let layer = around.path().join("upper");
        fs::create_dir(&layer).unwrap();
        let name = "x".repeat(200);
        let mut deepest = open_folder(&layer).unwrap();
        for _ in 0..100 {
            rustix::fs::mkdirat(&deepest, &name, Mode::from_raw_mode(0o755)).unwrap();
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            deepest = rustix::fs::openat(&deepest, &name, flags, Mode::empty()).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&deepest, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
        fs::File::from(file).write_all(&vec![1; 1 << 20]).unwrap();
        // A folder takes a block of 4 KiB here, or nothing.
        let with_folders = (1 << 20) + 101 * 4096;
        assert!(is_beyond(std::slice::from_ref(&layer), Bytes(1 << 19)));
        assert!(!is_beyond(&[layer], Bytes(with_folders)));
        crate::removal::remove_tree(&around.keep()).unwrap();
    }

    #[tokio::test]
    async fn layers_without_a_meter_are_counted_each_time() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("task");
        fs::create_dir_all(folder.join("upper")).unwrap();
        let mut layers = Layers::new(folder.clone(), Bytes(1 << 16), None);
        assert!(!layers.look().await);
        fs::write(folder.join("upper/file"), vec![1; 1 << 20]).unwrap();
        assert!(layers.look().await);
    }
}
