//! Tables of a TOML file, whose keys are asked for one by one; what nobody asked for is refused.

use std::cell::RefCell;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tw_model::nearest;

use crate::failure::advice;

/// A file that is TOML.
pub(super) struct Document<'a> {
    file: File<'a>,
    table: Spanned<DeTable<'a>>,
}

#[derive(Clone, Copy)]
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

/// One table of a file.
pub(super) struct Section<'a> {
    file: File<'a>,
    /// As people write it: `[controller]`; empty for the whole file.
    title: String,
    /// Where it begins, in bytes.
    start: usize,
    table: &'a DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Document<'a> {
    pub(super) fn parse(path: &'a Path, text: &'a str) -> anyhow::Result<Document<'a>> {
        let file = File { path, text };
        match DeTable::parse(text) {
            Ok(table) => Ok(Document { file, table }),
            Err(cause) => {
                let start = cause.span().map_or(0, |span| span.start);
                Err(file.error(
                    start,
                    cause.message(),
                    "TOML is described at https://toml.io",
                ))
            }
        }
    }

    /// The table of everything.
    pub(super) fn root(&'a self) -> Section<'a> {
        Section {
            file: self.file,
            title: String::new(),
            start: 0,
            table: self.table.get_ref(),
            asked: RefCell::default(),
        }
    }
}

impl File<'_> {
    fn error(&self, start: usize, message: impl std::fmt::Display, hint: &str) -> anyhow::Error {
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        advice(format!("{}:{line}: {message}", self.path.display()), hint)
    }
}

impl<'a> Section<'a> {
    /// A table in this one.
    pub(super) fn section(&self, key: &'static str) -> anyhow::Result<Option<Section<'a>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Table(table) => Ok(Some(self.inner(format!("[{key}]"), value, table))),
            _ => Err(self.wrong(
                value,
                format!("{key} is no table"),
                &format!("write [{key}]"),
            )),
        }
    }

    /// The tables of a list in this one.
    pub(super) fn sections(&self, key: &'static str) -> anyhow::Result<Vec<Section<'a>>> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let title = format!("[[{key}]]");
        let hint = format!("write {title} before each");
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.wrong(value, format!("{key} is no list of tables: {title}"), &hint));
        };
        let tables = items.iter().map(|item| match item.get_ref() {
            DeValue::Table(table) => Ok(self.inner(title.clone(), item, table)),
            _ => Err(self.wrong(item, format!("{key} is no list of tables: {title}"), &hint)),
        });
        tables.collect()
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> anyhow::Result<Option<String>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.get_ref().as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(self.wrong(value, format!("{key} is no text"), "write it in quotes")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> anyhow::Result<Option<Vec<String>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let items = value.get_ref().as_array();
        let texts = items.and_then(|items| {
            let texts = items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<String>>>()
        });
        match texts {
            Some(texts) => Ok(Some(texts)),
            None => Err(self.wrong(
                value,
                format!("{key} is no list of texts"),
                "write [\"one\", \"two\"]",
            )),
        }
    }

    /// A path, from the folder of the file.
    pub(super) fn path(&self, key: &'static str) -> anyhow::Result<Option<PathBuf>> {
        Ok(self.text(key)?.map(|text| self.beside(&text)))
    }

    /// A text that stands for something; `what` says what.
    pub(super) fn parsed<T: FromStr>(
        &self,
        key: &'static str,
        what: &str,
    ) -> anyhow::Result<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(cause) => {
                let at = self.get(key).map_or(self.start, |value| value.span().start);
                Err(self.file.error(
                    at,
                    format!("{key} is '{text}': {cause}"),
                    &format!("write {what}"),
                ))
            }
        }
    }

    /// As [`Section::parsed`], of a key that must be there.
    pub(super) fn required<T: FromStr>(&self, key: &'static str, what: &str) -> anyhow::Result<T>
    where
        T::Err: std::fmt::Display,
    {
        self.parsed(key, what)?.ok_or_else(|| {
            self.error(
                format!("{} lacks '{key}'", self.title),
                &format!("add {key}: {what}"),
            )
        })
    }

    /// A remote address: a relative path is one from the folder of the file.
    pub(super) fn url(&self, text: &str) -> String {
        let is_address = text.contains("://") || text.contains(':');
        match is_address {
            true => text.to_owned(),
            false => self.beside(text).display().to_string(),
        }
    }

    /// An error of this table.
    pub(super) fn error(&self, message: impl std::fmt::Display, hint: &str) -> anyhow::Error {
        self.file.error(self.start, message, hint)
    }

    /// Refuses keys that nobody asked for.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        let asked = self.asked.borrow();
        let unknown = self
            .table
            .iter()
            .find(|(key, _)| !asked.contains(&key.get_ref().as_ref()));
        let Some((key, _)) = unknown else {
            return Ok(());
        };
        let name = key.get_ref().as_ref();
        let hint = match nearest(name, &asked) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("it takes {}", asked.join(", ")),
        };
        let whole = match self.title.as_str() {
            "" => "the file",
            title => title,
        };
        let message = format!("{whole} has no key '{name}'");
        Err(self.file.error(key.span().start, message, &hint))
    }

    fn beside(&self, text: &str) -> PathBuf {
        let folder = self.file.path.parent().unwrap_or(Path::new(""));
        let path = folder.join(text);
        let path = std::path::absolute(&path).unwrap_or(path);
        // Without links resolved: they may be made later.
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => drop(plain.pop()),
                part => plain.push(part),
            }
        }
        plain
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        let found = self.table.iter().find(|(name, _)| name.get_ref() == key);
        found.map(|(_, value)| value)
    }

    fn inner(
        &self,
        title: String,
        value: &Spanned<DeValue<'_>>,
        table: &'a DeTable<'a>,
    ) -> Section<'a> {
        Section {
            file: self.file,
            title,
            start: value.span().start,
            table,
            asked: RefCell::default(),
        }
    }

    fn wrong(&self, value: &Spanned<DeValue<'_>>, message: String, hint: &str) -> anyhow::Error {
        self.file.error(value.span().start, message, hint)
    }
}
