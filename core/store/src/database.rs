//! Opening SQLite files so that nothing is lost unseen: one writer, known formats, no damage.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Damage, OpenError, SharedError};

/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How long to wait for someone who looks into the file with another tool.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an owner of the file who is about to end is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A kind of database file.
pub(crate) struct Kind {
    /// What it is, with its article.
    pub(crate) name: &'static str,
    /// Stored in the file's header, so that one kind is not taken for another.
    pub(crate) application_id: i64,
    /// Set before the first table is made, as SQLite wants it for some settings.
    pub(crate) prepare: &'static str,
    /// The statements that lead from each format to the next. The file's `user_version` counts them.
    pub(crate) migrations: &'static [&'static str],
}

/// A file that is open for writing. Nobody else has it until this is dropped.
pub(crate) struct Database {
    pub(crate) connection: Connection,
    pub(crate) lock: Lock,
}

impl Database {
    /// Opens the file, making it if it does not exist, and brings it to the newest format.
    ///
    /// Refuses a file that is in use, damaged, of a later release or of another kind.
    pub(crate) fn open(path: &Path, kind: &Kind) -> Result<Self, OpenError> {
        let lock = Lock::take(path)?;
        check_or_create(path, kind)?;
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let format = check_format(&connection, path, kind)?;
        check_pages(&connection, path)?;
        connection
            .pragma_update(None, "journal_mode", "wal")
            .and_then(|()| migrate(&connection, kind, format))
            .map_err(|error| open_fault(path, error))?;
        Ok(Database { connection, lock })
    }
}

/// Opens a second connection, which cannot write, to a file that is open for writing.
pub(crate) fn connect_reader(path: &Path) -> Result<Connection, OpenError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Checks a file that is not in use, without changing it.
pub(crate) fn check_file(path: &Path, kind: &Kind) -> Result<Connection, OpenError> {
    check_header(path)?;
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    check_format(&connection, path, kind)?;
    check_pages(&connection, path)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|error| open_fault(path, error))?;
    connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(|error| open_fault(path, error))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The exclusive right to write a file, held by a lock file beside it that names the process.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock or says who has it. The system frees it when the process ends, however it ends.
    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let lock_path = beside(path, ".lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| OpenError::io("opening", &lock_path, error))?;
        match lock_within(&file, LOCK_PATIENCE) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&mut file);
                return Err(OpenError::Locked {
                    path: path.into(),
                    pid,
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(OpenError::io("locking", &lock_path, error));
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| OpenError::io("writing", &lock_path, error))?;
        Ok(Lock { _file: file })
    }
}

/// Whoever had the lock may be on its way out, or a child of ours that has not yet become another program.
fn lock_within(file: &File, patience: Duration) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {
                std::thread::sleep(LOCK_PATIENCE / 20);
            }
            answer => return answer,
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Returns the path with `suffix` added to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes a missing file, and checks the header of one that exists.
///
/// The file appears under its name only when it is complete, so an empty one is always damage.
fn check_or_create(path: &Path, kind: &Kind) -> Result<(), OpenError> {
    if path.exists() {
        return check_header(path);
    }
    let wal = beside(path, "-wal");
    if wal.exists() {
        let found = format!(
            "the file is missing, but `{}` holds writes to it",
            wal.display()
        );
        return Err(Damage::new(path, found).into());
    }
    create(path, kind)
}

fn create(path: &Path, kind: &Kind) -> Result<(), OpenError> {
    let draft = beside(path, ".new");
    remove_if_exists(&draft)?;
    remove_if_exists(&beside(&draft, "-journal"))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = connect(&draft, flags)?;
    connection
        .execute_batch(kind.prepare)
        .and_then(|()| connection.pragma_update(None, "application_id", kind.application_id))
        .and_then(|()| migrate(&connection, kind, 0))
        .and_then(|()| connection.close().map_err(|(_, error)| error))
        .map_err(|error| open_fault(&draft, error))?;
    install(&draft, path)
}

/// Gives a complete file its name, durably.
pub(crate) fn install(draft: &Path, path: &Path) -> Result<(), OpenError> {
    File::open(draft)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(draft, path))
        .and_then(|()| sync_parent(path))
        .map_err(|error| OpenError::io("creating", path, error))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes a file that may not exist.
pub(crate) fn remove_if_exists(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::io("removing", path, error))
        }
        _ => Ok(()),
    }
}

/// Looks at the first bytes before SQLite does, which takes some damage for an empty database.
fn check_header(path: &Path) -> Result<(), OpenError> {
    let mut header = Vec::with_capacity(MAGIC.len());
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut header))
        .map_err(|error| OpenError::io("reading", path, error))?;
    if header.is_empty() {
        return Err(Damage::new(path, "the file is empty").into());
    }
    if header != MAGIC {
        return Err(Damage::new(path, "it does not begin like a SQLite database").into());
    }
    Ok(())
}

fn check_format(connection: &Connection, path: &Path, kind: &Kind) -> Result<i64, OpenError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application_id = pragma("application_id").map_err(|error| open_fault(path, error))?;
    if application_id != kind.application_id {
        return Err(OpenError::Foreign {
            path: path.into(),
            wanted: kind.name,
            found: application_id,
        });
    }
    let found = pragma("user_version").map_err(|error| open_fault(path, error))?;
    let known = kind.migrations.len() as i64;
    if found > known {
        return Err(OpenError::Newer {
            path: path.into(),
            found,
            known,
        });
    }
    if found < 1 {
        return Err(Damage::new(path, format!("its format number is {found}")).into());
    }
    Ok(found)
}

/// Has SQLite check the structure of every page.
fn check_pages(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let verdict = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        .map_err(|error| open_fault(path, error))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(Damage::new(path, verdict).into())
    }
}

fn migrate(connection: &Connection, kind: &Kind, from: i64) -> rusqlite::Result<()> {
    for (format, statements) in (1_i64..)
        .zip(kind.migrations)
        .filter(|(format, _)| *format > from)
    {
        connection.execute_batch(&format!(
            "BEGIN EXCLUSIVE; {statements}; PRAGMA user_version = {format}; COMMIT"
        ))?;
    }
    Ok(())
}

/// What an error of SQLite means for the file.
pub(crate) enum Fault {
    /// Nothing was written; there is no room.
    Full(SharedError),
    /// The file does not hold what it must.
    Damaged(Damage),
    /// Something else; what was being written may or may not last.
    Io(SharedError),
}

impl Fault {
    pub(crate) fn new(path: &Path, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Fault::Full(Arc::new(error)),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Fault::Damaged(Damage::new(path, error.to_string()))
            }
            _ => Fault::Io(Arc::new(error)),
        }
    }
}

/// Turns an error of SQLite, met while opening a file, into the reason the file is not opened.
pub(crate) fn open_fault(path: &Path, error: rusqlite::Error) -> OpenError {
    match Fault::new(path, error) {
        Fault::Damaged(damage) => damage.into(),
        Fault::Full(source) | Fault::Io(source) => OpenError::Io {
            action: "opening",
            path: path.into(),
            source,
        },
    }
}
