//! docker-compose files, as the Compose specification has them.

mod build;
mod dockerfile;
mod interpolate;
mod merge;
mod service;
mod storage;

use std::rc::Rc;

use crate::Surroundings;
use crate::document::{Node, Value};
use crate::draft::{Draft, JobNames};
use crate::error::ImportError;
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::settle::Addresses;
use crate::variables::Variables;

/// What a reader of one family gives.
pub(crate) struct Read {
    pub(crate) drafts: Vec<Draft>,
    pub(crate) addresses: Addresses,
    pub(crate) variables: Variables,
}

/// What is the same for all services of a file.
pub(crate) struct Project<'a> {
    pub(crate) surroundings: &'a dyn Surroundings,
    /// The top-level volumes, secrets and configs.
    pub(crate) volumes: Vec<(String, Item)>,
    pub(crate) secrets: Vec<(String, Item)>,
    pub(crate) configs: Vec<(String, Item)>,
    pub(crate) addresses: Addresses,
}

const FILE: Fates = &[
    ("version", Fate::Ignored("Compose itself ignores it")),
    ("name", Fate::Ignored("a spec is named by its folder")),
    (
        "x-*",
        Fate::Ignored("an extension: what uses it by an alias has it"),
    ),
    (
        "include",
        Fate::Lost("import the included files together with this one: `tw import A B`"),
    ),
    (
        "models",
        Fate::Lost("Twill knows nothing of models; run the one that serves them as a job"),
    ),
    (
        "networks",
        Fate::Lost(
            "Twill keeps no jobs apart by networks: every job reaches every other by {service:JOB:PORT}",
        ),
    ),
];

/// Reads the documents as one project; later files are laid over earlier ones.
pub(crate) fn read(
    documents: &[Item],
    surroundings: &dyn Surroundings,
    notes: &mut Notes,
) -> Result<Read, ImportError> {
    let mut variables = Variables::default();
    let mut project = Project {
        surroundings,
        volumes: Vec::new(),
        secrets: Vec::new(),
        configs: Vec::new(),
        addresses: Addresses::default(),
    };
    let mut services: Vec<(String, Item)> = Vec::new();
    for document in documents {
        let mut file = Fields::open(document.clone(), notes);
        for (name, item) in file
            .take("services")
            .map(|item| item.entries())
            .unwrap_or_default()
        {
            let resolved = merge::extended(&item, document, surroundings, notes);
            match services.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => known.node = merge::over(&known.node, &resolved.node),
                None => services.push((name, resolved)),
            }
        }
        project.volumes.extend(
            file.take("volumes")
                .map(|item| item.entries())
                .unwrap_or_default(),
        );
        project.secrets.extend(
            file.take("secrets")
                .map(|item| item.entries())
                .unwrap_or_default(),
        );
        project.configs.extend(
            file.take("configs")
                .map(|item| item.entries())
                .unwrap_or_default(),
        );
        file.close(FILE, notes);
    }
    for (_, item) in &mut services {
        *item = interpolate::service(item, &mut variables, notes);
    }
    storage::note_top_level(&project, notes);
    let completed = service::completed(&services);
    let mut names = JobNames::default();
    let mut drafts = Vec::new();
    for (name, item) in &services {
        let job = names.take(name, item, notes);
        project.addresses.direct(name, &job);
        let is_awaited = completed.contains(name);
        drafts.push(service::read(
            job,
            item.clone(),
            is_awaited,
            &mut project,
            notes,
        ));
    }
    rename_dependencies(&mut drafts, &services);
    notes.about(None);
    Ok(Read {
        drafts,
        addresses: project.addresses,
        variables,
    })
}

/// Dependencies name services; jobs may be called otherwise.
fn rename_dependencies(drafts: &mut [Draft], services: &[(String, Item)]) {
    let names: Vec<_> = drafts.iter().map(|draft| draft.spec.name.clone()).collect();
    for draft in drafts {
        for dependency in &mut draft.spec.depends_on {
            let index = services
                .iter()
                .position(|(name, _)| crate::draft::nearest_name(name) == dependency.as_str());
            if let Some(index) = index {
                *dependency = names[index].clone();
            }
        }
    }
}

/// A list of words, or one text split as a shell would split it.
pub(crate) fn words(item: &Item, notes: &mut Notes) -> Vec<String> {
    if !item.is_scalar() {
        return item
            .items()
            .iter()
            .map(|word| word.text().to_owned())
            .collect();
    }
    match shlex::split(item.text()) {
        Some(words) => {
            let signs = |text: &str| text.matches('#').count();
            if words.iter().map(|word| signs(word)).sum::<usize>() < signs(item.text()) {
                notes.lost(item, "command", "what follows '#' is taken for a comment");
            }
            words
        }
        None => {
            notes.decide(
                item,
                "command",
                "a quote is not closed; the words are split at blanks",
            );
            item.text().split_whitespace().map(str::to_owned).collect()
        }
    }
}

/// `["A=1"]` and `{A: 1}` as names and values; a name without a value has none.
pub(crate) fn pairs(item: &Item) -> Vec<(String, Option<String>, Item)> {
    if item.is_list() {
        let split = |item: Item| match item.text().split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned()), item.clone()),
            None => (item.text().to_owned(), None, item.clone()),
        };
        return item.items().into_iter().map(split).collect();
    }
    let value = |item: &Item| item.node.text().map(str::to_owned);
    item.entries()
        .into_iter()
        .map(|(key, item)| (key, value(&item), item))
        .collect()
}

/// Changes every scalar of a value.
pub(crate) fn map_scalars(
    node: &Rc<Node>,
    change: &mut impl FnMut(&Node, &str) -> Option<String>,
) -> Rc<Node> {
    let mut copy = Node::clone(node);
    match &mut copy.value {
        Value::Null => {}
        Value::Plain(text) | Value::Quoted(text) => {
            if let Some(changed) = change(node, text) {
                *text = changed;
            }
        }
        Value::List(items) => {
            for item in items {
                *item = map_scalars(item, change);
            }
        }
        Value::Map(pairs) => {
            for pair in pairs {
                pair.node = map_scalars(&pair.node, change);
            }
        }
    }
    Rc::new(copy)
}
