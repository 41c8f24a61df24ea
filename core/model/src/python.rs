//! The Python classes of the spec language, generated from its schema.

use std::fmt::Write;

use crate::{FIELDS_WITHOUT_SUPPORT, FieldInfo, JobSpec, StructInfo};

/// The names of the units of times and sizes, as specs import them.
pub const UNITS: [&str; 9] = [
    "DAY",
    "HOUR",
    "MILLISECOND",
    "MINUTE",
    "SECOND",
    "GiB",
    "KiB",
    "MiB",
    "TiB",
];

const HEADER: &str = r#""""The typed classes of the spec language.

Generated from Twill's schema by `make docs`; edit `core/model/src/job.rs` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from ._runtime import EMPTY, UNSET, Spec
from .units import {units}

"#;

/// The text of `stdlib_py/tw/_schema.py`.
pub fn module() -> String {
    let tables = JobSpec::tables();
    let mut names: Vec<String> = tables
        .iter()
        .map(|table| table.name)
        .chain([MIXIN])
        .map(|name| format!("\"{name}\""))
        .collect();
    names.sort();
    let mut text = HEADER.to_owned();
    let used = |unit: &str| {
        tables
            .iter()
            .flat_map(|t| &t.fields)
            .any(|f| f.default.as_deref().is_some_and(|d| d.contains(unit)))
    };
    let units: Vec<&str> = UNITS.into_iter().filter(|unit| used(unit)).collect();
    text = text.replace("{units}", &units.join(", "));
    let _ = writeln!(text, "__all__ = [{}]", names.join(", "));
    for table in &tables {
        write_class(&mut text, table);
    }
    if let Some(job) = tables.iter().find(|table| table.name == "Job") {
        write_mixin(&mut text, job);
    }
    text
}

/// The class of fields that several jobs have in common.
const MIXIN: &str = "Mixin";

/// The method that puts mixins into a job.
const MIX: &str = r#"
    def mix(self, *mixins: Mixin) -> Self:
        """Returns a copy into which the fields of `mixins` are merged, one after the other.

        An object is merged field by field, a dict key by key, a list is appended to;
        everything else is replaced. Where two mixins say something, the later one wins.
        """
        return self._mix(mixins)
"#;

/// Writes the class with every field of a job, none of them required.
fn write_mixin(text: &mut String, job: &StructInfo) {
    let doc = "Fields that several jobs have in common: `job.mix(mixin)` puts them into a job.";
    let _ = write!(text, "\n\nclass {MIXIN}(Spec):\n{}\n", docstring(doc));
    for field in authored(job) {
        let _ = writeln!(text, "    {}: {} = UNSET", field.name, field.python_type);
    }
}

/// The fields that authors may write.
fn authored(table: &StructInfo) -> impl Iterator<Item = &FieldInfo> {
    table.fields.iter().filter(|field| !field.resolved)
}

fn write_class(text: &mut String, table: &StructInfo) {
    let _ = write!(
        text,
        "\n\nclass {}(Spec):\n{}\n",
        table.name,
        docstring(&table.doc)
    );
    for field in authored(table) {
        let default = field
            .default
            .as_deref()
            .map(|default| format!(" = {}", immutable(default)))
            .unwrap_or_default();
        let _ = write!(
            text,
            "    {}: {}{default}\n{}",
            field.name,
            field.python_type,
            docstring(&field_doc(table, field))
        );
    }
    text.push_str(table.python_extra);
    write_signatures(text, table);
}

/// Writes what type checkers know of the methods that take fields.
fn write_signatures(text: &mut String, table: &StructInfo) {
    let arguments: Vec<String> = authored(table)
        .map(|field| format!("{}: {} = ...", field.name, field.python_type))
        .collect();
    let signature = |name: &str| {
        format!(
            "        def {name}(  # type: ignore[override]\n            self,\n            *,\n            {},\n        ) -> Self: ...\n",
            arguments.join(",\n            "),
        )
    };
    if table.name == "Job" {
        text.push_str(MIX);
    }
    let _ = write!(text, "\n    if TYPE_CHECKING:\n\n{}", signature("replace"));
}

fn field_doc(table: &StructInfo, field: &FieldInfo) -> String {
    let mut doc = format!("{}\n\nA change: {}.", field.doc, effect_words(field.effect));
    if !field.example.is_empty() {
        let _ = write!(doc, "\nExample: `{}`", field.example);
    }
    if !has_support(table, field) {
        doc.push_str("\nNothing acts on it yet: a plan refuses a job that sets it.");
    }
    doc
}

/// Whether the cluster acts on a field.
pub(crate) fn has_support(table: &StructInfo, field: &FieldInfo) -> bool {
    let tables = JobSpec::tables();
    let within = tables
        .iter()
        .filter(|job| job.name == "Job")
        .flat_map(|job| &job.fields)
        .find(|holder| holder.python_type == table.name)
        .map(|holder| format!("{}.{}", holder.json, field.json));
    let path = match table.name {
        "Job" => Some(field.json.to_owned()),
        _ => within,
    };
    path.is_none_or(|path| !FIELDS_WITHOUT_SUPPORT.contains(&path.as_str()))
}

/// What a change of the field does, in words.
pub(crate) fn effect_words(effect: &str) -> &'static str {
    match effect {
        "none" => "no task notices",
        "scale" => "tasks are added or removed",
        "in_place" => "applied to running tasks",
        "restart" => "tasks start again",
        "recreate" => "the job is removed and made anew",
        _ => "depends on the values",
    }
}

fn docstring(doc: &str) -> String {
    let indented = doc.replace('\n', "\n    ").replace("    \n", "\n");
    match doc.contains('\n') {
        true => format!("    \"\"\"{indented}\n    \"\"\"\n"),
        false => format!("    \"\"\"{indented}\"\"\"\n"),
    }
}

/// Defaults are shared by all objects, so none of them may be a list or a dict.
fn immutable(default: &str) -> String {
    match default {
        "{}" => "EMPTY".to_owned(),
        "[]" => "()".to_owned(),
        list => match list
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(items) => format!("({items},)"),
            None => list.to_owned(),
        },
    }
}
