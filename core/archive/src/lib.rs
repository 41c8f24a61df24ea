//! Unpacking tar archives that nobody vouches for: of packages and images, and of what a task sends.
//!
//! What an archive says is resolved below a folder's descriptor, through no link. An archive that tries to leave, that
//! holds devices, or that never ends is refused.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::{Entry, EntryType};

/// The most entries of an archive.
const ENTRIES_MAX: u64 = 2_000_000;

/// The most bytes before the content of an entry: its header, and long names, which are read into memory.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Set-user-id, set-group-id and anything unknown stay behind.
const MODE_MAX: u32 = 0o1777;

/// Whoever has no user of that number here.
const NOBODY: u32 = 65534;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    #[error("'{}' leads out of the archive's folder", path.display())]
    Outside { path: PathBuf },
    #[error("'{}' was not asked for", path.display())]
    Unasked { path: PathBuf },
    #[error("'{}' goes through a link", path.display())]
    ThroughLink { path: PathBuf },
    #[error("'{}' is a {kind}; archives hold files, folders and links", path.display())]
    Kind { path: PathBuf, kind: &'static str },
    #[error("it holds more than {ENTRIES_MAX} entries")]
    TooMany,
    #[error("it holds more than {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("cannot write '{}'", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What of an archive is taken, and how.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The most bytes that its files may have together.
    pub bytes_max: u64,
    /// The bits of their modes that files and folders keep; never those that change who runs a program.
    pub mode_kept: u32,
    /// Files belong to whom the archive says if that number is below this; others to nobody. None: to the caller.
    pub owners_below: Option<u32>,
    /// The one file or folder that the archive may hold. Links that lead out of it are left out, and its folders can
    /// be written to. None: the folder is a root of its own, for which links may say anything.
    pub only: Option<&'a OsStr>,
}

/// Unpacks a tar archive into the folder `root`. Replaces files that are there already. `left_out` hears of each link
/// that the rules leave out.
///
/// # Errors
/// At the first entry that the rules refuse; what came before it stays.
pub fn unpack(
    root: OwnedFd,
    archive: impl Read,
    rules: Rules<'_>,
    left_out: &mut dyn FnMut(&Path),
) -> Result<(), UnpackError> {
    let mut unpacker = Unpacker {
        root,
        bytes_left: rules.bytes_max,
        rules,
        left_out,
    };
    let budget = Rc::new(Cell::new(HEADER_BYTES_MAX));
    let mut archive = tar::Archive::new(Metered {
        from: archive,
        budget: Rc::clone(&budget),
    });
    let entries = archive.entries().map_err(UnpackError::Read)?;
    for (number, entry) in (0..).zip(entries) {
        if number >= ENTRIES_MAX {
            return Err(UnpackError::TooMany);
        }
        budget.set(u64::MAX);
        unpacker.take(entry.map_err(UnpackError::Read)?)?;
        budget.set(HEADER_BYTES_MAX);
    }
    Ok(())
}

/// A reader that gives no more than its budget.
struct Metered<R> {
    from: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.get();
        if left == 0 {
            return Err(io::Error::other("the header of an entry is too long"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let count = self.from.read(&mut into[..most])?;
        self.budget.set(left - count as u64);
        Ok(count)
    }
}

struct Unpacker<'a> {
    root: OwnedFd,
    bytes_left: u64,
    rules: Rules<'a>,
    left_out: &'a mut dyn FnMut(&Path),
}

impl Unpacker<'_> {
    fn take(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = entry.path().map_err(UnpackError::Read)?.into_owned();
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.write_file(&mut entry, &path);
            }
            EntryType::XGlobalHeader => {}
            _ => self.make(&entry, kind, &path)?,
        }
        // Content where there should be none counts, too.
        self.copy(&mut entry, |_| Ok(()))
    }

    /// Makes an entry that has no content.
    fn make(
        &mut self,
        entry: &Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let Some((parent, name)) = self.place(path)? else {
            // The folder itself.
            return Ok(());
        };
        let wrote = |result: rustix::io::Result<()>| {
            result.map_err(|error| UnpackError::Write {
                path: path.to_owned(),
                source: error.into(),
            })
        };
        match kind {
            EntryType::Directory => wrote(make_folder(parent.as_fd(), &name))?,
            EntryType::Symlink => {
                let target = link_name(entry)?;
                if self.rules.only.is_some() && !stays_inside(path, &target) {
                    (self.left_out)(path);
                    return Ok(());
                }
                wrote(
                    make_way(parent.as_fd(), &name)
                        .and_then(|()| rustix::fs::symlinkat(&target, &parent, &name)),
                )?;
            }
            EntryType::Link => {
                let target = link_name(entry)?;
                let Some((from, target)) = self.place(&target)? else {
                    return Err(UnpackError::Outside {
                        path: path.to_owned(),
                    });
                };
                // A symbolic link means something else where its second name is.
                if self.rules.only.is_some() && !is_file(from.as_fd(), &target) {
                    (self.left_out)(path);
                    return Ok(());
                }
                wrote(make_way(parent.as_fd(), &name).and_then(|()| {
                    rustix::fs::linkat(&from, &target, &parent, &name, AtFlags::empty())
                }))?;
                return Ok(());
            }
            // A task has a /dev of its own.
            EntryType::Char | EntryType::Block
                if self.rules.only.is_none() && path.starts_with("dev") =>
            {
                return Ok(());
            }
            other => {
                return Err(UnpackError::Kind {
                    path: path.to_owned(),
                    kind: match other {
                        EntryType::Char | EntryType::Block => "device",
                        EntryType::Fifo => "named pipe",
                        _ => "entry of an unknown kind",
                    },
                });
            }
        }
        wrote(self.describe(entry, parent.as_fd(), &name, kind))
    }

    fn write_file(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let Some((parent, name)) = self.place(path)? else {
            return Err(UnpackError::Outside {
                path: path.to_owned(),
            });
        };
        let failed = |source: io::Error| UnpackError::Write {
            path: path.to_owned(),
            source,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = make_way(parent.as_fd(), &name)
            .and_then(|()| {
                rustix::fs::openat(
                    &parent,
                    &name,
                    flags | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o600),
                )
            })
            .map_err(|error| failed(error.into()))?;
        let mut file = File::from(file);
        self.copy(entry, |chunk| file.write_all(chunk).map_err(failed))?;
        self.describe(entry, parent.as_fd(), &name, EntryType::Regular)
            .map_err(|error| failed(error.into()))
    }

    /// Reads an entry to its end, within what the archive may hold.
    fn copy(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        mut write: impl FnMut(&[u8]) -> Result<(), UnpackError>,
    ) -> Result<(), UnpackError> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = entry.read(&mut chunk).map_err(UnpackError::Read)?;
            if count == 0 {
                return Ok(());
            }
            self.bytes_left =
                self.bytes_left
                    .checked_sub(count as u64)
                    .ok_or(UnpackError::TooLarge {
                        bytes_max: self.rules.bytes_max,
                    })?;
            write(&chunk[..count])?;
        }
    }

    /// Gives an entry its owner, mode and time.
    fn describe(
        &self,
        entry: &Entry<'_, impl Read>,
        parent: BorrowedFd<'_>,
        name: &Path,
        kind: EntryType,
    ) -> rustix::io::Result<()> {
        let header = entry.header();
        if let Some(end) = self.rules.owners_below {
            let number = |found: io::Result<u64>| {
                let number = found.ok().and_then(|number| u32::try_from(number).ok());
                number.filter(|number| *number < end).unwrap_or(NOBODY)
            };
            let (uid, gid) = (number(header.uid()), number(header.gid()));
            rustix::fs::chownat(
                parent,
                name,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        if kind != EntryType::Symlink {
            let kept = header.mode().unwrap_or(0o644) & self.rules.mode_kept & MODE_MAX;
            let mode = match kind == EntryType::Directory && self.rules.only.is_some() {
                // What is to come below it has to be written by the same user.
                true => kept | 0o700,
                false => kept,
            };
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        let time = Timespec {
            tv_sec: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0),
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The folder that a path of the archive is in, made where it is missing, and its last part; none for the
    /// archive's own root.
    fn place(&self, path: &Path) -> Result<Option<(OwnedFd, PathBuf)>, UnpackError> {
        let outside = || UnpackError::Outside {
            path: path.to_owned(),
        };
        let mut parts = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(outside());
                }
            }
        }
        if let Some(only) = self.rules.only
            && parts.first() != Some(&only)
        {
            return Err(UnpackError::Unasked {
                path: path.to_owned(),
            });
        }
        let Some(name) = parts.pop() else {
            return Ok(None);
        };
        let write = |source: io::Error| UnpackError::Write {
            path: path.to_owned(),
            source,
        };
        let mut folder = self.root.try_clone().map_err(write)?;
        for part in parts {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = || rustix::fs::openat(&folder, part, flags, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) => rustix::fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755))
                    .and_then(|()| open()),
                other => other,
            };
            folder = match opened {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(UnpackError::ThroughLink {
                        path: path.to_owned(),
                    });
                }
                other => other.map_err(|error| write(error.into()))?,
            };
        }
        Ok(Some((folder, PathBuf::from(name))))
    }
}

fn link_name(entry: &Entry<'_, impl Read>) -> Result<PathBuf, UnpackError> {
    let found = entry.link_name().map_err(UnpackError::Read)?;
    let target = found.filter(|target| !target.as_os_str().as_bytes().is_empty());
    target
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| UnpackError::Read(io::Error::other("a link without a target")))
}

/// A folder that may be there already.
fn make_folder(parent: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {
            let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(found.st_mode).is_dir() {
                true => Ok(()),
                false => Err(Errno::NOTDIR),
            }
        }
        other => other,
    }
}

/// Removes what an earlier entry of the same name has made.
fn make_way(parent: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn is_file(parent: BorrowedFd<'_>, name: &Path) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file())
}

/// Whether a link at `path` leads to somewhere below the first folder of that path. `..` counts at the target's
/// beginning only, where it leads up from a folder; further on it may follow another link.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let parts = path.components();
    let parts = parts.filter(|part| matches!(part, Component::Normal(_)));
    let folders = parts.count().saturating_sub(1);
    let mut up = 0;
    let mut goes_down = false;
    for part in target.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if !goes_down => up += 1,
            Component::Normal(_) => goes_down = true,
            _ => return false,
        }
    }
    up < folders
}
