//! The tables of the store's file.

use std::path::Path;

use rusqlite::Connection;

use crate::database::{Kind, open_fault};
use crate::error::{Damage, OpenError};
use crate::kv::Rev;
use crate::lease::Epoch;

/// The store's kind of database.
///
/// `kv` holds the newest value of each key and `log` one row a revision, with all its events, for watches
/// that resume. Both carry checksums, because SQLite checks the structure of its pages and not what is in
/// them.
pub(super) const KIND: Kind = Kind {
    name: "a store",
    application_id: 0x5477_5374,
    prepare: "",
    migrations: &["
        CREATE TABLE state (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            revision INTEGER NOT NULL,
            compacted INTEGER NOT NULL,
            log_bytes INTEGER NOT NULL
        ) STRICT;
        INSERT INTO state VALUES (1, 0, 0, 0);
        CREATE TABLE kv (
            key TEXT PRIMARY KEY,
            value BLOB NOT NULL,
            mod_rev INTEGER NOT NULL,
            create_rev INTEGER NOT NULL,
            checksum INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE log (
            revision INTEGER PRIMARY KEY,
            events BLOB NOT NULL,
            checksum INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE lease (
            name TEXT PRIMARY KEY,
            epoch INTEGER NOT NULL,
            holder TEXT NOT NULL
        ) STRICT, WITHOUT ROWID;
    "],
};

/// The history that the file keeps: everything after `compacted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogState {
    pub(super) compacted: Rev,
    pub(super) bytes: u64,
}

/// What a store begins with.
pub(super) struct Start {
    pub(super) rev: Rev,
    pub(super) log: LogState,
    pub(super) epochs: Vec<(String, Epoch)>,
}

/// Reads what a store begins with, and checks that the tables agree about it.
pub(super) fn load(connection: &Connection, path: &Path) -> Result<Start, OpenError> {
    let (rev, compacted, bytes) = state(connection).map_err(|error| open_fault(path, error))?;
    let newest: Option<u64> = connection
        .query_row("SELECT max(revision) FROM log", [], |row| row.get(0))
        .map_err(|error| open_fault(path, error))?;
    let expected = (compacted < rev).then_some(rev.0);
    if newest != expected {
        let newest = newest.map_or("nothing".into(), |newest| format!("revision {newest}"));
        let found = format!("it is at revision {rev}, but its log ends with {newest}");
        return Err(Damage::new(path, found).into());
    }
    let epochs = epochs(connection).map_err(|error| open_fault(path, error))?;
    Ok(Start {
        rev,
        log: LogState { compacted, bytes },
        epochs,
    })
}

/// Reads the newest revision, the compacted one, and the bytes of the log.
pub(super) fn state(connection: &Connection) -> rusqlite::Result<(Rev, Rev, u64)> {
    connection
        .prepare_cached("SELECT revision, compacted, log_bytes FROM state")?
        .query_row([], |row| {
            Ok((Rev(row.get(0)?), Rev(row.get(1)?), row.get(2)?))
        })
}

fn epochs(connection: &Connection) -> rusqlite::Result<Vec<(String, Epoch)>> {
    let mut statement = connection.prepare("SELECT name, epoch FROM lease")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, Epoch(row.get(1)?))))?;
    rows.collect()
}
