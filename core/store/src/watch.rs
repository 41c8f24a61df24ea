//! Following changes from a revision on.

use crate::error::StoreError;
use crate::kv::{Batch, Rev};
use crate::store::BoxFuture;

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A transaction changed keys of the prefix; `events` holds those only. Revisions rise from batch to
    /// batch, and none is left out or repeated.
    Batch(Batch),
    /// Nothing of the prefix changed up to and including `rev`, beyond what was said before.
    Progress { rev: Rev },
    /// The history after the revision asked for is not there: it was compacted, or the store is older than
    /// that revision because it was restored from a backup. List again; the watch says nothing else.
    Compacted {
        /// The oldest revision that a watch may start from.
        oldest: Rev,
    },
}

/// A stream of changes under one prefix.
pub struct Watch {
    source: Box<dyn WatchSource>,
}

impl Watch {
    /// Wraps what an implementation of [`Store`](crate::Store) provides.
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Watch {
            source: Box::new(source),
        }
    }

    /// Waits for what comes next. Dropping the future loses nothing.
    ///
    /// Fails with `Closed` when the store is closed. A watch that keeps up has then said everything; one that
    /// is far behind may not have.
    pub async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        self.source.next().await
    }
}

/// What an implementation of [`Store`](crate::Store) puts behind a [`Watch`].
pub trait WatchSource: Send {
    /// Waits for what comes next. Must be cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>>;
}
