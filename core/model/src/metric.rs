//! The text format of Prometheus, as far as a check needs it: which series of a page, and what they come to.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The name of a metric, and the labels that its series must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricSelector {
    name: String,
    labels: BTreeMap<String, String>,
}

impl MetricSelector {
    /// The sum of all series of a page that fit; none where none does.
    pub fn sum(&self, page: &str) -> Option<f64> {
        let fitting = page
            .lines()
            .filter(|line| line.starts_with(&self.name))
            .filter_map(|line| self.value_of(line));
        fitting.reduce(|sum, value| sum + value)
    }

    /// The value of a line of a page, if it is one of the series.
    fn value_of(&self, line: &str) -> Option<f64> {
        let (series, rest) = series(line.trim())?;
        let fits = series.name == self.name
            && self
                .labels
                .iter()
                .all(|(name, value)| series.labels.get(name) == Some(value));
        // A time may follow the value.
        let value = rest.split_whitespace().next()?;
        fits.then(|| value.parse().ok()).flatten()
    }
}

impl FromStr for MetricSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricSelector, String> {
        let refuse = || format!("'{text}' is not the name of a metric");
        match series(text.trim()) {
            Some((selector, "")) => Ok(selector),
            _ => Err(refuse()),
        }
    }
}

/// Reads `NAME` or `NAME{LABEL="VALUE",…}`, and answers what follows.
fn series(text: &str) -> Option<(MetricSelector, &str)> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        rest = loop {
            inside = inside.trim_start_matches([' ', ',']);
            if let Some(after) = inside.strip_prefix('}') {
                break after;
            }
            let (label, after) = inside.split_once('=')?;
            let (value, after) = quoted(after.trim_start())?;
            labels.insert(label.trim().to_owned(), value);
            inside = after;
        };
    }
    let name = name.to_owned();
    Some((MetricSelector { name, labels }, rest))
}

/// Reads a text in quotes with its escapes, and answers what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut characters = inside.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &inside[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP errors_total Things that went wrong.
# TYPE errors_total counter
errors_total{kind="io",path="a\"b,}c"} 3
errors_total{kind="parse"} 4 1700000000000
errors_total_seconds 99
request_seconds{quantile="0.99"} 2.5e-1
clients 7
broken{kind="io" 5
"#;

    fn sum(selector: &str) -> Option<f64> {
        selector.parse::<MetricSelector>().unwrap().sum(PAGE)
    }

    #[test]
    fn series_are_chosen_by_name_and_labels_and_added_up() {
        assert_eq!(sum("errors_total"), Some(7.0));
        assert_eq!(sum(r#"errors_total{kind="io"}"#), Some(3.0));
        assert_eq!(sum(r#"errors_total{path="a\"b,}c"}"#), Some(3.0));
        assert_eq!(sum(r#"request_seconds{quantile="0.99"}"#), Some(0.25));
        assert_eq!(sum("clients"), Some(7.0));
        assert_eq!(sum("nothing"), None);
        assert_eq!(sum("broken"), None);
    }

    #[test]
    fn what_is_no_metric_is_refused() {
        for text in [
            "",
            "9lives",
            "a b",
            "a{b}",
            "a{b=\"c\"",
            "a{b=\"c\"} 1",
            "ä",
        ] {
            assert!(text.parse::<MetricSelector>().is_err(), "{text}");
        }
    }
}
