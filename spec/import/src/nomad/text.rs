//! What Nomad puts into texts when a task starts: `${NOMAD_PORT_http}`, `${meta.x}`, `${attr.cpu.arch}`.

use crate::fields::Item;
use crate::note::Notes;

use super::Shared;

/// What texts of a group may name.
pub(crate) struct Names<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) group: String,
    pub(crate) meta: Vec<(String, String)>,
}

/// A text with the values that a spec knows, as templates where they are known only later.
pub(crate) fn filled(item: &Item, field: &str, names: &Names<'_>, notes: &mut Notes) -> String {
    fill(item.text(), item, field, names, notes)
}

fn fill(text: &str, item: &Item, field: &str, names: &Names<'_>, notes: &mut Notes) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after
            .strip_prefix('{')
            .and_then(|inside| Some((inside, inside.find('}')?)));
        let (name, length) = match braced {
            Some((inside, end)) => (&inside[..end], end + 2),
            None => {
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match value(name.trim(), names) {
            Known::Value(value) => {
                out.push_str(&value);
                rest = &after[length..];
            }
            Known::Decide => {
                notes.decide(
                    item,
                    field,
                    format!("the value of ${{{}}}: a task does not know it", name.trim()),
                );
                out.push('$');
                rest = after;
            }
            Known::No => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

enum Known {
    Value(String),
    /// Nomad knows it, and Twill does not.
    Decide,
    /// Not Nomad's: a variable of a shell.
    No,
}

fn value(name: &str, names: &Names<'_>) -> Known {
    let port =
        |label: &str| Known::Value(format!("{{port:{}}}", crate::draft::nearest_name(label)));
    if let Some(label) = name
        .strip_prefix("NOMAD_PORT_")
        .or_else(|| name.strip_prefix("NOMAD_HOST_PORT_"))
    {
        return port(label);
    }
    if let Some(key) = name.strip_prefix("NOMAD_META_") {
        let known = names.meta.iter().find(|(known, _)| {
            known == key || known.to_ascii_uppercase().replace(['-', '.'], "_") == key
        });
        return known.map_or(Known::Decide, |(_, value)| Known::Value(value.clone()));
    }
    match name {
        "NOMAD_ALLOC_INDEX" => Known::Value("{task:index}".to_owned()),
        "NOMAD_JOB_NAME" | "NOMAD_JOB_ID" => Known::Value(names.shared.id.clone()),
        "NOMAD_GROUP_NAME" => Known::Value(names.group.clone()),
        _ if name.starts_with("NOMAD_") => Known::Decide,
        _ if ["node.", "attr.", "meta.", "env["]
            .iter()
            .any(|start| name.starts_with(start)) =>
        {
            Known::Decide
        }
        _ => Known::No,
    }
}
