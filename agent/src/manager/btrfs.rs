//! The few btrfs calls that volumes need. No library that is kept up offers them.
//!
//! Numbers and layouts are those of linux/btrfs.h.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const BTRFS: u8 = 0x94;
const BTRFS_SUPER_MAGIC: i64 = 0x9123_683e;

/// The inode of every subvolume's root.
const SUBVOLUME_INODE: u64 = 256;

const SUBVOL_RDONLY: u64 = 1 << 1;
const QUOTA_ENABLE: u64 = 1;
const QGROUP_LIMIT_MAX_REFERENCED: u64 = 1;
const QGROUP_LIMIT_MAX_EXCLUSIVE: u64 = 1 << 1;

#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct VolumeArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

#[repr(C)]
struct QuotaArgs {
    command: u64,
    status: u64,
}

#[repr(C)]
struct QgroupLimitArgs {
    qgroup: u64,
    flags: u64,
    referenced_max: u64,
    exclusive_max: u64,
    referenced_reserved: u64,
    exclusive_reserved: u64,
}

nix::ioctl_write_ptr!(subvolume_create, BTRFS, 14, VolumeArgs);
nix::ioctl_write_ptr!(subvolume_destroy, BTRFS, 15, VolumeArgs);
nix::ioctl_write_ptr!(snapshot_create, BTRFS, 23, VolumeArgsV2);
nix::ioctl_write_ptr!(set_subvolume_flags, BTRFS, 26, u64);
nix::ioctl_readwrite!(quota_control, BTRFS, 40, QuotaArgs);
nix::ioctl_read!(qgroup_limit, BTRFS, 43, QgroupLimitArgs);

/// Whether subvolumes of `path` can be made, bounded and removed; the last two are the machine's root's alone.
pub(super) fn is_btrfs(path: &Path) -> bool {
    nix::unistd::geteuid().is_root()
        && rustix::fs::statfs(path).is_ok_and(|found| found.f_type == BTRFS_SUPER_MAGIC)
}

pub(super) fn is_subvolume(path: &Path) -> bool {
    is_btrfs(path)
        && std::fs::symlink_metadata(path)
            .is_ok_and(|found| found.is_dir() && found.ino() == SUBVOLUME_INODE)
}

/// Makes an empty subvolume `name` in `folder`.
pub(super) fn create(folder: &Path, name: &str) -> io::Result<()> {
    let folder = File::open(folder)?;
    let args = VolumeArgs {
        fd: 0,
        name: name_bytes(name.as_bytes())?,
    };
    // SAFETY: `folder` is open and `args` is the struct that this call reads.
    unsafe { subvolume_create(folder.as_raw_fd(), &args) }?;
    Ok(())
}

/// Makes `name` in `folder` a snapshot of the subvolume at `source`.
pub(super) fn snapshot(
    source: &Path,
    folder: &Path,
    name: &str,
    is_read_only: bool,
) -> io::Result<()> {
    let (source, folder) = (File::open(source)?, File::open(folder)?);
    let args = VolumeArgsV2 {
        fd: i64::from(source.as_raw_fd()),
        transid: 0,
        flags: if is_read_only { SUBVOL_RDONLY } else { 0 },
        unused: [0; 4],
        name: name_bytes(name.as_bytes())?,
    };
    // SAFETY: both folders are open and `args` is the struct that this call reads.
    unsafe { snapshot_create(folder.as_raw_fd(), &args) }?;
    Ok(())
}

/// Lets nobody write into the subvolume at `path` any more.
pub(super) fn protect(path: &Path) -> io::Result<()> {
    let folder = File::open(path)?;
    // SAFETY: `folder` is open and the number is what this call reads.
    unsafe { set_subvolume_flags(folder.as_raw_fd(), &SUBVOL_RDONLY) }?;
    Ok(())
}

/// Removes the subvolume at `path` and all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let parent = File::open(parent)?;
    let args = VolumeArgs {
        fd: 0,
        name: name_bytes(name.as_bytes())?,
    };
    // SAFETY: `parent` is open and `args` is the struct that this call reads.
    unsafe { subvolume_destroy(parent.as_raw_fd(), &args) }?;
    Ok(())
}

/// Bounds what the subvolume at `path` may hold.
pub(super) fn limit(path: &Path, bytes_max: u64) -> io::Result<()> {
    limit_with(path, QGROUP_LIMIT_MAX_REFERENCED, bytes_max)
}

/// Bounds what the subvolume at `path` may hold beyond what it shares with others.
pub(super) fn limit_own(path: &Path, bytes_max: u64) -> io::Result<()> {
    limit_with(path, QGROUP_LIMIT_MAX_EXCLUSIVE, bytes_max)
}

fn limit_with(path: &Path, flags: u64, bytes_max: u64) -> io::Result<()> {
    let folder = File::open(path)?;
    let mut quota = QuotaArgs {
        command: QUOTA_ENABLE,
        status: 0,
    };
    // SAFETY: `folder` is open and `quota` is the struct that this call reads and writes. Enabling what is
    // enabled does nothing.
    unsafe { quota_control(folder.as_raw_fd(), &mut quota) }?;
    let mut args = QgroupLimitArgs {
        // The subvolume that `folder` is in.
        qgroup: 0,
        flags,
        referenced_max: bytes_max,
        exclusive_max: bytes_max,
        referenced_reserved: 0,
        exclusive_reserved: 0,
    };
    // SAFETY: `folder` is open and `args` is the struct that this call takes.
    unsafe { qgroup_limit(folder.as_raw_fd(), &mut args) }?;
    Ok(())
}

fn name_bytes<const N: usize>(name: &[u8]) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match name.len() < N {
        true => bytes[..name.len()].copy_from_slice(name),
        false => return Err(io::Error::from(io::ErrorKind::InvalidFilename)),
    }
    Ok(bytes)
}
