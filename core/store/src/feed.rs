//! The newest batches of a store, and the watches that follow them.
//!
//! A watch is a cursor into the history. It reads the feed's ring, and what is older than the ring from the
//! store's log. Nothing is queued for a watch, so there is no gap between the past and the present, and a
//! watch that is never polled costs nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::error::StoreError;
use crate::kv::{Batch, Event, LogLimits, Rev};
use crate::store::BoxFuture;
use crate::watch::{WatchEvent, WatchSource};

/// How many batches a watch takes at once.
const READ_BATCHES_MAX: usize = 256;

/// What a watch found after its cursor.
pub(crate) enum Past {
    /// The batches that follow, without a gap.
    Batches(Vec<Arc<Batch>>),
    /// They are gone; `oldest` is the earliest revision with a history.
    Compacted { oldest: Rev },
}

/// The part of the history that has left the ring.
pub(crate) trait OlderLog: Send + Sync + 'static {
    /// Reads some batches after `after`, without a gap.
    fn read_after(&self, after: Rev) -> BoxFuture<'_, Result<Past, StoreError>>;
}

/// The newest durable revision, the batches that lead up to it, and whether more may come.
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    head: watch::Sender<Head>,
}

#[derive(Clone, Copy)]
struct Head {
    rev: Rev,
    closed: bool,
}

struct Ring {
    /// Every batch after `floor`, in order.
    batches: VecDeque<Arc<Batch>>,
    floor: Rev,
    bytes: u64,
    limits: LogLimits,
}

impl Feed {
    /// Makes a feed at `rev` whose ring is empty and keeps what `limits` allow.
    pub(crate) fn new(rev: Rev, limits: LogLimits) -> Self {
        let ring = Ring {
            batches: VecDeque::new(),
            floor: rev,
            bytes: 0,
            limits,
        };
        Feed {
            ring: Mutex::new(ring),
            head: watch::Sender::new(Head { rev, closed: false }),
        }
    }

    /// Returns the newest durable revision.
    pub(crate) fn rev(&self) -> Rev {
        self.head.borrow().rev
    }

    /// Shows durable batches, which follow the ones shown before, to all watches.
    pub(crate) fn publish(&self, batches: impl IntoIterator<Item = Arc<Batch>>) {
        let mut ring = self.lock();
        let before = ring.end();
        for batch in batches {
            ring.push(batch);
        }
        let rev = ring.end();
        if rev > before {
            self.head.send_modify(|head| head.rev = rev);
        }
    }

    /// Drops the batches up to and including `rev` from the ring.
    pub(crate) fn forget(&self, rev: Rev) {
        let mut ring = self.lock();
        while ring.floor < rev && ring.pop() {}
    }

    /// Returns the revision that the ring's first batch follows.
    pub(crate) fn floor(&self) -> Rev {
        self.lock().floor
    }

    /// Ends all watches, once they have seen everything.
    pub(crate) fn close(&self) {
        self.head.send_modify(|head| head.closed = true);
    }

    /// Waits until `rev` is shown, or nothing more will be.
    pub(crate) async fn wait_for(&self, rev: Rev) {
        let mut head = self.head.subscribe();
        let shown = head.wait_for(|head| head.rev >= rev || head.closed).await;
        debug_assert!(shown.is_ok(), "the feed holds its sender");
    }

    /// Reads batches after `after`, or nothing if they have left the ring.
    fn read_after(&self, after: Rev) -> Option<Vec<Arc<Batch>>> {
        let ring = self.lock();
        let skip = usize::try_from(after.0.checked_sub(ring.floor.0)?).ok()?;
        Some(
            ring.batches
                .iter()
                .skip(skip)
                .take(READ_BATCHES_MAX)
                .cloned()
                .collect(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("no holder panics")
    }
}

impl Ring {
    fn end(&self) -> Rev {
        Rev(self.floor.0 + self.batches.len() as u64)
    }

    fn push(&mut self, batch: Arc<Batch>) {
        debug_assert_eq!(batch.rev, self.end().next(), "revisions have no gap");
        self.bytes += batch.bytes() as u64;
        self.batches.push_back(batch);
        while self.batches.len() as u64 > self.limits.revisions_max
            || self.bytes > self.limits.bytes_max
        {
            self.pop();
        }
    }

    fn pop(&mut self) -> bool {
        let Some(batch) = self.batches.pop_front() else {
            return false;
        };
        self.floor = batch.rev;
        self.bytes -= batch.bytes() as u64;
        true
    }
}

/// A watch over a feed and the log behind it.
pub(crate) struct FeedWatch {
    prefix: String,
    /// Everything up to here was looked at.
    cursor: Rev,
    /// Everything up to here was told.
    told: Rev,
    read: VecDeque<Arc<Batch>>,
    compacted: Option<Rev>,
    feed: Arc<Feed>,
    head: watch::Receiver<Head>,
    older: Arc<dyn OlderLog>,
}

impl FeedWatch {
    pub(crate) fn new(feed: Arc<Feed>, older: Arc<dyn OlderLog>, prefix: &str, from: Rev) -> Self {
        let head = feed.head.subscribe();
        let newest = head.borrow().rev;
        FeedWatch {
            prefix: prefix.into(),
            cursor: from,
            told: from,
            read: VecDeque::new(),
            compacted: (from > newest).then_some(newest),
            feed,
            head,
            older,
        }
    }

    async fn advance(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(oldest) = self.compacted {
                return Ok(WatchEvent::Compacted { oldest });
            }
            if let Some(batch) = self.next_of_prefix() {
                return Ok(WatchEvent::Batch(batch));
            }
            let head = *self.head.borrow_and_update();
            if self.cursor < head.rev {
                self.read_more().await?;
            } else if self.told < self.cursor {
                self.told = self.cursor;
                return Ok(WatchEvent::Progress { rev: self.told });
            } else if head.closed || self.head.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }

    fn next_of_prefix(&mut self) -> Option<Batch> {
        while let Some(batch) = self.read.pop_front() {
            self.cursor = batch.rev;
            if let Some(batch) = of_prefix(&batch, &self.prefix) {
                self.told = self.cursor;
                return Some(batch);
            }
        }
        None
    }

    async fn read_more(&mut self) -> Result<(), StoreError> {
        if let Some(batches) = self.feed.read_after(self.cursor) {
            self.read.extend(batches);
            return Ok(());
        }
        match self.older.read_after(self.cursor).await? {
            Past::Batches(batches) => self.read.extend(batches),
            Past::Compacted { oldest } => self.compacted = Some(oldest),
        }
        Ok(())
    }
}

impl WatchSource for FeedWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<WatchEvent, StoreError>> {
        Box::pin(self.advance())
    }
}

fn of_prefix(batch: &Batch, prefix: &str) -> Option<Batch> {
    let events: Vec<Event> = batch
        .events
        .iter()
        .filter(|event| event.key().starts_with(prefix))
        .cloned()
        .collect();
    (!events.is_empty()).then_some(Batch {
        rev: batch.rev,
        events,
    })
}
