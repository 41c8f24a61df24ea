//! Unpacking archives that nobody vouches for.
//!
//! The archive is read in a process of its own that sees nothing but the folder, which is its root; that has a user
//! namespace, no capability but those on the folder's files, and the system call filter of a task. `tw-archive` has the
//! rules; an archive that breaks one is refused as a whole.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use tw_archive::Rules;

use super::seccomp::Filter;
use super::users::{USERS, UserMode, UserNamespace};
use super::{At, Stage, StartError, capabilities, mounts};

/// The most memory that unpacking may take: a zstd window of 128 MiB, an xz dictionary of 64 MiB, and some.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Prepare(#[from] StartError),
    #[error(transparent)]
    Refused(#[from] tw_archive::UnpackError),
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
    let rules = Rules {
        bytes_max,
        mode_kept: 0o1777,
        // Numbers that no task has become nobody's.
        owners_below: (users == UserMode::Mapped).then_some(USERS),
        only: None,
    };
    let archive = decompress(archive).map_err(tw_archive::UnpackError::Read)?;
    Ok(tw_archive::unpack(root, archive, rules, &mut |_| {})?)
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
fn decompress(archive: File) -> std::io::Result<Box<dyn Read>> {
    let mut archive = BufReader::with_capacity(64 * 1024, archive);
    let start = archive.fill_buf()?;
    Ok(match start {
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(archive)?)
        }
        [0x1F, 0x8B, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(archive)),
        [0xFD, b'7', b'z', b'X', b'Z', ..] => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(archive))
        }
        _ => Box::new(archive),
    })
}
