//! JSON, strictly, with places.

use std::rc::Rc;

use jsonc_parser::ast;
use jsonc_parser::common::{Range, Ranged};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::{DEPTH_MAX, Mistake, MistakeKind, Node, Pair, Place, Value, bounded, mapping};

/// Reads the one value of a text.
pub(super) fn read(text: &str) -> Result<Vec<Rc<Node>>, Mistake> {
    let lines = Lines::of(text);
    let strict = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_extended_string_escapes: false,
        allow_non_finite_numbers: false,
    };
    let parsed = parse_to_ast(text, &CollectOptions::default(), &strict)
        .map_err(|cause| Mistake::syntax(lines.place(cause.range()), cause.kind().to_string()))?;
    match parsed.value {
        Some(value) => Ok(vec![Rc::new(node(&value, &lines, 0)?)]),
        None => Ok(Vec::new()),
    }
}

fn node(value: &ast::Value<'_>, lines: &Lines<'_>, depth: usize) -> Result<Node, Mistake> {
    let place = lines.place(value.range());
    if depth >= DEPTH_MAX {
        return Err(Mistake {
            place,
            kind: MistakeKind::TooDeep,
        });
    }
    match value {
        ast::Value::StringLit(text) => Ok(Node::new(place, Value::Quoted(text.value.to_string()))),
        ast::Value::NumberLit(number) => {
            Ok(Node::new(place, Value::Plain(number.value.to_owned())))
        }
        ast::Value::BooleanLit(truth) => {
            Ok(Node::new(place, Value::Plain(truth.value.to_string())))
        }
        ast::Value::NullKeyword(_) => Ok(Node::new(place, Value::Null)),
        ast::Value::Array(array) => {
            let items: Result<Vec<_>, _> = array
                .elements
                .iter()
                .map(|item| node(item, lines, depth + 1).map(Rc::new))
                .collect();
            bounded(Node::new(place, Value::List(items?)))
        }
        ast::Value::Object(object) => {
            let pairs: Result<Vec<_>, _> = object
                .properties
                .iter()
                .map(|property| {
                    Ok(Pair {
                        key: property.name.as_str().to_owned(),
                        place: lines.place(property.range()),
                        node: Rc::new(node(&property.value, lines, depth + 1)?),
                    })
                })
                .collect();
            mapping(place, pairs?)
        }
    }
}

/// Finds the line of a byte.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl Lines<'_> {
    fn of(text: &str) -> Lines<'_> {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(breaks.map(|(index, _)| index + 1))
            .collect();
        Lines { text, starts }
    }

    fn place(&self, range: Range) -> Place {
        let line = self
            .starts
            .partition_point(|start| *start <= range.start)
            .max(1);
        let before = self
            .text
            .get(self.starts[line - 1]..range.start)
            .unwrap_or_default();
        Place {
            line: line as u32,
            column: before.chars().count() as u32 + 1,
        }
    }
}
