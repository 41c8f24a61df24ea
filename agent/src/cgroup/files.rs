//! Reading and writing the kernel's small files, with errors that name them.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::CgroupError;
use crate::kernel_file;

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Writes `value` in one write; the file must exist.
pub(super) fn write(path: &Path, value: impl ToString) -> Result<(), CgroupError> {
    try_write(path, value).map_err(|error| failed("write", path, error))
}

/// As [`write`], for callers that tell errors apart.
pub(super) fn try_write(path: &Path, value: impl ToString) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.to_string().as_bytes())
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    kernel_file::read(path).map_err(|error| failed("read", path, error))
}

/// A file that holds one number; `max` is the largest.
pub(super) fn number(path: &Path) -> Result<u64, CgroupError> {
    let text = read(path)?;
    match text.trim() {
        "max" => Ok(u64::MAX),
        digits => digits.parse().map_err(|_| CgroupError::Format {
            path: path.to_owned(),
            found: digits.to_owned(),
            expected: "a number",
        }),
    }
}

/// The value of `key` in a file of `key value` lines; 0 when the kernel does not have it.
pub(super) fn keyed(path: &Path, key: &str) -> Result<u64, CgroupError> {
    let text = read(path)?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    Ok(value
        .and_then(|digits| digits.trim().parse().ok())
        .unwrap_or(0))
}

/// Makes a cgroup and those above it.
pub(super) fn make_dir(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|error| failed("create", path, error))
}

/// Makes a cgroup, but none above it: a subtree that was removed meanwhile stays removed.
pub(super) fn make_child(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("create", path, error))
        }
        _ => Ok(()),
    }
}

/// Removes an empty cgroup; none is fine.
pub(super) fn try_remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether the kernel says that something still lives there.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Names of the cgroups right below `path`; none when it does not exist.
pub(super) fn children(path: &Path) -> Result<Vec<String>, CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", path, error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Asks until the answer is yes or `patience` is over.
pub(super) fn wait_until<E>(
    patience: Duration,
    mut is_done: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(100);
    loop {
        if is_done()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
