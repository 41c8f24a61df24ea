//! What tells git which names to ignore, as far as it must be known whether that has changed.
//!
//! libgit2 says which names are ignored. This module only says whether its answer can still be the same: a number
//! for each folder that differs when a file with rules for it was touched.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, fs};

use git2::{Config, Repository};

use super::path;
use super::scan::Stamp;

/// The name of a file of rules.
pub(super) const RULES: &str = ".gitignore";

/// The rules of one repository, as they were when the work tree was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ignore {
    is_git: bool,
    /// Stands for the rules outside the work tree.
    outside: u64,
    /// Whether there are any of those.
    has_outside: bool,
    /// Stands for git's index.
    index: u64,
}

impl Ignore {
    pub(super) fn of(repository: Option<&Repository>) -> Ignore {
        let Some(repository) = repository else {
            return Ignore::default();
        };
        let exclude = repository.commondir().join("info/exclude");
        let global = global_rules(repository);
        let files = [exclude.clone(), repository.commondir().join("config")];
        let states: Vec<u64> = files
            .iter()
            .chain(&global)
            .map(|file| state_of(file))
            .collect();
        Ignore {
            is_git: true,
            outside: number(&states),
            has_outside: std::iter::once(&exclude)
                .chain(&global)
                .any(|file| has_rules(file)),
            index: state_of(&repository.path().join("index")),
        }
    }

    /// Stands for the state of git's index.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// A number for the rules in force in `folder`; 0 if there are none. `known` keeps those of the folders
    /// above, which are looked at once. `has_own` says whether the folder has rules of its own, if that is known.
    pub(super) fn rules(
        &self,
        known: &mut HashMap<String, u64>,
        root: &Path,
        folder: &str,
        has_own: Option<bool>,
    ) -> u64 {
        if !self.is_git {
            return 0;
        }
        if let Some(rules) = known.get(folder) {
            return *rules;
        }
        let above = match folder {
            "" if self.has_outside => self.outside,
            "" => 0,
            folder => self.rules(known, root, path::parent(folder), None),
        };
        let own = root.join(folder).join(RULES);
        let rules = match has_own.unwrap_or_else(|| own.exists()) {
            true => number(&(above, self.outside, state_of(&own))),
            false => above,
        };
        known.insert(folder.to_owned(), rules);
        rules
    }
}

/// The files outside the repository that hold rules, or name one that does.
fn global_rules(repository: &Repository) -> Vec<PathBuf> {
    let named = repository
        .config()
        .and_then(|config| config.get_path("core.excludesfile"));
    let home = env::var_os("HOME").map(PathBuf::from);
    let usual = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".config")))
        .map(|folder| folder.join("git/ignore"));
    let settings = [
        Config::find_global(),
        Config::find_xdg(),
        Config::find_system(),
    ];
    let settings = settings.into_iter().filter_map(Result::ok);
    named
        .ok()
        .into_iter()
        .chain(usual)
        .chain(settings)
        .collect()
}

/// Whether a file has a line that could be a rule; a setting does for one.
fn has_rules(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    let is_settings = text.contains("excludesfile") || text.trim_start().starts_with('[');
    let rule = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
    !is_settings && text.lines().any(rule)
}

/// A number for the state of a file. One that has only just changed has a new number at each look.
fn state_of(file: &Path) -> u64 {
    match Stamp::at(file) {
        Some(stamp) if !stamp.is_settled() => number(&(stamp, SystemTime::now())),
        stamp => number(&stamp),
    }
}

/// Never 0, which stands for no rules.
fn number(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish().max(1)
}
