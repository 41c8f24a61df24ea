//! Removing folders in which a task has made what it liked, and set the permissions.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How far folders are followed into each other. What lies deeper is moved up first: each level holds a descriptor and some
/// of the stack, and a task can make more levels than there are of either.
const LEVELS_MAX: u32 = 64;

/// Removes a folder with all that is in it; none is fine. Folders of the calling user's that keep even their owner out
/// are opened first, which only an agent without root needs.
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    // Most are empty, and to look into a folder takes eight calls.
    if fs::remove_dir(folder).is_ok() {
        return Ok(());
    }
    match remove_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open(folder)?;
            remove_all(folder)
        }
        other => other,
    }
}

fn remove_all(folder: &Path) -> io::Result<()> {
    let top = match open_folder(CWD, folder) {
        // A link, or a file.
        Err(Errno::NOTDIR) => return fs::remove_file(folder),
        opened => opened?,
    };
    let mut moved = 0;
    loop {
        let before = moved;
        empty(top.as_fd(), top.as_fd(), LEVELS_MAX, &mut moved)?;
        // What was moved up is looked through in its turn.
        if moved == before {
            return fs::remove_dir(folder);
        }
    }
}

fn open_folder(beside: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(beside, name, flags, Mode::empty())
}

/// Removes what is in `folder`, and moves what is more than `levels` below it to `top`. Counts what it has moved.
fn empty(
    top: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    levels: u32,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // A file system that does not say what its entries are.
                Err(Errno::ISDIR | Errno::PERM) if entry.file_type() == FileType::Unknown => {}
                Err(error) => return Err(error),
            }
        }
        if levels == 0 {
            move_up(top, folder, name, moved)?;
            continue;
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let below = open_folder(folder, name)?;
        empty(top, below.as_fd(), levels - 1, moved)?;
        rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Gives the folder `name` a name of its own right in `top`.
fn move_up(
    top: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    name: &CStr,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match rustix::fs::renameat(folder, name, top, format!(".deep-{moved}")) {
            // The task has called something so.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            other => return other,
        }
    }
}

/// Gives the owner of each folder in the tree its rights back. Nothing may run in there any more: no link is
/// followed, but one that is put in the place of a folder meanwhile would be.
fn open(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use std::os::fd::AsFd;

    use rustix::fs::{CWD, Mode};

    use super::{open, open_folder, remove_tree};

    #[test]
    fn more_levels_than_descriptors_or_stack_are_removed() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("task");
        fs::create_dir(&folder).unwrap();
        // Names that the removal would give itself.
        fs::write(folder.join(".deep-1"), "").unwrap();
        fs::create_dir_all(folder.join(".deep-2/in")).unwrap();
        let mut deepest = open_folder(CWD, &folder).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&deepest, "level", Mode::from_raw_mode(0o755)).unwrap();
            deepest = open_folder(deepest.as_fd(), "level").unwrap();
        }
        drop(deepest);
        // As small as that of the threads on which the agent removes.
        let removing = std::thread::Builder::new().stack_size(256 << 10);
        let removed = removing.spawn(move || (remove_tree(&folder), folder));
        let (removed, folder) = removed.unwrap().join().unwrap();
        removed.unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_is_removed_and_not_followed() {
        let around = tempfile::tempdir().unwrap();
        let (kept, link) = (around.path().join("kept"), around.path().join("link"));
        fs::create_dir_all(kept.join("in")).unwrap();
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(fs::symlink_metadata(&link).is_err() && kept.join("in").exists());
        let folder = around.path().join("folder");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&kept, folder.join("link")).unwrap();
        remove_tree(&folder).unwrap();
        assert!(!folder.exists() && kept.join("in").exists());
    }

    #[test]
    fn a_folder_that_keeps_its_owner_out_is_opened_and_removed() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("task");
        fs::create_dir_all(folder.join("work/work")).unwrap();
        fs::write(folder.join("work/work/file"), "x").unwrap();
        let closed = fs::Permissions::from_mode(0o000);
        fs::set_permissions(folder.join("work/work"), closed).unwrap();
        open(&folder).unwrap();
        let mode = fs::metadata(folder.join("work/work"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
        remove_tree(&folder).unwrap();
        remove_tree(&folder).unwrap();
        assert!(!folder.exists());
    }
}
