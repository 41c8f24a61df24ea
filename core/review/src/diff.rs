//! What two trees of specs differ in, for a reviewer.

use std::collections::BTreeSet;

use tw_model::{ChangeKind, Effect, PolicyReport};
use tw_spec::{DiffJob, Rename, SpecDiff, SpecError};

use crate::card::{folded, job_name, modules, owners};
use crate::plan::policy_lines;
use crate::review::{Card, CardJob, Line, Mark, Review, Row, Tone};
use crate::words::{count, some_of};

/// Names in one sentence.
const NAMES_MAX: usize = 8;

/// The review of a comparison, and of what policies say of its jobs.
pub fn of_diff(diff: &SpecDiff, policy: &PolicyReport) -> Review {
    let (refusals, warnings) = policy_lines(policy);
    let mut alarms = destruction(diff);
    alarms.extend(refusals);
    let mut notes: Vec<Line> = diff.renames.iter().map(rename).collect();
    notes.extend(warnings);
    let mut totals = modules(&diff.modules);
    totals.extend(owners(diff.jobs.iter().map(|job| job.owner.as_str())));
    Review {
        headline: headline(diff),
        errors: errors(diff),
        alarms,
        notes,
        cards: folded(diff.jobs.iter().map(card).collect()),
        totals,
        digest: None,
    }
}

fn headline(diff: &SpecDiff) -> String {
    let found = &diff.summary;
    let broken = match broken(diff) {
        0 => String::new(),
        1 => "; 1 spec does not evaluate and is not compared".to_owned(),
        specs => format!("; {specs} specs do not evaluate and are not compared"),
    };
    if diff.is_empty() {
        return match broken.is_empty() {
            true => unchanged(diff),
            false => format!("No job that evaluates changes{broken}"),
        };
    }
    let effects: Vec<String> = found
        .effects
        .iter()
        .map(|(effect, jobs)| format!("{jobs} {effect}"))
        .collect();
    let effects = match effects.is_empty() {
        true => String::new(),
        false => format!(" ({})", effects.join(", ")),
    };
    let parts = [
        (found.modified, format!("modified{effects}")),
        (found.added, "added".to_owned()),
        (found.removed, "removed".to_owned()),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(jobs, _)| *jobs > 0)
        .map(|(jobs, what)| format!("{jobs} {what}"))
        .collect();
    let parts = parts.join(", ");
    format!("{parts}; {} unchanged{broken}", found.unchanged)
}

/// How many specs do not evaluate on one side or the other.
fn broken(diff: &SpecDiff) -> usize {
    let files: BTreeSet<&str> = diff
        .errors
        .iter()
        .map(|error| error.file.as_str())
        .collect();
    files.len()
}

/// That nothing changes, and how that is known.
fn unchanged(diff: &SpecDiff) -> String {
    let scope = &diff.scope;
    let modules = match diff.modules.len() {
        0 => String::new(),
        modules => format!(", {}", count(modules, "module")),
    };
    let files = |files: usize| count(files, "file");
    match (scope.files_changed, scope.specs_evaluated) {
        (Some(0), _) | (None, 0) => {
            format!(
                "Nothing changes: {} as before",
                count(diff.summary.unchanged, "job")
            )
        }
        (Some(changed), 0) => {
            format!(
                "{} changed; no job changes: no spec reads what changed",
                files(changed)
            )
        }
        (Some(changed), specs) => format!(
            "{} changed{modules}; no job changes: proven by evaluating {}",
            files(changed),
            count(specs, "spec")
        ),
        (None, specs) => format!(
            "No job changes: proven by evaluating {}",
            count(specs, "spec")
        ),
    }
}

/// What cannot be taken back, folded by kind.
fn destruction(diff: &SpecDiff) -> Vec<Line> {
    let names = |which: &dyn Fn(&DiffJob) -> bool| -> Vec<String> {
        let found = diff.jobs.iter().filter(|job| which(job));
        found
            .map(|job| job_name(&job.namespace, &job.name))
            .collect()
    };
    let to_none = |job: &DiffJob| {
        let mut changes = job.changes.iter();
        changes.any(|change| change.path == "replicas" && change.new == 0)
    };
    let kinds = [
        (
            names(&|job| job.change == ChangeKind::Removed),
            "removed, with all tasks",
        ),
        (
            names(&|job| job.effect == Effect::Recreate),
            "made anew: all tasks end at once",
        ),
        (
            names(&|job| job.effect != Effect::Recreate && to_none(job)),
            "left with no task",
        ),
    ];
    let found = kinds.into_iter().filter(|(names, _)| !names.is_empty());
    let mut lines: Vec<Line> = found.map(|(names, what)| destroyed(&names, what)).collect();
    let removed = diff
        .jobs
        .iter()
        .filter(|job| job.change == ChangeKind::Removed);
    let volumes: Vec<String> = removed
        .flat_map(|job| {
            job.volumes
                .iter()
                .map(|volume| format!("{}: {volume}", job.name))
        })
        .collect();
    if !volumes.is_empty() {
        lines.push(
            Line::new(Tone::Danger)
                .words("nothing finds what is in the volumes of removed jobs: ")
                .quoted(some_of(&volumes, NAMES_MAX)),
        );
    }
    lines
}

pub(crate) fn destroyed(names: &[String], what: &str) -> Line {
    let is = if names.len() == 1 { "is" } else { "are" };
    Line::new(Tone::Danger)
        .quoted(some_of(names, NAMES_MAX))
        .words(format!(" {is} {what}"))
}

fn rename(rename: &Rename) -> Line {
    let line = Line::new(Tone::Warning)
        .quoted(&rename.from)
        .words(" may have been renamed to ")
        .quoted(&rename.to);
    let line = match rename.differing.is_empty() {
        true => line.words(" (they differ in nothing else)"),
        false => line
            .words(" (beside it they differ in ")
            .quoted(rename.differing.join(", "))
            .words(")"),
    };
    let line = line.words(": the old tasks end and new ones start");
    match rename.volumes.is_empty() {
        true => line,
        false => line
            .words(", without what is in ")
            .quoted(rename.volumes.join(", ")),
    }
}

/// Mistakes of the head, then those that only the base has.
fn errors(diff: &SpecDiff) -> Vec<Line> {
    let (head, base) = diff
        .errors
        .split_at(diff.errors.len().saturating_sub(diff.scope.errors_in_base));
    let in_head: BTreeSet<&str> = head.iter().map(|error| error.file.as_str()).collect();
    let mended = base
        .iter()
        .filter(|error| !in_head.contains(error.file.as_str()));
    let head = head
        .iter()
        .map(|found| error(found, Tone::Danger, " does not evaluate: "));
    let base =
        mended.map(|found| error(found, Tone::Warning, " evaluates now, and did not before: "));
    head.chain(base).collect()
}

fn error(error: &SpecError, tone: Tone, what: &str) -> Line {
    let place = match error.line {
        Some(line) => format!("{}:{line}", error.file),
        None => error.file.clone(),
    };
    let first = error.message.lines().next().unwrap_or_default();
    Line::new(tone)
        .quoted(place)
        .words(what)
        .quoted(first)
        .words(format!(" [{}]", error.code))
}

fn card(job: &DiffJob) -> Card {
    let size = format!(
        "{} of {} cores and {}",
        count(job.replicas as usize, "task"),
        job.cpu_millicores,
        job.memory_bytes
    );
    let rows = job.changes.iter().map(|change| {
        Row::of(&change.path, &change.old, &change.new, change.effect)
            .caused_by(change.cause.as_ref(), &job.file)
    });
    let modified = job.change == ChangeKind::Modified;
    Card {
        mark: Mark::from(job.change),
        jobs: vec![CardJob {
            name: job_name(&job.namespace, &job.name),
            file: job.file.clone(),
            owner: job.owner.clone(),
        }],
        effect: modified.then_some(job.effect),
        summary: if modified { String::new() } else { size },
        rows: rows.collect(),
        lines: Vec::new(),
    }
}
