//! What a path that leads nowhere was probably meant to be.

use std::fmt;

use tw_model::nearest;

use super::{EntryKind, Source, path};

/// The most specs that are named where nothing is near.
const SPECS_MAX: usize = 5;

/// What stands near a path at which nothing stands, as the end of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Near {
    /// A path of nearly these letters.
    Path(String),
    /// The specs below the deepest folder of the path that is there, and how many more there are.
    Specs {
        specs: Vec<String>,
        more: usize,
    },
    Nothing,
}

impl Near {
    pub(super) fn of(source: &Source, path: &str) -> Near {
        let mut folder = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let here = path::join(&folder, name);
            if matches!(source.kind(&here), Ok(Some(_))) {
                folder = here;
                continue;
            }
            return match near_name(source, &folder, name) {
                Some(meant) => {
                    let rest = &path[(here.len()).min(path.len())..];
                    Near::spelt(source, &path::join(&folder, &meant), rest)
                }
                None => Near::below(source, &folder),
            };
        }
        Near::below(source, &folder)
    }

    /// What stands at `start` followed by `rest`, which may be misspelt, too.
    fn spelt(source: &Source, start: &str, rest: &str) -> Near {
        let whole = format!("{start}{rest}");
        if matches!(source.kind(&whole), Ok(Some(_))) {
            return Near::Path(whole);
        }
        match Near::of(source, &whole) {
            Near::Path(path) => Near::Path(path),
            Near::Specs { .. } | Near::Nothing => Near::Path(start.to_owned()),
        }
    }

    fn below(source: &Source, folder: &str) -> Near {
        let Ok(mut specs) = source.specs_if_any(&[folder.to_owned()]) else {
            return Near::Nothing;
        };
        let more = specs.len().saturating_sub(SPECS_MAX);
        specs.truncate(SPECS_MAX);
        match specs.is_empty() {
            true => Near::Nothing,
            false => Near::Specs { specs, more },
        }
    }
}

/// The name in the folder that `name` was probably meant to be: of a folder or of a spec.
fn near_name(source: &Source, folder: &str, name: &str) -> Option<String> {
    let entries = source.list(folder).ok()??;
    let names = entries.iter().filter(|entry| match entry.kind {
        EntryKind::Folder => !entry.name.starts_with('.'),
        EntryKind::File { .. } => has_suffix(&entry.name) || !has_suffix(name),
        EntryKind::Symlink => true,
    });
    let names: Vec<&str> = names.map(|entry| entry.name.as_str()).collect();
    let with_suffix = format!("{name}.tw");
    let forgotten = names.iter().find(|known| **known == with_suffix);
    forgotten
        .copied()
        .or_else(|| nearest(name, &names))
        .map(str::to_owned)
}

fn has_suffix(name: &str) -> bool {
    name.ends_with(".tw")
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Near::Nothing => Ok(()),
            Near::Path(path) => write!(f, "; did you mean '{path}'?"),
            Near::Specs { specs, more } => {
                let are = if specs.len() + more == 1 { "is" } else { "are" };
                write!(f, "; there {are} {}", specs.join(", "))?;
                match more {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}
