//! Reading the small files in which the kernel tells something: below /proc and of cgroups.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than most of them hold.
const USUAL_BYTES: usize = 4096;

/// Reads all of `path`. The kernel does not say how long such a file is, so that room for most of them, and no question
/// for the length, takes two system calls where `std::fs::read_to_string` takes up to nine.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL_BYTES);
    // A file itself would be asked for its length.
    let mut unasked = File::open(path)?.take(u64::MAX);
    unasked.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{USUAL_BYTES, read};

    #[test]
    fn a_file_of_any_length_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, USUAL_BYTES, 5 * USUAL_BYTES + 1] {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            assert_eq!(read(&path).unwrap().len(), length);
        }
        assert_eq!(
            read(folder.path().join("missing")).unwrap_err().kind(),
            std::io::ErrorKind::NotFound
        );
        assert!(
            read("/proc/self/stat")
                .unwrap()
                .starts_with(&std::process::id().to_string())
        );
    }
}
