//! Ordered submission with the promise that nothing after a failure is committed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::commit::Commit;
use crate::error::CommitError;
use crate::kv::Rev;
use crate::store::Store;
use crate::txn::Txn;

/// A queue of transactions of which each may depend on those before it.
///
/// Once one fails, all that were or are submitted after it fail with `Aborted`, until the pipeline is
/// [reset](Pipeline::reset). What was submitted before it is not affected, nor are other pipelines.
pub struct Pipeline {
    store: Arc<dyn Store>,
    failed: Arc<AtomicU64>,
    generation: Mutex<u64>,
}

impl Pipeline {
    /// Makes a pipeline into a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Pipeline {
            store,
            failed: Arc::new(AtomicU64::new(0)),
            generation: Mutex::new(1),
        }
    }

    /// Queues a transaction within the call; the returned future only waits for the answer.
    pub fn submit(&self, txn: Txn) -> Commit {
        let generation = self.generation.lock().expect("no holder panics");
        let ticket = Ticket {
            failed: Arc::clone(&self.failed),
            generation: *generation,
        };
        self.store.submit(txn, Some(ticket))
    }

    /// Returns whether everything submitted now would be aborted.
    pub fn is_failed(&self) -> bool {
        let generation = *self.generation.lock().expect("no holder panics");
        self.failed.load(Ordering::Acquire) >= generation
    }

    /// Aborts what is still queued, waits until all of it is answered, and opens the pipeline again.
    ///
    /// Returns a revision at or after everything the pipeline ever committed: a listing made from now on
    /// can change only through what is submitted from now on. What is submitted during the reset is
    /// aborted. Fails if the store takes no more transactions.
    pub async fn reset(&self) -> Result<Rev, CommitError> {
        let old = *self.generation.lock().expect("no holder panics");
        self.failed.fetch_max(old, Ordering::AcqRel);
        let barrier = self.store.submit(Txn::new(), None);
        let rev = barrier.await?;
        let mut generation = self.generation.lock().expect("no holder panics");
        *generation = (*generation).max(old + 1);
        Ok(rev)
    }
}

/// A transaction's membership in a pipeline, honoured by implementations of [`Store`].
#[derive(Debug, Clone)]
pub struct Ticket {
    failed: Arc<AtomicU64>,
    generation: u64,
}

impl Ticket {
    /// Returns whether an earlier transaction failed, so that this one must be refused as `Aborted`.
    pub fn is_aborted(&self) -> bool {
        self.failed.load(Ordering::Acquire) >= self.generation
    }

    /// Notes that this transaction failed. Must happen before the next one is looked at.
    pub fn fail(&self) {
        self.failed.fetch_max(self.generation, Ordering::AcqRel);
    }
}
