//! Sets of cores as the kernel writes them: `0-3,6`.

/// Reads a set; none when it is no such text.
pub(super) fn parse(text: &str) -> Option<Vec<u32>> {
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
