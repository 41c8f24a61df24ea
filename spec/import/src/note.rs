//! What is said about the values of a file that did not become, or did not simply become, part of the spec.

use std::rc::Rc;

use serde::Serialize;

use crate::fields::Item;

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// The author has to decide before the spec can run as meant.
    ToDecide,
    /// Left out, although it meant something.
    NotCarried,
    /// In the spec, but with another meaning or another form than an author would expect.
    Changed,
    /// Left out, because in Twill it means nothing or is always so.
    Ignored,
}

impl NoteKind {
    /// How the kind reads in a line.
    pub fn as_str(self) -> &'static str {
        match self {
            NoteKind::ToDecide => "to decide",
            NoteKind::NotCarried => "not carried over",
            NoteKind::Changed => "changed",
            NoteKind::Ignored => "ignored",
        }
    }
}

/// One value and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    pub kind: NoteKind,
    pub file: String,
    /// Counts from 1.
    pub line: u32,
    /// Counts from 1, in code points.
    pub column: u32,
    /// Where in the document: `services.web.privileged`.
    pub path: String,
    /// Why, and what to do instead.
    pub message: String,
    /// The job that it is about, if it is about one.
    pub job: Option<String>,
    /// The field of that job beside which the note stands.
    pub field: Option<String>,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Note {
            kind,
            file,
            line,
            path,
            message,
            ..
        } = self;
        write!(f, "{file}:{line}: {path}: {}: {message}", kind.as_str())
    }
}

/// Collects notes while a file is read.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) list: Vec<Note>,
    job: Option<Rc<str>>,
}

impl Notes {
    /// Notes from here on are about this job; about none in particular with `None`.
    pub(crate) fn about(&mut self, job: Option<&str>) {
        self.job = job.map(Rc::from);
    }

    pub(crate) fn add(
        &mut self,
        kind: NoteKind,
        item: &Item,
        field: &str,
        message: impl Into<String>,
    ) {
        self.list.push(Note {
            kind,
            file: item.file.to_string(),
            line: item.place.line,
            column: item.place.column,
            path: item.path.clone(),
            message: message.into(),
            job: self.job.as_deref().map(str::to_owned),
            field: (!field.is_empty()).then(|| field.to_owned()),
        });
    }

    /// Puts the notes from `start` on beside another field: they are about a part that became this one.
    pub(crate) fn retag(&mut self, start: usize, field: &str) {
        for note in self.list.iter_mut().skip(start) {
            note.field = Some(field.to_owned());
        }
    }

    pub(crate) fn lost(&mut self, item: &Item, field: &str, message: impl Into<String>) {
        self.add(NoteKind::NotCarried, item, field, message);
    }

    pub(crate) fn changed(&mut self, item: &Item, field: &str, message: impl Into<String>) {
        self.add(NoteKind::Changed, item, field, message);
    }

    pub(crate) fn decide(&mut self, item: &Item, field: &str, message: impl Into<String>) {
        self.add(NoteKind::ToDecide, item, field, message);
    }

    pub(crate) fn ignored(&mut self, item: &Item, message: impl Into<String>) {
        self.add(NoteKind::Ignored, item, "", message);
    }
}
