//! What a file says, with the place of every value: the common ground of YAML and JSON.

mod json;
mod yaml;

use std::rc::Rc;

use crate::ImportError;

/// A file as it was given.
#[derive(Clone, Debug)]
pub struct Input {
    /// The name that notes and errors show.
    pub name: String,
    pub text: String,
}

/// The most bytes a file may have. The largest real manifests have a tenth of it.
pub const INPUT_BYTES_MAX: usize = 8 << 20;

/// The most values a file may stand for, aliases counted as often as they are used.
const VALUES_MAX: u64 = 1_000_000;

/// How deep values may lie within each other.
const DEPTH_MAX: usize = 64;

/// Where a value stands. Both count from 1, columns in code points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
    /// A tag of the author's, such as `!reset`; none for those of YAML itself.
    pub(crate) tag: Option<String>,
    /// How many values this one stands for, itself included.
    size: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    /// A scalar without quotes: it may be meant as a number or a truth value.
    Plain(String),
    /// A scalar in quotes.
    Quoted(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Pair>),
}

/// One entry of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Rc<Node>,
}

impl Node {
    pub(crate) fn new(place: Place, value: Value) -> Node {
        let below: u64 = match &value {
            Value::List(items) => items
                .iter()
                .fold(0, |sum: u64, item| sum.saturating_add(item.size)),
            Value::Map(pairs) => pairs
                .iter()
                .fold(0, |sum: u64, pair| sum.saturating_add(pair.node.size)),
            Value::Null | Value::Plain(_) | Value::Quoted(_) => 0,
        };
        Node {
            place,
            value,
            tag: None,
            size: below.saturating_add(1),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Rc<Node>> {
        match &self.value {
            Value::Map(pairs) => pairs
                .iter()
                .find(|pair| pair.key == key)
                .map(|pair| &pair.node),
            _ => None,
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Plain(text) | Value::Quoted(text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// How many scalars this value holds.
    pub(crate) fn leaves(&self) -> usize {
        match &self.value {
            Value::List(items) => items.iter().map(|item| item.leaves()).sum(),
            Value::Map(pairs) => pairs.iter().map(|pair| pair.node.leaves()).sum(),
            Value::Null => 0,
            Value::Plain(_) | Value::Quoted(_) => 1,
        }
    }

    /// What kind of value this is, as an error names it.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Plain(text) | Value::Quoted(text) => {
                let short: String = text.chars().take(40).collect();
                format!("'{short}'")
            }
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Reads the documents of a file; those that hold nothing are left out.
pub(crate) fn read(input: &Input) -> Result<Vec<Rc<Node>>, ImportError> {
    let file = input.name.clone();
    if input.text.len() > INPUT_BYTES_MAX {
        return Err(ImportError::TooLarge {
            file,
            bytes_max: INPUT_BYTES_MAX,
        });
    }
    let text = input.text.strip_prefix('\u{feff}').unwrap_or(&input.text);
    if let Some(line) = text.lines().position(crate::variables::is_reserved) {
        let message = "a character of the private use area".to_owned();
        return Err(ImportError::Syntax {
            file,
            line: line as u32 + 1,
            column: 1,
            message,
        });
    }
    if let Some(line) = hcl_line(text) {
        return Err(ImportError::Hcl { file, line });
    }
    let documents =
        match text.trim_start().starts_with(['{', '[']) && !text.trim_start().starts_with("{{") {
            true => json::read(text).or_else(|json| yaml::read(text).map_err(|_| json)),
            false => yaml::read(text),
        };
    let documents: Vec<Rc<Node>> = documents
        .map_err(|mistake| mistake.in_file(&file, text))?
        .into_iter()
        .filter(|document| !document.is_null())
        .collect();
    if let Some(line) = documents.iter().find_map(|document| helm_line(document)) {
        return Err(ImportError::Template { file, line });
    }
    match documents.is_empty() {
        true => Err(ImportError::Empty { file }),
        false => Ok(documents),
    }
}

/// What is wrong with a text.
#[derive(Debug)]
pub(crate) struct Mistake {
    place: Place,
    kind: MistakeKind,
}

#[derive(Debug)]
enum MistakeKind {
    Syntax(String),
    DuplicateKey { key: String, first: Place },
    TooDeep,
    TooMany,
}

impl Mistake {
    fn syntax(place: Place, message: impl Into<String>) -> Mistake {
        Mistake {
            place,
            kind: MistakeKind::Syntax(message.into()),
        }
    }

    fn in_file(self, file: &str, text: &str) -> ImportError {
        let (file, Place { line, column }) = (file.to_owned(), self.place);
        match self.kind {
            MistakeKind::Syntax(message) => match text.lines().position(|line| line.contains("{{"))
            {
                Some(template) => ImportError::Template {
                    file,
                    line: template as u32 + 1,
                },
                None => ImportError::Syntax {
                    file,
                    line,
                    column,
                    message,
                },
            },
            MistakeKind::DuplicateKey { key, first } => ImportError::DuplicateKey {
                file,
                line,
                column,
                key,
                first: first.line,
            },
            MistakeKind::TooDeep => ImportError::TooDeep {
                file,
                line,
                column,
                depth_max: DEPTH_MAX,
            },
            MistakeKind::TooMany => ImportError::TooMany {
                file,
                line,
                column,
                values_max: VALUES_MAX,
            },
        }
    }
}

/// Closes a mapping: every key once, and no more values than a file may stand for.
fn mapping(place: Place, pairs: Vec<Pair>) -> Result<Node, Mistake> {
    let mut seen = std::collections::HashMap::new();
    for pair in &pairs {
        if let Some(first) = seen.insert(pair.key.as_str(), pair.place) {
            let kind = MistakeKind::DuplicateKey {
                key: pair.key.clone(),
                first,
            };
            return Err(Mistake {
                place: pair.place,
                kind,
            });
        }
    }
    bounded(Node::new(place, Value::Map(pairs)))
}

fn bounded(node: Node) -> Result<Node, Mistake> {
    match node.size > VALUES_MAX {
        true => Err(Mistake {
            place: node.place,
            kind: MistakeKind::TooMany,
        }),
        false => Ok(node),
    }
}

/// The line on which a job in Nomad's own language opens, if the text is in that language.
fn hcl_line(text: &str) -> Option<u32> {
    let (index, line) = text.lines().enumerate().find(|(_, line)| {
        let line = line.trim();
        !line.is_empty()
            && !line.starts_with(['#'])
            && !line.starts_with("//")
            && !line.starts_with("/*")
    })?;
    let mut words = line.split_whitespace();
    let block = matches!(
        words.next(),
        Some("job" | "variable" | "variables" | "locals" | "group" | "task")
    );
    let opens = line.trim_end().ends_with('{') && !line.contains(": ");
    (block && opens).then_some(index as u32 + 1)
}

/// The line of a value that only a Helm chart could hold.
fn helm_line(node: &Node) -> Option<u32> {
    const WORDS: [&str; 6] = [
        "{{ .Values",
        "{{ .Release",
        "{{.Values",
        "{{.Release",
        "{{ include ",
        "{{- ",
    ];
    match &node.value {
        Value::Plain(text) => WORDS
            .iter()
            .any(|word| text.contains(word))
            .then_some(node.place.line),
        Value::Quoted(text) => WORDS[..4]
            .iter()
            .any(|word| text.contains(word))
            .then_some(node.place.line),
        Value::List(items) => items.iter().find_map(|item| helm_line(item)),
        Value::Map(pairs) => pairs.iter().find_map(|pair| helm_line(&pair.node)),
        Value::Null => None,
    }
}
