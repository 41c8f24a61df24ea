//! What a task has written, counted where the file system does not bound it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tw_model::Bytes;
use walkdir::WalkDir;

use super::btrfs;
use super::folder;
use crate::cgroup::CpuMeter;

/// Counting may take one hundredth of a core, within these bounds.
const PAUSE_PER_COUNT: u32 = 100;
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);

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
    let mut bytes = 0;
    let mut linked = HashSet::new();
    let files = layers.iter().flat_map(|layer| {
        let walk = WalkDir::new(layer).follow_links(false);
        walk.same_file_system(true).into_iter().flatten()
    });
    for file in files {
        let Ok(about) = file.metadata() else {
            continue;
        };
        // A file of several names is one.
        if about.is_file() && about.nlink() > 1 && !linked.insert(about.ino()) {
            continue;
        }
        bytes += about.blocks() * 512;
        if bytes > most.0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tw_model::Bytes;

    use super::Layers;
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
