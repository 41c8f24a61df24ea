//! Removing folders in which a task has set the permissions.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a folder with all that is in it; none is fine. Folders of the calling user's that keep even their owner out
/// are opened first, which only an agent without root needs.
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    // Most are empty, and to look into a folder takes eight calls.
    if fs::remove_dir(folder).is_ok() {
        return Ok(());
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open(folder)?;
            fs::remove_dir_all(folder)
        }
        other => other,
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

    use super::{open, remove_tree};

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
