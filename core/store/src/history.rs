//! Usage history: what series of samples used, in buckets of a fixed width, in a file of a fixed size.
//!
//! The agent keeps a series a task, the controller one a job; the key is the caller's. Times are UTC
//! microseconds and come with the samples; nothing here reads a clock.
//!
//! The file is written with `synchronous=NORMAL`: nothing is synced at a commit, so a power cut may take
//! back the last few batches, and never more than that or the file's soundness. That is right here:
//! recommendations rest on days of samples, senders repeat what was not acknowledged, and a sync for
//! every batch would cost the disk more than the samples are worth. A killed process loses nothing.

mod buckets;
mod sources;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::database::{Database, Fault, Kind, Lock, open_fault};
use crate::error::{OpenError, StoreError};
use crate::kv::prefix_end;

const KIND: Kind = Kind {
    name: "a usage history",
    application_id: 0x5477_4869,
    prepare: "PRAGMA auto_vacuum = incremental",
    migrations: &["
        CREATE TABLE series (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE
        ) STRICT;
        CREATE TABLE source (
            series INTEGER NOT NULL,
            name TEXT NOT NULL,
            highest_seq INTEGER NOT NULL,
            seen_below INTEGER NOT NULL,
            last_us INTEGER NOT NULL,
            PRIMARY KEY (series, name)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE bucket (
            series INTEGER NOT NULL,
            start_us INTEGER NOT NULL,
            width_us INTEGER NOT NULL,
            samples INTEGER NOT NULL,
            cpu_sum_millicores INTEGER NOT NULL,
            cpu_max_millicores INTEGER NOT NULL,
            memory_max_bytes INTEGER NOT NULL,
            oom_kills INTEGER NOT NULL,
            throttled_us INTEGER NOT NULL,
            PRIMARY KEY (series, start_us, width_us)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX bucket_by_start ON bucket (start_us);
    "],
};

/// What one sample measured, over the time since the sample before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The series that the sample belongs to, such as a job's name.
    pub series: String,
    /// Who measured, such as a task's id: the scope of `seq`.
    pub source: String,
    /// The sample's number at its source, rising. A number is counted once, however often it arrives; one
    /// that is more than 64 below the highest that arrived is taken for a repetition.
    pub seq: u64,
    /// When it was measured, in UTC microseconds.
    pub at_us: i64,
    pub cpu_millicores: u64,
    pub memory_bytes: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// For how long the CPU limit stopped it.
    pub throttled_us: u64,
}

/// What the samples of one bucket add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    pub start_us: i64,
    pub width_us: i64,
    /// How many samples arrived; at least one.
    pub samples: u64,
    /// The sum over all samples; see [`Bucket::cpu_avg_millicores`].
    pub cpu_sum_millicores: u64,
    pub cpu_max_millicores: u64,
    pub memory_max_bytes: u64,
    pub oom_kills: u64,
    pub throttled_us: u64,
}

impl Bucket {
    /// Returns the mean of the samples' CPU.
    pub fn cpu_avg_millicores(&self) -> u64 {
        self.cpu_sum_millicores / self.samples.max(1)
    }
}

/// What a batch came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    pub counted: u64,
    /// Samples that had been counted before.
    pub repeated: u64,
}

/// How a history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryOptions {
    /// The width of new buckets. Older ones keep the width they were made with.
    pub bucket_width: Duration,
    /// The most buckets that are kept, oldest out first.
    pub rows_max: u64,
    /// The most bytes the database holds, oldest out first. Its write-ahead log comes on top, a few MiB.
    pub bytes_max: u64,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        HistoryOptions {
            bucket_width: Duration::from_secs(300),
            rows_max: 2_000_000,
            bytes_max: 256 << 20,
        }
    }
}

/// A usage history in a file, open for this handle only. Its functions block for about as long as one
/// SQLite transaction without a sync takes.
pub struct History {
    path: PathBuf,
    width_us: i64,
    options: HistoryOptions,
    open: Mutex<Open>,
    /// Freed after the connection is closed.
    _lock: Lock,
}

struct Open {
    connection: Connection,
    rows: u64,
    /// The widest bucket in the file.
    widest_us: i64,
}

impl History {
    /// Opens the file, making it if it does not exist.
    ///
    /// Refuses a file that is in use, damaged, of a later release or of another kind.
    pub fn open(path: &Path, options: HistoryOptions) -> Result<Self, OpenError> {
        let Database { connection, lock } = Database::open(path, &KIND)?;
        let width_us = i64::try_from(options.bucket_width.as_micros())
            .unwrap_or(i64::MAX)
            .max(1);
        let (rows, widest_us) = configure(&connection)
            .and_then(|()| buckets::totals(&connection))
            .map_err(|error| open_fault(path, error))?;
        let open = Open {
            connection,
            rows,
            widest_us: widest_us.max(width_us),
        };
        Ok(History {
            path: path.into(),
            width_us,
            options,
            open: Mutex::new(open),
            _lock: lock,
        })
    }

    /// Counts a batch of samples, all or none, and drops the oldest buckets if a bound is reached.
    pub fn record(&self, batch: &[Sample]) -> Result<Recorded, StoreError> {
        let mut open = self.lock();
        let (recorded, rows) = self.write(&mut open, |transaction, rows| {
            let recorded = record(transaction, batch, self.width_us, rows)?;
            self.keep_within_limits(transaction, rows)?;
            Ok(recorded)
        })?;
        open.rows = rows;
        Ok(recorded)
    }

    /// Reads the buckets of a series that overlap `[from_us, to_us)`, oldest first.
    pub fn range(&self, series: &str, from_us: i64, to_us: i64) -> Result<Vec<Bucket>, StoreError> {
        let open = self.lock();
        buckets::range(&open.connection, series, from_us, to_us, open.widest_us)
            .map_err(|error| self.fault(error))
    }

    /// Reads the keys of all series that begin with `prefix`, in order.
    pub fn series(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        series(&self.lock().connection, prefix).map_err(|error| self.fault(error))
    }

    /// Drops the buckets that end at or before `older_than_us` and returns how many there were.
    pub fn prune(&self, older_than_us: i64) -> Result<u64, StoreError> {
        let mut open = self.lock();
        let (dropped, rows) = self.write(&mut open, |transaction, rows| {
            let dropped = buckets::drop_older(transaction, older_than_us)?;
            *rows -= dropped;
            drop_orphans(transaction)?;
            Ok(dropped)
        })?;
        open.rows = rows;
        Ok(dropped)
    }

    /// Runs `change` in one transaction and returns its result with the new number of buckets.
    fn write<T>(
        &self,
        open: &mut Open,
        change: impl FnOnce(&Transaction<'_>, &mut u64) -> rusqlite::Result<T>,
    ) -> Result<(T, u64), StoreError> {
        let mut rows = open.rows;
        let transaction = open
            .connection
            .transaction()
            .map_err(|error| self.fault(error))?;
        let result = change(&transaction, &mut rows)
            .and_then(|result| transaction.commit().map(|()| result))
            .map_err(|error| self.fault(error))?;
        Ok((result, rows))
    }

    fn keep_within_limits(
        &self,
        transaction: &Transaction<'_>,
        rows: &mut u64,
    ) -> rusqlite::Result<()> {
        let HistoryOptions {
            rows_max,
            bytes_max,
            ..
        } = self.options;
        let surplus = if *rows > rows_max {
            *rows - (rows_max - rows_max / 16)
        } else {
            0
        };
        let mut dropped = buckets::drop_oldest(transaction, surplus)?;
        *rows -= dropped;
        while *rows > 0 && bytes_used(transaction)? > bytes_max {
            let step = buckets::drop_oldest(transaction, *rows / 16 + 1)?;
            *rows -= step;
            dropped += step;
            drop_orphans(transaction)?;
        }
        if dropped > 0 {
            drop_orphans(transaction)?;
            give_back_pages(transaction)?;
        }
        Ok(())
    }

    fn fault(&self, error: rusqlite::Error) -> StoreError {
        match Fault::new(&self.path, error) {
            Fault::Damaged(damage) => damage.into(),
            Fault::Full(source) | Fault::Io(source) => StoreError::Io {
                path: self.path.clone(),
                source,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no holder panics")
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "journal_size_limit", 4 << 20)
}

fn record(
    transaction: &Transaction<'_>,
    batch: &[Sample],
    width_us: i64,
    rows: &mut u64,
) -> rusqlite::Result<Recorded> {
    let mut recorded = Recorded::default();
    for sample in batch {
        let series = series_id(transaction, &sample.series)?;
        if sources::note(transaction, series, sample)? {
            *rows += buckets::add(transaction, series, sample, width_us)?;
            recorded.counted += 1;
        } else {
            recorded.repeated += 1;
        }
    }
    Ok(recorded)
}

fn series_id(connection: &Connection, key: &str) -> rusqlite::Result<i64> {
    let known = connection
        .prepare_cached("SELECT id FROM series WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    match known {
        Some(id) => Ok(id),
        None => connection
            .prepare_cached("INSERT INTO series (key) VALUES (?1)")?
            .insert([key]),
    }
}

fn series(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<String>> {
    let end = prefix_end(prefix);
    connection
        .prepare_cached(
            "SELECT key FROM series WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key",
        )?
        .query_map((prefix, end), |row| row.get(0))?
        .collect()
}

/// Drops what no bucket needs: series without any, and sources that end before the oldest.
fn drop_orphans(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM bucket WHERE bucket.series = series.id);
         DELETE FROM source WHERE NOT EXISTS (
             SELECT 1 FROM bucket WHERE bucket.series = source.series
                 AND bucket.start_us <= source.last_us
         )",
    )
}

/// Shortens the file by its free pages, one a step.
fn give_back_pages(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("PRAGMA incremental_vacuum")?;
    let mut pages = statement.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

fn bytes_used(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT (page_count - freelist_count) * page_size
             FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        )?
        .query_row([], |row| row.get(0))
}
