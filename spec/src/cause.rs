//! Why a value changed: the changed file nearest to it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tw_model::{Change, Location};

use crate::{EvaluatedJob, Question, QuestionKind, Source, SourceError};

/// Both sides of a comparison, and which files differ between them.
pub(crate) struct Sides<'a> {
    base: &'a Source,
    head: &'a Source,
    /// Files that specs of either side read and whose contents differ.
    changed: BTreeMap<String, ChangedFile>,
}

/// A file that differs.
struct ChangedFile {
    /// Its lines on each side that the other side has nowhere.
    only_in_base: BTreeMap<u32, String>,
    only_in_head: BTreeMap<u32, String>,
}

/// Where a change comes from, on one side.
pub(crate) struct Found {
    pub(crate) file: String,
    pub(crate) line: Option<u32>,
}

#[derive(Clone, Copy)]
enum Side {
    Base,
    Head,
}

impl<'a> Sides<'a> {
    /// Compares every file that the given closures asked for.
    pub(crate) fn new<'q>(
        base: &'a Source,
        head: &'a Source,
        asked: impl Iterator<Item = &'q Question>,
    ) -> Result<Sides<'a>, SourceError> {
        let files: BTreeSet<&str> = asked
            .filter(|question| question.kind == QuestionKind::Read)
            .map(|question| question.path.as_str())
            .collect();
        let mut changed = BTreeMap::new();
        for file in files {
            let (old, new) = (base.read(file)?, head.read(file)?);
            if old != new {
                changed.insert(file.to_owned(), ChangedFile::new(&text(old), &text(new)));
            }
        }
        Ok(Sides {
            base,
            head,
            changed,
        })
    }

    /// The files that differ.
    pub(crate) fn changed_files(&self) -> impl Iterator<Item = &str> {
        self.changed.keys().map(String::as_str)
    }

    pub(crate) fn is_changed(&self, file: &str) -> bool {
        self.changed.contains_key(file)
    }

    /// Finds the cause of a change of a job where the job of the head alone shows it.
    pub(crate) fn cause_in_head(&self, change: &Change, new: &EvaluatedJob) -> Option<Found> {
        self.in_package(&change.path)
            .or_else(|| self.at_changed_line(change, new, Side::Head))
    }

    /// The first file that differs of the package that the change is in.
    fn in_package(&self, path: &str) -> Option<Found> {
        let folder = path.strip_prefix("packages[")?.split(']').next()?;
        let file = self.changed_file_below(folder)?;
        Some(Found { file, line: None })
    }

    /// Finds the cause of a change of a job.
    pub(crate) fn cause(
        &self,
        change: &Change,
        old: &EvaluatedJob,
        new: &EvaluatedJob,
    ) -> Option<Found> {
        self.cause_in_head(change, new)
            .or_else(|| self.at_changed_line(change, old, Side::Base))
            .or_else(|| self.unplaced(new, old))
            .or_else(|| self.in_changed_file(&change.path, new))
            .or_else(|| self.in_changed_file(&change.path, old))
    }

    /// The nearest place of the value that stands on a line of one side only; among several one that has the value
    /// itself, for the entries of a dict that is put together are known by the whole expression alone.
    fn at_changed_line(&self, change: &Change, job: &EvaluatedJob, side: Side) -> Option<Found> {
        let value = match side {
            Side::Base => &change.old,
            Side::Head => &change.new,
        };
        let places = job.provenance.trail(&change.path);
        let candidates = places
            .iter()
            .flat_map(|place| self.changed_lines(place, job, side));
        let candidates: Vec<(&Location, u32, &str)> = candidates.collect();
        let exact = candidates
            .iter()
            .find(|(_, _, text)| has_value(text, value));
        let (place, line, _) = exact.or(candidates.first())?;
        // The line counts in the head's file; one that is only in the base's has no number there.
        Some(Found {
            file: place.file.clone(),
            line: matches!(side, Side::Head).then_some(*line),
        })
    }

    /// The lines of one side only that a place spans.
    fn changed_lines<'s>(
        &'s self,
        place: &'s Location,
        job: &EvaluatedJob,
        side: Side,
    ) -> impl Iterator<Item = (&'s Location, u32, &'s str)> {
        let end = job
            .provenance
            .end_of(place)
            .map_or(place.line, |(line, _)| line);
        let span = place.line..=end.max(place.line);
        let lines = self
            .changed
            .get(&place.file)
            .map(|file| file.lines(side).range(span));
        let lines = lines.into_iter().flatten();
        lines.map(move |(line, text)| (place, *line, text.as_str()))
    }

    /// The nearest place of the value in a changed file.
    fn in_changed_file(&self, path: &str, job: &EvaluatedJob) -> Option<Found> {
        let trail = job.provenance.trail(path);
        let place: Option<Location> = trail.into_iter().find(|place| self.is_changed(&place.file));
        place.map(|place| Found {
            file: place.file,
            line: Some(place.line),
        })
    }

    /// A changed file of the closure other than the spec, where no place is known: data that the spec read,
    /// or a module that reached it in a way that cannot be followed.
    fn unplaced(&self, new: &EvaluatedJob, old: &EvaluatedJob) -> Option<Found> {
        let asked = new.closure.iter().chain(old.closure.iter());
        let file = asked
            .filter(|question| question.kind == QuestionKind::Read && question.path != new.file)
            .find(|question| self.is_changed(&question.path))?;
        Some(Found {
            file: file.path.clone(),
            line: None,
        })
    }

    /// The first file below a folder that differs between the two sides.
    fn changed_file_below(&self, folder: &str) -> Option<String> {
        let mut names: BTreeSet<(String, bool)> = BTreeSet::new();
        for side in [self.base, self.head] {
            for entry in side.list(folder).ok()?.unwrap_or_default() {
                names.insert((entry.name, entry.kind == crate::EntryKind::Folder));
            }
        }
        names.into_iter().find_map(|(name, is_folder)| {
            let path = format!("{folder}/{name}");
            match is_folder {
                true => self.changed_file_below(&path),
                false => self.differs(&path).then_some(path),
            }
        })
    }

    fn differs(&self, file: &str) -> bool {
        let kinds = (self.base.kind(file).ok(), self.head.kind(file).ok());
        kinds.0 != kinds.1 || self.base.read(file).ok() != self.head.read(file).ok()
    }
}

impl ChangedFile {
    fn new(old: &str, new: &str) -> ChangedFile {
        ChangedFile {
            only_in_base: only_in(old, new),
            only_in_head: only_in(new, old),
        }
    }

    fn lines(&self, side: Side) -> &BTreeMap<u32, String> {
        match side {
            Side::Base => &self.only_in_base,
            Side::Head => &self.only_in_head,
        }
    }
}

fn text(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// The lines of `this`, with their numbers, that stand nowhere in `other`; indentation does not count.
fn only_in(this: &str, other: &str) -> BTreeMap<u32, String> {
    let others: BTreeSet<&str> = other.lines().map(str::trim).collect();
    let numbered = (1..).zip(this.lines().map(str::trim));
    numbered
        .filter(|(_, line)| !line.is_empty() && !others.contains(line))
        .map(|(number, line)| (number, line.to_owned()))
        .collect()
}

/// Whether a line of source spells out a text of some length or a number.
fn has_value(line: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() > 1 && line.contains(text.as_str()),
        Value::Number(number) => {
            let number = number.to_string();
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
            words.any(|word| word == number)
        }
        _ => false,
    }
}
