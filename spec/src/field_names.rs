//! Fields have two names: the one that authors write, and the one in JSON, which has the unit.

use std::collections::BTreeMap;

use tw_model::{JobSpec, StructInfo};

/// The path in JSON of a field as authors name it: `resources.memory` is `resources.memory_bytes`.
pub(crate) fn json_path(field: &str) -> String {
    let tables: BTreeMap<&str, StructInfo> = JobSpec::tables()
        .into_iter()
        .map(|table| (table.name, table))
        .collect();
    let mut class = tables.get("Job");
    let parts = field.split('.').map(|part| {
        let known = class.and_then(|table| table.fields.iter().find(|field| field.name == part));
        class = known.and_then(|field| tables.get(field.python_type.trim_end_matches(" | None")));
        known.map_or(part, |field| field.json).to_owned()
    });
    parts.collect::<Vec<String>>().join(".")
}

/// The path of a field as authors name it, from that in JSON: `health[0].every_ms` is `health[0].every`.
pub(crate) fn author_path(path: &str) -> String {
    let tables = JobSpec::tables();
    let mut classes: Vec<&StructInfo> = tables.iter().filter(|table| table.name == "Job").collect();
    let mut written = Vec::new();
    for part in path.split('.') {
        let (name, rest) = part.split_at(part.find('[').unwrap_or(part.len()));
        let mut fields = classes.iter().flat_map(|class| &class.fields);
        let Some(field) = fields.find(|field| field.json == name) else {
            classes.clear();
            written.push(part.to_owned());
            continue;
        };
        written.push(format!("{}{rest}", field.name));
        let is_letter = |letter: char| letter.is_alphanumeric() || letter == '_';
        let named: Vec<&str> = field
            .python_type
            .split(|letter| !is_letter(letter))
            .collect();
        classes = tables
            .iter()
            .filter(|table| named.contains(&table.name))
            .collect();
    }
    written.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_names_in_json() {
        assert_eq!(json_path("resources.memory"), "resources.memory_bytes");
        assert_eq!(json_path("env.PATH"), "env.PATH");
        assert_eq!(json_path("stop.grace"), "stop.grace_ms");
        assert_eq!(json_path("nonsense.memory"), "nonsense.memory");
    }

    #[test]
    fn fields_have_the_names_that_authors_write() {
        assert_eq!(author_path("resources.memory_bytes"), "resources.memory");
        assert_eq!(author_path("health[0].every_ms"), "health[0].every");
        assert_eq!(author_path("env.memory_bytes"), "env.memory_bytes");
        assert_eq!(author_path("replicas"), "replicas");
        assert_eq!(
            author_path("nonsense[2].memory_bytes"),
            "nonsense[2].memory_bytes"
        );
    }
}
