//! YAML: events with places become values; anchors and merge keys are resolved, within bounds.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::{DEPTH_MAX, Mistake, MistakeKind, Node, Pair, Place, Value, bounded, mapping};

/// Reads every document of a stream.
pub(super) fn read(text: &str) -> Result<Vec<Rc<Node>>, Mistake> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|cause| Mistake::syntax(place(cause.marker()), cause.info()))?;
        builder.take(event, place(&span.start))?;
    }
    Ok(builder.documents)
}

fn place(marker: &Marker) -> Place {
    Place {
        line: marker.line() as u32,
        column: marker.col() as u32 + 1,
    }
}

/// A list or mapping that is not closed yet.
struct Open {
    place: Place,
    anchor: usize,
    tag: Option<String>,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map {
        pairs: Vec<Pair>,
        merged: Vec<Rc<Node>>,
        key: Option<(String, Place)>,
    },
}

#[derive(Default)]
struct Builder {
    documents: Vec<Rc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Place) -> Result<(), Mistake> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let mut node = Node::new(at, scalar(&text, style, tag.as_deref()));
                node.tag = own_tag(tag.as_deref());
                self.add(Rc::new(node), anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.add(node, 0),
                None => Err(Mistake::syntax(
                    at,
                    "an alias to an anchor that is still open",
                )),
            },
            Event::SequenceStart(anchor, tag) => {
                self.begin(at, anchor, tag.as_deref(), Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map {
                    pairs: Vec::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.begin(at, anchor, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(
        &mut self,
        place: Place,
        anchor: usize,
        tag: Option<&Tag>,
        content: Content,
    ) -> Result<(), Mistake> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Mistake {
                place,
                kind: MistakeKind::TooDeep,
            });
        }
        self.open.push(Open {
            place,
            anchor,
            tag: own_tag(tag),
            content,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Mistake> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let mut node = match open.content {
            Content::List(items) => bounded(Node::new(open.place, Value::List(items)))?,
            Content::Map { pairs, merged, .. } => merge(mapping(open.place, pairs)?, &merged)?,
        };
        node.tag = open.tag;
        self.add(Rc::new(node), open.anchor)
    }

    /// Puts a finished value where it belongs: under its key, into its list, or at the top.
    fn add(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), Mistake> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map {
                key: key @ None, ..
            } => match node.text() {
                Some(text) => *key = Some((text.to_owned(), node.place)),
                None if node.is_null() => *key = Some(("null".to_owned(), node.place)),
                None => {
                    return Err(Mistake::syntax(
                        node.place,
                        "a key that is a list or a mapping",
                    ));
                }
            },
            Content::Map { pairs, merged, key } => {
                let Some((key, place)) = key.take() else {
                    return Ok(());
                };
                match key == "<<" {
                    true => merged.push(node),
                    false => pairs.push(Pair { key, place, node }),
                }
            }
        }
        Ok(())
    }
}

/// Adds what merge keys name; keys of the mapping itself win, and earlier sources win over later ones.
fn merge(node: Node, sources: &[Rc<Node>]) -> Result<Node, Mistake> {
    let place = node.place;
    let Value::Map(mut pairs) = node.value else {
        return Ok(node);
    };
    for source in sources {
        let parts: Vec<&Rc<Node>> = match &source.value {
            Value::List(items) => items.iter().collect(),
            _ => vec![source],
        };
        for part in parts {
            let Value::Map(more) = &part.value else {
                return Err(Mistake::syntax(part.place, "a merge key takes mappings"));
            };
            for pair in more {
                if !pairs.iter().any(|own| own.key == pair.key) {
                    pairs.push(pair.clone());
                }
            }
        }
    }
    bounded(Node::new(place, Value::Map(pairs)))
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let text_tag = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    match style {
        ScalarStyle::Plain if !text_tag => match text {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            _ => Value::Plain(text.to_owned()),
        },
        _ => Value::Quoted(text.to_owned()),
    }
}

fn own_tag(tag: Option<&Tag>) -> Option<String> {
    tag.filter(|tag| !tag.is_yaml_core_schema())
        .map(|tag| format!("{}{}", tag.handle, tag.suffix))
}
