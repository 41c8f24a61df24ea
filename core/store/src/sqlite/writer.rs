//! The one thread that writes, and its group commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Statement, params};
use tokio::sync::oneshot;

use super::codec;
use super::schema::LogState;
use crate::database::{Database, Fault, Lock, open_fault};
use crate::error::{CommitError, LeaseError, OpenError, StoreError};
use crate::feed::Feed;
use crate::kv::{Batch, Event, Kv, LogLimits, Rev};
use crate::lease::{Lease, LeaseTable};
use crate::pipeline::Ticket;
use crate::txn::{Found, Guard, Op, Txn};

/// The most transactions, and about the most bytes, that one sync is shared by.
const GROUP_REQUESTS_MAX: usize = 1024;
const GROUP_BYTES_MAX: usize = 8 << 20;

/// Pages in the write-ahead log before they are copied into the file: 64 MiB, so that a sync of the file
/// is rare beside the syncs of the log, and a page that many commits write is copied once.
const CHECKPOINT_PAGES: i64 = 16 << 10;

/// The writer's page cache.
const CACHE_KIB: i64 = 32 << 10;

/// The part (one in so many) of the log's bounds that is dropped at once when a bound is reached.
const COMPACTION_STEP: u64 = 16;

/// Something to be done in order.
pub(super) enum Request {
    Commit {
        txn: Txn,
        ticket: Option<Ticket>,
        reply: Reply<Rev, CommitError>,
    },
    Campaign {
        name: String,
        holder: String,
        ttl: Duration,
        reply: Reply<Lease, LeaseError>,
    },
    Compact {
        rev: Rev,
        reply: Reply<(), StoreError>,
    },
}

/// Where an answer goes once the group it was decided in is durable.
pub(super) struct Reply<T, E> {
    sender: oneshot::Sender<Result<T, E>>,
    verdict: Option<Result<T, E>>,
}

impl<T, E> Reply<T, E> {
    /// Makes a reply and the receiver of its answer.
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T, E>>) {
        let (sender, receiver) = oneshot::channel();
        (
            Reply {
                sender,
                verdict: None,
            },
            receiver,
        )
    }

    /// Sends what was decided. Whoever asked may have gone.
    fn confirm(self) {
        if let Some(verdict) = self.verdict {
            let _ = self.sender.send(verdict);
        }
    }

    /// Sends an error in place of what was decided.
    fn fail(self, error: E) {
        let _ = self.sender.send(Err(error));
    }
}

/// What the writer knows without asking the file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Position {
    rev: Rev,
    log: LogState,
}

/// The writing half of a store.
pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
    feed: Arc<Feed>,
    leases: Arc<LeaseTable>,
    position: Position,
    limits: LogLimits,
    /// Why nothing is written any more.
    stopped: Option<String>,
    /// Freed after the connection is closed.
    _lock: Lock,
}

impl Writer {
    /// Makes the writer of an open file.
    pub(super) fn new(
        database: Database,
        path: &Path,
        feed: Arc<Feed>,
        leases: Arc<LeaseTable>,
        log: LogState,
        limits: LogLimits,
    ) -> Result<Self, OpenError> {
        let Database { connection, lock } = database;
        configure(&connection).map_err(|error| open_fault(path, error))?;
        let position = Position {
            rev: feed.rev(),
            log,
        };
        Ok(Writer {
            connection,
            path: path.into(),
            feed,
            leases,
            position,
            limits,
            stopped: None,
            _lock: lock,
        })
    }

    /// Serves requests until nobody can send any more, then closes the file.
    pub(super) fn run(mut self, inbox: &Receiver<Request>) {
        let _closed = CloseOnDrop(Arc::clone(&self.feed));
        while let Ok(first) = inbox.recv() {
            self.serve(gather(first, inbox));
        }
    }

    fn serve(&mut self, mut group: Vec<Request>) {
        if let Some(reason) = &self.stopped {
            group
                .into_iter()
                .for_each(|request| refuse(request, reason));
            return;
        }
        let before = self.position;
        match self.write(&mut group) {
            Ok(batches) => {
                self.feed.publish(batches);
                self.feed.forget(self.position.log.compacted);
                group.into_iter().for_each(confirm);
            }
            Err(error) => {
                self.position = before;
                let fault = Fault::new(&self.path, error);
                self.abandon(&fault);
                group
                    .into_iter()
                    .for_each(|request| fail(request, &self.path, &fault, &self.leases));
            }
        }
    }

    /// Decides all requests in one SQLite transaction and syncs it.
    fn write(&mut self, group: &mut [Request]) -> rusqlite::Result<Vec<Arc<Batch>>> {
        let before = self.position;
        let mut batches = Vec::new();
        self.begin()?;
        for request in group {
            self.decide(request, &mut batches)?;
        }
        self.keep_within_limits()?;
        if self.position != before {
            self.save_position()?;
        }
        self.connection.execute_batch("COMMIT")?;
        Ok(batches)
    }

    /// Waits for as long as another tool holds the file's write lock; nothing is lost by waiting.
    fn begin(&self) -> rusqlite::Result<()> {
        loop {
            match self.connection.execute_batch("BEGIN IMMEDIATE") {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                    tracing::warn!(path = %self.path.display(), "another program holds the store's write lock");
                }
                result => return result,
            }
        }
    }

    fn decide(
        &mut self,
        request: &mut Request,
        batches: &mut Vec<Arc<Batch>>,
    ) -> rusqlite::Result<()> {
        match request {
            Request::Commit { txn, ticket, reply } => {
                let verdict = match ticket {
                    Some(ticket) if ticket.is_aborted() => Err(CommitError::Aborted),
                    _ => self.commit(txn, batches)?,
                };
                if let (Err(_), Some(ticket)) = (&verdict, ticket) {
                    ticket.fail();
                }
                reply.verdict = Some(verdict);
            }
            Request::Campaign {
                name,
                holder,
                ttl,
                reply,
            } => {
                let verdict = reply
                    .verdict
                    .insert(self.leases.campaign(name, holder, *ttl));
                if let Ok(lease) = verdict {
                    save_lease(&self.connection, lease)?;
                }
            }
            Request::Compact { rev, reply } => {
                let newest = self.position.rev;
                if *rev > newest {
                    reply.verdict = Some(Err(StoreError::NoSuchRevision {
                        asked: *rev,
                        newest,
                    }));
                } else {
                    self.compact(*rev)?;
                    reply.verdict = Some(Ok(()));
                }
            }
        }
        Ok(())
    }

    fn commit(
        &mut self,
        txn: &Txn,
        batches: &mut Vec<Arc<Batch>>,
    ) -> rusqlite::Result<Result<Rev, CommitError>> {
        if let Err(error) = txn.check() {
            return Ok(Err(error));
        }
        for (index, guard) in txn.guards.iter().enumerate() {
            if let Err(found) = self.check_guard(guard)? {
                return Ok(Err(CommitError::Conflict {
                    index,
                    guard: guard.clone(),
                    found,
                }));
            }
        }
        let rev = self.position.rev.next();
        let mut events = Vec::with_capacity(txn.ops.len());
        {
            let mut insert = self.connection.prepare_cached(INSERT)?;
            for op in &txn.ops {
                events.extend(apply(&self.connection, &mut insert, op, rev)?);
            }
        }
        if !events.is_empty() {
            self.position.log.bytes += append_log(&self.connection, rev, &events)?;
            self.position.rev = rev;
            batches.push(Arc::new(Batch { rev, events }));
        }
        Ok(Ok(self.position.rev))
    }

    fn check_guard(&self, guard: &Guard) -> rusqlite::Result<Result<(), Found>> {
        Ok(match guard {
            Guard::Absent { key } => match mod_rev(&self.connection, key)? {
                None => Ok(()),
                Some(found) => Err(Found::At(found)),
            },
            Guard::At { key, rev } => match mod_rev(&self.connection, key)? {
                None => Err(Found::Absent),
                Some(found) if found == *rev => Ok(()),
                Some(found) => Err(Found::At(found)),
            },
            Guard::Held { lease, epoch } => self.leases.check(lease, *epoch),
        })
    }

    fn keep_within_limits(&mut self) -> rusqlite::Result<()> {
        let LogLimits {
            revisions_max,
            bytes_max,
        } = self.limits;
        let Position { rev, log } = self.position;
        if rev.0 - log.compacted.0 > revisions_max {
            self.compact(Rev(
                rev.0 - (revisions_max - revisions_max / COMPACTION_STEP)
            ))?;
        }
        if self.position.log.bytes > bytes_max {
            let surplus = self.position.log.bytes - (bytes_max - bytes_max / COMPACTION_STEP);
            self.compact(end_of_oldest(&self.connection, surplus)?)?;
        }
        Ok(())
    }

    /// Forgets the log up to and including `rev`.
    fn compact(&mut self, rev: Rev) -> rusqlite::Result<()> {
        if rev <= self.position.log.compacted {
            return Ok(());
        }
        let freed: u64 = self
            .connection
            .prepare_cached(
                "SELECT coalesce(sum(length(events)), 0) FROM log WHERE revision <= ?1",
            )?
            .query_row([rev.0], |row| row.get(0))?;
        self.connection
            .prepare_cached("DELETE FROM log WHERE revision <= ?1")?
            .execute([rev.0])?;
        self.position.log = LogState {
            compacted: rev,
            bytes: self.position.log.bytes.saturating_sub(freed),
        };
        Ok(())
    }

    fn save_position(&self) -> rusqlite::Result<()> {
        let Position { rev, log } = self.position;
        self.connection
            .prepare_cached("UPDATE state SET revision = ?1, compacted = ?2, log_bytes = ?3")?
            .execute([rev.0, log.compacted.0, log.bytes])?;
        Ok(())
    }

    /// Rolls a failed group back. Unless only room was lacking, writes nothing any more: after a failed
    /// write or sync, what the file holds is known only when it is opened again.
    fn abandon(&mut self, fault: &Fault) {
        let rolled_back =
            self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok();
        let reason = match fault {
            Fault::Full(error) if rolled_back => {
                tracing::error!(path = %self.path.display(), %error, "no room to commit");
                return;
            }
            Fault::Full(error) | Fault::Io(error) => error.to_string(),
            Fault::Damaged(damage) => damage.found.clone(),
        };
        tracing::error!(path = %self.path.display(), reason, "the store stopped writing");
        self.stopped = Some(reason);
    }
}

/// Ends the watches when the writer ends, also by a panic.
struct CloseOnDrop(Arc<Feed>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Takes what else is waiting, up to a bound.
fn gather(first: Request, inbox: &Receiver<Request>) -> Vec<Request> {
    let mut bytes = first.bytes();
    let mut group = vec![first];
    while group.len() < GROUP_REQUESTS_MAX && bytes < GROUP_BYTES_MAX {
        let Ok(request) = inbox.try_recv() else { break };
        bytes += request.bytes();
        group.push(request);
    }
    group
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Request::Commit { txn, .. } => txn.bytes(),
            Request::Campaign { .. } | Request::Compact { .. } => 0,
        }
    }
}

fn confirm(request: Request) {
    match request {
        Request::Commit { reply, .. } => reply.confirm(),
        Request::Campaign { reply, .. } => reply.confirm(),
        Request::Compact { reply, .. } => reply.confirm(),
    }
}

fn refuse(request: Request, reason: &str) {
    let stopped = || StoreError::Stopped {
        reason: reason.into(),
    };
    match request {
        Request::Commit { ticket, reply, .. } => {
            ticket.inspect(Ticket::fail);
            reply.fail(CommitError::Stopped {
                reason: reason.into(),
            });
        }
        Request::Campaign { reply, .. } => reply.fail(stopped().into()),
        Request::Compact { reply, .. } => reply.fail(stopped()),
    }
}

fn fail(request: Request, path: &Path, fault: &Fault, leases: &LeaseTable) {
    match request {
        Request::Commit { ticket, reply, .. } => {
            ticket.inspect(Ticket::fail);
            reply.fail(commit_error(path, fault));
        }
        Request::Campaign { reply, .. } => {
            if let Some(Ok(lease)) = &reply.verdict {
                leases.revoke(lease);
            }
            reply.fail(store_error(path, fault).into());
        }
        Request::Compact { reply, .. } => reply.fail(store_error(path, fault)),
    }
}

fn commit_error(path: &Path, fault: &Fault) -> CommitError {
    match fault {
        Fault::Full(source) => CommitError::Full {
            path: path.into(),
            source: Arc::clone(source),
        },
        Fault::Io(source) => CommitError::Io {
            path: path.into(),
            source: Arc::clone(source),
        },
        Fault::Damaged(damage) => damage.clone().into(),
    }
}

fn store_error(path: &Path, fault: &Fault) -> StoreError {
    match fault {
        Fault::Full(source) | Fault::Io(source) => StoreError::Io {
            path: path.into(),
            source: Arc::clone(source),
        },
        Fault::Damaged(damage) => damage.clone().into(),
    }
}

/// Has every commit synced before it is answered.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)
}

fn mod_rev(connection: &Connection, key: &str) -> rusqlite::Result<Option<Rev>> {
    connection
        .prepare_cached("SELECT mod_rev FROM kv WHERE key = ?1")?
        .query_row([key], |row| row.get(0).map(Rev))
        .optional()
}

/// Taken out of the cache once a transaction: nearly all rows need it, and no other.
const INSERT: &str =
    "INSERT INTO kv (key, value, mod_rev, create_rev, checksum) VALUES (?1, ?2, ?3, ?3, ?4)
     ON CONFLICT (key) DO NOTHING";

fn apply(
    connection: &Connection,
    insert: &mut Statement<'_>,
    op: &Op,
    rev: Rev,
) -> rusqlite::Result<Option<Event>> {
    match op {
        Op::Put { key, value } => {
            let create_rev = put(connection, insert, key, value, rev)?;
            let kv = Kv {
                key: key.as_str().into(),
                value: value.clone(),
                mod_rev: rev,
                create_rev,
            };
            Ok(Some(Event::Put(kv)))
        }
        Op::Delete { key } => {
            let deleted = connection
                .prepare_cached("DELETE FROM kv WHERE key = ?1")?
                .execute([key])?;
            Ok((deleted > 0).then(|| Event::Delete {
                key: key.as_str().into(),
            }))
        }
    }
}

/// Writes a row and returns the revision that created it. Most rows are new, and cost one look into the table.
fn put(
    connection: &Connection,
    insert: &mut Statement<'_>,
    key: &str,
    value: &[u8],
    rev: Rev,
) -> rusqlite::Result<Rev> {
    let checksum = codec::row_checksum(key, value, rev, rev);
    let inserted = insert.execute(params![key, value, rev.0, checksum])?;
    if inserted > 0 {
        return Ok(rev);
    }
    let created = connection
        .prepare_cached("SELECT create_rev FROM kv WHERE key = ?1")?
        .query_row([key], |row| row.get(0).map(Rev))?;
    connection
        .prepare_cached("UPDATE kv SET value = ?2, mod_rev = ?3, checksum = ?4 WHERE key = ?1")?
        .execute(params![
            key,
            value,
            rev.0,
            codec::row_checksum(key, value, rev, created)
        ])?;
    Ok(created)
}

/// Appends a revision to the log and returns its bytes.
fn append_log(connection: &Connection, rev: Rev, events: &[Event]) -> rusqlite::Result<u64> {
    let encoded = codec::encode(events);
    connection
        .prepare_cached("INSERT INTO log (revision, events, checksum) VALUES (?1, ?2, ?3)")?
        .execute(params![rev.0, encoded, codec::log_checksum(rev, &encoded)])?;
    Ok(encoded.len() as u64)
}

/// Returns the last of the oldest revisions whose events have at least `bytes` together.
fn end_of_oldest(connection: &Connection, bytes: u64) -> rusqlite::Result<Rev> {
    let mut statement =
        connection.prepare_cached("SELECT revision, length(events) FROM log ORDER BY revision")?;
    let mut rows = statement.query([])?;
    let (mut end, mut sum) = (Rev::ZERO, 0);
    while let Some(row) = rows.next()? {
        end = Rev(row.get(0)?);
        sum += row.get::<_, u64>(1)?;
        if sum >= bytes {
            break;
        }
    }
    Ok(end)
}

fn save_lease(connection: &Connection, lease: &Lease) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO lease (name, epoch, holder) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder",
        )?
        .execute(params![lease.name, lease.epoch.0, lease.holder])?;
    Ok(())
}
