//! What is known of a work tree from earlier looks at it: the names in folders and the hashes of files, each with
//! the file's stamp, as git's index has them.
//!
//! A stamp that was taken less than [`SETTLED`] after the file's last change is not trusted: the file may have
//! changed again without a new time on it.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::EntryKind;

/// How long after its last change a file's times are taken to tell all later changes.
const SETTLED: Duration = Duration::from_secs(2);

/// News are kept where they are at least this part of all that is known.
const NEWS_WORTH_KEEPING: usize = 500;

/// Tells one state of a file or folder from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Stamp {
    inode: u64,
    device: u64,
    bytes: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            device: metadata.dev(),
            bytes: metadata.size(),
            modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            changed_ns: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        }
    }

    /// The stamp of what stands at `path`, links followed; none if nothing does.
    pub(super) fn at(path: &Path) -> Option<Stamp> {
        fs::metadata(path).ok().as_ref().map(Stamp::of)
    }

    /// Whether a change after now would show in the stamp.
    pub(super) fn is_settled(&self) -> bool {
        let last = u128::try_from(self.modified_ns.max(self.changed_ns)).unwrap_or(u128::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.is_ok_and(|now| last + SETTLED.as_nanos() <= now.as_nanos())
    }
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) kind: EntryKind,
    /// Whether git ignores it, and does not track it all the same.
    pub(crate) is_ignored: bool,
    /// The git object, in a revision.
    pub(crate) id: Option<[u8; 20]>,
}

/// The names in a folder, sorted, ignored ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Folder {
    pub(crate) names: Vec<Named>,
}

impl Folder {
    pub(crate) fn get(&self, name: &str) -> Option<&Named> {
        let found = self
            .names
            .binary_search_by(|named| named.name.as_str().cmp(name));
        found.ok().map(|index| &self.names[index])
    }
}

/// A folder as it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KnownFolder {
    pub(super) stamp: Stamp,
    /// What said which names are ignored.
    pub(super) rules: u64,
    /// The state of git's index, where a name is ignored: tracking it would change that.
    pub(super) index: u64,
    pub(super) folder: std::sync::Arc<Folder>,
}

/// A file as it was.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct KnownFile {
    pub(super) stamp: Stamp,
    /// BLAKE3 of its contents.
    pub(super) hash: [u8; 32],
}

/// All that is known, by path from the root.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Scan {
    pub(super) folders: HashMap<String, KnownFolder>,
    pub(super) files: HashMap<String, KnownFile>,
    /// How many there were when those that are gone were last forgotten.
    tidied: usize,
    /// How much was not known at the start.
    #[serde(skip)]
    pub(super) news: usize,
    /// Folder → what says which of its names are ignored, looked up once a run.
    #[serde(skip)]
    pub(super) rules: HashMap<String, u64>,
}

impl Scan {
    /// Whether it is quicker to write all of this than to look at the news once more.
    pub(super) fn is_worth_keeping(&self) -> bool {
        self.news > 0 && self.news >= (self.folders.len() + self.files.len()) / NEWS_WORTH_KEEPING
    }

    /// Forgets what is not there any more, where much has come since that was last done.
    pub(super) fn tidy(&mut self, root: &Path) {
        let known = self.folders.len() + self.files.len();
        if known < self.tidied + self.tidied / 8 {
            return;
        }
        let is_there = |path: &str| fs::symlink_metadata(root.join(path)).is_ok();
        self.folders.retain(|path, _| is_there(path));
        self.files.retain(|path, _| is_there(path));
        self.tidied = self.folders.len() + self.files.len();
    }
}
