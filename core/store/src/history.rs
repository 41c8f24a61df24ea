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

pub use tw_model::UsageSum as Usage;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::database::{Database, Fault, Kind, Lock, open_fault};
use crate::error::{Damage, OpenError, StoreError};
use crate::kv::prefix_end;

const KIND: Kind = Kind {
    name: "a usage history",
    application_id: 0x5477_4869,
    prepare: "PRAGMA auto_vacuum = incremental",
    migrations: &[
        "
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
    ",
        "
        ALTER TABLE bucket ADD COLUMN cpu_counts BLOB NOT NULL DEFAULT x'';
        ALTER TABLE bucket ADD COLUMN stalled_us INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE bucket ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE bucket ADD COLUMN network_bytes INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE bucket ADD COLUMN starts INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE bucket ADD COLUMN ends INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE bucket ADD COLUMN ran_ms INTEGER NOT NULL DEFAULT 0;
        CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            body BLOB NOT NULL
        ) STRICT;
        CREATE TABLE reported (
            series TEXT PRIMARY KEY,
            until_us INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE origin (name TEXT NOT NULL) STRICT;
        INSERT INTO origin VALUES (lower(hex(randomblob(8))));
    ",
        "
        CREATE TABLE conclusion (
            prefix TEXT PRIMARY KEY,
            body BLOB NOT NULL
        ) STRICT, WITHOUT ROWID;
    ",
    ],
};

/// What one source measured of a series over a span of time that lies within one bucket.
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
    /// The width of the bucket that it goes to; none means the history's own.
    pub width: Option<Duration>,
    pub usage: Usage,
}

/// What the samples of one bucket add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub start_us: i64,
    pub width_us: i64,
    pub usage: Usage,
}

impl Bucket {
    /// Returns the mean of the samples' CPU.
    pub fn cpu_avg_millicores(&self) -> u64 {
        self.usage.cpu_sum_millicores / self.usage.samples.max(1)
    }
}

/// From which age on buckets are kept how wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    pub older_than: Duration,
    pub width: Duration,
}

/// How the history of a long time is kept small.
///
/// Merging buckets adds their counts and takes the highest of their peaks, so percentiles, sums and peaks of any span
/// that begins and ends with a bucket stay exact. What is lost is when within a bucket something was: by at most an hour
/// after two days, which moves the weight of a CPU sample in a policy of 8 hours' half-life by at most 8%, and by at most
/// a day after five weeks, when no policy with a window of a week looks back any more.
pub const TIERS: [Tier; 2] = [
    Tier {
        older_than: Duration::from_secs(2 * 86_400),
        width: Duration::from_secs(3600),
    },
    Tier {
        older_than: Duration::from_secs(35 * 86_400),
        width: Duration::from_secs(86_400),
    },
];

/// Buckets that one call of [`History::compact`] folds at most, so that no call takes long.
const COMPACTED_MAX: u64 = 20_000;

/// What a batch came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    pub counted: u64,
    /// Samples that had been counted before.
    pub repeated: u64,
    /// Samples that cannot have been measured.
    pub refused: u64,
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
        let width_us = micros(options.bucket_width).max(1);
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

    /// As [`History::open`], but a damaged file is set aside as `damaged-NAME` and a new one begun; says what was found.
    /// For histories that can be learned again.
    pub fn open_or_set_aside(
        path: &Path,
        options: HistoryOptions,
    ) -> Result<(Self, Option<Damage>), OpenError> {
        match History::open(path, options) {
            Err(OpenError::Damaged(damage)) => {
                set_aside(path).map_err(|cause| OpenError::Io {
                    action: "setting aside",
                    path: path.into(),
                    source: Arc::new(cause),
                })?;
                Ok((History::open(path, options)?, Some(damage)))
            }
            opened => Ok((opened?, None)),
        }
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
        let widths = batch.iter().filter_map(|sample| sample.width).map(micros);
        open.widest_us = open.widest_us.max(widths.max().unwrap_or(0));
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

    /// Keeps what the caller concludes from the series that begin with `prefix`, in place of what it concluded before.
    /// It goes when the last of them does.
    pub fn conclude(&self, prefix: &str, body: &[u8]) -> Result<(), StoreError> {
        let mut open = self.lock();
        let ((), _) = self.write(&mut open, |transaction, _| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO conclusion (prefix, body) VALUES (?1, ?2)")?
                .execute((prefix, body))?;
            Ok(())
        })?;
        Ok(())
    }

    /// What was concluded last from the series that begin with `prefix`.
    pub fn conclusion(&self, prefix: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let open = self.lock();
        let read = |connection: &Connection| {
            connection
                .prepare_cached("SELECT body FROM conclusion WHERE prefix = ?1")?
                .query_row([prefix], |row| row.get(0))
                .optional()
        };
        read(&open.connection).map_err(|error| self.fault(error))
    }

    /// Folds old buckets into wider ones; returns how many buckets fewer there are. Bounded work: call it again when it
    /// has folded many.
    pub fn compact(&self, tiers: &[Tier], now_us: i64) -> Result<u64, StoreError> {
        let mut open = self.lock();
        let (fewer, rows) = self.write(&mut open, |transaction, rows| {
            let mut fewer = 0;
            for tier in tiers {
                let older_than_us = now_us.saturating_sub(micros(tier.older_than));
                let width_us = micros(tier.width).max(1);
                // Folded as wholes only: a wide bucket that ends later would grow bit by bit.
                let until_us = older_than_us.div_euclid(width_us).saturating_mul(width_us);
                fewer += buckets::widen(transaction, until_us, width_us, COMPACTED_MAX)?;
            }
            *rows -= fewer;
            Ok(fewer)
        })?;
        open.rows = rows;
        let widest_us = tiers.iter().map(|tier| micros(tier.width)).max();
        open.widest_us = open.widest_us.max(widest_us.unwrap_or(0));
        Ok(fewer)
    }

    /// A name that this file has for itself, from when it was made.
    pub fn origin(&self) -> Result<String, StoreError> {
        let open = self.lock();
        open.connection
            .query_row("SELECT name FROM origin", [], |row| row.get(0))
            .map_err(|error| self.fault(error))
    }

    /// What a series used in the slots of `width` that have ended and are not posted yet, oldest first; those in which
    /// nothing was measured are left out. Returns also until when that is.
    ///
    /// A clock that went back leaves slots open until it is there again, unless it had been ahead by more than a slot.
    pub fn unposted(
        &self,
        series: &str,
        width: Duration,
        now_us: i64,
    ) -> Result<(Vec<Bucket>, i64), StoreError> {
        let width_us = micros(width).max(1);
        let floor = |at: i64| at.div_euclid(width_us).saturating_mul(width_us);
        let until_us = floor(now_us);
        let open = self.lock();
        let posted = open
            .connection
            .prepare_cached("SELECT until_us FROM reported WHERE series = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([series], |row| row.get::<_, i64>(0))
                    .optional()
            })
            .map_err(|error| self.fault(error))?;
        let from_us = match posted {
            Some(posted) if posted <= now_us.saturating_add(width_us) => posted,
            Some(_) => until_us,
            None => i64::MIN,
        };
        if from_us >= until_us {
            return Ok((Vec::new(), from_us));
        }
        let found = buckets::range(&open.connection, series, from_us, until_us, open.widest_us)
            .map_err(|error| self.fault(error))?;
        let mut slots: Vec<Bucket> = Vec::new();
        for bucket in found
            .into_iter()
            .filter(|bucket| bucket.start_us >= from_us)
        {
            let start_us = floor(bucket.start_us);
            match slots.last_mut().filter(|last| last.start_us == start_us) {
                Some(last) => last.usage.merge(&bucket.usage),
                None => slots.push(Bucket {
                    start_us,
                    width_us,
                    usage: bucket.usage,
                }),
            }
        }
        Ok((slots, until_us))
    }

    /// Puts messages where they stay until they are acknowledged, and notes that a series is posted until then. Of more
    /// than `most` messages the oldest are dropped.
    pub fn post(
        &self,
        series: &str,
        until_us: i64,
        bodies: &[Vec<u8>],
        most: u64,
    ) -> Result<(), StoreError> {
        let mut open = self.lock();
        let ((), _) = self.write(&mut open, |transaction, _| {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO reported VALUES (?1, ?2)")?
                .execute((series, until_us))?;
            for body in bodies {
                transaction
                    .prepare_cached("INSERT INTO outbox (body) VALUES (?1)")?
                    .execute([body])?;
            }
            let dropped = transaction
                .prepare_cached(
                    "DELETE FROM outbox WHERE seq <= (SELECT max(seq) FROM outbox) - ?1",
                )?
                .execute([most])?;
            if dropped > 0 {
                tracing::warn!(dropped, "the oldest usage reports are dropped unsent");
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The oldest messages that are not acknowledged, with their numbers.
    pub fn posted(&self, most: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let open = self.lock();
        let read = |connection: &Connection| -> rusqlite::Result<Vec<(u64, Vec<u8>)>> {
            connection
                .prepare_cached("SELECT seq, body FROM outbox ORDER BY seq LIMIT ?1")?
                .query_map([most], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        read(&open.connection).map_err(|error| self.fault(error))
    }

    /// Lets go of the messages up to and including a number.
    pub fn acknowledge(&self, seq: u64) -> Result<(), StoreError> {
        let mut open = self.lock();
        let ((), _) = self.write(&mut open, |transaction, _| {
            let seq = i64::try_from(seq).unwrap_or(i64::MAX);
            transaction
                .prepare_cached("DELETE FROM outbox WHERE seq <= ?1")?
                .execute([seq])?;
            Ok(())
        })?;
        Ok(())
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

/// Renames a database and the files beside it that begin with its name.
fn set_aside(path: &Path) -> std::io::Result<()> {
    let (Some(folder), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    for entry in std::fs::read_dir(folder)? {
        let found = entry?.file_name();
        if let Some(found) = found.to_str().filter(|found| found.starts_with(name)) {
            std::fs::rename(folder.join(found), folder.join(format!("damaged-{found}")))?;
        }
    }
    Ok(())
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
        if !sample.usage.is_plausible() {
            recorded.refused += 1;
            continue;
        }
        let width_us = sample.width.map_or(width_us, micros).max(1);
        let series = series_id(transaction, &sample.series)?;
        if sources::note(transaction, series, sample)? {
            *rows += buckets::add(transaction, series, sample.at_us, width_us, &sample.usage)?;
            recorded.counted += 1;
        } else {
            recorded.repeated += 1;
        }
    }
    Ok(recorded)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
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
         );
         DELETE FROM conclusion WHERE NOT EXISTS (
             SELECT 1 FROM series WHERE series.key >= conclusion.prefix
                 AND substr(series.key, 1, length(conclusion.prefix)) = conclusion.prefix
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
