//! Unpacking archives that nobody vouches for.
//!
//! The archive is read in a process of its own that sees nothing but the folder, which is its root; that has a user
//! namespace, no capability but those on the folder's files, and the system call filter of a task. What an archive
//! says is resolved below the folder's descriptor, through no link. An archive that tries to leave, that holds
//! devices, or that never ends is refused as a whole.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::seccomp::Filter;
use super::users::{USERS, UserMode, UserNamespace};
use super::{At, Stage, StartError, capabilities, mounts};

/// The most memory that unpacking may take: a zstd window of 128 MiB, an xz dictionary of 64 MiB, and some.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// The most entries of an archive.
const ENTRIES_MAX: u64 = 2_000_000;

/// Set-user-id, set-group-id and anything unknown stay behind.
const MODE_KEPT: u32 = 0o1777;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Prepare(#[from] StartError),
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    #[error("'{}' leads out of the archive's folder", path.display())]
    Outside { path: PathBuf },
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

/// Unpacks `archive`, plain or compressed with gzip, xz or zstd, into the empty `folder`, at most `bytes_max` bytes. The
/// calling process gives up its privileges on the way: it must have one thread only, and has nothing else to do.
pub fn unpack(
    folder: &Path,
    archive: File,
    bytes_max: u64,
    users: UserMode,
) -> Result<(), UnpackError> {
    let root = retreat(folder, users)?;
    let mut unpacker = Unpacker {
        root,
        bytes_left: bytes_max,
        bytes_max,
        keeps_owners: users == UserMode::Mapped,
    };
    let mut archive = tar::Archive::new(decompress(archive)?);
    let entries = archive.entries().map_err(UnpackError::Read)?;
    for (number, entry) in (0..).zip(entries) {
        if number >= ENTRIES_MAX {
            return Err(UnpackError::TooMany);
        }
        unpacker.take(entry.map_err(UnpackError::Read)?)?;
    }
    Ok(())
}

/// Makes `folder` all that the calling process can reach.
fn retreat(folder: &Path, mode: UserMode) -> Result<OwnedFd, StartError> {
    let users = match mode {
        UserMode::Shared | UserMode::Single => None,
        UserMode::Mapped => Some(UserNamespace::new()?),
    };
    unshare(CloneFlags::CLONE_NEWNS).at(Stage::Clone, "cannot make a mount namespace")?;
    let root = mounts::retreat_to(folder, users.as_ref())?;
    if let Some(users) = &users {
        users.enter()?;
    }
    // What a root of a task may do with files, and no more.
    let kept = capabilities::of_command(true);
    capabilities::bound(&kept)?;
    capabilities::keep(&kept)?;
    nix::sys::prctl::set_no_new_privs().at(Stage::Privileges, "cannot set no_new_privs")?;
    setrlimit(Resource::RLIMIT_AS, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX)
        .at(Stage::Privileges, "cannot limit the memory")?;
    Filter::new().load()?;
    Ok(root)
}

/// Looks at the first bytes of an archive for its compression.
fn decompress(archive: File) -> Result<Box<dyn Read>, UnpackError> {
    let mut archive = BufReader::with_capacity(64 * 1024, archive);
    let start = archive.fill_buf().map_err(UnpackError::Read)?;
    Ok(match start {
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(archive).map_err(UnpackError::Read)?)
        }
        [0x1F, 0x8B, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(archive)),
        [0xFD, b'7', b'z', b'X', b'Z', ..] => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(archive))
        }
        _ => Box::new(archive),
    })
}

struct Unpacker {
    root: OwnedFd,
    bytes_left: u64,
    bytes_max: u64,
    /// Whether files get the owners that the archive names.
    keeps_owners: bool,
}

impl Unpacker {
    fn take(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = entry.path().map_err(UnpackError::Read)?.into_owned();
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some((parent, name)) = self.place(&path)? else {
            // The folder itself.
            return Ok(());
        };
        let wrote = |result: rustix::io::Result<()>| {
            result.map_err(|error| UnpackError::Write {
                path: path.clone(),
                source: error.into(),
            })
        };
        match kind {
            EntryType::Directory => wrote(make_folder(parent.as_fd(), &name))?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.write_file(&mut entry, parent.as_fd(), &name, &path);
            }
            EntryType::Symlink => {
                let target = link_name(&entry)?;
                wrote(
                    make_way(parent.as_fd(), &name)
                        .and_then(|()| rustix::fs::symlinkat(&target, &parent, &name)),
                )?;
            }
            EntryType::Link => {
                let target = link_name(&entry)?;
                let Some((from, target)) = self.place(&target)? else {
                    return Err(UnpackError::Outside { path });
                };
                wrote(make_way(parent.as_fd(), &name).and_then(|()| {
                    rustix::fs::linkat(&from, &target, &parent, &name, AtFlags::empty())
                }))?;
                return Ok(());
            }
            // A task has a /dev of its own.
            EntryType::Char | EntryType::Block if path.starts_with("dev") => return Ok(()),
            EntryType::Char | EntryType::Block => {
                return Err(UnpackError::Kind {
                    path,
                    kind: "device",
                });
            }
            EntryType::Fifo => {
                return Err(UnpackError::Kind {
                    path,
                    kind: "named pipe",
                });
            }
            _ => {
                return Err(UnpackError::Kind {
                    path,
                    kind: "entry of an unknown kind",
                });
            }
        }
        wrote(self.describe(&entry, parent.as_fd(), &name, kind))
    }

    fn write_file(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        parent: BorrowedFd<'_>,
        name: &Path,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let failed = |source: io::Error| UnpackError::Write {
            path: path.to_owned(),
            source,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = make_way(parent, name)
            .and_then(|()| {
                rustix::fs::openat(
                    parent,
                    name,
                    flags | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o600),
                )
            })
            .map_err(|error| failed(error.into()))?;
        let mut file = File::from(file);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = entry.read(&mut chunk).map_err(UnpackError::Read)?;
            if count == 0 {
                break;
            }
            self.bytes_left =
                self.bytes_left
                    .checked_sub(count as u64)
                    .ok_or(UnpackError::TooLarge {
                        bytes_max: self.bytes_max,
                    })?;
            file.write_all(&chunk[..count]).map_err(failed)?;
        }
        self.describe(entry, parent, name, EntryType::Regular)
            .map_err(|error| failed(error.into()))
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
        if self.keeps_owners {
            let number = |found: io::Result<u64>| {
                let number = found.ok().and_then(|number| u32::try_from(number).ok());
                // Numbers that no task has become nobody's.
                number.filter(|number| *number < USERS).unwrap_or(65534)
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
            let mode = Mode::from_raw_mode(header.mode().unwrap_or(0o644) & MODE_KEPT);
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
