//! Nothing is passed over in silence: whatever a file says shows in the spec or in the notes.
//!
//! A value is heard if the import is another one without it, or with another value in its place, or if a note names
//! it or what it is part of.

use std::rc::Rc;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::document::{self, Input, Node, Pair, Value};
use crate::fields::Item;
use crate::{Alone, Format, Imported, Note, import_documents};

const FIXTURES: [(&str, Format, &str); 3] = [
    (
        "compose.yaml",
        Format::Compose,
        include_str!("../tests/fixtures/compose.yaml"),
    ),
    (
        "kubernetes.yaml",
        Format::Kubernetes,
        include_str!("../tests/fixtures/kubernetes.yaml"),
    ),
    (
        "nomad.json",
        Format::Nomad,
        include_str!("../tests/fixtures/nomad.json"),
    ),
];

/// A way from a document to a value within it: indices of entries and elements.
type Way = Vec<usize>;

fn documents(name: &str, text: &str) -> Vec<Rc<Node>> {
    let input = Input {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    document::read(&input).expect("the fixture reads")
}

fn run(name: &str, format: Format, documents: &[Rc<Node>]) -> Result<Imported, String> {
    let file: Rc<str> = Rc::from(name);
    let items: Vec<Item> = documents
        .iter()
        .map(|node| Item::document(&file, node))
        .collect();
    import_documents(&items, format, &[name], &Alone).map_err(|cause| cause.to_string())
}

/// Everything that an author sees.
fn seen(imported: &Result<Imported, String>) -> String {
    match imported {
        Ok(imported) => {
            let notes: Vec<String> = imported
                .notes
                .iter()
                .map(|note| format!("{note}{:?}", note.field))
                .collect();
            format!("{}\n{}", imported.spec, notes.join("\n"))
        }
        Err(cause) => cause.clone(),
    }
}

fn ways(node: &Node, is_wanted: &dyn Fn(&Node) -> bool, way: &mut Way, found: &mut Vec<Way>) {
    if is_wanted(node) {
        found.push(way.clone());
    }
    let children: Vec<&Rc<Node>> = match &node.value {
        Value::List(items) => items.iter().collect(),
        Value::Map(pairs) => pairs.iter().map(|pair| &pair.node).collect(),
        Value::Null | Value::Plain(_) | Value::Quoted(_) => Vec::new(),
    };
    for (index, child) in children.into_iter().enumerate() {
        way.push(index);
        ways(child, is_wanted, way, found);
        way.pop();
    }
}

/// All values of a kind, as the number of their document and their way in it.
fn all(documents: &[Rc<Node>], is_wanted: &dyn Fn(&Node) -> bool) -> Vec<(usize, Way)> {
    let mut all = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let mut found = Vec::new();
        ways(document, is_wanted, &mut Vec::new(), &mut found);
        all.extend(found.into_iter().map(|way| (index, way)));
    }
    all
}

fn is_leaf(node: &Node) -> bool {
    node.text().is_some_and(|text| !text.is_empty())
}

/// The node with a change made at the end of a way.
fn changed(node: &Node, way: &[usize], change: &dyn Fn(&Node, Option<usize>) -> Node) -> Node {
    match way {
        [] => change(node, None),
        [last] => change(node, Some(*last)),
        [first, rest @ ..] => {
            let mut copy = node.clone();
            match &mut copy.value {
                Value::List(items) => {
                    let child = changed(&items[*first], rest, change);
                    items[*first] = Rc::new(child);
                }
                Value::Map(pairs) => {
                    let child = changed(&pairs[*first].node, rest, change);
                    pairs[*first].node = Rc::new(child);
                }
                Value::Null | Value::Plain(_) | Value::Quoted(_) => {}
            }
            copy
        }
    }
}

fn without(documents: &[Rc<Node>], (index, way): &(usize, Way)) -> Vec<Rc<Node>> {
    let remove = |node: &Node, child: Option<usize>| {
        let mut copy = node.clone();
        match (&mut copy.value, child) {
            (Value::List(items), Some(child)) if child < items.len() => {
                items.remove(child);
            }
            (Value::Map(pairs), Some(child)) if child < pairs.len() => {
                pairs.remove(child);
            }
            _ => {}
        }
        copy
    };
    let mut copy = documents.to_vec();
    copy[*index] = Rc::new(changed(&documents[*index], way, &remove));
    copy
}

/// The documents with another value at a leaf.
fn with_another(documents: &[Rc<Node>], (index, way): &(usize, Way)) -> Vec<Rc<Node>> {
    let another = |node: &Rc<Node>| Rc::new(Node::new(node.place, Value::Plain("zz7".to_owned())));
    let replace = |node: &Node, child: Option<usize>| {
        let mut copy = node.clone();
        match (&mut copy.value, child) {
            (Value::List(items), Some(child)) => items[child] = another(&items[child]),
            (Value::Map(pairs), Some(child)) => pairs[child].node = another(&pairs[child].node),
            _ => {}
        }
        copy
    };
    let mut copy = documents.to_vec();
    copy[*index] = Rc::new(changed(&documents[*index], way, &replace));
    copy
}

/// The path of a value, as notes have it; objects of Kubernetes begin with their kind and name.
fn path(document: &Rc<Node>, way: &[usize], format: Format) -> String {
    let mut item = Item::document(&Rc::from(""), document);
    let name_object = |item: &mut Item| {
        let text = |keys: &[&str]| {
            item.at(keys)
                .map(|item| item.text().to_owned())
                .unwrap_or_default()
        };
        if format == Format::Kubernetes
            && item.get("metadata").is_some()
            && item.get("kind").is_some()
        {
            item.path = format!("{}/{}", text(&["kind"]), text(&["metadata", "name"]));
        }
    };
    name_object(&mut item);
    for step in way {
        let is_list = item.is_list();
        let children: Vec<Item> = match is_list {
            true => item.items(),
            false => item.entries().into_iter().map(|(_, item)| item).collect(),
        };
        item = children[*step].clone();
        if is_list && item.path.ends_with(&format!("items[{step}]")) {
            name_object(&mut item);
        }
    }
    item.path
}

fn is_named(path: &str, notes: &[Note]) -> bool {
    notes.iter().any(|note| {
        path.strip_prefix(note.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

fn is_heard(name: &str, format: Format, documents: &[Rc<Node>], leaf: &(usize, Way)) -> bool {
    let whole = run(name, format, documents);
    let differs = |other: &[Rc<Node>]| seen(&run(name, format, other)) != seen(&whole);
    let path = path(&documents[leaf.0], &leaf.1, format);
    let named = || {
        whole
            .as_ref()
            .is_ok_and(|imported| is_named(&path, &imported.notes))
    };
    differs(&without(documents, leaf)) || differs(&with_another(documents, leaf)) || named()
}

#[test]
fn every_value_of_the_fixtures_is_heard() {
    let mut silent = Vec::new();
    for (name, format, text) in FIXTURES {
        let documents = documents(name, text);
        let leaves = all(&documents, &is_leaf).into_iter();
        let unheard = leaves.filter(|leaf| !is_heard(name, format, &documents, leaf));
        silent.extend(unheard.map(|leaf| path(&documents[leaf.0], &leaf.1, format)));
    }
    assert_eq!(silent, Vec::<String>::new());
}

fn fixture() -> impl Strategy<Value = usize> {
    0..FIXTURES.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Files with parts missing: what is left is heard all the same.
    #[test]
    fn what_is_left_of_a_file_is_heard(
        fixture in fixture(),
        removed in prop::collection::vec(any::<Index>(), 0..12),
        leaf in any::<Index>(),
    ) {
        let (name, format, text) = FIXTURES[fixture];
        let mut documents = documents(name, text);
        for index in removed {
            let any = all(&documents, &|_| true);
            documents = without(&documents, &any[index.index(any.len())]);
        }
        let leaves = all(&documents, &is_leaf);
        let has_jobs = run(name, format, &documents).is_ok_and(|imported| !imported.jobs.is_empty());
        prop_assume!(!leaves.is_empty() && has_jobs);
        let leaf = &leaves[leaf.index(leaves.len())];
        let path = path(&documents[leaf.0], &leaf.1, format);
        prop_assert!(is_heard(name, format, &documents, leaf), "{name}: {path}");
    }
}

/// A key that nobody knows is named, wherever it stands.
#[test]
fn unknown_keys_are_heard() {
    let add = |node: &Node| {
        let mut copy = node.clone();
        if let Value::Map(pairs) = &mut copy.value {
            let value = Node::new(node.place, Value::Quoted("zzvalue".to_owned()));
            pairs.push(Pair {
                key: "zzkey".to_owned(),
                place: node.place,
                node: Rc::new(value),
            });
        }
        copy
    };
    let insert = |node: &Node, child: Option<usize>| {
        let mut copy = node.clone();
        match (&mut copy.value, child) {
            (_, None) => copy = add(node),
            (Value::List(items), Some(child)) => items[child] = Rc::new(add(&items[child])),
            (Value::Map(pairs), Some(child)) => {
                pairs[child].node = Rc::new(add(&pairs[child].node))
            }
            _ => {}
        }
        copy
    };
    let mut silent = Vec::new();
    for (name, format, text) in FIXTURES {
        let documents = documents(name, text);
        for (index, way) in all(&documents, &|node| matches!(node.value, Value::Map(_))) {
            let mut more = documents.clone();
            more[index] = Rc::new(changed(&documents[index], &way, &insert));
            let imported = run(name, format, &more);
            let path = path(&documents[index], &way, format);
            let named = imported
                .as_ref()
                .is_ok_and(|imported| is_named(&path, &imported.notes));
            let text = seen(&imported);
            if !named && !text.contains("zzkey") && !text.contains("zzvalue") {
                silent.push(path);
            }
        }
    }
    assert_eq!(silent, Vec::<String>::new());
}
