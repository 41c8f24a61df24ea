//! Secrets on their way into a task: one anonymous file in memory, passed on as a descriptor.
//!
//! The agent seals the values into it, the helper holds it for as long as the task lives, and every init of the task
//! writes them into a file system in memory of its own. No path, argument, variable or record ever has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The values of a task's secrets, by name.
pub type SecretValues = BTreeMap<String, Vec<u8>>;

/// Puts values into a file in memory that nobody can change any more.
pub fn seal(values: &SecretValues) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("secrets", flags)?;
    let mut file = File::from(file);
    file.write_all(&serde_json::to_vec(values)?)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Reads what [`seal`] wrote; several processes may do that at once.
pub(super) fn open(sealed: BorrowedFd<'_>) -> io::Result<SecretValues> {
    let mut text = vec![0; rustix::fs::fstat(sealed)?.st_size as usize];
    let mut read = 0;
    while read < text.len() {
        // The place in the file is shared between processes.
        match rustix::io::pread(sealed, &mut text[read..], read as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => read += count,
        }
    }
    Ok(serde_json::from_slice(&text)?)
}

/// The descriptor, if there is one, for one more holder.
pub(crate) fn share(sealed: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    sealed
        .map(|sealed| sealed.as_fd().try_clone_to_owned())
        .transpose()
}
