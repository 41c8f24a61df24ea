//! What a task has written, counted where the file system does not bound it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tw_model::Bytes;
use walkdir::WalkDir;

use super::btrfs;
use super::folder;

/// Counting may take one hundredth of a core, within these bounds.
const PAUSE_PER_COUNT: u32 = 100;
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Whether what a task writes has to be counted, because the file system of its folder does not bound it.
pub(super) fn is_to_count(folder: &Path) -> bool {
    !btrfs::is_subvolume(folder)
}

/// Waits, counts, and answers whether a task and its sidecars hold more than `most` in their layers. `pause` is how long
/// to wait, and is set for the next time.
pub(super) async fn holds_more(folder: &Path, most: Bytes, pause: &mut Duration) -> bool {
    tokio::time::sleep((*pause).max(PAUSE_MIN)).await;
    let layers = folder::layers(folder);
    let count = move || {
        let began = Instant::now();
        (is_beyond(&layers, most), began.elapsed())
    };
    match tokio::task::spawn_blocking(count).await {
        Ok((is_beyond, took)) => {
            *pause = (took * PAUSE_PER_COUNT).min(PAUSE_MAX);
            is_beyond
        }
        Err(_) => false,
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
