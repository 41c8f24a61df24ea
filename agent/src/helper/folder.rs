//! A task's folder: its layers, the lock on it, and what goes with the task.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{FlockOperation, IFlags, flock, ioctl_getflags, ioctl_setflags};

use super::record::{self, LAUNCH_FILE, LaunchRecord, RecordError, SIDECARS_FOLDER};
use crate::removal::remove_tree;
use crate::sandbox::mounts::clear_work;
use crate::sandbox::{UPPER, WORK};

/// Makes the folder that the tasks' folders are in, unless it is there.
///
/// Tasks have nothing to do with each other, and ext4 is told so: it spreads their folders over the disk. Without a journal
/// it does not give an inode away again for minutes, and looks at each such one of a place before it finds a free one there.
pub fn make_tasks_folder(tasks: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(tasks)?;
    let folder = fs::File::open(tasks)?;
    // Other file systems have no such mark, and only the machine's root may set it: starts are slower without.
    let _marked =
        ioctl_getflags(&folder).and_then(|flags| ioctl_setflags(&folder, flags | IFlags::TOPDIR));
    Ok(())
}

/// Makes a task's folder and, last, its `launch.json`.
pub fn prepare_folder(folder: &Path, launch: &LaunchRecord) -> Result<(), RecordError> {
    make_layers(folder).map_err(|source| RecordError::File {
        action: "create",
        path: folder.to_owned(),
        source,
    })?;
    record::write(folder, LAUNCH_FILE, launch)
}

/// Makes the folders that a sandbox needs.
pub(super) fn make_layers(folder: &Path) -> io::Result<()> {
    let make = |path: &Path, mode: u32| DirBuilder::new().recursive(true).mode(mode).create(path);
    make(folder, 0o700)?;
    let layers = [(UPPER, 0o755), (WORK, 0o700)];
    layers
        .into_iter()
        .try_for_each(|(name, mode)| make(&folder.join(name), mode))
}

/// Takes the lock that a helper holds on its folder; an error of kind `WouldBlock` means that one lives.
pub fn lock(folder: &Path) -> io::Result<OwnedFd> {
    let directory = OwnedFd::from(fs::File::open(folder)?);
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// Removes what a task has left below its folder, but for the records and the log.
pub fn remove_scratch(folder: &Path) -> io::Result<()> {
    let sidecars = fs::read_dir(folder.join(SIDECARS_FOLDER))
        .into_iter()
        .flatten();
    let folders = sidecars.flatten().map(|entry| entry.path());
    for folder in folders.chain([folder.to_owned()]) {
        // Much cheaper than to look for what is there; what it leaves is removed as the rest is.
        let work = fs::File::open(folder.join(WORK));
        let _cleared = work.map(|work| clear_work(&work));
        // An earlier release attached the root to a folder of its own.
        for name in [UPPER, WORK, "root", "run"] {
            remove_tree(&folder.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{IFlags, fstatfs, ioctl_getflags};

    use super::make_tasks_folder;

    /// `f_type` of ext2, ext3 and ext4, from linux/magic.h.
    const EXT4: u64 = 0xEF53;

    #[test]
    fn ext4_is_told_that_tasks_have_nothing_to_do_with_each_other() {
        let around = tempfile::tempdir().unwrap();
        let tasks = around.path().join("state/tasks");
        make_tasks_folder(&tasks).unwrap();
        make_tasks_folder(&tasks).unwrap();
        let folder = File::open(&tasks).unwrap();
        let kind = fstatfs(&folder).unwrap().f_type;
        if kind.cast_unsigned() == EXT4 && nix::unistd::geteuid().is_root() {
            let flags = ioctl_getflags(&folder).unwrap();
            assert!(flags.contains(IFlags::TOPDIR), "{flags:?}");
        }
    }
}
