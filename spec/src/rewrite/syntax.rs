//! A Python file as its author wrote it: the text, and a syntax tree that knows every byte's place.

use std::ops::Range;

use tree_sitter::{Node, Parser, Tree};
use tw_model::Location;

/// Bytes of a file and what is to stand there instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) text: String,
}

impl Edit {
    pub(super) fn replace(range: Range<usize>, text: impl Into<String>) -> Edit {
        Edit {
            start: range.start,
            end: range.end,
            text: text.into(),
        }
    }

    pub(super) fn insert(at: usize, text: impl Into<String>) -> Edit {
        Edit::replace(at..at, text)
    }
}

/// Applies edits that do not overlap; those of one place in the order given. None if they do not fit the text.
pub(super) fn apply(text: &str, edits: &[Edit]) -> Option<String> {
    let mut sorted: Vec<&Edit> = edits.iter().collect();
    sorted.sort_by_key(|edit| edit.start);
    let is_crlf = text.contains("\r\n");
    let mut edited = String::with_capacity(text.len() + 64);
    let mut done = 0;
    for edit in sorted {
        edited += text.get(done..edit.start)?;
        match is_crlf {
            true => edited += &edit.text.replace('\n', "\r\n"),
            false => edited += &edit.text,
        }
        done = edit.end;
    }
    edited += text.get(done..)?;
    Some(edited)
}

/// A parsed file.
pub(super) struct Syntax {
    text: String,
    tree: Tree,
}

impl Syntax {
    /// Parses a file. None only if the parser gives up; mistakes are nodes of their own.
    pub(super) fn parse(text: String) -> Option<Syntax> {
        let mut parser = Parser::new();
        parser
            .set_language(&tree_sitter_python::LANGUAGE.into())
            .ok()?;
        let tree = parser.parse(&text, None)?;
        Some(Syntax { text, tree })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn root(&self) -> Node<'_> {
        self.tree.root_node()
    }

    /// The source of a node.
    pub(super) fn of(&self, node: Node<'_>) -> &str {
        self.text.get(node.byte_range()).unwrap_or_default()
    }

    /// The byte at a line and column, both from 1, columns in code points.
    pub(super) fn offset(&self, line: u32, column: u32) -> Option<usize> {
        let start = match line {
            0 => return None,
            1 => 0,
            _ => {
                let before = self.text.match_indices('\n').nth(line as usize - 2)?;
                before.0 + 1
            }
        };
        let rest = &self.text[start..];
        let rest = &rest[..rest.find('\n').unwrap_or(rest.len())];
        let mut starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        Some(start + starts.nth((column as usize).checked_sub(1)?)?)
    }

    /// The line and column of a byte.
    pub(super) fn location(&self, file: &str, offset: usize) -> Location {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Location {
            file: file.to_owned(),
            line: before.matches('\n').count() as u32 + 1,
            column: before[line_start..].chars().count() as u32 + 1,
        }
    }

    /// The smallest node that spans the bytes.
    pub(super) fn node(&self, range: Range<usize>) -> Option<Node<'_>> {
        self.root()
            .named_descendant_for_byte_range(range.start, range.end)
    }

    /// The call that starts at a byte; of several the innermost of which `is_meant` holds.
    pub(super) fn call_at(
        &self,
        start: usize,
        is_meant: impl Fn(&str) -> bool,
    ) -> Option<Node<'_>> {
        let mut node = self.node(start..start + 1)?;
        loop {
            if node.start_byte() != start {
                return None;
            }
            if node.kind() == "call" && is_meant(self.callee(node)) {
                return Some(node);
            }
            node = node.parent()?;
        }
    }

    /// The value that a call gives to a parameter by its name.
    pub(super) fn argument<'t>(&'t self, call: Node<'t>, name: &str) -> Option<Node<'t>> {
        let arguments = call.child_by_field_name("arguments")?;
        let mut cursor = arguments.walk();
        arguments
            .named_children(&mut cursor)
            .filter(|argument| argument.kind() == "keyword_argument")
            .find(|argument| {
                let named = argument.child_by_field_name("name");
                named.is_some_and(|named| self.of(named) == name)
            })?
            .child_by_field_name("value")
    }

    /// The last name of what is called: `service` of `shared.base.service(…)`.
    pub(super) fn callee(&self, call: Node<'_>) -> &str {
        let function = call.child_by_field_name("function");
        let last = function.map(|function| match function.kind() {
            "attribute" => function
                .child_by_field_name("attribute")
                .unwrap_or(function),
            _ => function,
        });
        last.map_or("", |last| self.of(last))
    }

    /// Gives a call one more keyword argument, in the way that its others are laid out.
    pub(super) fn add_argument(&self, call: Node<'_>, argument: &str) -> Option<Vec<Edit>> {
        let list = call.child_by_field_name("arguments")?;
        if list.kind() != "argument_list" {
            return None;
        }
        let mut cursor = list.walk();
        let given: Vec<Node<'_>> = list
            .named_children(&mut cursor)
            .filter(|child| child.kind() != "comment")
            .collect();
        let Some(last) = given.last() else {
            return Some(vec![Edit::insert(list.start_byte() + 1, argument)]);
        };
        let is_on_lines_of_its_own = list.end_position().row > last.end_position().row;
        if !is_on_lines_of_its_own {
            let before = self.text[last.end_byte()..list.end_byte()].contains(',');
            return Some(match before {
                true => {
                    let comma = last.end_byte() + self.text[last.end_byte()..].find(',')? + 1;
                    vec![Edit::insert(comma, format!(" {argument},"))]
                }
                false => vec![Edit::insert(last.end_byte(), format!(", {argument}"))],
            });
        }
        let indent = " ".repeat(self.location("", last.start_byte()).column as usize - 1);
        let rest = &self.text[last.end_byte()..];
        let end_of_line = last.end_byte() + rest.find('\n')?;
        let end_of_line = end_of_line - usize::from(self.text[..end_of_line].ends_with('\r'));
        let mut edits = Vec::new();
        if !rest.trim_start().starts_with(',') {
            edits.push(Edit::insert(last.end_byte(), ","));
        }
        edits.push(Edit::insert(end_of_line, format!("\n{indent}{argument},")));
        Some(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_argument(text: &str) -> String {
        let syntax = Syntax::parse(text.to_owned()).expect("parses");
        let call = syntax.call_at(0, |_| true).expect("a call");
        let edits = syntax.add_argument(call, "memory=1").expect("edits");
        apply(text, &edits).expect("fits")
    }

    #[test]
    fn arguments_are_added_as_the_others_are_laid_out() {
        assert_eq!(with_argument("f()"), "f(memory=1)");
        assert_eq!(with_argument("f(a)"), "f(a, memory=1)");
        assert_eq!(with_argument("f(a,)"), "f(a, memory=1,)");
        assert_eq!(
            with_argument("f(\n    a=1,  # why\n)"),
            "f(\n    a=1,  # why\n    memory=1,\n)"
        );
        assert_eq!(
            with_argument("f(\n    a=1  # why\n)"),
            "f(\n    a=1,  # why\n    memory=1,\n)"
        );
        assert_eq!(
            with_argument("f(\r\n    a=1,\r\n)"),
            "f(\r\n    a=1,\r\n    memory=1,\r\n)"
        );
    }

    #[test]
    fn columns_count_code_points_and_bytes_come_back() {
        let text = "a = 'ä'; b = 2\nc = 3\n";
        let syntax = Syntax::parse(text.to_owned()).expect("parses");
        let offset = text.find("b =").expect("there");
        let place = syntax.location("x.tw", offset);
        assert_eq!((place.line, place.column), (1, 10));
        assert_eq!(syntax.offset(1, 10), Some(offset));
        assert_eq!(syntax.offset(2, 1), Some(text.find('c').expect("there")));
        assert_eq!(syntax.offset(9, 1), None);
    }
}
