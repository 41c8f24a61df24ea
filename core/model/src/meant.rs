//! What a value of the wrong type was probably meant to be, as its author would write it.

use serde_json::{Map, Value};

use crate::Decoder;

/// Longer values are not written out.
const SHOWN_MAX: usize = 6;

/// How to write `value` where `expected` is wanted, in the words of [`crate::Decoder::wrong_type`]; none where that
/// is not clear.
pub(crate) fn meant(value: &Value, expected: &str) -> Option<String> {
    let write = |text: &str| Some(format!("write {text}"));
    match value {
        Value::Null if expected == "a text" => write("\"\" for an empty text, or leave it out"),
        Value::Null => None,
        Value::Bool(truth) if expected == "a text" => {
            write(if *truth { "\"true\"" } else { "\"false\"" })
        }
        Value::Number(number) if expected == "a text" => write(&format!("\"{number}\"")),
        Value::Number(number) if expected == "a whole number" => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0)?;
            (whole.abs() < 1e15).then(|| format!("write {whole:.0}"))
        }
        Value::String(text) if expected == "Package" => write(&package(text)),
        Value::String(text) if expected == "a list of Package" => {
            write(&format!("[{}]", package(text)))
        }
        Value::String(text) if expected.starts_with("a list of ") => {
            write(&format!("[{}]", Value::from(text.as_str())))
        }
        Value::String(text) if expected == "True or False" => match text.as_str() {
            "true" | "True" | "yes" | "on" => write("True, without quotes"),
            "false" | "False" | "no" | "off" => write("False, without quotes"),
            _ => None,
        },
        Value::String(text) if expected.contains("OciImage") => write(&image(text)),
        Value::String(text) if expected == "Schedule" => {
            let is_cron = text.split_whitespace().count() == 5;
            let cron = if is_cron { text.trim() } else { "30 2 * * *" };
            write(&format!("Schedule(cron={})", Value::from(cron)))
        }
        Value::String(text) => write(&of_text(text.trim(), expected)?),
        Value::Array(items) if expected.starts_with("a dict ") => write(&pairs(items)?),
        Value::Object(fields) => write(&of_object(value, fields, expected)?),
        Value::Array(_) => None,
        Value::Bool(_) | Value::Number(_) => None,
    }
}

/// An image that is named as other tools name it.
fn image(text: &str) -> String {
    let quoted = Value::from(text);
    if text.contains(".tar") {
        format!("ArchiveImage(path={quoted})")
    } else if text.starts_with('/') {
        format!("FolderImage(path={quoted})")
    } else {
        format!("OciImage(reference={quoted})")
    }
}

/// A folder of the repository by its path.
fn package(path: &str) -> String {
    format!("Package.folder({})", Value::from(path))
}

/// A dict of what is a list of `NAME=VALUE`, as in other files.
fn pairs(items: &[Value]) -> Option<String> {
    let pair = |item: &Value| {
        let (name, value) = item.as_str()?.split_once('=')?;
        Some(format!("{}: {}", Value::from(name), Value::from(value)))
    };
    let pairs: Vec<String> = items.iter().map(pair).collect::<Option<_>>()?;
    (!pairs.is_empty() && pairs.len() <= SHOWN_MAX).then(|| format!("{{{}}}", pairs.join(", ")))
}

/// An object of a class where a list of them is wanted; a dict where a class or a list of its keys is.
fn of_object(value: &Value, fields: &Map<String, Value>, expected: &str) -> Option<String> {
    if let Some(class) = Decoder::class_of(value) {
        let wanted = expected.strip_prefix("a list of ")?;
        let is_one = wanted.split(" | ").any(|one| one == class);
        return is_one.then(|| format!("a list with it: [{class}(…)]"));
    }
    if fields.is_empty() || fields.len() > SHOWN_MAX {
        return None;
    }
    if expected == "a list of texts" {
        let keys: Vec<&String> = fields.keys().collect();
        return Some(Value::from_iter(keys.into_iter().map(String::as_str)).to_string());
    }
    let is_class = |letter: char| letter.is_ascii_alphanumeric();
    let is_name = |name: &str| {
        name.chars()
            .all(|letter| letter.is_ascii_lowercase() || letter == '_')
    };
    (expected.starts_with(|letter: char| letter.is_ascii_uppercase())
        && expected.chars().all(is_class)
        && fields.keys().all(|name| is_name(name)))
    .then(|| {
        let named: Vec<String> = fields.keys().map(|name| format!("{name}=…")).collect();
        format!("{expected}({})", named.join(", "))
    })
}

/// A number that stands in quotes, perhaps with a unit as other languages have it.
fn of_text(text: &str, expected: &str) -> Option<String> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let parsed: f64 = number.parse().ok()?;
    if expected == "a whole number" {
        let is_whole = unit.is_empty() && !number.contains('.');
        return is_whole.then(|| format!("{number}, without quotes"));
    }
    if expected.starts_with("a number of cores") {
        return match unit {
            "" => Some(format!("{number}, without quotes")),
            "m" => Some(format!("{}", parsed / 1000.0)),
            "%" => Some(format!("{}", parsed / 100.0)),
            _ => None,
        };
    }
    let units: &[(&[&str], &str)] = if expected.starts_with("a size in bytes") {
        &[
            (&["k", "kb", "ki", "kib"], "KiB"),
            (&["m", "mb", "mi", "mib"], "MiB"),
            (&["g", "gb", "gi", "gib"], "GiB"),
            (&["t", "tb", "ti", "tib"], "TiB"),
        ]
    } else if expected.starts_with("a time in seconds") {
        &[
            (&["s", "sec", "second", "seconds"], "SECOND"),
            (&["m", "min", "minute", "minutes"], "MINUTE"),
            (&["h", "hour", "hours"], "HOUR"),
            (&["d", "day", "days"], "DAY"),
        ]
    } else {
        return None;
    };
    let unit = unit.to_lowercase();
    let (_, name) = units
        .iter()
        .find(|(names, _)| names.contains(&unit.as_str()))?;
    Some(format!("{number} * {name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_probably_meant_is_written_out() {
        let said = |value: Value, expected: &str| meant(&value, expected).unwrap_or_default();
        let size = "a size in bytes such as 256 * MiB";
        let time = "a time in seconds such as 5 * SECOND";
        let cores = "a number of cores such as 0.5";
        assert_eq!(said(json!("256MB"), size), "write 256 * MiB");
        assert_eq!(said(json!("1.5 Gi"), size), "write 1.5 * GiB");
        assert_eq!(said(json!("30s"), time), "write 30 * SECOND");
        assert_eq!(said(json!("5m"), time), "write 5 * MINUTE");
        assert_eq!(said(json!("500m"), cores), "write 0.5");
        assert_eq!(
            said(json!("3"), "a whole number"),
            "write 3, without quotes"
        );
        assert_eq!(said(json!(2.0), "a whole number"), "write 2");
        assert_eq!(said(json!(3), "a text"), "write \"3\"");
        assert_eq!(said(json!("http"), "a list of texts"), "write [\"http\"]");
        assert_eq!(
            said(json!("yes"), "True or False"),
            "write True, without quotes"
        );
        assert_eq!(said(json!("50%"), cores), "write 0.5");
        assert_eq!(
            said(json!({"cpu": 1, "memory": 64}), "Resources"),
            "write Resources(cpu=…, memory=…)"
        );
        assert_eq!(
            said(json!({"http": 80}), "a list of texts"),
            "write [\"http\"]"
        );
        assert_eq!(
            said(json!(["A=1", "B=x=y"]), "a dict with texts as keys"),
            "write {\"A\": \"1\", \"B\": \"x=y\"}"
        );
        assert_eq!(
            said(json!("app"), "Package"),
            "write Package.folder(\"app\")"
        );
        assert_eq!(
            said(json!("app"), "a list of Package"),
            "write [Package.folder(\"app\")]"
        );
        let images = "FolderImage or ArchiveImage or OciImage";
        assert_eq!(
            said(json!("nginx:1.27"), images),
            "write OciImage(reference=\"nginx:1.27\")"
        );
        assert_eq!(
            said(json!("/srv/debian"), images),
            "write FolderImage(path=\"/srv/debian\")"
        );
        assert_eq!(
            said(json!("0 4 * * 1"), "Schedule"),
            "write Schedule(cron=\"0 4 * * 1\")"
        );
        let check = json!({"__type__": "TcpCheck", "fields": {}});
        assert_eq!(
            said(check.clone(), "a list of HttpCheck | TcpCheck"),
            "write a list with it: [TcpCheck(…)]"
        );
        for (value, expected) in [
            (check, "Resources"),
            (json!({}), "Resources"),
            (json!(["A"]), "a dict with texts as keys"),
            (json!("many"), "a whole number"),
            (json!("5 apples"), size),
            (json!("1e9"), "a whole number"),
            (json!(2.5), "a whole number"),
            (json!(null), "a whole number"),
            (json!([1]), "a text"),
        ] {
            assert_eq!(meant(&value, expected), None, "{value}");
        }
    }
}
