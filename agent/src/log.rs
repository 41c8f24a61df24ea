//! A task's output on disk.
//!
//! `log/` holds numbered segments. A segment is a row of frames; a frame is a zstd *skippable* frame with
//! our header (stream, time, sequence), followed by one zstd frame of at most [`FRAME_BYTES_MAX`] raw bytes
//! that needs no other. So `zstdcat log/*.zst` prints a log without Twill, a torn end costs one frame, and
//! the oldest segment can be dropped at any time.

mod frame;
mod reader;
mod writer;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use frame::{FRAME_BYTES_MAX, Frame};
pub use reader::{LogReader, tail};
pub use writer::{LogWriter, StreamBuffer};

/// Which of a task's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// On disk, compressed, all segments together.
    pub bytes_max: u64,
    /// How old the newest line of a segment may become while the task prints.
    #[serde(default = "two_weeks_ms")]
    pub age_ms_max: u64,
}

fn two_weeks_ms() -> u64 {
    14 * 24 * 3600 * 1000
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits {
            bytes_max: 16 << 20,
            age_ms_max: two_weeks_ms(),
        }
    }
}

impl LogLimits {
    /// The size at which a new segment begins; dropping one loses an eighth of the log.
    fn segment_bytes(self) -> u64 {
        (self.bytes_max / 8).max(4096)
    }

    /// The age at which a new segment begins, in microseconds.
    fn segment_age_us(self) -> i64 {
        i64::try_from(self.age_ms_max / 8)
            .unwrap_or(i64::MAX / 1000)
            .saturating_mul(1000)
    }

    fn age_us_max(self) -> i64 {
        i64::try_from(self.age_ms_max)
            .unwrap_or(i64::MAX / 1000)
            .saturating_mul(1000)
    }
}

/// What has gone through a log, and what was lost on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCounts {
    /// Frames written.
    pub frames: u64,
    /// Bytes the task wrote that reached the disk.
    pub bytes: u64,
    /// Bytes the task wrote that did not: a full disk, a write error.
    pub bytes_dropped: u64,
    /// Whole segments dropped because the log had reached its size.
    pub segments_dropped: u64,
}

/// Why a log could not be opened or read. Writing never fails: it drops and counts.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged at byte {offset}: {found}", path.display())]
    Damaged {
        path: PathBuf,
        offset: u64,
        found: String,
    },
}

/// The file of a segment.
fn segment_path(folder: &std::path::Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.zst"))
}

/// Numbers of the segments in `folder`, in order; none when it does not exist.
fn segments(folder: &std::path::Path) -> Result<Vec<u64>, LogError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(LogError::File {
                action: "list",
                path: folder.to_owned(),
                source,
            });
        }
    };
    let mut numbers: Vec<u64> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".zst")?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}
