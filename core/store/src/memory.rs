//! A store in memory, for tests and for the simulator. It forgets everything when it is dropped.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::Clock;
use crate::commit::Commit;
use crate::error::{CommitError, LeaseError, StoreError};
use crate::feed::{Feed, FeedWatch, OlderLog, Past};
use crate::kv::{Batch, Event, Kv, LogLimits, Rev};
use crate::lease::{Lease, LeaseTable};
use crate::pipeline::Ticket;
use crate::store::{BoxFuture, Store};
use crate::txn::{Found, Guard, Op, Txn};
use crate::watch::Watch;

/// A store in memory. "Durable" means applied.
pub struct MemoryStore {
    rows: Mutex<BTreeMap<Arc<str>, Kv>>,
    feed: Arc<Feed>,
    leases: LeaseTable,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new(clock: Arc<dyn Clock>, log: LogLimits) -> Self {
        MemoryStore {
            rows: Mutex::default(),
            feed: Arc::new(Feed::new(Rev::ZERO, log)),
            leases: LeaseTable::new(clock, []),
        }
    }

    fn apply(&self, txn: Txn, ticket: Option<Ticket>) -> Result<Rev, CommitError> {
        let mut rows = self.rows.lock().expect("no holder panics");
        if ticket.as_ref().is_some_and(Ticket::is_aborted) {
            return Err(CommitError::Aborted);
        }
        let allowed = txn
            .check()
            .and_then(|()| self.check_guards(&rows, &txn.guards));
        if let Err(error) = allowed {
            ticket.inspect(Ticket::fail);
            return Err(error);
        }
        let rev = self.feed.rev().next();
        let events: Vec<Event> = txn
            .ops
            .into_iter()
            .filter_map(|op| apply_op(&mut rows, op, rev))
            .collect();
        if !events.is_empty() {
            self.feed.publish([Arc::new(Batch { rev, events })]);
        }
        Ok(self.feed.rev())
    }

    fn check_guards(
        &self,
        rows: &BTreeMap<Arc<str>, Kv>,
        guards: &[Guard],
    ) -> Result<(), CommitError> {
        for (index, guard) in guards.iter().enumerate() {
            let holds = match guard {
                Guard::Absent { key } => rows
                    .get(key.as_str())
                    .map_or(Ok(()), |kv| Err(Found::At(kv.mod_rev))),
                Guard::At { key, rev } => match rows.get(key.as_str()) {
                    None => Err(Found::Absent),
                    Some(kv) if kv.mod_rev == *rev => Ok(()),
                    Some(kv) => Err(Found::At(kv.mod_rev)),
                },
                Guard::Held { lease, epoch } => self.leases.check(lease, *epoch),
            };
            holds.map_err(|found| CommitError::Conflict {
                index,
                guard: guard.clone(),
                found,
            })?;
        }
        Ok(())
    }
}

fn apply_op(rows: &mut BTreeMap<Arc<str>, Kv>, op: Op, rev: Rev) -> Option<Event> {
    match op {
        Op::Put { key, value } => {
            let (key, create_rev) = match rows.get_key_value(key.as_str()) {
                Some((key, old)) => (Arc::clone(key), old.create_rev),
                None => (key.into(), rev),
            };
            let kv = Kv {
                key: Arc::clone(&key),
                value,
                mod_rev: rev,
                create_rev,
            };
            rows.insert(key, kv.clone());
            Some(Event::Put(kv))
        }
        Op::Delete { key } => rows
            .remove_entry(key.as_str())
            .map(|(key, _)| Event::Delete { key }),
    }
}

impl Store for MemoryStore {
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<(Rev, Vec<Kv>), StoreError>> {
        let rows = self.rows.lock().expect("no holder panics");
        let found = rows
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, kv)| kv.clone())
            .collect();
        let listing = (self.feed.rev(), found);
        Box::pin(async { Ok(listing) })
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Kv>, StoreError>> {
        let kv = self
            .rows
            .lock()
            .expect("no holder panics")
            .get(key)
            .cloned();
        Box::pin(async { Ok(kv) })
    }

    fn submit(&self, txn: Txn, ticket: Option<Ticket>) -> Commit {
        Commit::ready(self.apply(txn, ticket))
    }

    fn watch(&self, prefix: &str, from: Rev) -> Watch {
        let older = Arc::new(NoLog {
            feed: Arc::clone(&self.feed),
        });
        Watch::new(FeedWatch::new(Arc::clone(&self.feed), older, prefix, from))
    }

    fn campaign(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, LeaseError>> {
        let result = self.leases.campaign(name, holder, ttl);
        Box::pin(async { result })
    }

    fn keep_alive(&self, lease: &Lease) -> BoxFuture<'_, Result<(), LeaseError>> {
        let result = self.leases.keep_alive(lease);
        Box::pin(async { result })
    }

    fn resign(&self, lease: &Lease) -> BoxFuture<'_, Result<(), LeaseError>> {
        let result = self.leases.resign(lease);
        Box::pin(async { result })
    }

    fn compact(&self, rev: Rev) -> BoxFuture<'_, Result<(), StoreError>> {
        let newest = self.feed.rev();
        let result = if rev > newest {
            Err(StoreError::NoSuchRevision { asked: rev, newest })
        } else {
            self.feed.forget(rev);
            Ok(())
        };
        Box::pin(async { result })
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.feed.close();
    }
}

/// Nothing is kept beyond the ring.
struct NoLog {
    feed: Arc<Feed>,
}

impl OlderLog for NoLog {
    fn read_after(&self, _after: Rev) -> BoxFuture<'_, Result<Past, StoreError>> {
        let oldest = self.feed.floor();
        Box::pin(async move { Ok(Past::Compacted { oldest }) })
    }
}
