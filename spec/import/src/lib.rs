//! Turns docker-compose files, Kubernetes manifests and Nomad jobs into a spec.
//!
//! Three readers (one a family) fill in one intermediate form, the drafts; what all families need done to them is
//! done once; one writer makes a spec of them. Nothing of a file is passed over in silence: what did not become
//! part of the spec, or not as it was, is a [`Note`] with its line.
//!
//! Everything here is a function from texts to texts. What lies beside the files is asked of [`Surroundings`].

mod check;
mod compose;
mod document;
mod dotenv;
mod draft;
mod error;
mod fields;
mod images;
mod kubernetes;
mod nomad;
mod note;
mod placement;
mod python;
mod quantity;
mod settle;
#[cfg(test)]
mod silence;
mod variables;
mod writer;

use std::rc::Rc;

use serde::Serialize;
use tw_model::JobSpec;

pub use document::{INPUT_BYTES_MAX, Input};
pub use error::ImportError;
pub use note::{Note, NoteKind};

use crate::fields::Item;
use crate::note::Notes;

/// A family of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Compose,
    Kubernetes,
    Nomad,
}

impl Format {
    fn describe(self) -> &'static str {
        match self {
            Format::Compose => "a docker-compose file",
            Format::Kubernetes => "Kubernetes manifests",
            Format::Nomad => "a Nomad job",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "compose" | "docker-compose" => Ok(Format::Compose),
            "kubernetes" | "k8s" => Ok(Format::Kubernetes),
            "nomad" => Ok(Format::Nomad),
            _ => Err(format!(
                "'{text}' is not a format: compose, kubernetes or nomad"
            )),
        }
    }
}

/// What something beside the imported file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Folder,
}

/// What lies beside the imported files. Paths are relative to their folder and have no `..`.
pub trait Surroundings {
    /// What lies there, if the spec can name it.
    fn kind(&self, path: &str) -> Option<EntryKind>;

    /// The text of a file.
    fn read(&self, path: &str) -> Option<String>;
}

/// A file that stands alone: nothing lies beside it.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Surroundings for Alone {
    fn kind(&self, _path: &str) -> Option<EntryKind> {
        None
    }

    fn read(&self, _path: &str) -> Option<String> {
        None
    }
}

/// What an import gives.
#[derive(Clone, Debug)]
pub struct Imported {
    pub format: Format,
    /// The text of the spec.
    pub spec: String,
    /// Its jobs, with the values that its constants begin with.
    pub jobs: Vec<JobSpec>,
    /// What became of the rest, by file and line.
    pub notes: Vec<Note>,
}

/// Imports the files as one spec. The format is found out where it is not given.
pub fn import(
    inputs: &[Input],
    format: Option<Format>,
    surroundings: &dyn Surroundings,
) -> Result<Imported, ImportError> {
    let mut documents = Vec::new();
    let mut found: Option<(Format, &Input)> = None;
    for input in inputs {
        let file: Rc<str> = Rc::from(input.name.as_str());
        let nodes = document::read(input)?;
        for node in &nodes {
            let this = match format {
                Some(format) => format,
                None => detect(node, &input.name)?,
            };
            match found {
                Some((first, at)) if first != this => {
                    return Err(ImportError::MixedFormats {
                        file: input.name.clone(),
                        found: this.describe(),
                        first: at.name.clone(),
                        expected: first.describe(),
                    });
                }
                _ => found = Some((this, input)),
            }
            documents.push(Item::document(&file, node));
        }
    }
    let Some((format, first)) = found else {
        return Err(ImportError::Empty {
            file: inputs
                .first()
                .map(|input| input.name.clone())
                .unwrap_or_default(),
        });
    };
    let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    let imported = import_documents(&documents, format, &names, surroundings)?;
    match imported.jobs.is_empty() {
        true => Err(ImportError::NoJobs {
            file: first.name.clone(),
        }),
        false => Ok(imported),
    }
}

/// Imports documents of one family; `names` are those of their files, in order.
fn import_documents(
    documents: &[Item],
    format: Format,
    names: &[&str],
    surroundings: &dyn Surroundings,
) -> Result<Imported, ImportError> {
    let mut notes = Notes::default();
    documents
        .iter()
        .for_each(|document| note_tags(document, &mut notes));
    let mut read = match format {
        Format::Compose => compose::read(documents, surroundings, &mut notes)?,
        Format::Kubernetes => kubernetes::read(documents, &mut notes)?,
        Format::Nomad => nomad::read(documents, &mut notes)?,
    };
    settle::settle(&mut read.drafts, read.addresses, &mut notes);
    let spec = writer::write(names, format, &read.drafts, &read.variables, &mut notes);
    let mut notes = notes.list;
    let order = |file: &str| names.iter().position(|name| *name == file);
    notes.sort_by(|a, b| {
        (order(&a.file), a.line, a.column).cmp(&(order(&b.file), b.line, b.column))
    });
    let jobs = read
        .drafts
        .iter()
        .map(|draft| read.variables.fill(&draft.spec))
        .collect();
    Ok(Imported {
        format,
        spec,
        jobs,
        notes,
    })
}

/// Tells the family of a document by the keys that only it has.
fn detect(node: &document::Node, file: &str) -> Result<Format, ImportError> {
    let has = |key: &str| node.get(key).is_some();
    let unknown = |found: String| ImportError::UnknownFormat {
        file: file.to_owned(),
        found,
    };
    if has("services") || (has("version") && has("volumes")) {
        return Ok(Format::Compose);
    }
    if has("apiVersion") || has("kind") {
        return Ok(Format::Kubernetes);
    }
    if has("Job") || has("TaskGroups") {
        return Ok(Format::Nomad);
    }
    if let document::Value::List(items) = &node.value {
        return match items.first() {
            Some(first) => detect(first, file),
            None => Err(unknown("an empty list".to_owned())),
        };
    }
    let document::Value::Map(pairs) = &node.value else {
        return Err(unknown(node.describe()));
    };
    let is_service =
        |node: &document::Node| node.get("image").is_some() || node.get("build").is_some();
    if !pairs.is_empty() && pairs.iter().all(|pair| is_service(&pair.node)) {
        return Err(unknown(
            "it looks like a compose file of the first version: put its services below `services:`"
                .to_owned(),
        ));
    }
    let keys: Vec<String> = pairs
        .iter()
        .take(5)
        .map(|pair| format!("'{}'", pair.key))
        .collect();
    Err(unknown(format!("it has the keys {}", keys.join(", "))))
}

/// Notes tags of the author's own, which mean something to other tools alone.
fn note_tags(item: &Item, notes: &mut Notes) {
    if let Some(tag) = &item.node.tag
        && tag != "!reset"
        && tag != "!override"
    {
        notes.lost(
            item,
            "",
            format!("the tag {tag} means nothing here; the value is taken as it stands"),
        );
    }
    for (_, inner) in item.entries() {
        note_tags(&inner, notes);
    }
    for inner in item.items() {
        note_tags(&inner, notes);
    }
}
