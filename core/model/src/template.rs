//! Late-bound parts of commands and environments: `{port:http}`, `{task:index}`, `{service:redis:main}`,
//! `{repo:revision}`.
//!
//! Only braces that open with one of these words are templates; all other braces are text. Braces that open with a
//! word that looks like one of them are an error, and doubled braces are the text: `{{port:http}}` is `{port:http}`.

use crate::{Name, nearest};

/// A value that is known only when the task starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TemplateValue {
    /// The number of the port of this name.
    Port(Name),
    /// The index of the task within its job.
    TaskIndex,
    /// `HOST:PORT` of a healthy task of another job in the same namespace.
    Service { job: Name, port: Name },
    /// The commit from which this version of the job was applied; empty for a work tree. A commit elsewhere changes no
    /// spec, so it stays as it is until the job otherwise changes.
    RepoRevision,
    /// What the job's image starts by itself: its entry point and its command. A whole argument of its own.
    ImageCommand,
    /// The entry point alone, for other arguments after it. A whole argument of its own.
    ImageEntrypoint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(TemplateValue),
}

/// A text with late-bound parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// Braces that open like a template and are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{{{found}}}' is not a template")]
pub struct TemplateError {
    /// What stands between the braces.
    pub found: String,
    /// What was probably meant, if only the first word is misspelt.
    pub meant: Option<String>,
}

impl TemplateError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        let found = &self.found;
        match &self.meant {
            Some(meant) => format!("did you mean '{{{meant}}}'? As plain text it is '{{{{{found}}}}}'"),
            None => "write {port:NAME}, {task:index}, {service:JOB:PORT}, {repo:revision}, {image:command} or {image:entrypoint}; doubled braces are plain text".to_owned(),
        }
    }
}

const WORDS: [&str; 5] = ["port", "task", "service", "repo", "image"];

/// What follows an opening brace.
enum Opened<'a> {
    /// A template, or what must be one: the text up to the closing brace, and what follows that.
    Value { inside: &'a str, rest: &'a str },
    /// Doubled braces around what would be one.
    Doubled { inside: &'a str, rest: &'a str },
    /// Nothing of concern.
    Text,
}

/// Looks at what follows an opening brace.
fn opened(after: &str) -> Result<Opened<'_>, TemplateError> {
    let is_doubled = after.starts_with('{');
    let inside = after.strip_prefix('{').unwrap_or(after);
    let Some(word) = word_of(inside) else {
        return Ok(Opened::Text);
    };
    let is_known = WORDS.contains(&word);
    let near = nearest(&word.to_ascii_lowercase(), &WORDS);
    let closed = inside.split_once('}');
    match closed {
        Some((inside, rest)) if is_doubled => match rest.strip_prefix('}') {
            Some(rest) if is_known || near.is_some() => Ok(Opened::Doubled { inside, rest }),
            // A brace of its own before a template, which is looked at next.
            _ => Ok(Opened::Text),
        },
        Some((inside, rest)) if is_known => Ok(Opened::Value { inside, rest }),
        Some((inside, _)) if inside.chars().all(is_of_template) => match near {
            Some(near) => Err(TemplateError {
                found: inside.to_owned(),
                meant: Some(format!("{near}{}", &inside[word.len()..])),
            }),
            None => Ok(Opened::Text),
        },
        None if is_known && !is_doubled => Err(TemplateError {
            found: inside.to_owned(),
            meant: None,
        }),
        _ => Ok(Opened::Text),
    }
}

/// The letters before a colon, which would say what a template stands for.
fn word_of(inside: &str) -> Option<&str> {
    let (word, _) = inside.split_once(':')?;
    let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic());
    is_word.then_some(word)
}

/// Whether a character may stand in a template, and not only in other text between braces.
fn is_of_template(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.')
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            literal.push_str(&rest[..open]);
            let after = &rest[open + 1..];
            rest = match opened(after)? {
                Opened::Text => {
                    literal.push('{');
                    after
                }
                Opened::Doubled { inside, rest } => {
                    literal.extend(["{", inside, "}"]);
                    rest
                }
                Opened::Value { inside, rest } => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Value(parse_value(inside)?));
                    rest
                }
            };
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template(parts))
    }

    pub fn values(&self) -> impl Iterator<Item = &TemplateValue> {
        self.0.iter().filter_map(|part| match part {
            Part::Value(value) => Some(value),
            Part::Text(_) => None,
        })
    }

    /// Puts the values in. The first one that `bind` does not know is the error.
    pub fn render(
        &self,
        bind: impl Fn(&TemplateValue) -> Option<String>,
    ) -> Result<String, TemplateValue> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Ok(text.clone()),
                Part::Value(value) => bind(value).ok_or_else(|| value.clone()),
            })
            .collect()
    }
}

impl std::fmt::Display for TemplateValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TemplateValue::Port(name) => write!(f, "{{port:{name}}}"),
            TemplateValue::TaskIndex => write!(f, "{{task:index}}"),
            TemplateValue::Service { job, port } => write!(f, "{{service:{job}:{port}}}"),
            TemplateValue::RepoRevision => write!(f, "{{repo:revision}}"),
            TemplateValue::ImageCommand => write!(f, "{{image:command}}"),
            TemplateValue::ImageEntrypoint => write!(f, "{{image:entrypoint}}"),
        }
    }
}

fn parse_value(inside: &str) -> Result<TemplateValue, TemplateError> {
    let refuse = || TemplateError {
        found: inside.to_owned(),
        meant: None,
    };
    let name = |text: &str| text.parse::<Name>().map_err(|_| refuse());
    let words: Vec<&str> = inside.split(':').collect();
    match words[..] {
        ["port", port] => Ok(TemplateValue::Port(name(port)?)),
        ["task", "index"] => Ok(TemplateValue::TaskIndex),
        ["repo", "revision"] => Ok(TemplateValue::RepoRevision),
        ["image", "command"] => Ok(TemplateValue::ImageCommand),
        ["image", "entrypoint"] => Ok(TemplateValue::ImageEntrypoint),
        ["service", job, port] => Ok(TemplateValue::Service {
            job: name(job)?,
            port: name(port)?,
        }),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in_and_other_braces_stay() {
        let template =
            Template::parse("a {port:http} ${HOME} {\"x\": {}} {task:index} {repo:revision}")
                .unwrap();
        let text = template.render(|value| match value {
            TemplateValue::Port(_) => Some("80".to_owned()),
            TemplateValue::TaskIndex => Some("3".to_owned()),
            TemplateValue::RepoRevision => Some("4f2a".to_owned()),
            _ => None,
        });
        assert_eq!(text.unwrap(), "a 80 ${HOME} {\"x\": {}} 3 4f2a");
    }

    #[test]
    fn near_templates_are_refused() {
        for bad in [
            "{port:}",
            "{port:a:b}",
            "{task:name}",
            "{service:redis}",
            "{port:http",
            "{repo:branch}",
            "{image:cmd}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_word_is_refused_with_the_nearest() {
        for (bad, meant) in [
            ("--port {prot:http}", "port:http"),
            ("{ports:http}", "port:http"),
            ("{Port:http}", "port:http"),
            ("x{sevice:redis:main}", "service:redis:main"),
            ("{imge:command}", "image:command"),
        ] {
            let error = Template::parse(bad).expect_err(bad);
            assert_eq!(error.meant.as_deref(), Some(meant), "{bad}");
        }
    }

    #[test]
    fn doubled_braces_are_text() {
        for (written, text) in [
            ("{{port:http}}", "{port:http}"),
            ("a {{prot:http}} b", "a {prot:http} b"),
            // Only where a template would be: the braces of others stay as they are.
            (
                "{{.Name}} {{ x }} {{print:x}}",
                "{{.Name}} {{ x }} {{print:x}}",
            ),
            ("{\"a\":{\"b\":{task:index}}}", "{\"a\":{\"b\":7}}"),
            ("{{task:index} }", "{7 }"),
            (
                "awk '{print $1}' {\"prot\": 1} {a:b}",
                "awk '{print $1}' {\"prot\": 1} {a:b}",
            ),
        ] {
            let template = Template::parse(written).expect(written);
            let rendered = template.render(|_| Some("7".to_owned()));
            assert_eq!(rendered.expect(written), text);
        }
    }
}
