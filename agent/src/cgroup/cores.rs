//! Sets of cores as the kernel writes them: `0-3,6`.

use std::path::PathBuf;

use super::CgroupError;
use super::files::read;

/// The set that a file holds.
pub(super) fn read_from(file: PathBuf) -> Result<Vec<u32>, CgroupError> {
    let text = read(&file)?;
    parse(&text).ok_or(CgroupError::Format {
        path: file,
        found: text,
        expected: "a set of cores",
    })
}

/// Reads a set; none when it is no such text.
fn parse(text: &str) -> Option<Vec<u32>> {
    let mut cores = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(cores)
}

/// Writes a set, one number at a time.
pub(super) fn write(cores: &[u32]) -> String {
    let numbers: Vec<String> = cores.iter().map(u32::to_string).collect();
    numbers.join(",")
}

#[cfg(test)]
mod tests {
    use super::{parse, write};

    #[test]
    fn sets_are_read_and_written() {
        assert_eq!(parse("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse("\n"), Some(Vec::new()));
        assert_eq!(parse("0-x"), None);
        assert_eq!(parse(&write(&[1, 4])), Some(vec![1, 4]));
    }
}
