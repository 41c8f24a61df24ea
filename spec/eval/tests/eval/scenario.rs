//! Texts with many small scenarios: `=== name [flag]` begins one, `--- path` a file of it.

/// One scenario.
pub(crate) struct Scenario<'a> {
    pub(crate) name: &'a str,
    /// What stands in brackets after the name; empty if nothing does.
    pub(crate) flag: &'a str,
    /// Path and text of each file.
    pub(crate) files: Vec<(&'a str, &'a str)>,
}

/// Reads scenarios; text that follows no `---` is the file `default`.
pub(crate) fn scenarios<'a>(text: &'a str, default: &'a str) -> Vec<Scenario<'a>> {
    let parts = text.split("=== ").filter(|part| !part.trim().is_empty());
    parts.map(|part| scenario(part, default)).collect()
}

fn scenario<'a>(part: &'a str, default: &'a str) -> Scenario<'a> {
    let (title, body) = part.split_once('\n').unwrap_or((part, ""));
    let (name, flag) = match title.split_once(" [") {
        Some((name, flag)) => (name, flag.trim_end_matches(']')),
        None => (title, ""),
    };
    let mut pieces = body.split("--- ");
    let first = pieces.next().unwrap_or_default();
    let named = pieces.filter_map(|piece| piece.split_once('\n'));
    let unnamed = (!first.is_empty()).then_some((default, first));
    Scenario {
        name,
        flag,
        files: unnamed.into_iter().chain(named).collect(),
    }
}
