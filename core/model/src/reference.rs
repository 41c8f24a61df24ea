//! The reference of the spec language, generated from its schema.

use std::fmt::Write;

use crate::python::{effect_words, has_support};
use crate::{Code, JobSpec};

/// The text of `docs/spec-reference.md`.
pub fn spec_reference() -> String {
    let mut text = "# Spec reference\n\nGenerated from the schema by `make docs`. Sizes are in bytes (`256 * MiB`), times in seconds (`5 * SECOND`), CPU in cores (`0.5`).\n".to_owned();
    for table in JobSpec::tables().iter().rev() {
        let _ = write!(text, "\n## {}\n\n{}\n\n", table.name, table.doc);
        text.push_str("| field | type | default | in JSON | a change | meaning | example |\n| --- | --- | --- | --- | --- | --- | --- |\n");
        for field in table.fields.iter().filter(|field| !field.resolved) {
            let default = field
                .default
                .as_ref()
                .map_or("required".to_owned(), |default| format!("`{default}`"));
            let _ = writeln!(
                text,
                "| `{}` | `{}` | {default} | `{}` | {} | {}{} | `{}` |",
                field.name,
                field.python_type.replace('|', "\\|"),
                field.json,
                effect_words(field.effect),
                field.doc.replace('\n', " "),
                match has_support(table, field) {
                    true => "",
                    false => " *Nothing acts on it yet: a plan refuses a job that sets it.*",
                },
                field.example.replace('|', "\\|"),
            );
        }
    }
    text.push_str("\n## Error codes\n\n| code | meaning |\n| --- | --- |\n");
    for info in Code::ALL {
        let _ = writeln!(
            text,
            "| `{}` | {} |",
            info.name,
            info.doc.trim().replace('\n', " ")
        );
    }
    text
}
