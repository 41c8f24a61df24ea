//! Why a value changed: the changed file nearest to it.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::Location;

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
    only_in_base: BTreeSet<u32>,
    only_in_head: BTreeSet<u32>,
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

    /// Finds the cause of a change at `path` of a job where the job of the head alone shows it.
    pub(crate) fn cause_in_head(&self, path: &str, new: &EvaluatedJob) -> Option<Found> {
        self.in_package(path)
            .or_else(|| self.at_changed_line(path, new, Side::Head))
    }

    /// The first file that differs of the package that the change is in.
    fn in_package(&self, path: &str) -> Option<Found> {
        let folder = path.strip_prefix("packages[")?.split(']').next()?;
        let file = self.changed_file_below(folder)?;
        Some(Found { file, line: None })
    }

    /// Finds the cause of a change at `path` of a job.
    pub(crate) fn cause(
        &self,
        path: &str,
        old: &EvaluatedJob,
        new: &EvaluatedJob,
    ) -> Option<Found> {
        self.cause_in_head(path, new)
            .or_else(|| self.at_changed_line(path, old, Side::Base))
            .or_else(|| self.unplaced(new, old))
            .or_else(|| self.in_changed_file(path, new))
            .or_else(|| self.in_changed_file(path, old))
    }

    /// The nearest place of the value that stands on a line of one side only.
    fn at_changed_line(&self, path: &str, job: &EvaluatedJob, side: Side) -> Option<Found> {
        let provenance = &job.provenance;
        provenance.trail(path).into_iter().find_map(|place| {
            let end = provenance
                .end_of(&place)
                .map_or(place.line, |(line, _)| line);
            let lines = self.changed.get(&place.file)?.lines(side);
            let line = *lines.range(place.line..=end.max(place.line)).next()?;
            // The line counts in the head's file; one that is only in the base's has no number there.
            Some(Found {
                file: place.file,
                line: matches!(side, Side::Head).then_some(line),
            })
        })
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

    fn lines(&self, side: Side) -> &BTreeSet<u32> {
        match side {
            Side::Base => &self.only_in_base,
            Side::Head => &self.only_in_head,
        }
    }
}

fn text(bytes: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// The numbers of the lines of `this` that stand nowhere in `other`; indentation does not count.
fn only_in(this: &str, other: &str) -> BTreeSet<u32> {
    let others: BTreeSet<&str> = other.lines().map(str::trim).collect();
    let numbered = (1..).zip(this.lines().map(str::trim));
    numbered
        .filter(|(_, line)| !line.is_empty() && !others.contains(line))
        .map(|(number, _)| number)
        .collect()
}
