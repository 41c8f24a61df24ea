//! What changes between two outcomes: the value behind `tw diff`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use tw_model::{
    Bytes, Cause, ChangeKind, ChangedModule, Cores, Effect, JobChange, JobId, diff_jobs, masked,
};

use crate::cause::Sides;
use crate::outcome::evaluate_in_detail;
use crate::renames::{self, Rename};
use crate::source::Hash;
use crate::survey::{Options, Surveyed, survey};
use crate::{
    Detail, EvaluatedJob, Evaluator, EvaluatorError, Outcome, Source, SourceError, SpecError,
    history,
};

/// The version of the JSON; fields are only added within it.
const VERSION: u32 = 1;

/// The differences between two outcomes.
#[derive(Clone, Debug, Serialize)]
pub struct SpecDiff {
    pub version: u32,
    pub summary: DiffSummary,
    /// Sorted by namespace and name.
    pub jobs: Vec<DiffJob>,
    /// Changed files that specs import or read, the ones with the most importers first.
    pub modules: Vec<ChangedModule>,
    /// Removed and added jobs that may be the same under another name.
    pub renames: Vec<Rename>,
    /// What the comparison rests on.
    pub scope: DiffScope,
    /// Mistakes of the head, then those of the base. Jobs of a spec with a mistake on either side are not compared.
    pub errors: Vec<SpecError>,
}

/// What was looked at, and so what the absence of changes proves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffScope {
    /// Spec files of the head.
    pub specs: usize,
    /// Those of either side whose closures differ, and which were evaluated on both sides.
    pub specs_evaluated: usize,
    /// Files that differ between the trees, of whatever kind; none where that is not known.
    pub files_changed: Option<usize>,
    /// How many of the errors, the last ones, are mistakes of the base.
    pub errors_in_base: usize,
}

/// How much changes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DiffSummary {
    pub added: usize,
    pub removed: usize,
    pub modified: usize,
    pub unchanged: usize,
    /// Modified jobs by their strongest effect.
    pub effects: BTreeMap<&'static str, usize>,
    /// Whether a job is removed or recreated, or goes to no replicas.
    pub destructive: bool,
}

/// One job that changes.
#[derive(Clone, Debug, Serialize)]
pub struct DiffJob {
    pub name: String,
    pub namespace: String,
    pub change: ChangeKind,
    /// The strongest effect on a task.
    pub effect: Effect,
    /// The spec file, of the head where it has the job.
    pub file: String,
    /// The team that answers for the job, of the head where it has the job; empty where none is named.
    pub owner: String,
    pub replicas: u32,
    /// What one task asks for.
    pub cpu_millicores: Cores,
    pub memory_bytes: Bytes,
    /// The names of its volumes.
    pub volumes: Vec<String>,
    /// Empty for added and removed jobs.
    pub changes: Vec<DiffChange>,
}

/// One value that changes.
#[derive(Clone, Debug, Serialize)]
pub struct DiffChange {
    /// As in the JSON of `tw eval`.
    pub path: String,
    pub old: Value,
    pub new: Value,
    pub effect: Effect,
    /// Why it has this effect.
    pub reason: &'static str,
    /// None if no changed file leads to the value.
    pub cause: Option<Cause>,
}

impl SpecDiff {
    /// Whether no job changes.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Where a change of a job comes from.
    pub fn cause_of(&self, namespace: &str, job: &str, path: &str) -> Option<&Cause> {
        let mut jobs = self.jobs.iter();
        let job = jobs.find(|one| one.namespace == namespace && one.name == job)?;
        let mut changes = job.changes.iter();
        changes.find(|change| change.path == path)?.cause.as_ref()
    }

    /// Takes in a comparison of other jobs with the same head.
    pub(crate) fn merge(&mut self, other: SpecDiff) {
        let SpecDiff {
            version: _,
            summary,
            jobs,
            modules,
            renames,
            scope: _,
            errors,
        } = other;
        self.summary.merge(summary);
        self.jobs.extend(jobs);
        self.jobs
            .sort_by(|one, two| (&one.namespace, &one.name).cmp(&(&two.namespace, &two.name)));
        for module in modules {
            match self
                .modules
                .iter_mut()
                .find(|known| known.file == module.file)
            {
                Some(known) => known.changed_jobs += module.changed_jobs,
                None => self.modules.push(module),
            }
        }
        self.renames.extend(renames);
        for error in errors {
            if !self.errors.contains(&error) {
                self.errors.push(error);
            }
        }
    }
}

/// Why two outcomes could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Evaluator(#[from] EvaluatorError),
}

/// One side of a comparison: a tree and what came of its specs.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub source: &'a Source,
    pub outcome: &'a Outcome,
}

/// A tree and those of its specs that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    pub source: &'a Source,
    /// As [`Source::find_specs`] lists them.
    pub specs: &'a [String],
}

/// What differs between two trees.
#[derive(Clone, Debug)]
pub struct Compared {
    pub diff: SpecDiff,
    /// What came of the head's specs that differ or have mistakes; the others are as they were.
    pub head: Outcome,
}

/// Compares two trees. Only specs whose closures differ are looked into.
pub fn diff(
    evaluator: &Evaluator,
    base: Tree<'_>,
    head: Tree<'_>,
) -> Result<Compared, CompareError> {
    let (base_tree, head_tree) = (
        evaluator.snapshot(base.source),
        evaluator.snapshot(head.source),
    );
    let options = Options {
        detail: Detail::References,
        ..Options::default()
    };
    let (old, new) = std::thread::scope(|scope| {
        let old = scope.spawn(|| survey(evaluator, &base_tree, base.specs, Options::default()));
        let new = survey(evaluator, &head_tree, head.specs, options);
        let old = old
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (old, new)
    });
    let (mut old, mut new) = (old?, new?);
    let wanted = wanted(&old.specs, &new.specs);
    let unchanged = new.specs.iter().filter(|spec| !wanted.contains(&spec.path));
    let unchanged: usize = unchanged.map(|spec| spec.summary.jobs.len()).sum();
    let old = old.load(|spec| wanted.contains(&spec.path))?;
    let new = new.load(|spec| wanted.contains(&spec.path))?;
    let sides = [(base.source, &old), (head.source, &new)];
    let [old_side, new_side] = sides.map(|(source, outcome)| Side { source, outcome });
    let mut diff = compare(evaluator, old_side, new_side)?;
    diff.summary.unchanged += unchanged;
    diff.scope = DiffScope {
        specs: head.specs.len(),
        specs_evaluated: wanted.len(),
        // To look through a whole work tree takes its time, and only a proof needs it.
        files_changed: match diff.is_empty() || head.source.commit().is_some() {
            true => head_tree.files_changed_since(base.source),
            false => None,
        },
        errors_in_base: diff.scope.errors_in_base,
    };
    Ok(Compared { diff, head: new })
}

/// The specs that must be looked into: those that differ, those with mistakes, and those with a job of a name
/// that is there twice.
fn wanted(old: &[Surveyed], new: &[Surveyed]) -> BTreeSet<String> {
    fn traces(specs: &[Surveyed]) -> BTreeMap<&str, Option<Hash>> {
        let traced = specs.iter().map(|spec| (spec.path.as_str(), spec.trace));
        traced.collect()
    }
    let (old_traces, new_traces) = (traces(old), traces(new));
    let is_same = |path: &str| {
        let (one, other) = (old_traces.get(path), new_traces.get(path));
        one == other && one.is_some_and(Option::is_some)
    };
    let mut wanted = BTreeSet::new();
    for specs in [old, new] {
        let mut first: BTreeMap<&str, &str> = BTreeMap::new();
        for spec in specs {
            if spec.summary.has_errors || !is_same(&spec.path) {
                wanted.insert(spec.path.clone());
            }
            for job in &spec.summary.jobs {
                if let Some(other) = first.insert(job, &spec.path) {
                    wanted.extend([other.to_owned(), spec.path.clone()]);
                }
            }
        }
    }
    wanted
}

/// Compares two outcomes. The evaluator looks again at the specs of modified jobs, for where their values come from.
pub fn compare(
    evaluator: &Evaluator,
    base: Side<'_>,
    head: Side<'_>,
) -> Result<SpecDiff, CompareError> {
    let pairs = pairs(base.outcome, head.outcome);
    let differing = pairs.iter().filter(|pair| pair.difference().is_some());
    let modified: Vec<&Pair<'_>> = differing.filter(|pair| pair.is_on_both_sides()).collect();
    let closures = base.outcome.specs.iter().chain(&head.outcome.specs);
    let sides = Sides::new(
        base.source,
        head.source,
        closures.flat_map(|spec| spec.closure.iter()),
    )?;
    let news = modified.iter().filter_map(|pair| pair.new);
    let mut origins = Origins {
        base: BTreeMap::new(),
        head: look_again(evaluator, head.source, news)?,
    };
    let unexplained = modified
        .iter()
        .filter(|pair| !pair.is_explained(&sides, &origins));
    origins.base = look_again(
        evaluator,
        base.source,
        unexplained.filter_map(|pair| pair.old),
    )?;
    let mut jobs: Vec<DiffJob> = pairs
        .iter()
        .filter_map(|pair| pair.compare(&sides, &origins))
        .collect();
    name_commits(&mut jobs, base.source, head.source)?;
    let mut summary = DiffSummary {
        unchanged: pairs.len() - jobs.len(),
        ..DiffSummary::default()
    };
    jobs.iter().for_each(|job| summary.count(job));
    let modules = modules(&sides, head.outcome, &jobs);
    let one_sided = |side: fn(&Pair<'_>) -> bool| pairs.iter().filter(move |pair| side(pair));
    let removed = one_sided(|pair| pair.new.is_none()).filter_map(|pair| pair.old);
    let added = one_sided(|pair| pair.old.is_none()).filter_map(|pair| pair.new);
    let removed: Vec<_> = removed.map(|job| &job.spec).collect();
    let added: Vec<_> = added.map(|job| &job.spec).collect();
    let errors = head
        .outcome
        .errors
        .iter()
        .chain(&base.outcome.errors)
        .cloned()
        .collect();
    Ok(SpecDiff {
        version: VERSION,
        summary,
        jobs,
        modules,
        renames: renames::likely(&removed, &added),
        scope: DiffScope {
            specs: head.outcome.specs.len(),
            specs_evaluated: head.outcome.specs.len(),
            files_changed: None,
            errors_in_base: base.outcome.errors.len(),
        },
        errors,
    })
}

/// Jobs with all that is known of where their values come from.
struct Origins {
    base: BTreeMap<JobId, EvaluatedJob>,
    head: BTreeMap<JobId, EvaluatedJob>,
}

fn look_again<'a>(
    evaluator: &Evaluator,
    source: &Source,
    jobs: impl Iterator<Item = &'a EvaluatedJob>,
) -> Result<BTreeMap<JobId, EvaluatedJob>, EvaluatorError> {
    let files: BTreeSet<String> = jobs.map(|job| job.file.clone()).collect();
    let outcome = evaluate_in_detail(
        evaluator,
        source,
        &Vec::from_iter(files),
        Detail::References,
    )?;
    Ok(outcome
        .jobs
        .into_iter()
        .map(|job| (job.spec.id(), job))
        .collect())
}

/// One job on both sides, or on one.
struct Pair<'a> {
    old: Option<&'a EvaluatedJob>,
    new: Option<&'a EvaluatedJob>,
}

impl Pair<'_> {
    fn difference(&self) -> Option<JobChange> {
        diff_jobs(self.old.map(|job| &job.spec), self.new.map(|job| &job.spec))
    }

    fn is_on_both_sides(&self) -> bool {
        self.old.is_some() && self.new.is_some()
    }

    /// Whether the head alone says where each change comes from.
    fn is_explained(&self, sides: &Sides<'_>, origins: &Origins) -> bool {
        let known = self.new.and_then(|job| origins.head.get(&job.spec.id()));
        let Some((job, difference)) = known.zip(self.difference()) else {
            return false;
        };
        let mut changes = difference.changes.iter();
        changes.all(|change| sides.cause_in_head(change, job).is_some())
    }

    fn compare(&self, sides: &Sides<'_>, origins: &Origins) -> Option<DiffJob> {
        let difference = self.difference()?;
        let shown = self.new.or(self.old)?;
        let id = shown.spec.id();
        let new = origins.head.get(&id);
        let both = origins.base.get(&id).zip(new);
        let effect = difference.effect();
        let changes = difference.changes.into_iter().map(|change| {
            let in_head = new.and_then(|new| sides.cause_in_head(&change, new));
            let cause =
                in_head.or_else(|| both.and_then(|(old, new)| sides.cause(&change, old, new)));
            DiffChange {
                old: masked(&change.path, &change.old),
                new: masked(&change.path, &change.new),
                path: change.path,
                effect: change.effect,
                reason: change.effect.reason(),
                cause: cause.map(|found| Cause {
                    file: found.file,
                    line: found.line,
                    commit: None,
                }),
            }
        });
        Some(DiffJob {
            name: shown.spec.name.to_string(),
            namespace: shown.spec.namespace.to_string(),
            change: difference.change,
            effect,
            file: shown.file.clone(),
            owner: shown.spec.owner.clone(),
            replicas: shown.spec.replicas,
            cpu_millicores: shown.spec.resources.cpu,
            memory_bytes: shown.spec.resources.memory,
            volumes: shown
                .spec
                .volumes
                .iter()
                .map(|volume| volume.name.to_string())
                .collect(),
            changes: changes.collect(),
        })
    }
}

/// The jobs of both sides by name, without those of specs that one side could not evaluate.
fn pairs<'a>(base: &'a Outcome, head: &'a Outcome) -> Vec<Pair<'a>> {
    let broken: BTreeSet<&str> = base
        .errors
        .iter()
        .chain(&head.errors)
        .flat_map(files_of)
        .collect();
    let good = |outcome: &'a Outcome| {
        let jobs = outcome
            .jobs
            .iter()
            .filter(|job| !broken.contains(job.file.as_str()));
        jobs.map(|job| (job.spec.id(), job))
            .collect::<BTreeMap<JobId, &EvaluatedJob>>()
    };
    let (old, new) = (good(base), good(head));
    let ids: BTreeSet<&JobId> = old.keys().chain(new.keys()).collect();
    ids.into_iter()
        .map(|id| Pair {
            old: old.get(id).copied(),
            new: new.get(id).copied(),
        })
        .collect()
}

/// The files an error concerns: its own and those of the calls that led to it.
fn files_of(error: &SpecError) -> impl Iterator<Item = &str> {
    std::iter::once(error.file.as_str()).chain(error.trace.iter().map(|frame| frame.file.as_str()))
}

fn name_commits(jobs: &mut [DiffJob], base: &Source, head: &Source) -> Result<(), SourceError> {
    let mut causes: Vec<&mut Cause> = jobs
        .iter_mut()
        .flat_map(|job| &mut job.changes)
        .filter_map(|change| change.cause.as_mut())
        .collect();
    let files: BTreeSet<String> = causes.iter().map(|cause| cause.file.clone()).collect();
    let commits = history::newest_commits(base, head, &Vec::from_iter(files))?;
    for cause in &mut causes {
        cause.commit = commits.get(&cause.file).cloned();
    }
    Ok(())
}

/// Changed files that specs other than themselves import or read.
fn modules(sides: &Sides<'_>, head: &Outcome, jobs: &[DiffJob]) -> Vec<ChangedModule> {
    let specs: BTreeSet<&str> = head.specs.iter().map(|spec| spec.file.as_str()).collect();
    let changed = sides
        .changed_files()
        .filter(|file| !specs.contains(file) && !file.ends_with(".tw"));
    let mut modules: Vec<ChangedModule> = changed
        .map(|file| ChangedModule {
            file: file.to_owned(),
            importers: head
                .specs
                .iter()
                .filter(|spec| spec.closure.iter().any(|asked| asked.path == file))
                .count(),
            changed_jobs: jobs.iter().filter(|job| is_caused_by(job, file)).count(),
        })
        .collect();
    modules.sort_by(|one, other| {
        other
            .importers
            .cmp(&one.importers)
            .then_with(|| one.file.cmp(&other.file))
    });
    modules
}

fn is_caused_by(job: &DiffJob, file: &str) -> bool {
    job.changes.iter().any(|change| {
        change
            .cause
            .as_ref()
            .is_some_and(|cause| cause.file == file)
    })
}

impl DiffSummary {
    fn merge(&mut self, other: DiffSummary) {
        self.added += other.added;
        self.removed += other.removed;
        self.modified += other.modified;
        self.unchanged += other.unchanged;
        self.destructive |= other.destructive;
        for (effect, jobs) in other.effects {
            *self.effects.entry(effect).or_default() += jobs;
        }
    }

    fn count(&mut self, job: &DiffJob) {
        match job.change {
            ChangeKind::Added => self.added += 1,
            ChangeKind::Removed => self.removed += 1,
            ChangeKind::Modified => {
                self.modified += 1;
                *self.effects.entry(job.effect.as_str()).or_default() += 1;
            }
        }
        self.destructive |= is_destructive(job);
    }
}

fn is_destructive(job: &DiffJob) -> bool {
    let to_none = |change: &DiffChange| change.path == "replicas" && change.new == 0;
    job.change == ChangeKind::Removed
        || job.effect == Effect::Recreate
        || job.changes.iter().any(to_none)
}
