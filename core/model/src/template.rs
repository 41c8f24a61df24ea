//! Late-bound parts of commands and environments: `{port:http}`, `{task:index}`, `{service:redis:main}`,
//! `{repo:revision}`.
//!
//! Only braces that open with one of these words are templates; all other braces are text.

use crate::Name;

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
#[error(
    "'{{{found}}}' is not a template: write {{port:NAME}}, {{task:index}}, {{service:JOB:PORT}}, {{repo:revision}}, {{image:command}} or {{image:entrypoint}}"
)]
pub struct TemplateError {
    pub found: String,
}

const WORDS: [&str; 5] = ["port:", "task:", "service:", "repo:", "image:"];

impl Template {
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            literal.push_str(&rest[..open]);
            let inside = &rest[open + 1..];
            if !WORDS.iter().any(|word| inside.starts_with(word)) {
                literal.push('{');
                rest = inside;
                continue;
            }
            let close = inside.find('}').ok_or_else(|| TemplateError {
                found: inside.to_owned(),
            })?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Value(parse_value(&inside[..close])?));
            rest = &inside[close + 1..];
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
}
