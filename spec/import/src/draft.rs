//! The intermediate job: what every reader fills in and the writer writes.
//!
//! It is the job of the schema itself, beside what only an import needs to know: where values stood, which
//! numbers its ports had, and what its image starts by itself.

use std::collections::BTreeMap;

use tw_model::{CommandLine, EnvName, JobSpec, Name, Secret};

use crate::fields::Item;
use crate::note::Notes;

/// A job on its way from a file to a spec.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) spec: JobSpec,
    /// Where it is described.
    pub(crate) origin: Item,
    /// What starts: the image's own entry point or command where the file gives none.
    pub(crate) launch: Launch,
    /// The reference of its image.
    pub(crate) image: Option<(String, Item)>,
    /// Variables in the order of the file, each with its place.
    pub(crate) env: Vec<(String, String, Item)>,
    /// Ports that the program listens on by itself.
    pub(crate) listens: Vec<Listen>,
    /// Paths that the program knows, and where the same files are now.
    pub(crate) moved: Vec<Moved>,
}

/// What a container starts, as the two lists that images know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) arguments: Option<Vec<String>>,
    /// Where either is written.
    pub(crate) item: Option<Item>,
}

/// A port as the file knows it.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) name: Name,
    pub(crate) number: u16,
    pub(crate) item: Item,
}

/// Files that lie elsewhere now.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) item: Item,
}

/// A number that a file gives to a port, with what is known of its use.
#[derive(Clone, Debug)]
pub(crate) struct PortMention {
    pub(crate) number: u16,
    pub(crate) name: Option<String>,
    pub(crate) item: Item,
}

impl Draft {
    pub(crate) fn new(name: Name, origin: Item) -> Draft {
        let plain = serde_json::json!({"name": name, "command": []});
        Draft {
            spec: serde_json::from_value(plain).expect("all other fields of a job have defaults"),
            origin,
            launch: Launch::default(),
            image: None,
            env: Vec::new(),
            listens: Vec::new(),
            moved: Vec::new(),
        }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.spec.name
    }

    /// Sets a variable; the later of two wins, in the place of the first.
    pub(crate) fn set_env(&mut self, key: &str, value: String, item: Item) {
        match self.env.iter_mut().find(|(known, _, _)| known == key) {
            Some(known) => *known = (key.to_owned(), value, item),
            None => self.env.push((key.to_owned(), value, item)),
        }
    }

    pub(crate) fn add_secret(&mut self, name: Name) {
        if !self.spec.secrets.iter().any(|secret| secret.name == name) {
            self.spec.secrets.push(Secret { name });
        }
    }

    /// Names the ports that a file mentions, each number once.
    pub(crate) fn name_ports(&mut self, mentions: Vec<PortMention>) {
        let mut unique: Vec<PortMention> = Vec::new();
        for mention in mentions {
            match unique
                .iter_mut()
                .find(|known| known.number == mention.number)
            {
                Some(known) => known.name = known.name.take().or(mention.name),
                None => unique.push(mention),
            }
        }
        let alone = unique.len() == 1;
        for mention in unique {
            let wanted = match &mention.name {
                Some(name) => nearest_name(name),
                None => usual_name(mention.number, alone),
            };
            let taken = self
                .listens
                .iter()
                .any(|listen| listen.name.as_str() == wanted);
            let text = if taken {
                format!("p{}", mention.number)
            } else {
                wanted
            };
            let Ok(name) = text.parse::<Name>() else {
                continue;
            };
            self.spec.ports.push(name.clone());
            self.listens.push(Listen {
                name,
                number: mention.number,
                item: mention.item,
            });
        }
    }

    pub(crate) fn port(&self, number: u16) -> Option<&Name> {
        self.listens
            .iter()
            .find(|listen| listen.number == number)
            .map(|listen| &listen.name)
    }

    /// Moves the variables into the spec, once nothing of them changes any more.
    pub(crate) fn fill_env(&mut self) {
        let entries = self
            .env
            .iter()
            .map(|(key, value, _)| (EnvName(key.clone()), value.clone()));
        self.spec.env = entries.collect::<BTreeMap<_, _>>();
    }

    /// Every text in which an address, a port or a path may stand, to be changed in place.
    pub(crate) fn texts_mut(&mut self) -> impl Iterator<Item = (&mut String, Option<Item>)> {
        let command = self.launch.item.clone();
        let words = self
            .spec
            .command
            .0
            .iter_mut()
            .map(move |word| (word, command.clone()));
        let env = self
            .env
            .iter_mut()
            .map(|(_, value, item)| (value, Some(item.clone())));
        let sidecars = self.spec.sidecars.iter_mut().flat_map(|sidecar| {
            let CommandLine(words) = &mut sidecar.command;
            words.iter_mut().chain(sidecar.env.values_mut())
        });
        let hooks = &mut self.spec.hooks;
        let hooks = [
            &mut hooks.pre_start,
            &mut hooks.post_start,
            &mut hooks.pre_stop,
            &mut hooks.post_stop,
        ];
        let hooks = hooks
            .into_iter()
            .flatten()
            .flat_map(|hook| hook.command.0.iter_mut());
        words
            .chain(env)
            .chain(sidecars.chain(hooks).map(|text| (text, None)))
    }
}

/// The name of a port that the file leaves without one.
fn usual_name(number: u16, alone: bool) -> String {
    match number {
        80 | 3000 | 5601 | 8000 | 8080 | 8888 | 9200 => "http".to_owned(),
        443 | 8443 => "https".to_owned(),
        _ if alone => "main".to_owned(),
        _ => format!("p{number}"),
    }
}

/// A valid name as near as possible to a text.
pub(crate) fn nearest_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c.to_ascii_lowercase()),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    let mut name = name.trim_matches('-').to_owned();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name = format!("x-{name}").trim_end_matches('-').to_owned();
    }
    name.truncate(63);
    name.trim_end_matches('-').to_owned()
}

/// Gives out names of jobs: valid, and each once.
#[derive(Debug, Default)]
pub(crate) struct JobNames {
    taken: Vec<String>,
}

impl JobNames {
    /// The name for what the file calls `text`; a note where it had to be another.
    pub(crate) fn take(&mut self, text: &str, item: &Item, notes: &mut Notes) -> Name {
        let near = nearest_name(text);
        let mut name = near.clone();
        let mut number = 2;
        while self.taken.contains(&name) {
            name = format!("{}-{number}", &near[..near.len().min(58)]);
            number += 1;
        }
        self.taken.push(name.clone());
        notes.about(Some(&name));
        if name != text {
            let why = match name == near {
                true => "names hold lower-case letters, digits and '-'",
                false => "another job has that name already",
            };
            notes.changed(item, "name", format!("the job's name is '{name}': {why}"));
        }
        name.parse().expect("nearest_name gives valid names")
    }
}
