//! `extends`, and files laid over one another.

use std::rc::Rc;

use crate::Surroundings;
use crate::document::{self, Input, Node, Pair, Value};
use crate::fields::Item;
use crate::note::Notes;

/// Lists that a later file replaces instead of adding to.
const REPLACED: [&str; 3] = ["command", "entrypoint", "test"];

/// How many services may extend one another in a row.
const CHAIN_MAX: usize = 16;

/// A service with what it extends.
pub(super) fn extended(
    item: &Item,
    document: &Item,
    surroundings: &dyn Surroundings,
    notes: &mut Notes,
) -> Item {
    extended_within(item, document, surroundings, notes, 0)
}

fn extended_within(
    item: &Item,
    document: &Item,
    surroundings: &dyn Surroundings,
    notes: &mut Notes,
    depth: usize,
) -> Item {
    let Some(extends) = item.get("extends") else {
        return item.clone();
    };
    let own = without(item, "extends");
    let text = |key: &str| extends.get(key).map(|item| item.text().to_owned());
    let service = text("service").unwrap_or_else(|| extends.text().to_owned());
    let base_document = match text("file") {
        Some(file) => {
            match other_document(&file, surroundings) {
                Some(document) => document,
                None => {
                    notes.lost(&extends, "", format!("{file} is not at hand; import it beside this one, or copy the service in"));
                    return own;
                }
            }
        }
        None => document.clone(),
    };
    let base = base_document.at(&["services", &service]);
    let Some(base) = base.filter(|_| depth < CHAIN_MAX) else {
        notes.lost(
            &extends,
            "",
            format!("there is no service '{service}' to extend"),
        );
        return own;
    };
    let base = extended_within(&base, &base_document, surroundings, notes, depth + 1);
    // What a service waits for is not inherited.
    let base = without(&base, "depends_on");
    Item {
        node: over(&base.node, &own.node),
        ..own
    }
}

fn other_document(file: &str, surroundings: &dyn Surroundings) -> Option<Item> {
    let text = surroundings.read(file)?;
    let input = Input {
        name: file.to_owned(),
        text,
    };
    let documents = document::read(&input).ok()?;
    Some(Item::document(&Rc::from(file), documents.first()?))
}

fn without(item: &Item, key: &str) -> Item {
    let Value::Map(pairs) = &item.node.value else {
        return item.clone();
    };
    let pairs = pairs
        .iter()
        .filter(|pair| pair.key != key)
        .cloned()
        .collect();
    Item {
        node: Node::new(item.node.place, Value::Map(pairs)).into(),
        ..item.clone()
    }
}

/// One mapping laid over another: mappings go into each other, lists are added up, all else is replaced.
pub(super) fn over(base: &Rc<Node>, top: &Rc<Node>) -> Rc<Node> {
    let (Value::Map(old), Value::Map(new)) = (&base.value, &top.value) else {
        return top.clone();
    };
    let mut pairs: Vec<Pair> = old.clone();
    for pair in new {
        let is_reset = pair.node.tag.as_deref() == Some("!reset");
        let known = pairs.iter().position(|known| known.key == pair.key);
        match known {
            Some(index) if is_reset => {
                pairs.remove(index);
            }
            Some(index) => {
                pairs[index].node = value_over(&pair.key, &pairs[index].node, &pair.node)
            }
            None if is_reset => {}
            None => pairs.push(pair.clone()),
        }
    }
    Node::new(top.place, Value::Map(pairs)).into()
}

fn value_over(key: &str, base: &Rc<Node>, top: &Rc<Node>) -> Rc<Node> {
    if top.tag.as_deref() == Some("!override") || REPLACED.contains(&key) {
        return top.clone();
    }
    match (&base.value, &top.value) {
        (Value::Map(_), Value::Map(_)) => over(base, top),
        (Value::List(old), Value::List(new)) => {
            let is_new = |item: &&Rc<Node>| {
                !old.iter()
                    .any(|known| known.text().is_some() && known.text() == item.text())
            };
            let items = old
                .iter()
                .chain(new.iter().filter(is_new))
                .cloned()
                .collect();
            Node::new(top.place, Value::List(items)).into()
        }
        (Value::List(_), Value::Map(_)) => over(&as_map(base), top),
        (Value::Map(_), Value::List(_)) => over(base, &as_map(top)),
        _ => top.clone(),
    }
}

/// A list of `NAME=VALUE` as a mapping.
fn as_map(node: &Rc<Node>) -> Rc<Node> {
    let Value::List(items) = &node.value else {
        return node.clone();
    };
    let pair = |item: &Rc<Node>| {
        let (key, value) = match item.text()?.split_once('=') {
            Some((key, value)) => (key, Value::Quoted(value.to_owned())),
            None => (item.text()?, Value::Null),
        };
        let node = Node::new(item.place, value).into();
        Some(Pair {
            key: key.to_owned(),
            place: item.place,
            node,
        })
    };
    Node::new(
        node.place,
        Value::Map(items.iter().filter_map(pair).collect()),
    )
    .into()
}
