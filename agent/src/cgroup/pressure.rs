//! How long the processes of a cgroup waited (PSI).

use std::path::Path;

/// Reads for how long all processes waited at once, in microseconds since the cgroup was made; none if the kernel keeps no such count.
pub(super) fn full_us(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let full = text.lines().find(|line| line.starts_with("full "))?;
    full.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_of_the_full_line_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("memory.pressure");
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=42\n";
        std::fs::write(&path, text).expect("write");
        assert_eq!(super::full_us(&path), Some(42));
        assert_eq!(super::full_us(&folder.path().join("none")), None);
    }
}
