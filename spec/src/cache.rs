//! What evaluations left behind, kept on disk between commands.
//!
//! One SQLite file in the user's cache folder, shared by any number of processes. It speeds things up and is
//! trusted for nothing: each entry carries a hash over its key and its value, and keys hold the build of what
//! made the value, so an entry that is damaged or foreign is as good as absent. Whatever is wrong with the file
//! or its folder is said once and costs only time.

mod build;
mod entry;

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

pub(crate) use build::Identity;
pub(crate) use entry::Key;

/// The file in the cache folder; another layout gets another name.
const FILE: &str = "evaluations-1.sqlite";
/// How long another process may hold the file.
const BUSY: Duration = Duration::from_secs(2);
/// Entries that are written together.
const BATCH: usize = 256;
/// The time of an entry's last use is noted anew when it is older than this.
const USE_NOTED_EVERY_S: i64 = 24 * 3600;
/// After an eviction, entries take at most this part of the bound.
const EVICT_TO: f64 = 0.75;
/// The most bytes that entries take, unless said otherwise.
pub const CACHE_BYTES_MAX: i64 = 1 << 30;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entry (
        key BLOB PRIMARY KEY,
        sum BLOB NOT NULL,
        used INTEGER NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS entry_used ON entry (used);
";

/// The cache of one folder. Shared freely between threads.
pub struct Cache {
    file: PathBuf,
    bytes_max: i64,
    state: Mutex<State>,
    trouble: OnceLock<String>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    is_writable: bool,
    /// Entries that wait to be written.
    waiting: Vec<(Key, Vec<u8>)>,
    /// Keys whose last use is to be noted.
    used: Vec<Key>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens the cache in `folder`, which is made if it is not there. Never fails: what cannot be used is
    /// done without, and [`Cache::trouble`] says why.
    pub fn open(folder: &Path) -> Cache {
        Cache::bounded(folder, CACHE_BYTES_MAX)
    }

    /// As [`Cache::open`], keeping at most `bytes_max` bytes.
    pub fn bounded(folder: &Path, bytes_max: i64) -> Cache {
        let cache = Cache {
            file: folder.join(FILE),
            bytes_max,
            state: Mutex::default(),
            trouble: OnceLock::new(),
        };
        let mut state = cache.state();
        if let Err(cause) = cache.connect(&mut state, folder) {
            cache.complain(&cause);
        }
        drop(state);
        cache
    }

    /// The folder for what Twill can make again: `$XDG_CACHE_HOME/twill`, or `~/.cache/twill`.
    pub fn user_folder() -> Option<PathBuf> {
        let absolute = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|folder| folder.join("twill"))
    }

    /// What keeps the cache from being used in full, if anything does. It stays what it was first.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    /// Returns an entry; none if there is none that can be trusted.
    pub(crate) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.get_all(std::slice::from_ref(key)).pop()?
    }

    /// Returns several entries; the file is asked for all of them at once.
    pub(crate) fn get_all(&self, keys: &[Key]) -> Vec<Option<Vec<u8>>> {
        let found = self.find(keys);
        let checked = keys.iter().zip(found).map(|(key, found)| match found {
            Some((Some(sum), value)) => (sum == entry::sum(key, &value)).then_some(value),
            Some((None, value)) => Some(value),
            None => None,
        });
        checked.collect()
    }

    /// The values of keys, each with the sum that it must have; none where it comes from this process.
    fn find(&self, keys: &[Key]) -> Vec<Option<Found>> {
        let mut state = self.state();
        let now = now_s();
        let rows = match state.connection.as_mut().map(|open| read_all(open, keys)) {
            None => Vec::new(),
            Some(rows) => self.noted(&mut state, rows).unwrap_or_default(),
        };
        let mut rows = rows.into_iter();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let row = rows.next().flatten();
            let waiting = state.waiting.iter().rev().find(|(other, _)| other == key);
            if let Some((_, value)) = waiting {
                found.push(Some((None, value.clone())));
                continue;
            }
            if let Some((_, used, _)) = &row
                && state.is_writable
                && now - used > USE_NOTED_EVERY_S
            {
                state.used.push(*key);
            }
            found.push(row.map(|(sum, _, value)| (Some(sum), value)));
        }
        found
    }

    /// Keeps an entry, now or a little later.
    pub(crate) fn put(&self, key: Key, value: Vec<u8>) {
        let mut state = self.state();
        if !state.is_writable {
            return;
        }
        state.waiting.push((key, value));
        if state.waiting.len() >= BATCH {
            self.write(&mut state);
        }
    }

    /// Writes what waits to be written.
    pub fn flush(&self) {
        self.write(&mut self.state());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file for writing, else for reading. A damaged one is replaced.
    fn connect(&self, state: &mut State, folder: &Path) -> Result<(), Trouble> {
        let made = std::fs::create_dir_all(folder);
        match made.map_err(Trouble::from).and_then(|()| open(&self.file)) {
            Ok(connection) => {
                state.connection = Some(connection);
                state.is_writable = true;
                Ok(())
            }
            Err(Trouble::Sqlite(cause)) if is_damage(&cause) => {
                remove(&self.file)?;
                state.connection = Some(open(&self.file)?);
                state.is_writable = true;
                Ok(())
            }
            Err(cause) => {
                state.connection = open_for_reading(&self.file);
                Err(cause)
            }
        }
    }

    /// Lets go of a file that turned out damaged, and takes note of other trouble.
    fn noted<T>(&self, state: &mut State, result: rusqlite::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(cause) if is_damage(&cause) => {
                state.connection = None;
                let replaced = remove(&self.file).and_then(|()| open(&self.file));
                match replaced {
                    Ok(connection) => state.connection = Some(connection),
                    Err(cause) => {
                        state.is_writable = false;
                        self.complain(&cause);
                    }
                }
                None
            }
            Err(cause) if is_busy(&cause) => None,
            Err(cause) => {
                state.is_writable = false;
                self.complain(&Trouble::Sqlite(cause));
                None
            }
        }
    }

    fn write(&self, state: &mut State) {
        let (waiting, used) = (
            std::mem::take(&mut state.waiting),
            std::mem::take(&mut state.used),
        );
        if !state.is_writable || (waiting.is_empty() && used.is_empty()) {
            return;
        }
        let bytes_max = self.bytes_max;
        let written = state.connection.as_mut().map(|connection| {
            write(connection, &waiting, &used)?;
            evict(connection, bytes_max)
        });
        if let Some(written) = written {
            self.noted(state, written);
        }
    }

    fn complain(&self, cause: &Trouble) {
        let said = format!(
            "the cache {} is not used in full: {cause}",
            self.file.display()
        );
        if self.trouble.set(said).is_ok() {
            tracing::debug!(file = %self.file.display(), %cause, "the cache is not used in full");
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What can be wrong with the file.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

fn open(file: &Path) -> Result<Connection, Trouble> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    // Power loss may damage the file, which is noticed and costs the entries: that is cheaper than syncing.
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "journal_mode", "TRUNCATE")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn open_for_reading(file: &Path) -> Option<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).ok()?;
    connection.busy_timeout(BUSY).ok()?;
    let answers = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    answers.ok().map(|()| connection)
}

fn remove(file: &Path) -> Result<(), Trouble> {
    for suffix in ["", "-journal"] {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(cause.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The sum that a value must have, none where it comes from this process, and the value.
type Found = (Option<Vec<u8>>, Vec<u8>);

/// Sum, time of the last use, value.
type Row = (Vec<u8>, i64, Vec<u8>);

/// The rows of several keys, in one transaction: each has to lock the file and look whether it has changed.
fn read_all(connection: &mut Connection, keys: &[Key]) -> rusqlite::Result<Vec<Option<Row>>> {
    match keys {
        [key] => Ok(vec![read(connection, key)?]),
        keys => {
            let transaction = connection.transaction()?;
            keys.iter().map(|key| read(&transaction, key)).collect()
        }
    }
}

fn read(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Row>> {
    let mut select =
        connection.prepare_cached("SELECT sum, used, value FROM entry WHERE key = ?1")?;
    let row = select.query_row([key.as_bytes()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    });
    row.optional()
}

fn write(
    connection: &mut Connection,
    entries: &[(Key, Vec<u8>)],
    used: &[Key],
) -> rusqlite::Result<()> {
    let now = now_s();
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT OR REPLACE INTO entry (key, sum, used, value) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for (key, value) in entries {
            insert.execute(params![key.as_bytes(), entry::sum(key, value), now, value])?;
        }
        let mut touch = transaction.prepare_cached("UPDATE entry SET used = ?2 WHERE key = ?1")?;
        for key in used {
            touch.execute(params![key.as_bytes(), now])?;
        }
    }
    transaction.commit()
}

/// Takes away the entries that were not used for longest, where there are too many bytes.
fn evict(connection: &mut Connection, bytes_max: i64) -> rusqlite::Result<()> {
    let mut taken = bytes_in_use(connection)?;
    if taken <= bytes_max {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    {
        let mut oldest =
            transaction.prepare("SELECT key, length(value) FROM entry ORDER BY used, rowid")?;
        let mut delete = transaction.prepare("DELETE FROM entry WHERE key = ?1")?;
        let mut rows = oldest.query([])?;
        let mut going = Vec::new();
        while taken as f64 > bytes_max as f64 * EVICT_TO
            && let Some(row) = rows.next()?
        {
            let (key, bytes): (Vec<u8>, i64) = (row.get(0)?, row.get(1)?);
            taken -= bytes;
            going.push(key);
        }
        drop(rows);
        for key in going {
            delete.execute([key])?;
        }
    }
    transaction.commit()
}

fn bytes_in_use(connection: &Connection) -> rusqlite::Result<i64> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?)
}

fn is_damage(cause: &rusqlite::Error) -> bool {
    let code = cause.sqlite_error_code();
    let is_other = matches!(
        cause,
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..)
    );
    is_other || matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        // A file with the right mark whose schema is another: a foreign one.
        || matches!(cause, rusqlite::Error::SqliteFailure(_, Some(text)) if text.contains("no such column"))
}

fn is_busy(cause: &rusqlite::Error) -> bool {
    matches!(
        cause.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Seconds since 1970, for what was used last.
fn now_s() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}
