//! Files of variables, one a line: `NAME=value`, quoted or not, with comments.

/// The variables of a file, in its order.
pub(crate) fn read(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let value = value.trim();
    let quoted = |quote: char| {
        let inside = value.strip_prefix(quote)?;
        Some(inside[..inside.find(quote)?].to_owned())
    };
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or_else(|| {
        let end = value.find(" #").unwrap_or(value.len());
        value[..end].trim_end().to_owned()
    });
    Some((key.trim().to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_a_value() {
        let text = "# of the shop\nA=1\nexport B='x # y'\nC=\"z\"  # why\nD=u v # w\n\nE=\n";
        let expected = [
            ("A", "1"),
            ("B", "x # y"),
            ("C", "z"),
            ("D", "u v"),
            ("E", ""),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(read(text), expected);
    }
}
