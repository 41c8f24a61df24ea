//! Reading mappings so that nothing is passed over in silence: what is not taken is noted when a mapping is closed.

use std::rc::Rc;

use crate::document::{Node, Place, Value};
use crate::note::Notes;

/// A value with its path and place.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) file: Rc<str>,
    /// `services.web.ports[0]`.
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) node: Rc<Node>,
}

impl Item {
    pub(crate) fn document(file: &Rc<str>, node: &Rc<Node>) -> Item {
        Item {
            file: file.clone(),
            path: String::new(),
            place: node.place,
            node: node.clone(),
        }
    }

    /// The text of a scalar; empty for anything else.
    pub(crate) fn text(&self) -> &str {
        self.node.text().unwrap_or_default()
    }

    pub(crate) fn is_scalar(&self) -> bool {
        self.node.text().is_some()
    }

    pub(crate) fn truth(&self) -> Option<bool> {
        match &self.node.value {
            Value::Plain(text) | Value::Quoted(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => Some(true),
                "false" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn number<T: std::str::FromStr>(&self) -> Option<T> {
        self.node.text()?.trim().parse().ok()
    }

    /// The elements of a list; none for anything else.
    pub(crate) fn items(&self) -> Vec<Item> {
        let Value::List(items) = &self.node.value else {
            return Vec::new();
        };
        let item = |(index, node): (usize, &Rc<Node>)| Item {
            file: self.file.clone(),
            path: format!("{}[{index}]", self.path),
            place: node.place,
            node: node.clone(),
        };
        items.iter().enumerate().map(item).collect()
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// The entries of a mapping; none for anything else.
    pub(crate) fn entries(&self) -> Vec<(String, Item)> {
        let Value::Map(pairs) = &self.node.value else {
            return Vec::new();
        };
        pairs
            .iter()
            .map(|pair| {
                let path = match self.path.is_empty() {
                    true => pair.key.clone(),
                    false => format!("{}.{}", self.path, pair.key),
                };
                let item = Item {
                    file: self.file.clone(),
                    path,
                    place: pair.place,
                    node: pair.node.clone(),
                };
                (pair.key.clone(), item)
            })
            .collect()
    }

    /// The value under a key, if there is one and it is not null. Nothing is noted of it.
    pub(crate) fn get(&self, key: &str) -> Option<Item> {
        self.entries()
            .into_iter()
            .find(|(name, item)| name == key && !item.node.is_null())
            .map(|(_, item)| item)
    }

    /// The value at a path of keys.
    pub(crate) fn at(&self, keys: &[&str]) -> Option<Item> {
        keys.iter()
            .try_fold(self.clone(), |item, key| item.get(key))
    }
}

/// What becomes of a key that a reader does not take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It means nothing in Twill, or is always so there.
    Ignored(&'static str),
    /// As `Ignored` with one of these values, as `Lost` with any other.
    IgnoredIf(&'static [&'static str], &'static str),
    /// It meant something; the text says what to do instead.
    Lost(&'static str),
}

/// Keys and what becomes of them. A key ending in `*` stands for all that begin with it.
pub(crate) type Fates = &'static [(&'static str, Fate)];

/// The entries of a mapping, to be taken one by one.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) item: Item,
    left: Vec<(String, Item)>,
}

impl Fields {
    /// Opens a mapping; anything else is noted and opens as an empty one.
    pub(crate) fn open(item: Item, notes: &mut Notes) -> Fields {
        if !item.is_map() && !item.node.is_null() {
            notes.lost(
                &item,
                "",
                format!("expected a mapping, found {}", item.node.describe()),
            );
        }
        Fields {
            left: item.entries(),
            item,
        }
    }

    /// Takes what stands under a key; null is nothing.
    pub(crate) fn take(&mut self, key: &str) -> Option<Item> {
        let index = self.left.iter().position(|(name, _)| name == key)?;
        let (_, item) = self.left.remove(index);
        (!item.node.is_null()).then_some(item)
    }

    /// Takes a scalar; anything else is noted.
    pub(crate) fn scalar(&mut self, key: &str, notes: &mut Notes) -> Option<Item> {
        let item = self.take(key)?;
        if item.is_scalar() {
            return Some(item);
        }
        notes.lost(
            &item,
            "",
            format!(
                "expected a text or a number, found {}",
                item.node.describe()
            ),
        );
        None
    }

    /// Takes a number; anything else is noted.
    pub(crate) fn number<T: std::str::FromStr>(
        &mut self,
        key: &str,
        notes: &mut Notes,
    ) -> Option<(T, Item)> {
        let item = self.take(key)?;
        match item.number() {
            Some(number) => Some((number, item)),
            None => {
                notes.lost(
                    &item,
                    "",
                    format!("expected a number, found {}", item.node.describe()),
                );
                None
            }
        }
    }

    /// Takes a list; anything else is noted.
    pub(crate) fn list(&mut self, key: &str, notes: &mut Notes) -> Vec<Item> {
        let Some(item) = self.take(key) else {
            return Vec::new();
        };
        if !item.is_list() {
            notes.lost(
                &item,
                "",
                format!("expected a list, found {}", item.node.describe()),
            );
        }
        item.items()
    }

    /// Takes a mapping to read it in turn.
    pub(crate) fn fields(&mut self, key: &str, notes: &mut Notes) -> Option<Fields> {
        let item = self.take(key)?;
        Some(Fields::open(item, notes))
    }

    /// Notes what was not taken.
    pub(crate) fn close(self, fates: Fates, notes: &mut Notes) {
        for (key, item) in self.left {
            if item.node.is_null() {
                continue;
            }
            settle(&key, &item, fates, notes);
        }
    }
}

/// Notes the keys of a mapping that are not among those that its reader looked at.
pub(crate) fn note_others(item: &Item, known: &[&str], notes: &mut Notes) {
    for (key, item) in item.entries() {
        if !known.contains(&key.as_str()) && !item.node.is_null() {
            settle(&key, &item, &[], notes);
        }
    }
}

/// Notes what becomes of one key that was not taken.
fn settle(key: &str, item: &Item, fates: Fates, notes: &mut Notes) {
    let matches = |name: &str| match name.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => name == key,
    };
    match fates
        .iter()
        .find(|(name, _)| matches(name))
        .map(|(_, fate)| *fate)
    {
        Some(Fate::Ignored(why)) => notes.ignored(item, why),
        Some(Fate::IgnoredIf(values, why)) => match item.node.text() {
            Some(text) if values.contains(&text) => notes.ignored(item, why),
            _ => notes.lost(item, "", why),
        },
        Some(Fate::Lost(why)) => notes.lost(item, "", why),
        None if item.node.leaves() == 0 => notes.ignored(item, "it holds nothing"),
        None => notes.lost(item, "", "Twill has nothing like it"),
    }
}
