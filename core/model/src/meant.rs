//! What a value of the wrong type was probably meant to be, as its author would write it.

use serde_json::Value;

/// How to write `value` where `expected` is wanted, in the words of [`crate::Decoder::wrong_type`]; none where that
/// is not clear.
pub(crate) fn meant(value: &Value, expected: &str) -> Option<String> {
    let write = |text: &str| Some(format!("write {text}"));
    match value {
        Value::Null => None,
        Value::Bool(truth) if expected == "a text" => {
            write(if *truth { "\"true\"" } else { "\"false\"" })
        }
        Value::Number(number) if expected == "a text" => write(&format!("\"{number}\"")),
        Value::Number(number) if expected == "a whole number" => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0)?;
            (whole.abs() < 1e15).then(|| format!("write {whole:.0}"))
        }
        Value::String(text) if expected.starts_with("a list of ") => {
            write(&format!("[{}]", Value::from(text.as_str())))
        }
        Value::String(text) if expected == "True or False" => match text.as_str() {
            "true" | "True" | "yes" | "on" => write("True, without quotes"),
            "false" | "False" | "no" | "off" => write("False, without quotes"),
            _ => None,
        },
        Value::String(text) => write(&of_text(text.trim(), expected)?),
        _ => None,
    }
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
        assert_eq!(said(json!("http"), "a list of str"), "write [\"http\"]");
        assert_eq!(
            said(json!("yes"), "True or False"),
            "write True, without quotes"
        );
        for (value, expected) in [
            (json!("many"), "a whole number"),
            (json!("5 apples"), size),
            (json!("1e9"), "a whole number"),
            (json!(2.5), "a whole number"),
            (json!(null), "a text"),
            (json!([1]), "a text"),
        ] {
            assert_eq!(meant(&value, expected), None, "{value}");
        }
    }
}
