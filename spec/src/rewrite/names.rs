//! The names of the library that a file can use, and the import that makes another one known.

use tree_sitter::Node;

use super::syntax::{Edit, Syntax};

/// The units of sizes, largest first.
pub(super) const UNITS: [(&str, f64); 4] = [
    ("TiB", (1_u64 << 40) as f64),
    ("GiB", (1_u64 << 30) as f64),
    ("MiB", (1_u64 << 20) as f64),
    ("KiB", 1024.0),
];

/// What a file has imported of `tw`.
#[derive(Default)]
pub(super) struct Names<'t> {
    /// Name in the library, name here.
    local: Vec<(String, String)>,
    has_all: bool,
    /// The name of the module itself, as `tw` or `t`.
    module: Option<String>,
    /// The names of the statement that others can join.
    listed: Vec<Node<'t>>,
}

impl<'t> Names<'t> {
    pub(super) fn of(syntax: &'t Syntax) -> Names<'t> {
        let mut names = Names::default();
        let root = syntax.root();
        let mut cursor = root.walk();
        for statement in root.named_children(&mut cursor) {
            match statement.kind() {
                "import_from_statement" => names.from(syntax, statement),
                "import_statement" => names.import(syntax, statement),
                _ => {}
            }
        }
        names
    }

    fn from(&mut self, syntax: &'t Syntax, statement: Node<'t>) {
        let module = statement.child_by_field_name("module_name");
        let module = module.map_or("", |module| syntax.of(module));
        let mut cursor = statement.walk();
        let listed: Vec<Node<'t>> = statement
            .children_by_field_name("name", &mut cursor)
            .collect();
        for name in &listed {
            let (known, here) = imported(syntax, *name);
            // A unit may come by way of a module of the author's.
            if matches!(module, "tw" | "tw.units") || UNITS.iter().any(|(unit, _)| *unit == known) {
                self.local.push((known.to_owned(), here.to_owned()));
            }
        }
        if module == "tw" {
            let mut cursor = statement.walk();
            self.has_all |= statement
                .children(&mut cursor)
                .any(|child| child.kind() == "wildcard_import");
            if !listed.is_empty() && self.listed.is_empty() {
                self.listed = listed;
            }
        }
    }

    fn import(&mut self, syntax: &'t Syntax, statement: Node<'t>) {
        let mut cursor = statement.walk();
        for name in statement.children_by_field_name("name", &mut cursor) {
            let (known, here) = imported(syntax, name);
            if known == "tw" {
                self.module = Some(here.to_owned());
            }
        }
    }

    /// The size of the unit that an expression names.
    pub(super) fn unit(&self, syntax: &Syntax, node: Node<'_>) -> Option<f64> {
        let name = match node.kind() {
            "identifier" => {
                let here = syntax.of(node);
                let known = self.local.iter().find(|(_, local)| local == here);
                known.map_or(here, |(name, _)| name)
            }
            "attribute" => syntax.of(node.child_by_field_name("attribute")?),
            _ => return None,
        };
        let found = UNITS.iter().find(|(unit, _)| *unit == name)?;
        Some(found.1)
    }

    /// How names of the library are written here, and the edit that makes those known that are not yet.
    pub(super) fn write(&self, syntax: &Syntax, wanted: &[&str]) -> (Vec<String>, Vec<Edit>) {
        let mut edits = Vec::new();
        let mut missing = Vec::new();
        let written = wanted.iter().map(|name| {
            if let Some((_, here)) = self.local.iter().find(|(known, _)| known == name) {
                return here.clone();
            }
            if let Some(module) = self.module.as_ref().filter(|_| self.listed.is_empty()) {
                return format!("{module}.{name}");
            }
            if !self.has_all {
                match self.listed.is_empty() {
                    true => missing.push(*name),
                    false => edits.push(self.join(syntax, name)),
                }
            }
            (*name).to_owned()
        });
        let written = written.collect();
        if !missing.is_empty() {
            missing.sort_by_key(|name| order(name));
            let line = format!("from tw import {}\n", missing.join(", "));
            edits.push(Edit::insert(first_statement(syntax), line));
        }
        edits.sort_by_key(|edit| (edit.start, edit.text.clone()));
        (written, edits)
    }

    /// Adds a name to the import statement, where its order wants it.
    fn join(&self, syntax: &Syntax, name: &str) -> Edit {
        let between = self.listed.windows(2).map(|pair| {
            let gap = pair[0].end_byte()..pair[1].start_byte();
            syntax.text().get(gap).unwrap_or(", ")
        });
        let between = between.into_iter().find(|gap| !gap.contains('#'));
        let between = between.unwrap_or(", ");
        let texts: Vec<&str> = self.listed.iter().map(|node| syntax.of(*node)).collect();
        let is_sorted = texts.is_sorted_by_key(|text| order(text));
        let next = texts.iter().position(|text| order(text) > order(name));
        match next.filter(|_| is_sorted) {
            Some(next) => Edit::insert(self.listed[next].start_byte(), format!("{name}{between}")),
            None => {
                let last = self.listed[self.listed.len() - 1];
                Edit::insert(last.end_byte(), format!("{between}{name}"))
            }
        }
    }
}

/// Constants, then classes, then functions, as formatters sort imports.
fn order(name: &str) -> (u8, String) {
    let rank = match name {
        _ if name.len() > 1 && !name.contains(|c: char| c.is_ascii_lowercase()) => 0,
        _ if name.starts_with(|c: char| c.is_ascii_uppercase()) => 1,
        _ => 2,
    };
    (rank, name.to_owned())
}

/// The name of what is imported, and the name that it gets.
fn imported<'s>(syntax: &'s Syntax, node: Node<'_>) -> (&'s str, &'s str) {
    let part = |field| {
        node.child_by_field_name(field)
            .map_or("", |part| syntax.of(part))
    };
    match node.kind() {
        "aliased_import" => (part("name"), part("alias")),
        _ => (syntax.of(node), syntax.of(node)),
    }
}

/// Where an import can stand: before everything but comments, the docstring and imports of the future.
fn first_statement(syntax: &Syntax) -> usize {
    let root = syntax.root();
    let mut cursor = root.walk();
    let mut statements = root.named_children(&mut cursor);
    let first = statements.find(|statement| match statement.kind() {
        "comment" | "future_import_statement" => false,
        "expression_statement" => statement
            .named_child(0)
            .is_none_or(|inner| inner.kind() != "string"),
        _ => true,
    });
    first.map_or(syntax.text().len(), |statement| statement.start_byte())
}
