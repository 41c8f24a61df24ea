//! The text format of Prometheus: which series of a page a check means, and pages of our own.
//!
//! Source: "Exposition formats" in the documentation of Prometheus, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
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

/// The media type of a [`MetricPage`].
pub const METRIC_PAGE_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the numbers of a metric do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// They only grow, until what counts begins anew. The name ends in `_total`.
    Counter,
    Gauge,
}

/// A page that is being written, one metric after the other.
#[derive(Clone, Debug, Default)]
pub struct MetricPage(String);

impl MetricPage {
    /// Begins a metric, whose series follow. Units are base units (seconds, bytes) and last in the name.
    pub fn metric(&mut self, name: &str, kind: MetricKind, help: &str) {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Adds a series to the metric that was begun last.
    pub fn series(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let escape = |text: &str| {
            let text = text.replace('\\', r"\\").replace('"', "\\\"");
            text.replace('\n', r"\n")
        };
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escape(text)))
            .collect();
        match labels.is_empty() {
            true => self.push(format_args!("{name} {value}\n")),
            false => self.push(format_args!("{name}{{{}}} {value}\n", labels.join(","))),
        }
    }

    pub fn into_text(self) -> String {
        self.0
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes all");
    }
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
    fn what_is_written_can_be_read() {
        let odd = "a\"b\\c\nd";
        let mut page = MetricPage::default();
        page.metric("n_total", MetricKind::Counter, "One\nline.");
        page.series("n_total", &[("name", odd), ("other", "x")], 2.5);
        page.series("n_total", &[("name", "y")], 1e9);
        let page = page.into_text();
        assert_eq!(page.lines().count(), 4, "{page}");
        let sum = |selector: &str| selector.parse::<MetricSelector>().unwrap().sum(&page);
        assert_eq!(sum(r#"n_total{name="a\"b\\c\nd"}"#), Some(2.5));
        assert_eq!(sum("n_total"), Some(1e9 + 2.5));
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
