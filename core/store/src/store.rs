//! The interface of every store.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::commit::Commit;
use crate::error::{LeaseError, StoreError};
use crate::kv::{Kv, Rev};
use crate::lease::Lease;
use crate::pipeline::Ticket;
use crate::txn::Txn;
use crate::watch::Watch;

/// A boxed future, so that [`Store`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Revisioned keys with guarded transactions, watch and leases.
///
/// A store is used as `Arc<dyn Store>` and closes when the last clone is dropped, after it has
/// committed what was submitted. Everything it shows (a listing, an event, an answer) is durable.
pub trait Store: Send + Sync + 'static {
    /// Reads all keys that begin with `prefix`, in order, and the revision they were read at.
    ///
    /// Sees every transaction that was answered before the call.
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<(Rev, Vec<Kv>), StoreError>>;

    /// Reads one key. Sees every transaction that was answered before the call.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Kv>, StoreError>>;

    /// Queues a transaction within the call; the returned future only waits for the answer.
    ///
    /// Transactions are committed in the order they were queued. A `ticket` makes the transaction part of
    /// a [`Pipeline`](crate::Pipeline): it is refused as `Aborted` if an earlier one with a ticket of the
    /// same generation failed. The queue has no bound of its own: wait for answers to limit it.
    fn submit(&self, txn: Txn, ticket: Option<Ticket>) -> Commit;

    /// Queues a transaction that depends on no other.
    fn commit(&self, txn: Txn) -> Commit {
        self.submit(txn, None)
    }

    /// Watches the keys that begin with `prefix` for everything after the revision `from`.
    ///
    /// `from` is usually the revision of a [`list`](Store::list). Starting costs nothing until the watch
    /// is polled; a watch keeps a cursor, not a queue, so a slow reader holds no memory.
    fn watch(&self, prefix: &str, from: Rev) -> Watch;

    /// Tries once to win a lease.
    ///
    /// Whoever holds it already may win again at once, under a new epoch; everybody else is refused with
    /// `Held` until it expires or is resigned. The holder counts `ttl` from before it called.
    fn campaign(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, LeaseError>>;

    /// Lets a lease last for its `ttl` from now. An expired lease cannot be kept alive.
    fn keep_alive(&self, lease: &Lease) -> BoxFuture<'_, Result<(), LeaseError>>;

    /// Gives a lease up before it expires.
    fn resign(&self, lease: &Lease) -> BoxFuture<'_, Result<(), LeaseError>>;

    /// Forgets the history up to and including `rev`; keys and their values stay.
    ///
    /// A watch that would need what was forgotten gets `Compacted`. A store may compact by itself.
    fn compact(&self, rev: Rev) -> BoxFuture<'_, Result<(), StoreError>>;
}
