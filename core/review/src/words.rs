//! Numbers and values in words.

use serde_json::Value;
use tw_model::{Bytes, Cores, Millis};

/// `1 task`, `2 tasks`.
pub fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// A JSON value as a reader of a diff sees it: sizes and durations in the units that people use.
pub fn value(path: &str, value: &Value) -> String {
    let unit = path.rsplit(['.', '[']).next().unwrap_or(path);
    match value.as_u64() {
        Some(bytes) if unit.ends_with("_bytes_per_second") => format!("{}/s", Bytes(bytes)),
        Some(bytes) if unit.ends_with("_bytes") => Bytes(bytes).to_string(),
        Some(millis) if unit.ends_with("_ms") => Millis(millis).to_string(),
        Some(cores) if unit.ends_with("_millicores") => Cores(cores).to_string(),
        _ => plain(value),
    }
}

/// Both sides of a change, told apart also where rounding would make them look the same.
pub(crate) fn both(path: &str, old: &Value, new: &Value) -> (String, String) {
    if old == new {
        // What differs is hidden.
        let shown = value(path, old);
        return (shown.clone(), format!("{shown}, another"));
    }
    let digests = unit_is(path, "digest");
    if let (true, Some(old), Some(new)) = (digests, old.as_str(), new.as_str()) {
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        if short(old) != short(new) {
            return (short(old), short(new));
        }
    }
    let shown = (value(path, old), value(path, new));
    match shown.0 == shown.1 && old != new {
        true => (old.to_string(), new.to_string()),
        false => shown,
    }
}

fn unit_is(path: &str, name: &str) -> bool {
    path.rsplit(['.', '[']).next() == Some(name)
}

/// JSON in one line, with a blank after commas and colons; an absent value in words.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "(none)".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .filter(|(_, inner)| !is_empty(inner))
                .map(|(name, inner)| format!("{name}: {}", self::value(name, inner)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// `a, b, c and 5 more`.
pub(crate) fn some_of(names: &[String], most: usize) -> String {
    match names.len().checked_sub(most) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..most].join(", ")),
    }
}

/// Cuts a text that is too long to be read.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
