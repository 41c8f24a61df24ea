//! The plain types of the spec language: numbers, texts, sizes, times, lists and maps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::author::describe;
use crate::{
    Bytes, Change, Code, Cores, Cron, CronError, Decoder, FieldPath, Keyed, Millis, Name, Number,
    Rule, SpecType, Stage, StructInfo,
};

impl SpecType for u32 {
    fn python_type() -> String {
        "int".to_owned()
    }

    fn to_python(&self) -> String {
        self.to_string()
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<u32> {
        match value.as_i64() {
            Some(number) => u32::try_from(number).ok().or_else(|| {
                let help = if number < 0 {
                    "write 0 or more"
                } else {
                    "write a smaller number"
                };
                decoder.bad_value(
                    at,
                    format!("expected a number from 0 to {}, found {number}", u32::MAX),
                    Some(help.to_owned()),
                )
            }),
            None => decoder.wrong_type(value, at, "a whole number"),
        }
    }
}

impl SpecType for bool {
    fn python_type() -> String {
        "bool".to_owned()
    }

    fn to_python(&self) -> String {
        if *self { "True" } else { "False" }.to_owned()
    }

    fn to_json(&self) -> Value {
        (*self).into()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<bool> {
        match value.as_bool() {
            Some(truth) => Some(truth),
            None => decoder.wrong_type(value, at, "True or False"),
        }
    }
}

impl SpecType for String {
    fn python_type() -> String {
        "str".to_owned()
    }

    fn to_python(&self) -> String {
        Value::from(self.as_str()).to_string()
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<String> {
        match value.as_str() {
            Some(text) if text.contains('\0') => {
                decoder.bad_value(at, "the text holds a NUL character".to_owned(), None)
            }
            Some(text) => Some(text.to_owned()),
            None => decoder.wrong_type(value, at, "a text"),
        }
    }
}

/// Reads a number that is not negative and, times `scale`, fits 63 bits.
fn quantity(
    value: &Value,
    at: &FieldPath,
    decoder: &mut Decoder,
    expected: &str,
    scale: f64,
) -> Option<u64> {
    let number = match value.as_f64() {
        Some(number) => number * scale,
        None => return decoder.wrong_type(value, at, expected),
    };
    if !(0.0..9.2e18).contains(&number) {
        return decoder.bad_value(at, format!("expected {expected}, found {value}"), None);
    }
    // Whole numbers go past floating point, which is exact only up to 2^53.
    match (scale == 1.0, value.as_u64()) {
        (true, Some(whole)) => Some(whole),
        _ => Some(number.round() as u64),
    }
}

/// The number with the largest constant that divides it: `256 * MiB`.
fn product(number: u64, constants: &[(u64, &str)]) -> String {
    match constants
        .iter()
        .find(|(size, _)| number >= *size && number.is_multiple_of(*size))
    {
        Some((size, name)) if number == *size => (*name).to_owned(),
        Some((size, name)) => format!("{} * {name}", number / size),
        None => number.to_string(),
    }
}

/// A fixed-point number, which an author writes as a float; the last argument says how many parts a unit has.
macro_rules! decimal_type {
    ($type:ident, $expected:literal, $per_unit:literal) => {
        impl SpecType for $type {
            fn python_type() -> String {
                "float".to_owned()
            }

            fn to_python(&self) -> String {
                self.to_string()
            }

            fn to_json(&self) -> Value {
                self.0.into()
            }

            fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<$type> {
                quantity(value, at, decoder, $expected, $per_unit).map($type)
            }
        }
    };
}

decimal_type!(Cores, "a number of cores such as 0.5", 1000.0);
decimal_type!(Number, "a number from 0 up such as 0.5", 1e6);

impl SpecType for Bytes {
    fn python_type() -> String {
        "int".to_owned()
    }

    fn to_python(&self) -> String {
        product(
            self.0,
            &[
                (1 << 40, "TiB"),
                (1 << 30, "GiB"),
                (1 << 20, "MiB"),
                (1 << 10, "KiB"),
            ],
        )
    }

    fn to_json(&self) -> Value {
        self.0.into()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Bytes> {
        quantity(value, at, decoder, "a size in bytes such as 256 * MiB", 1.0).map(Bytes)
    }
}

impl SpecType for Millis {
    fn python_type() -> String {
        "float".to_owned()
    }

    fn to_python(&self) -> String {
        let units = [
            (86_400_000, "DAY"),
            (3_600_000, "HOUR"),
            (60_000, "MINUTE"),
            (1000, "SECOND"),
            (1, "MILLISECOND"),
        ];
        product(self.0, &units)
    }

    fn to_json(&self) -> Value {
        self.0.into()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Millis> {
        quantity(
            value,
            at,
            decoder,
            "a time in seconds such as 5 * SECOND",
            1000.0,
        )
        .map(Millis)
    }
}

impl SpecType for Name {
    fn python_type() -> String {
        "str".to_owned()
    }

    fn to_python(&self) -> String {
        format!("\"{self}\"")
    }

    fn to_json(&self) -> Value {
        self.as_str().into()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Name> {
        let Some(text) = value.as_str() else {
            let hint = match at.as_str() {
                _ if !value.is_number() => None,
                list if list.starts_with("ports[") => Some(
                    "name it, as in [\"http\"]: its number is chosen when a task starts, and {port:http} stands for it",
                ),
                one if one.ends_with(".port") => Some(
                    "write the name of a port of the job, as in port=\"http\" where it has ports=[\"http\"]; \
                     numbers are chosen when a task starts",
                ),
                _ => None,
            };
            let message = format!("expected a name, found {}", describe(value));
            decoder.report(Code::SpecWrongType, at, message, hint.map(str::to_owned));
            return None;
        };
        match text.parse() {
            Ok(name) => Some(name),
            Err(cause) => {
                let hint = name_from(text).map(|name| format!("for example \"{name}\""));
                decoder.bad_value(at, cause.to_string(), hint)
            }
        }
    }
}

/// The nearest valid name to a text that is none.
fn name_from(text: &str) -> Option<Name> {
    let lower: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    lower.trim_matches('-').parse().ok()
}

/// The name of a port of a job.
pub type PortName = Name;

impl Keyed for Name {
    fn key(&self) -> String {
        self.to_string()
    }
}

impl<T: SpecType + Clone> SpecType for Option<T> {
    fn python_type() -> String {
        format!("{} | None", T::python_type())
    }

    fn to_python(&self) -> String {
        self.as_ref().map_or("None".to_owned(), T::to_python)
    }

    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Option<T>> {
        match value {
            Value::Null => Some(None),
            present => T::from_author(present, at, decoder).map(Some),
        }
    }

    fn diff(old: &Self, new: &Self, at: &FieldPath, rule: &Rule<Self>, changes: &mut Vec<Change>) {
        match (old, new, rule) {
            (Some(old), Some(new), Rule::Fixed(effect)) => {
                T::diff(old, new, at, &Rule::Fixed(*effect), changes);
            }
            _ if old == new => {}
            _ => changes.push(Change {
                path: at.to_string(),
                old: old.to_json(),
                new: new.to_json(),
                effect: rule.effect(old, new),
                cause: None,
            }),
        }
    }

    fn describe(tables: &mut Vec<StructInfo>) {
        T::describe(tables);
    }
}

/// Reads every element, so that all mistakes are seen.
fn items<T: SpecType>(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Vec<T>> {
    let Some(values) = value.as_array() else {
        let item = match T::python_type().as_str() {
            "str" => "texts".to_owned(),
            class => class.to_owned(),
        };
        return decoder.wrong_type(value, at, &format!("a list of {item}"));
    };
    let read: Vec<Option<T>> = values
        .iter()
        .enumerate()
        .map(|(index, item)| T::from_author(item, &at.item(index), decoder))
        .collect();
    read.into_iter().collect()
}

fn python_list<T: SpecType>(values: &[T]) -> String {
    let texts: Vec<String> = values.iter().map(T::to_python).collect();
    format!("[{}]", texts.join(", "))
}

impl<T: SpecType + Keyed + Clone> SpecType for Vec<T> {
    fn python_type() -> String {
        format!("Sequence[{}]", T::python_type())
    }

    fn to_python(&self) -> String {
        python_list(self)
    }

    fn to_json(&self) -> Value {
        self.iter().map(T::to_json).collect()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Vec<T>> {
        let values: Vec<T> = items(value, at, decoder)?;
        for (index, item) in values.iter().enumerate() {
            let key = item.key();
            if values[..index].iter().any(|other| other.key() == key) {
                return decoder.bad_value(
                    &at.item(index),
                    format!("'{key}' stands here twice"),
                    None,
                );
            }
            decoder.rekey(&at.item(index), &at.item(&key));
        }
        Some(values)
    }

    fn diff(
        old: &Vec<T>,
        new: &Vec<T>,
        at: &FieldPath,
        rule: &Rule<Vec<T>>,
        changes: &mut Vec<Change>,
    ) {
        let one_sided = |key: &str, old: Value, new: Value| Change {
            path: at.item(key).to_string(),
            old,
            new,
            effect: rule.fixed(),
            cause: None,
        };
        for item in old {
            let key = item.key();
            match new.iter().find(|other| other.key() == key) {
                Some(other) => T::diff(
                    item,
                    other,
                    &at.item(&key),
                    &Rule::Fixed(rule.fixed()),
                    changes,
                ),
                None => changes.push(one_sided(&key, item.to_json(), Value::Null)),
            }
        }
        for item in new
            .iter()
            .filter(|item| !old.iter().any(|other| other.key() == item.key()))
        {
            changes.push(one_sided(&item.key(), Value::Null, item.to_json()));
        }
    }

    fn describe(tables: &mut Vec<StructInfo>) {
        T::describe(tables);
    }
}

/// A list that is one value: its order counts and it changes as a whole.
impl SpecType for Box<[Stage]> {
    fn python_type() -> String {
        format!("Sequence[{}]", Stage::python_type())
    }

    fn to_python(&self) -> String {
        python_list(self)
    }

    fn to_json(&self) -> Value {
        self.iter().map(Stage::to_json).collect()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Box<[Stage]>> {
        let stages: Vec<Stage> = items(value, at, decoder)?;
        match stages.is_empty() {
            true => decoder.bad_value(at, "a rollout needs at least one stage".to_owned(), None),
            false => Some(stages.into()),
        }
    }
}

/// The name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnvName(pub String);

impl EnvName {
    fn is_valid(text: &str) -> bool {
        !text.is_empty() && !text.contains(['=', '\0'])
    }
}

impl<T: SpecType + Clone> SpecType for BTreeMap<EnvName, T> {
    fn python_type() -> String {
        format!("Mapping[str, {}]", T::python_type())
    }

    fn to_python(&self) -> String {
        let texts: Vec<String> = self
            .iter()
            .map(|(key, value)| format!("{}: {}", Value::from(key.0.as_str()), value.to_python()))
            .collect();
        format!("{{{}}}", texts.join(", "))
    }

    fn to_json(&self) -> Value {
        self.iter()
            .map(|(key, value)| (key.0.clone(), value.to_json()))
            .collect()
    }

    fn from_author(
        value: &Value,
        at: &FieldPath,
        decoder: &mut Decoder,
    ) -> Option<BTreeMap<EnvName, T>> {
        let entries = match value.as_object() {
            Some(entries) if Decoder::class_of(value).is_none() => entries,
            _ => return decoder.wrong_type(value, at, "a dict with texts as keys"),
        };
        let read: Vec<Option<(EnvName, T)>> = entries
            .iter()
            .map(|(key, value)| {
                if !EnvName::is_valid(key) {
                    return decoder.bad_value(
                        at,
                        format!("{key:?} cannot be a key: it is empty or holds '='"),
                        None,
                    );
                }
                T::from_author(value, &at.field(key), decoder)
                    .map(|read| (EnvName(key.clone()), read))
            })
            .collect();
        read.into_iter().collect()
    }

    fn diff(old: &Self, new: &Self, at: &FieldPath, rule: &Rule<Self>, changes: &mut Vec<Change>) {
        let keys: std::collections::BTreeSet<&EnvName> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let (before, after) = (old.get(key), new.get(key));
            if before != after {
                changes.push(Change {
                    path: at.field(&key.0).to_string(),
                    old: before.map_or(Value::Null, T::to_json),
                    new: after.map_or(Value::Null, T::to_json),
                    effect: rule.fixed(),
                    cause: None,
                });
            }
        }
    }
}

/// A program and its arguments. Authors write a list, or one text that is split as a shell would, without a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandLine(pub Vec<String>);

impl SpecType for CommandLine {
    fn python_type() -> String {
        "str | Sequence[str]".to_owned()
    }

    fn to_python(&self) -> String {
        python_list(&self.0)
    }

    fn to_json(&self) -> Value {
        self.0.clone().into()
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<CommandLine> {
        let words = match value {
            Value::String(text) => split_command(text, at, decoder)?,
            Value::Array(_) => items::<String>(value, at, decoder)?,
            _ => return decoder.wrong_type(value, at, "a command: a text or a list of texts"),
        };
        match words.first() {
            Some(program) if !program.is_empty() => Some(CommandLine(words)),
            _ => decoder.bad_value(
                at,
                "the command is empty".to_owned(),
                Some("for example \"sleep 60\"".to_owned()),
            ),
        }
    }
}

/// Splits a command at blanks outside quotes. What only a shell could do is refused.
fn split_command(text: &str, at: &FieldPath, decoder: &mut Decoder) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => match characters.next() {
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => {
                    return decoder.bad_value(
                        at,
                        "the command ends in a lone '\\'".to_owned(),
                        None,
                    );
                }
            },
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '|' | '&' | ';' | '<' | '>' | '$' | '`' | '(' | ')' | '*' | '?' | '~') => {
                let list = format!("[\"sh\", \"-c\", {}]", Value::from(text));
                let message =
                    format!("'{c}' means something to a shell, and no shell reads this command");
                return decoder.bad_value(
                    at,
                    message,
                    Some(format!("quote it, or write command={list}")),
                );
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return decoder.bad_value(at, "a quote in the command is not closed".to_owned(), None);
    }
    words.extend(word);
    Some(words)
}

/// Why a text is not one of a kind.
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

/// Makes a type around a text one of the spec language. `$read` takes the text that an author wrote and
/// returns the one to keep, or a [`Refusal`].
macro_rules! text_type {
    ($name:ident, $read:expr) => {
        impl $crate::SpecType for $name {
            fn python_type() -> String {
                <String as $crate::SpecType>::python_type()
            }

            fn to_python(&self) -> String {
                self.0.to_python()
            }

            fn to_json(&self) -> serde_json::Value {
                self.0.to_json()
            }

            fn from_author(
                value: &serde_json::Value,
                at: &$crate::FieldPath,
                decoder: &mut $crate::Decoder,
            ) -> Option<$name> {
                let text = <String as $crate::SpecType>::from_author(value, at, decoder)?;
                match $read(text) {
                    Ok(text) => Some($name(text)),
                    Err($crate::values::Refusal { message, hint }) => {
                        decoder.bad_value(at, message, Some(hint.to_owned()))
                    }
                }
            }
        }
    };
}
pub(crate) use text_type;

/// A folder of the repository, relative to its root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RepoPath(pub String);

text_type!(RepoPath, repo_path);

fn repo_path(text: String) -> Result<String, Refusal> {
    let path = text.trim_end_matches('/');
    match is_plain(path.strip_prefix("//").unwrap_or(path)) {
        true => Ok(path.to_owned()),
        false => Err(Refusal {
            message: format!("'{path}' is not a folder of the repository"),
            hint: "name it from the folder of the spec, or from the repository's root with a leading '//'; no '.' or '..'",
        }),
    }
}

/// Whether every part of a path is a name.
fn is_plain(path: &str) -> bool {
    path.split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// A path in the task's root or on a machine, from `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AbsolutePath(pub String);

text_type!(AbsolutePath, absolute_path);

fn absolute_path(text: String) -> Result<String, Refusal> {
    if text == "/" {
        return Ok(text);
    }
    let path = text.trim_end_matches('/');
    match path.strip_prefix('/').is_some_and(is_plain) {
        true => Ok(path.to_owned()),
        false => Err(Refusal {
            message: format!("'{text}' is not a plain path from /"),
            hint: "for example \"/var/lib/app\"; no '.', '..' or '//'",
        }),
    }
}

/// When to run: five fields, as in a crontab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CronLine(pub String);

text_type!(CronLine, cron_line);

fn cron_line(text: String) -> Result<String, Refusal> {
    let (message, hint) = match Cron::parse(&text) {
        Ok(_) => return Ok(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(CronError::Never) => (
            format!("'{text}' never fires: no such day ever comes"),
            "for the last day of each month write \"0 0 L * *\"",
        ),
        Err(cause) => (
            format!("'{text}' is not a line of a crontab: {cause}"),
            "write minute, hour, day of the month, month and day of the week: \"30 2 * * *\" is every day at 2:30",
        ),
    };
    Err(Refusal { message, hint })
}

/// The BLAKE3 hash of a package's bytes in hex; empty until evaluation has found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

text_type!(Digest, Ok::<String, Refusal>);
