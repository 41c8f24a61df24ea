//! Reading the file, beside the writer.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::oneshot;

use super::{codec, schema};
use crate::database::{Fault, connect_reader};
use crate::error::{Damage, OpenError, StoreError};
use crate::feed::{OlderLog, Past};
use crate::kv::{Batch, Kv, Rev, prefix_end};
use crate::store::BoxFuture;

/// How many threads read: a long listing must not stop the others.
const READERS: usize = 2;

/// How much of the log a watch takes at once.
const READ_BYTES_MAX: usize = 4 << 20;
const READ_BATCHES_MAX: usize = 1024;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Threads with a connection each.
pub(super) struct Readers {
    pool: Mutex<Option<Pool>>,
}

struct Pool {
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Opens the connections and starts the threads.
    pub(super) fn start(path: &Path) -> Result<Self, OpenError> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        let start_one = |_| {
            let (connection, inbox) = (connect_reader(path)?, Arc::clone(&inbox));
            thread::Builder::new()
                .name("store-reader".into())
                .spawn(move || serve(connection, &inbox))
                .map_err(|error| OpenError::io("starting a reader of", path, error))
        };
        let threads = (0..READERS)
            .map(start_one)
            .collect::<Result<_, OpenError>>()?;
        Ok(Readers {
            pool: Mutex::new(Some(Pool { jobs, threads })),
        })
    }

    /// Runs `job` on one of the threads. Fails with `Closed` if they have ended.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |connection: &mut Connection| {
            // Whoever asked may have gone.
            let _ = reply.send(job(connection));
        });
        if let Some(pool) = &*self.lock() {
            // Threads that are gone drop the job, and with it whoever waits for its result is told.
            let _ = pool.jobs.send(job);
        }
        answer.await.map_err(|_| StoreError::Closed)
    }

    /// Finishes what was asked and closes the connections.
    pub(super) fn close(&self) {
        let Some(Pool { jobs, threads }) = self.lock().take() else {
            return;
        };
        drop(jobs);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a reader of the store had panicked");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pool>> {
        self.pool.lock().expect("no holder panics")
    }
}

fn serve(mut connection: Connection, inbox: &Mutex<Receiver<Job>>) {
    loop {
        let job = inbox.lock().expect("no holder panics").recv();
        match job {
            Ok(job) => job(&mut connection),
            Err(_) => return,
        }
    }
}

/// Reads the rows under a prefix, and their revision, in one snapshot.
pub(super) fn list(
    connection: &mut Connection,
    path: &Path,
    prefix: &str,
) -> Result<(Rev, Vec<Kv>), StoreError> {
    let snapshot = connection
        .transaction()
        .map_err(|error| fault(path, error))?;
    let (rev, _, _) = schema::state(&snapshot).map_err(|error| fault(path, error))?;
    let rows = rows(&snapshot, prefix).map_err(|error| fault(path, error))?;
    let rows: Result<Vec<Kv>, StoreError> = rows.into_iter().map(|row| row.check(path)).collect();
    Ok((rev, rows?))
}

/// Reads one row.
pub(super) fn get(
    connection: &mut Connection,
    path: &Path,
    key: &str,
) -> Result<Option<Kv>, StoreError> {
    let row = connection
        .prepare_cached("SELECT key, value, mod_rev, create_rev, checksum FROM kv WHERE key = ?1")
        .and_then(|mut statement| statement.query_row([key], StoredRow::read).optional())
        .map_err(|error| fault(path, error))?;
    row.map(|row| row.check(path)).transpose()
}

/// Reads every row, to check all of them.
pub(super) fn check_all(connection: &mut Connection, path: &Path) -> Result<Rev, StoreError> {
    list(connection, path, "").map(|(rev, _)| rev)
}

struct StoredRow {
    kv: Kv,
    checksum: i64,
}

impl StoredRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let key = row.get_ref(0)?.as_str()?.into();
        let value = row.get::<_, Vec<u8>>(1)?.into();
        let kv = Kv {
            key,
            value,
            mod_rev: Rev(row.get(2)?),
            create_rev: Rev(row.get(3)?),
        };
        Ok(StoredRow {
            kv,
            checksum: row.get(4)?,
        })
    }

    fn check(self, path: &Path) -> Result<Kv, StoreError> {
        let kv = self.kv;
        if codec::row_checksum(&kv.key, &kv.value, kv.mod_rev, kv.create_rev) == self.checksum {
            return Ok(kv);
        }
        Err(Damage::new(
            path,
            format!("the row of key `{}` does not match its checksum", kv.key),
        )
        .into())
    }
}

fn rows(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<StoredRow>> {
    const COLUMNS: &str = "SELECT key, value, mod_rev, create_rev, checksum FROM kv";
    match prefix_end(prefix) {
        Some(end) => connection
            .prepare_cached(&format!(
                "{COLUMNS} WHERE key >= ?1 AND key < ?2 ORDER BY key"
            ))?
            .query_map([prefix, &end], StoredRow::read)?
            .collect(),
        None => connection
            .prepare_cached(&format!("{COLUMNS} WHERE key >= ?1 ORDER BY key"))?
            .query_map([prefix], StoredRow::read)?
            .collect(),
    }
}

/// The history in the file.
pub(super) struct SqliteLog {
    path: PathBuf,
    readers: Arc<Readers>,
}

impl SqliteLog {
    pub(super) fn new(path: PathBuf, readers: Arc<Readers>) -> Self {
        SqliteLog { path, readers }
    }
}

impl OlderLog for SqliteLog {
    fn read_after(&self, after: Rev) -> BoxFuture<'_, Result<Past, StoreError>> {
        let path = self.path.clone();
        Box::pin(async move {
            self.readers
                .run(move |connection| read_log(connection, &path, after))
                .await?
        })
    }
}

fn read_log(connection: &mut Connection, path: &Path, after: Rev) -> Result<Past, StoreError> {
    let snapshot = connection
        .transaction()
        .map_err(|error| fault(path, error))?;
    let (_, compacted, _) = schema::state(&snapshot).map_err(|error| fault(path, error))?;
    if after < compacted {
        return Ok(Past::Compacted { oldest: compacted });
    }
    let stored = log_rows(&snapshot, after).map_err(|error| fault(path, error))?;
    let mut batches = Vec::with_capacity(stored.len());
    let mut last = after;
    for (rev, events, checksum) in stored {
        let batch = check_log_row(path, last.next(), rev, events, checksum)?;
        batches.push(Arc::new(batch));
        last = rev;
    }
    if batches.is_empty() {
        return Err(Damage::new(path, format!("its log ends at revision {after}")).into());
    }
    Ok(Past::Batches(batches))
}

fn log_rows(connection: &Connection, after: Rev) -> rusqlite::Result<Vec<(Rev, Vec<u8>, i64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT revision, events, checksum FROM log WHERE revision > ?1 ORDER BY revision",
    )?;
    let mut rows = statement.query([after.0])?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let events: Vec<u8> = row.get(1)?;
        bytes += events.len();
        found.push((Rev(row.get(0)?), events, row.get(2)?));
        if bytes >= READ_BYTES_MAX || found.len() >= READ_BATCHES_MAX {
            break;
        }
    }
    Ok(found)
}

fn check_log_row(
    path: &Path,
    expected: Rev,
    rev: Rev,
    events: Vec<u8>,
    checksum: i64,
) -> Result<Batch, StoreError> {
    if rev != expected {
        return Err(Damage::new(
            path,
            format!("its log goes on with revision {rev} in place of {expected}"),
        )
        .into());
    }
    let sound = codec::log_checksum(rev, &events) == checksum;
    let batch = sound.then(|| codec::decode(rev, events.into())).flatten();
    batch.ok_or_else(|| {
        Damage::new(
            path,
            format!("the log's revision {rev} does not match its checksum"),
        )
        .into()
    })
}

/// Turns an error of SQLite, met while reading, into the store's.
pub(super) fn fault(path: &Path, error: rusqlite::Error) -> StoreError {
    match Fault::new(path, error) {
        Fault::Damaged(damage) => damage.into(),
        Fault::Full(source) | Fault::Io(source) => StoreError::Io {
            path: path.into(),
            source,
        },
    }
}
