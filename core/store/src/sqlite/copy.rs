//! Backup copies, and their way back.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{reader, schema};
use crate::database::{Lock, beside, check_file, install, open_fault, remove_if_exists};
use crate::error::{OpenError, StoreError};
use crate::kv::Rev;

/// The files that SQLite keeps beside a database in use.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Copies the last synced state of the store at `path` into `target`.
pub(super) fn backup(
    connection: &mut Connection,
    path: &Path,
    target: &Path,
) -> Result<Rev, OpenError> {
    let draft = beside(target, ".new");
    remove_if_exists(&draft)?;
    let name = draft.to_str().ok_or_else(|| {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8");
        OpenError::io("copying to", &draft, error)
    })?;
    connection
        .execute("VACUUM INTO ?1", [name])
        .map_err(|error| open_fault(path, error))?;
    let rev = check(&draft)?;
    install(&draft, target)?;
    Ok(rev)
}

/// Puts `backup` in the place of the store at `path`, and returns where that is kept now.
pub(super) fn restore(path: &Path, backup: &Path) -> Result<Option<PathBuf>, OpenError> {
    let _lock = Lock::take(path)?;
    check(backup)?;
    let draft = beside(path, ".new");
    fs::copy(backup, &draft).map_err(|error| OpenError::io("copying", backup, error))?;
    let kept = keep_old(path)?;
    // A write-ahead log of the old file would be replayed into the new one.
    for companion in COMPANIONS {
        remove_if_exists(&beside(path, companion))?;
    }
    install(&draft, path)?;
    Ok(kept)
}

/// Checks a copy from its header to every row.
fn check(copy: &Path) -> Result<Rev, OpenError> {
    let mut connection = check_file(copy, &schema::KIND)?;
    reader::check_all(&mut connection, copy).map_err(|error| match error {
        StoreError::Damaged(damage) => damage.into(),
        error => OpenError::io("reading", copy, error),
    })
}

/// Gives the old file and its companions second names that are not in use.
fn keep_old(path: &Path) -> Result<Option<PathBuf>, OpenError> {
    if !path.exists() {
        return Ok(None);
    }
    let free = |number: &u32| !beside(path, &format!(".replaced-{number}")).exists();
    let number = (1..).find(free).unwrap_or(u32::MAX);
    let kept = beside(path, &format!(".replaced-{number}"));
    link(path, &kept)?;
    let wal = beside(path, "-wal");
    if wal.exists() {
        link(&wal, &beside(&kept, "-wal"))?;
    }
    Ok(Some(kept))
}

fn link(from: &Path, to: &Path) -> Result<(), OpenError> {
    fs::hard_link(from, to).map_err(|error| OpenError::io("keeping", from, error))
}
