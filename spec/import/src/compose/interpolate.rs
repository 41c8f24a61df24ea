//! `$NAME`, `${NAME:-default}` and their relatives.

use crate::fields::Item;
use crate::note::Notes;
use crate::variables::Variables;

use super::map_scalars;

/// Keys of a service in which a variable may become a constant; elsewhere its default is written.
const CONSTANTS_IN: [&str; 4] = ["image", "environment", "command", "entrypoint"];

/// Replaces the variables of a service.
pub(super) fn service(item: &Item, variables: &mut Variables, notes: &mut Notes) -> Item {
    let mut node = crate::document::Node::clone(&item.node);
    if let crate::document::Value::Map(pairs) = &mut node.value {
        for pair in pairs {
            let constants = CONSTANTS_IN.contains(&pair.key.as_str());
            let base = Item {
                path: format!("{}.{}", item.path, pair.key),
                ..item.clone()
            };
            pair.node = map_scalars(&pair.node, &mut |node, text| {
                let at = Item {
                    place: node.place,
                    ..base.clone()
                };
                text.contains('$')
                    .then(|| replace(text, constants, &at, variables, notes))
            });
        }
    }
    Item {
        node: node.into(),
        ..item.clone()
    }
}

/// What stands behind a name in braces.
#[derive(Clone, Copy)]
enum Rule<'a> {
    None,
    /// `:-` and `-`
    Default(&'a str),
    /// `:?` and `?`
    Required,
    /// `:+` and `+`
    Alternative(&'a str),
}

/// Replaces the variables of one text.
fn replace(
    text: &str,
    constants: bool,
    item: &Item,
    variables: &mut Variables,
    notes: &mut Notes,
) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
            continue;
        }
        let Some((name, rule, end)) = variable(after) else {
            out.push('$');
            rest = after;
            continue;
        };
        rest = &after[end..];
        let default = match rule {
            Rule::Default(default) => Some(literal(default)),
            Rule::None | Rule::Required => None,
            Rule::Alternative(other) => {
                notes.changed(
                    item,
                    "",
                    format!("without {name}; with it, '{other}' would stand here"),
                );
                continue;
            }
        };
        let marker = constants
            .then(|| variables.marker(name, default.as_deref(), item))
            .flatten();
        match (marker, default) {
            (Some(marker), _) => out.push_str(&marker),
            (None, Some(default)) => {
                notes.changed(
                    item,
                    "",
                    format!(
                        "${{{name}}} became its default, '{default}': a spec reads no environment"
                    ),
                );
                out.push_str(&default);
            }
            (None, None) => {
                notes.decide(
                    item,
                    "",
                    format!("the value of ${{{name}}}: a spec reads no environment"),
                );
            }
        }
    }
    out.push_str(rest);
    out
}

/// The defaults of variables within a default.
fn literal(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        match (after.strip_prefix('$'), variable(after)) {
            (Some(escaped), _) => {
                out.push('$');
                rest = escaped;
            }
            (None, Some((_, rule, end))) => {
                if let Rule::Default(default) = rule {
                    out.push_str(&literal(default));
                }
                rest = &after[end..];
            }
            (None, None) => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The variable that a text after `$` begins with: its name, its rule and its length.
fn variable(after: &str) -> Option<(&str, Rule<'_>, usize)> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name_of = |text: &str| {
        let end = text.find(|c| !in_name(c)).unwrap_or(text.len());
        (end > 0 && !text.starts_with(|c: char| c.is_ascii_digit())).then_some(end)
    };
    let Some(inside) = after.strip_prefix('{') else {
        let end = name_of(after)?;
        return Some((&after[..end], Rule::None, end));
    };
    let close = closing(inside)?;
    let inside = &inside[..close];
    let end = name_of(inside)?;
    let rest = &inside[end..];
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    let rule = match rest.chars().next() {
        None => Rule::None,
        Some('-') => Rule::Default(&rest[1..]),
        Some('?') => Rule::Required,
        Some('+') => Rule::Alternative(&rest[1..]),
        Some(_) => return None,
    };
    Some((&inside[..end], rule, close + 2))
}

/// Where the brace that is open at the start of a text closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (index, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(index),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}
