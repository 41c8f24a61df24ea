//! Reading what an author wrote: the JSON that `tw-eval` sends, with the place of every value.
//!
//! An object is `{"__type__": CLASS, "fields": {NAME: VALUE}, "spans": {NAME: [FILE, LINE, COLUMN]},
//! "at": [FILE, LINE, COLUMN]}`; everything else is plain JSON. Decoding goes on after a mistake, so that
//! an author sees all of them at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meant::meant;
use crate::{Code, FieldPath, SpecType};

/// A place in a spec file or a module it imports. Lines and columns count from 1, columns in code points.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// Relative to the repository's root.
    pub file: String,
    pub line: u32,
    pub column: u32,
}

impl Location {
    fn from_span(span: &Value) -> Option<Location> {
        let number = |index: usize| span.get(index).and_then(Value::as_u64).map(|n| n as u32);
        Some(Location {
            file: span.get(0)?.as_str()?.to_owned(),
            line: number(1)?,
            column: number(2)?,
        })
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One mistake in a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// Where in the job.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
    /// What would help.
    pub hint: Option<String>,
    /// Where the author wrote it; none when it was written nowhere.
    pub at: Option<Location>,
}

/// Collects problems and the place of each value while a job is read.
#[derive(Debug, Default)]
pub struct Decoder {
    pub problems: Vec<Problem>,
    /// JSON path of a value → where it was written. Values left at their default have none.
    pub spans: BTreeMap<String, Location>,
}

/// An object of the author's, found to be of the expected class.
pub(crate) struct AuthorObject<'a> {
    fields: &'a serde_json::Map<String, Value>,
    spans: Option<&'a serde_json::Map<String, Value>>,
    at: FieldPath,
}

impl Decoder {
    /// The class of an author's object; none for plain values.
    pub fn class_of(value: &Value) -> Option<&str> {
        value.get("__type__")?.as_str()
    }

    /// Opens an object of class `class`; every field that is not in `names` is a problem.
    pub(crate) fn object<'a>(
        &mut self,
        value: &'a Value,
        class: &str,
        names: &[&str],
        at: &FieldPath,
    ) -> Option<AuthorObject<'a>> {
        let fields = match (Decoder::class_of(value), value.get("fields")) {
            (Some(found), Some(Value::Object(fields))) if found == class => fields,
            _ => return self.wrong_type(value, at, class),
        };
        if let Some(here) = value.get("at").and_then(Location::from_span) {
            self.spans.insert(at.to_string(), here);
        }
        let object = AuthorObject {
            fields,
            spans: value.get("spans").and_then(Value::as_object),
            at: at.clone(),
        };
        for unknown in fields.keys().filter(|name| !names.contains(&name.as_str())) {
            let hint = nearest(unknown, names).map(|name| format!("did you mean '{name}'?"));
            object.locate(unknown, unknown, self);
            self.report(
                Code::SpecUnknownField,
                &at.field(unknown),
                format!("{class} has no field '{unknown}'"),
                hint,
            );
        }
        Some(object)
    }

    /// Reports a problem at `at`, at the nearest place that is known.
    pub fn report(&mut self, code: Code, at: &FieldPath, message: String, hint: Option<String>) {
        let place = self.locate(at.as_str()).cloned();
        self.problems.push(Problem {
            code,
            path: at.to_string(),
            message,
            hint,
            at: place,
        });
    }

    /// Where the value at `path`, or else what holds it, was written.
    pub fn locate(&self, path: &str) -> Option<&Location> {
        let mut path = path;
        loop {
            if let Some(place) = self.spans.get(path) {
                return Some(place);
            }
            path = FieldPath::parent(path)?;
        }
    }

    pub fn wrong_type<T>(&mut self, value: &Value, at: &FieldPath, expected: &str) -> Option<T> {
        let message = format!("expected {expected}, found {}", describe(value));
        let hint = meant(value, expected);
        self.report(Code::SpecWrongType, at, message, hint);
        None
    }

    pub fn bad_value<T>(
        &mut self,
        at: &FieldPath,
        message: String,
        hint: Option<String>,
    ) -> Option<T> {
        self.report(Code::SpecBadValue, at, message, hint);
        None
    }

    pub(crate) fn not_one_of<T>(
        &mut self,
        value: &Value,
        at: &FieldPath,
        choices: &[&str],
    ) -> Option<T> {
        let expected = any_of(choices);
        let hint = value
            .as_str()
            .and_then(|found| nearest(found, choices))
            .map(|name| format!("did you mean \"{name}\"?"));
        let message = format!("expected {expected}, found {}", describe(value));
        self.report(Code::SpecBadValue, at, message, hint);
        None
    }

    /// Renames every span below `from` to stand below `to`.
    pub(crate) fn rekey(&mut self, from: &FieldPath, to: &FieldPath) {
        let moved: Vec<(String, Location)> = self
            .spans
            .iter()
            .filter(|(path, _)| path.starts_with(from.as_str()))
            .map(|(path, place)| (path.replacen(from.as_str(), to.as_str(), 1), place.clone()))
            .collect();
        self.spans.extend(moved);
    }
}

impl AuthorObject<'_> {
    /// Reads one field; its default when the author left it out, a problem when it has none.
    pub(crate) fn field<T: SpecType>(
        &self,
        name: &str,
        json: &str,
        default: Option<T>,
        decoder: &mut Decoder,
    ) -> Option<T> {
        let at = self.at.field(json);
        match self.fields.get(name) {
            Some(value) => {
                self.locate(name, json, decoder);
                T::from_author(value, &at, decoder)
            }
            None if default.is_some() => default,
            None => {
                decoder.report(
                    Code::SpecMissingField,
                    &at,
                    format!("'{name}' is required"),
                    None,
                );
                None
            }
        }
    }

    fn locate(&self, name: &str, json: &str, decoder: &mut Decoder) {
        let place = self
            .spans
            .and_then(|spans| spans.get(name))
            .and_then(Location::from_span);
        if let Some(place) = place {
            decoder.spans.insert(self.at.field(json).to_string(), place);
        }
    }
}

/// The choice nearest to what was written, if any is near enough to be what was meant. Case tells only among equals.
pub fn nearest<'a>(found: &str, choices: &[&'a str]) -> Option<&'a str> {
    let lower = found.to_lowercase();
    choices
        .iter()
        .map(|choice| {
            let distance = strsim::damerau_levenshtein(&lower, &choice.to_lowercase());
            (distance, *choice)
        })
        .filter(|(distance, choice)| *distance <= (choice.len().max(found.len()) / 3).max(1))
        .min_by_key(|(distance, choice)| (*distance, strsim::damerau_levenshtein(found, choice)))
        .map(|(_, choice)| choice)
}

/// `"a", "b" or "c"`.
fn any_of(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices
        .iter()
        .map(|choice| format!("\"{choice}\""))
        .collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// A value as an error names it.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {}", shorten(&format!("{text:?}"))),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => match Decoder::class_of(value) {
            Some(class) => format!("{} {class}", article(class)),
            None => "a dict".to_owned(),
        },
    }
}

fn article(noun: &str) -> &'static str {
    match noun.starts_with(['A', 'E', 'I', 'O', 'U']) {
        true => "an",
        false => "a",
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_tells_only_among_names_that_are_equally_near() {
        let checks = ["CommandCheck", "HttpCheck", "TcpCheck"];
        assert_eq!(nearest("HTTPCheck", &checks), Some("HttpCheck"));
        assert_eq!(nearest("HTTPChek", &checks), Some("HttpCheck"));
        assert_eq!(nearest("WBE", &["web", "Web", "WEB"]), Some("WEB"));
        assert_eq!(nearest("Replicas", &checks), None);
    }
}
