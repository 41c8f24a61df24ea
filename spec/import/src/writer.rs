//! From drafts to the text of a spec, as a careful engineer would write it by hand.

mod share;

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{JobSpec, SpecType, UNITS, without_support};

use crate::Format;
use crate::draft::Draft;
use crate::note::{Note, NoteKind, Notes};
use crate::python::{self, Element, Expr, Key};
use crate::variables::{self, Part, Variables};

/// A name that the spec defines above its jobs.
pub(crate) struct Constant {
    pub(crate) name: String,
    pub(crate) comments: Vec<String>,
    pub(crate) value: Expr,
}

/// Writes the spec. Notes about variables are added, because only here it shows which of them are left.
pub(crate) fn write(
    files: &[&str],
    format: Format,
    drafts: &[Draft],
    variables: &Variables,
    notes: &mut Notes,
) -> String {
    let mut jobs: Vec<Expr> = drafts.iter().map(job).collect();
    let mut constants = Vec::new();
    for (draft, job) in drafts.iter().zip(&mut jobs) {
        take_out_scripts(draft, job, &mut constants);
    }
    let scripts = std::mem::take(&mut constants);
    constants.extend(share::take_out(drafts, &mut jobs));
    constants.extend(scripts);
    let mut used = Vec::new();
    let values = constants.iter_mut().map(|constant| &mut constant.value);
    for expr in values.chain(&mut jobs) {
        expr.visit_mut(&mut |expr| fill_variables(expr, variables, &mut used));
    }
    let constants: Vec<Constant> = variable_constants(used, variables, notes)
        .into_iter()
        .chain(constants)
        .collect();
    for (draft, job) in drafts.iter().zip(&mut jobs) {
        annotate(draft, job, &notes.list, files.len() > 1);
    }
    let mut text = header(files, format, drafts);
    text.push_str(&imports(&constants, &jobs));
    for (index, constant) in constants.iter().enumerate() {
        // Constants of one line stand together.
        let is_plain = |constant: &Constant| matches!(constant.value, Expr::Text(_));
        let follows = index > 0 && is_plain(constant) && is_plain(&constants[index - 1]);
        if !follows {
            text.push('\n');
        }
        text.push_str(&python::comment_lines(&constant.comments, 0));
        let start = format!("{} = ", constant.name);
        let value = constant.value.layout(0, start.chars().count(), 0);
        text.push_str(&format!("{start}{value}\n"));
    }
    for job in jobs {
        let export = Expr::call("export", vec![Element::new(Key::None, job)]);
        text.push_str(&format!("\n{}\n", export.layout(0, 0, 0)));
    }
    let loose: Vec<&Note> = notes
        .list
        .iter()
        .filter(|note| note.job.is_none() && shows(note))
        .collect();
    if !loose.is_empty() {
        text.push('\n');
        text.push_str(&python::comment_lines(
            &comments(&loose, "", files.len() > 1),
            0,
        ));
    }
    text
}

/// Where the spec came from, and what has to be known before it runs.
fn header(files: &[&str], format: Format, drafts: &[Draft]) -> String {
    let names: Vec<&str> = files
        .iter()
        .map(|file| {
            if *file == "<stdin>" {
                "standard input"
            } else {
                file
            }
        })
        .collect();
    let mut lines = vec![format!(
        "Imported by `tw import` from {} ({}).",
        names.join(", "),
        format.describe()
    )];
    let waiting: BTreeSet<&str> = drafts
        .iter()
        .flat_map(|draft| without_support(&draft.spec))
        .map(|path| path.split('.').next().unwrap_or(path))
        .collect();
    if !waiting.is_empty() {
        let fields: Vec<&str> = waiting.into_iter().collect();
        lines.push(format!(
            "This version of Twill knows these fields and does not act on them yet, so `tw plan` refuses the jobs that have them: {}.",
            fields.join(", ")
        ));
    }
    python::paragraphs(&lines)
}

/// The expression of one job, without comments.
fn job(draft: &Draft) -> Expr {
    let mut expr = python::parse(&draft.spec.to_python());
    expr.visit_mut(&mut as_folder);
    expr.visit_mut(&mut count_units);
    let Some(arguments) = expr.elements_mut() else {
        return expr;
    };
    for argument in arguments {
        match &argument.key {
            Key::Name(name) if name == "env" => {
                let order = |key: &Key| match key {
                    Key::Text(key) => draft.env.iter().position(|(known, _, _)| known == key),
                    _ => None,
                };
                if let Some(entries) = argument.value.elements_mut() {
                    entries.sort_by_key(|entry| order(&entry.key));
                }
            }
            Key::Name(name) if name == "command" => {
                mark_undecided(&mut argument.value, argument.after.insert(String::new()))
            }
            _ => {}
        }
        if argument.after.as_deref() == Some("") {
            argument.after = None;
        }
    }
    expr
}

/// Says at its own line that a command is still to be decided.
fn mark_undecided(command: &mut Expr, after: &mut String) {
    match command.elements().first().map(|first| &first.value) {
        None => *after = "to decide: the program and its arguments".to_owned(),
        Some(Expr::Text(program)) if program.is_empty() => {
            *after = "to decide: the program, before these arguments".to_owned()
        }
        Some(_) => {}
    }
}

/// `Package(path="app")` is written `Package.folder("app")`.
fn as_folder(expr: &mut Expr) {
    if expr.class() != Some("Package") {
        return;
    }
    let path = expr.elements().first().map(|element| element.value.clone());
    if let Some(path) = path {
        *expr = Expr::call("Package.folder", vec![Element::new(Key::None, path)]);
    }
}

/// One unit is written as any other number of them: `1 * SECOND`.
fn count_units(expr: &mut Expr) {
    if let Expr::Atom(text) = expr
        && UNITS.contains(&text.as_str())
    {
        text.insert_str(0, "1 * ");
    }
}

/// Texts of several lines are constants, so that they read as what they are.
fn take_out_scripts(draft: &Draft, job: &mut Expr, constants: &mut Vec<Constant>) {
    let start = constant_name(draft.spec.name.as_str());
    for argument in job.elements_mut().into_iter().flatten() {
        let Key::Name(field) = argument.key.clone() else {
            continue;
        };
        let base = match field.as_str() {
            "command" => format!("{start}_SCRIPT"),
            "env" | "hooks" => start.clone(),
            _ => format!("{start}_{}", constant_name(&field)),
        };
        take_out_within(&mut argument.value, &base, field == "env", constants);
    }
}

fn take_out_within(expr: &mut Expr, base: &str, by_key: bool, constants: &mut Vec<Constant>) {
    if let Expr::Text(text) = expr {
        let is_script =
            text.trim_end_matches('\n').contains('\n') && variables::parts(text).len() <= 1;
        if is_script {
            let name = free_name(base, constants);
            constants.push(Constant {
                name: name.clone(),
                comments: Vec::new(),
                value: Expr::Atom(python::block(text)),
            });
            *expr = Expr::Atom(name);
        }
        return;
    }
    for element in expr.elements_mut().into_iter().flatten() {
        let base = match &element.key {
            Key::Text(key) if by_key => format!("{base}_{}", constant_name(key)),
            // A hook is known by its moment, all else by the job.
            Key::Name(name) if name.starts_with("pre_") || name.starts_with("post_") => {
                format!("{base}_{}", constant_name(name))
            }
            _ => base.to_owned(),
        };
        take_out_within(&mut element.value, &base, by_key, constants);
    }
}

/// `shop-front` as the name of a constant.
pub(crate) fn constant_name(text: &str) -> String {
    let name: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("X_{name}"),
        false => name,
    }
}

pub(crate) fn free_name(base: &str, constants: &[Constant]) -> String {
    let is_taken = |name: &str| constants.iter().any(|constant| constant.name == name);
    match is_taken(base) {
        false => base.to_owned(),
        true => (2..)
            .map(|number| format!("{base}_{number}"))
            .find(|name| !is_taken(name))
            .unwrap_or_default(),
    }
}

/// Writes the variables of a text as names: alone, or in an f-string.
fn fill_variables(expr: &mut Expr, variables: &Variables, used: &mut Vec<String>) {
    let Expr::Text(text) = expr else { return };
    let parts = variables::parts(text);
    let names: Vec<&String> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Variable(name) => Some(name),
            Part::Text(_) => None,
        })
        .collect();
    if names.is_empty() || names.iter().any(|name| variables.get(name).is_none()) {
        return;
    }
    for name in &names {
        if !used.contains(*name) {
            used.push((*name).clone());
        }
    }
    *expr = match &parts[..] {
        [Part::Variable(name)] => Expr::Atom(name.clone()),
        parts => Expr::Atom(f_string(parts)),
    };
}

fn f_string(parts: &[Part]) -> String {
    // Doubled braces are text; a name in single ones is its value.
    let open = '\u{e002}';
    let close = '\u{e003}';
    let text: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.replace('{', "{{").replace('}', "}}"),
            Part::Variable(name) => format!("{open}{name}{close}"),
        })
        .collect();
    format!("f{}", python::quoted(&text))
        .replace(open, "{")
        .replace(close, "}")
}

/// The constants of the variables that are left, with a note for each.
fn variable_constants(
    mut used: Vec<String>,
    variables: &Variables,
    notes: &mut Notes,
) -> Vec<Constant> {
    used.sort();
    let mut constants = Vec::new();
    for name in used {
        let Some(variable) = variables.get(&name) else {
            continue;
        };
        let first = constants.is_empty();
        let mut comments = Vec::new();
        if first {
            comments.push(
                "Variables of the environment; a spec reads none, so they are set here.".to_owned(),
            );
        }
        match &variable.default {
            Some(default) => {
                let message = format!(
                    "${{{name}}} is the constant {name}, with its default '{default}': a spec reads no environment"
                );
                notes.changed(&variable.item, "", message);
            }
            None => {
                notes.decide(&variable.item, "", format!("${{{name}}} is the constant {name}: give it its value, since a spec reads no environment"));
                comments.push(format!("to decide: the value of {name}"));
            }
        }
        let value = Expr::Text(variable.default.clone().unwrap_or_default());
        constants.push(Constant {
            name,
            comments,
            value,
        });
    }
    constants
}

/// Whether a note stands in the spec, too.
fn shows(note: &Note) -> bool {
    matches!(note.kind, NoteKind::ToDecide | NoteKind::NotCarried)
}

/// Puts the notes of a job as comments above the fields that they are about, or at its end.
fn annotate(draft: &Draft, job: &mut Expr, notes: &[Note], name_files: bool) {
    let name = draft.spec.name.as_str();
    let own: Vec<&Note> = notes
        .iter()
        .filter(|note| note.job.as_deref() == Some(name) && shows(note))
        .collect();
    let prefix = draft.origin.path.as_str();
    let mut placed: BTreeSet<usize> = BTreeSet::new();
    let Expr::Group {
        elements, trailing, ..
    } = job
    else {
        return;
    };
    for element in elements.iter_mut() {
        let Key::Name(field) = &element.key else {
            continue;
        };
        let here: Vec<usize> = (0..own.len())
            .filter(|index| own[*index].field.as_deref() == Some(field))
            .collect();
        let mine: Vec<&Note> = here.iter().map(|index| own[*index]).collect();
        element.comments = comments(&mine, prefix, name_files);
        placed.extend(here);
    }
    let rest: Vec<&Note> = (0..own.len())
        .filter(|index| !placed.contains(index))
        .map(|index| own[index])
        .collect();
    *trailing = comments(&rest, prefix, name_files);
}

/// Notes as comments; those that say the same stand together.
fn comments(notes: &[&Note], prefix: &str, name_files: bool) -> Vec<String> {
    let mut groups: Vec<(NoteKind, &str, Vec<&Note>)> = Vec::new();
    for note in notes {
        let same = groups
            .iter_mut()
            .find(|(kind, message, _)| *kind == note.kind && *message == note.message);
        match same {
            Some((_, _, group)) => group.push(note),
            None => groups.push((note.kind, &note.message, vec![note])),
        }
    }
    groups
        .into_iter()
        .map(|(kind, message, group)| {
            let paths: BTreeMap<&str, ()> = group
                .iter()
                .map(|note| (short_path(&note.path, prefix), ()))
                .collect();
            let paths: Vec<&str> = paths.into_keys().collect();
            format!(
                "{}: {} ({}): {message}",
                kind.as_str(),
                paths.join(", "),
                places(&group, name_files)
            )
        })
        .collect()
}

fn short_path<'a>(path: &'a str, prefix: &str) -> &'a str {
    // Within a pod the container is what matters; where it stands in its object is the same in all of them.
    if let Some((_, inside)) = path.rsplit_once("ontainers[")
        && let Some((_, inside)) = inside.split_once("].")
    {
        return inside;
    }
    if let Some((_, inside)) = path.rsplit_once("spec.template.") {
        return inside.strip_prefix("spec.").unwrap_or(inside);
    }
    match path.strip_prefix(prefix) {
        Some(rest) if !prefix.is_empty() => match rest.trim_start_matches('.') {
            "" => path.rsplit('.').next().unwrap_or(path),
            rest => rest,
        },
        _ => path,
    }
}

/// `line 3`, `lines 3, 5`, `web.yaml:3`.
fn places(notes: &[&Note], name_files: bool) -> String {
    if name_files {
        let places: Vec<String> = notes
            .iter()
            .map(|note| format!("{}:{}", note.file, note.line))
            .collect();
        return places.join(", ");
    }
    let mut lines: Vec<u32> = notes.iter().map(|note| note.line).collect();
    lines.dedup();
    let texts: Vec<String> = lines.iter().map(u32::to_string).collect();
    let word = if lines.len() == 1 { "line" } else { "lines" };
    format!("{word} {}", texts.join(", "))
}

/// The import of exactly what is used.
fn imports(constants: &[Constant], jobs: &[Expr]) -> String {
    let tables = JobSpec::tables();
    let classes: BTreeSet<&str> = tables.iter().map(|table| table.name).collect();
    let mut names: BTreeSet<&str> = BTreeSet::from(["export"]);
    let mut see = |expr: &Expr| match expr {
        Expr::Group { open, .. } => {
            let class = open
                .trim_end_matches(['(', '[', '{'])
                .split('.')
                .next()
                .unwrap_or_default();
            names.extend(classes.get(class).copied());
        }
        Expr::Atom(text) => {
            let unit = text.rsplit(' ').next().unwrap_or_default();
            names.extend(UNITS.iter().find(|name| **name == unit).copied());
        }
        Expr::Text(_) => {}
    };
    constants
        .iter()
        .map(|constant| &constant.value)
        .chain(jobs)
        .for_each(|expr| expr.visit(&mut see));
    let mut names: Vec<&str> = names.into_iter().collect();
    let rank = |name: &str| match name.chars().next() {
        _ if name.chars().all(|c| c.is_ascii_uppercase()) => 0,
        Some(first) if first.is_ascii_uppercase() => 1,
        _ => 2,
    };
    names.sort_by_key(|name| (rank(name), name.to_ascii_lowercase()));
    let line = format!("from tw import {}", names.join(", "));
    match line.len() <= 88 {
        true => format!("\n{line}\n"),
        false => format!("\nfrom tw import (\n    {},\n)\n", names.join(",\n    ")),
    }
}
