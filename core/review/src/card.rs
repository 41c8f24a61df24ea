//! Brings jobs with the same change together.

use std::collections::BTreeMap;

use tw_model::{ChangedModule, DEFAULT_NAMESPACE, Effect};

use crate::review::{Card, Line};
use crate::rows::cell;
use crate::words::count;

/// Jobs that come or go are listed one by one up to this many of a kind.
const LISTED_MAX: usize = 10;
/// From so many jobs on, the same change written in each job's own spec is folded as well.
const OWN_SPECS_MIN: usize = 3;

/// Folds cards that differ in nothing but their jobs, and puts the strongest effects first.
pub(crate) fn folded(cards: Vec<Card>) -> Vec<Card> {
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    for card in &cards {
        *alike.entry(card.key(true)).or_default() += 1;
    }
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut folded: Vec<Card> = Vec::new();
    for card in cards {
        let many = alike[&card.key(true)];
        let key = card.key(many >= OWN_SPECS_MIN);
        let listed = card.is_brief() && many <= LISTED_MAX;
        match places.get(&key) {
            Some(at) if !listed => folded[*at].take_in(card),
            _ => {
                places.insert(key, folded.len());
                folded.push(card);
            }
        }
    }
    folded.sort_by_key(|card| (card.mark, std::cmp::Reverse(card.effect)));
    folded
}

impl Card {
    /// What cards that are folded have in common; where `loosely`, each may have its change in its own spec.
    fn key(&self, loosely: bool) -> String {
        let Card {
            mark,
            jobs: _,
            effect,
            summary,
            rows,
            lines,
        } = self;
        let mut rows = rows.clone();
        let own = rows.iter_mut().filter(|row| loosely && row.own);
        own.for_each(|row| row.cause.clear());
        format!("{mark:?}{effect:?}{summary}{rows:?}{lines:?}")
    }

    /// Adds the jobs of a card with the same change.
    fn take_in(&mut self, other: Card) {
        for row in self.rows.iter_mut().filter(|row| row.own) {
            row.cause = "their own specs".to_owned();
        }
        self.jobs.extend(other.jobs);
    }

    /// Whether one line says it all: a job that comes or goes.
    pub(crate) fn is_brief(&self) -> bool {
        self.effect.is_none() && self.rows.is_empty() && self.lines.is_empty()
    }

    /// The spec file and the owner of a single job, one after the other.
    pub(crate) fn about(&self) -> String {
        let [job] = self.jobs.as_slice() else {
            return String::new();
        };
        let parts = [&job.file, &job.owner].map(|part| cell(part));
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(", ")
    }

    /// The job, or how many there are.
    pub fn title(&self) -> String {
        match self.jobs.as_slice() {
            [job] => job.name.clone(),
            jobs => count(jobs.len(), "job"),
        }
    }

    pub(crate) fn is_folded(&self) -> bool {
        self.jobs.len() > 1
    }

    /// The names of the jobs, and that they have the same change.
    pub(crate) fn names(&self) -> Vec<String> {
        self.jobs.iter().map(|job| job.name.clone()).collect()
    }
}

/// A name as people say it: without the namespace that needs no saying.
pub(crate) fn job_name(namespace: &str, name: &str) -> String {
    match namespace {
        DEFAULT_NAMESPACE => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// An effect with its reason.
pub(crate) fn because(effect: Effect) -> String {
    format!("{effect}, {}", effect.reason())
}

/// What changed files reach, those with the most importers first.
pub(crate) fn modules(modules: &[ChangedModule]) -> Vec<Line> {
    const MOST: usize = 12;
    let mut lines: Vec<Line> = modules.iter().take(MOST).map(module).collect();
    if let Some(more @ 1..) = modules.len().checked_sub(MOST) {
        lines.push(Line::plain().words(format!("and {more} changed modules more")));
    }
    lines
}

fn module(module: &ChangedModule) -> Line {
    let jobs = match module.changed_jobs {
        0 => "no job changes by it".to_owned(),
        1 => "1 job changes".to_owned(),
        jobs => format!("{jobs} jobs change"),
    };
    Line::plain()
        .quoted(&module.file)
        .words(format!(": {}, {jobs}", count(module.importers, "importer")))
}

/// Whom a change concerns: each owner with the number of their jobs, most first.
pub(crate) fn owners<'a>(owners: impl Iterator<Item = &'a str>) -> Option<Line> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    owners.for_each(|owner| *counts.entry(owner).or_default() += 1);
    let unowned = counts.remove("").unwrap_or(0);
    let jobs = counts.values().sum::<usize>() + unowned;
    // The owner of a single job stands beside it.
    if counts.is_empty() || jobs == 1 {
        return None;
    }
    let mut sorted: Vec<(&str, usize)> = counts.into_iter().collect();
    sorted.sort_by_key(|(name, jobs)| (std::cmp::Reverse(*jobs), *name));
    const MOST: usize = 12;
    let more = sorted.len().saturating_sub(MOST);
    let mut line = Line::plain().words("owners: ");
    for (at, (owner, jobs)) in sorted.into_iter().take(MOST).enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        line = line
            .words(comma)
            .quoted(owner)
            .words(format!(" {}", count(jobs, "job")));
    }
    if more > 0 {
        line = line.words(format!(" and {more} more"));
    }
    if unowned > 0 {
        line = line.words(format!("; {} without an owner", count(unowned, "job")));
    }
    Some(line)
}
