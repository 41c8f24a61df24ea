//! Whether anything has run in a leaf, for one system call.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The file of a leaf that tells how long it has run, kept open.
#[derive(Debug)]
pub struct CpuMeter {
    file: File,
}

impl CpuMeter {
    /// None where the file cannot be opened.
    pub(crate) fn open(path: &Path) -> Option<CpuMeter> {
        let file = File::open(path).ok()?;
        Some(CpuMeter { file })
    }

    /// The first number in the file, in units of its own that only ever grow; none once the leaf is gone.
    pub(crate) fn read(&self) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.file.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        let digits = text.split(|letter: char| !letter.is_ascii_digit());
        digits
            .into_iter()
            .find(|word| !word.is_empty())?
            .parse()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_counts_as_often_as_it_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cpu.stat");
        std::fs::write(&path, "usage_usec 120\nuser_usec 7\n").expect("written");
        let meter = CpuMeter::open(&path).expect("there");
        assert_eq!(meter.read(), Some(120));
        std::fs::write(&path, "456789\n").expect("written");
        assert_eq!(meter.read(), Some(456_789));
        std::fs::write(&path, "").expect("written");
        assert_eq!(meter.read(), None);
        assert!(CpuMeter::open(&folder.path().join("missing")).is_none());
    }
}
