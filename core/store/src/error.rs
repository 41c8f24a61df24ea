//! What can go wrong, with what was asked, what was found and what helps.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::kv::Rev;
use crate::lease::Epoch;
use crate::txn::{Found, Guard, InvalidTxn, TXN_BYTES_MAX, TXN_OPS_MAX};

/// A cause that several errors may share, as when one failed write fails a group of transactions.
pub(crate) type SharedError = Arc<dyn Error + Send + Sync + 'static>;

/// A file that does not hold what it must. Nothing in it was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{path}` is damaged: {found}; it was left as it is. Restore it from a backup copy, or move it away, \
     with the files beside it that begin with its name, to begin empty"
)]
pub struct Damage {
    pub path: PathBuf,
    /// What was found in the file.
    pub found: String,
}

impl Damage {
    pub(crate) fn new(path: &Path, found: impl Into<String>) -> Self {
        Damage {
            path: path.into(),
            found: found.into(),
        }
    }
}

/// Why a transaction was not committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold; nothing was written. List again and decide anew.
    #[error("guard {index} does not hold: wanted that {guard}, found {found}")]
    Conflict {
        index: usize,
        guard: Guard,
        found: Found,
    },
    #[error(
        "a transaction of {ops} operations, {guards} guards and {bytes} bytes is too large: at most \
         {TXN_OPS_MAX} operations, {TXN_OPS_MAX} guards and {TXN_BYTES_MAX} bytes; split it so that \
         every part leaves a valid state"
    )]
    TooLarge {
        ops: usize,
        guards: usize,
        bytes: usize,
    },
    #[error("not a valid transaction: {0}")]
    Invalid(#[from] InvalidTxn),
    /// Not tried, because an earlier transaction of the same pipeline failed.
    #[error("an earlier transaction of this pipeline failed; reset the pipeline and list again")]
    Aborted,
    /// The disk is full; nothing was written, and the store goes on.
    #[error("no room left to write `{path}`; free some space on its disk and try again")]
    Full {
        path: PathBuf,
        #[source]
        source: SharedError,
    },
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Writing failed. Whether the transaction lasts is known only after the store is opened again.
    #[error("writing `{path}` failed; the store refuses all writes until it is opened again")]
    Io {
        path: PathBuf,
        #[source]
        source: SharedError,
    },
    /// Not tried, because an earlier write failed.
    #[error("the store has stopped writing: {reason}; open it again")]
    Stopped { reason: String },
    /// The store was closed, or its writer ended, before it answered.
    #[error("the store is closed")]
    Closed,
}

impl CommitError {
    /// Returns whether the transaction may have been committed all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            CommitError::Io { .. } | CommitError::Damaged(_) | CommitError::Closed
        )
    }
}

/// Why a read, a watch or a compaction failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("using `{path}` failed")]
    Io {
        path: PathBuf,
        #[source]
        source: SharedError,
    },
    /// A revision was named that the store has not reached.
    #[error("revision {asked} does not exist; the newest is {newest}")]
    NoSuchRevision { asked: Rev, newest: Rev },
    /// An earlier write failed.
    #[error("the store has stopped writing: {reason}; open it again")]
    Stopped { reason: String },
    #[error("the store is closed")]
    Closed,
}

/// Why a lease was not granted or not kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaseError {
    /// Someone else holds it. Try again once `remaining` has passed.
    #[error(
        "lease `{name}` is held by `{by}` at epoch {epoch} for {remaining:?} more unless it is kept alive"
    )]
    Held {
        name: String,
        by: String,
        epoch: Epoch,
        remaining: Duration,
    },
    /// It expired, was resigned or was won by another; what was guarded by it cannot be committed any more.
    #[error("lease `{name}` is no longer held at epoch {epoch}: found {found}; campaign again")]
    Lost {
        name: String,
        epoch: Epoch,
        found: Found,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle of this one, has the file open for writing.
    #[error("`{path}` is in use by {}; stop it first, or name another file", holder(.pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A later release wrote the file.
    #[error(
        "`{path}` has format {found}, and this release knows formats up to {known}; use the release that wrote it, or a later one"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    /// The file is a database, but not one of this kind.
    #[error(
        "`{path}` is a database but not {wanted} (application id {found:#x}); name another file"
    )]
    Foreign {
        path: PathBuf,
        wanted: &'static str,
        found: i64,
    },
    #[error("{action} `{path}` failed")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: SharedError,
    },
}

impl OpenError {
    pub(crate) fn io(
        action: &'static str,
        path: &Path,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        OpenError::Io {
            action,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}

fn holder(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".into(),
    }
}
