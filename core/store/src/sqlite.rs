//! A store in one SQLite file.
//!
//! One thread writes: it takes all transactions that are waiting, applies them in one SQLite transaction,
//! and answers them once that is synced. Reads have connections and threads of their own and see the last
//! synced state.

mod codec;
mod copy;
mod reader;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::commit::Commit;
use crate::database::Database;
use crate::error::{LeaseError, OpenError, StoreError};
use crate::feed::{Feed, FeedWatch};
use crate::kv::{Kv, LogLimits, Rev};
use crate::lease::{Lease, LeaseTable};
use crate::pipeline::Ticket;
use crate::store::{BoxFuture, Store};
use crate::txn::Txn;
use crate::watch::Watch;

use reader::{Readers, SqliteLog};
use writer::{Reply, Request, Writer};

/// How much of the newest history is kept in memory, for watches that keep up.
const RING: LogLimits = LogLimits {
    revisions_max: 4096,
    bytes_max: 16 << 20,
};

/// How a SQLite store behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct SqliteOptions {
    /// How much history the file keeps.
    pub log: LogLimits,
}

/// A store in one SQLite file, open for writing by this handle only.
///
/// Dropping it commits what was submitted and closes the file, which may take a moment.
pub struct SqliteStore {
    path: PathBuf,
    feed: Arc<Feed>,
    leases: Arc<LeaseTable>,
    readers: Arc<Readers>,
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the file, making it if it does not exist. Leases begin unheld and keep their epochs.
    ///
    /// Refuses a file that is in use, damaged, of a later release or of another kind, and never makes a new
    /// file in place of one that it refused. Blocks while it checks the file.
    pub fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        options: SqliteOptions,
    ) -> Result<Self, OpenError> {
        let database = Database::open(path, &schema::KIND)?;
        let start = schema::load(&database.connection, path)?;
        let feed = Arc::new(Feed::new(start.rev, RING));
        let leases = Arc::new(LeaseTable::new(clock, start.epochs));
        let readers = Arc::new(Readers::start(path)?);
        let writer = Writer::new(
            database,
            path,
            Arc::clone(&feed),
            Arc::clone(&leases),
            start.log,
            options.log,
        )?;
        let (requests, inbox) = mpsc::channel();
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&inbox))
            .map_err(|error| OpenError::io("starting the writer of", path, error))?;
        tracing::info!(path = %path.display(), revision = start.rev.0, "opened the store");
        Ok(SqliteStore {
            path: path.into(),
            feed,
            leases,
            readers,
            requests: Some(requests),
            writer: Some(writer),
        })
    }

    /// Writes a consistent copy of the store as it is now, replacing an earlier copy at once or not at all.
    ///
    /// Commits go on meanwhile.
    pub async fn backup_to(&self, target: &Path) -> Result<Rev, OpenError> {
        let (path, target) = (self.path.clone(), target.to_owned());
        let copied = self
            .readers
            .run(move |connection| copy::backup(connection, &path, &target))
            .await;
        copied.unwrap_or_else(|closed| Err(OpenError::io("copying", &self.path, closed)))
    }

    /// Puts a copy made by [`backup_to`](SqliteStore::backup_to) in the place of a store that is not open.
    ///
    /// The copy is checked first. What was in its place is kept beside it; its new path is returned.
    pub fn restore(path: &Path, backup: &Path) -> Result<Option<PathBuf>, OpenError> {
        copy::restore(path, backup)
    }

    fn request(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // A writer that is gone drops the request, and with it whoever waits for an answer is told.
            let _ = requests.send(request);
        }
    }
}

impl Store for SqliteStore {
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<(Rev, Vec<Kv>), StoreError>> {
        let (path, prefix) = (self.path.clone(), prefix.to_owned());
        Box::pin(async move {
            let read = self
                .readers
                .run(move |connection| reader::list(connection, &path, &prefix));
            let (rev, rows) = read.await??;
            // The file may be ahead of the feed for a moment; a watch from `rev` must not be taken for one
            // from the future.
            self.feed.wait_for(rev).await;
            Ok((rev, rows))
        })
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Kv>, StoreError>> {
        let (path, key) = (self.path.clone(), key.to_owned());
        Box::pin(async move {
            self.readers
                .run(move |connection| reader::get(connection, &path, &key))
                .await?
        })
    }

    fn submit(&self, txn: Txn, ticket: Option<Ticket>) -> Commit {
        let (reply, answer) = Reply::new();
        self.request(Request::Commit { txn, ticket, reply });
        Commit::waiting(answer)
    }

    fn watch(&self, prefix: &str, from: Rev) -> Watch {
        let older = Arc::new(SqliteLog::new(self.path.clone(), Arc::clone(&self.readers)));
        Watch::new(FeedWatch::new(Arc::clone(&self.feed), older, prefix, from))
    }

    fn campaign(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, LeaseError>> {
        let (reply, answer) = Reply::new();
        self.request(Request::Campaign {
            name: name.into(),
            holder: holder.into(),
            ttl,
            reply,
        });
        Box::pin(async { answer.await.map_err(|_| StoreError::Closed)? })
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
        let (reply, answer) = Reply::new();
        self.request(Request::Compact { rev, reply });
        Box::pin(async { answer.await.map_err(|_| StoreError::Closed)? })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer closes last: only then does SQLite empty the write-ahead log and remove it.
        self.readers.close();
        self.requests = None;
        if self
            .writer
            .take()
            .is_some_and(|writer| writer.join().is_err())
        {
            tracing::error!(path = %self.path.display(), "the store's writer had panicked");
        }
    }
}
