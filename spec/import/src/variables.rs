//! Variables that a file leaves to its environment. A spec reads none, so they become constants at its top.
//!
//! Within texts a variable stands between two private characters until the writer makes an f-string of it.

use std::collections::BTreeMap;

use tw_model::JobSpec;

use crate::fields::Item;

const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

/// The variables of an import.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    known: BTreeMap<String, Variable>,
}

/// A variable as it is first met.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    /// What it holds where the environment says nothing.
    pub(crate) default: Option<String>,
    pub(crate) item: Item,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Variable(String),
}

impl Variables {
    /// The text that stands for a variable; none when it cannot be a constant, or is known with another default.
    pub(crate) fn marker(
        &mut self,
        name: &str,
        default: Option<&str>,
        item: &Item,
    ) -> Option<String> {
        let met = || Variable {
            default: default.map(str::to_owned),
            item: item.clone(),
        };
        let known = self.known.entry(name.to_owned()).or_insert_with(met);
        (known.default.as_deref() == default && is_constant(name))
            .then(|| format!("{OPEN}{name}{CLOSE}"))
    }

    /// A job with the values of variables in its texts.
    pub(crate) fn fill(&self, job: &JobSpec) -> JobSpec {
        let fill = |value: serde_json::Value| serde_json::from_value(value).ok();
        let filled = serde_json::to_value(job)
            .ok()
            .map(|value| self.filled(value));
        filled.and_then(fill).unwrap_or_else(|| job.clone())
    }

    fn filled(&self, value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::String(text) => Value::String(self.filled_text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.filled(item)).collect(),
            Value::Object(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|(key, field)| (key, self.filled(field)));
                Value::Object(fields.collect())
            }
            other => other,
        }
    }

    fn filled_text(&self, text: &str) -> String {
        let value = |part| match part {
            Part::Text(text) => text,
            Part::Variable(name) => self
                .get(&name)
                .and_then(|variable| variable.default.clone())
                .unwrap_or_default(),
        };
        parts(text).into_iter().map(value).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Variable> {
        self.known.get(name)
    }
}

/// Whether a name can be that of a constant.
fn is_constant(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Splits a text at its variables.
pub(crate) fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((name, after)) = after.split_once(CLOSE) else {
            break;
        };
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(Part::Variable(name.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    parts
}

/// The text as a message shows it, with `${NAME}` for variables.
pub(crate) fn plain(text: &str) -> String {
    parts(text)
        .into_iter()
        .map(|part| match part {
            Part::Text(text) => text,
            Part::Variable(name) => format!("${{{name}}}"),
        })
        .collect()
}

/// Whether a file's own text holds what is kept for variables.
pub(crate) fn is_reserved(text: &str) -> bool {
    text.contains([OPEN, CLOSE])
}
