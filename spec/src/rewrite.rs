//! Writes other values into the specs that set them, in their author's words.
//!
//! Where a value comes from is read from its provenance and from the source's syntax; whether a place is the right one
//! is found out by evaluating a tree in which it is changed. So a place is offered only with what changing it does to
//! every job, and nothing is written that was not evaluated first.
//!
//! [`Rewriter::places`] lists the places for one wish, [`Rewriter::accept`] takes one of them, and
//! [`Rewriter::finish`] checks that exactly what was accepted has changed.

mod candidate;
mod names;
mod number;
mod result;
mod syntax;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tw_model::{Bytes, Cores, Effect, JobId, JobSpec, Location, diff_jobs};

use crate::outcome::{SpecOutcome, evaluate_one};
use crate::source::Snapshot;
use crate::{
    Detail, EvaluatedJob, Evaluator, EvaluatorError, Outcome, Question, QuestionKind, Source,
    SourceError,
};
use candidate::{Candidate, File, Target};
use number::Amount;
pub use result::Rewritten;
use result::RewrittenFile;
use syntax::Syntax;

/// A written value may be this much larger than the one wished for, so that it reads well: an eighth.
const LARGER_MAX: f64 = 1.125;

/// Evaluations that are spent on one wish.
const TRIALS_MAX: usize = 64;

/// A request, and what it shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    Cpu(Cores),
    Memory(Bytes),
}

impl Wanted {
    /// The path of the field, as in the JSON of `tw eval`.
    pub fn path(self) -> &'static str {
        match self {
            Wanted::Cpu(_) => "resources.cpu_millicores",
            Wanted::Memory(_) => "resources.memory_bytes",
        }
    }

    /// The field as authors write it.
    pub fn keyword(self) -> &'static str {
        match self {
            Wanted::Cpu(_) => "cpu",
            Wanted::Memory(_) => "memory",
        }
    }

    /// What `spec` has in this field.
    pub fn of(self, spec: &JobSpec) -> Wanted {
        match self {
            Wanted::Cpu(_) => Wanted::Cpu(spec.resources.cpu),
            Wanted::Memory(_) => Wanted::Memory(spec.resources.memory),
        }
    }

    /// As authors count: cores, bytes.
    fn number(self) -> f64 {
        match self {
            Wanted::Cpu(cores) => cores.0 as f64 / 1000.0,
            Wanted::Memory(bytes) => bytes.0 as f64,
        }
    }

    fn stored(self) -> u64 {
        match self {
            Wanted::Cpu(cores) => cores.0,
            Wanted::Memory(bytes) => bytes.0,
        }
    }

    fn amount(self) -> Amount {
        match self {
            Wanted::Cpu(_) => Amount::Cores,
            Wanted::Memory(_) => Amount::Bytes,
        }
    }

    /// Whether a value is as good: not less, and not much more.
    fn is_met_by(self, value: &Value) -> bool {
        let Some(value) = value.as_u64() else {
            return false;
        };
        let most = (self.stored() as f64 * LARGER_MAX) as u64;
        (self.stored()..=most.max(self.stored())).contains(&value)
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Cpu(cores) => cores.fmt(f),
            Wanted::Memory(bytes) => bytes.fmt(f),
        }
    }
}

/// A value that a job shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wish {
    pub job: JobId,
    #[serde(flatten)]
    pub wanted: Wanted,
}

/// What an edit does to one field of one job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    pub job: JobId,
    /// As in the JSON of `tw eval`.
    pub path: String,
    pub old: Value,
    pub new: Value,
    pub effect: Effect,
}

/// A place where a wish can be written, and everything that this would do.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    pub at: Location,
    /// The lines that change, as they are.
    pub before: Vec<String>,
    /// The lines in their stead.
    pub after: Vec<String>,
    /// What evaluating the tree as it is does not tell: the place is not written without being asked about.
    pub caution: Option<String>,
    pub changes: Vec<FieldChange>,
    /// Whether it changes nothing but what was wished for.
    pub is_exact: bool,
    #[serde(skip)]
    text: String,
}

impl Place {
    /// The place that needs no asking: the only one, which changes nothing else, and nothing speaks against it.
    pub fn only_choice(places: &[Place]) -> Option<&Place> {
        match places {
            [place] if place.is_exact && place.caution.is_none() => Some(place),
            _ => None,
        }
    }
}

/// Why a wish cannot be written, and what a person can do.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// Where the value is written, if it is.
    pub at: Option<Location>,
    pub reason: String,
    /// A unified diff that would do it, but takes away how the value is come by.
    pub by_hand: Option<String>,
}

/// Why specs are not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error(transparent)]
    Evaluator(#[from] EvaluatorError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("git: {}", .0.message())]
    Git(#[from] git2::Error),
    #[error("there is no job '{job}' in the specs, or its spec has mistakes")]
    NoJob { job: JobId },
    #[error("the edited specs would not do what was asked for: {found}; nothing is written")]
    Check { found: String },
    #[error("'{file}' has changed since it was read; nothing is written")]
    Moved { file: String },
    #[error("cannot write '{file}'")]
    Write {
        file: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("there is a branch '{branch}' already")]
    BranchExists { branch: String },
    #[error("git knows no author; set `git config user.name` and `user.email`")]
    NoAuthor,
    #[error("a commit is made from a git revision, and this tree is none")]
    NotARevision,
}

/// Rewrites the specs of one tree.
pub struct Rewriter<'a> {
    evaluator: &'a Evaluator,
    base: &'a Source,
    closures: BTreeMap<String, Arc<[Question]>>,
    /// What the specs make of the tree as it was.
    before: HashMap<JobId, JobSpec>,
    /// What they make of it with what was accepted.
    jobs: HashMap<JobId, (JobSpec, String)>,
    /// The edited files, whole.
    texts: BTreeMap<String, String>,
    accepted: Vec<FieldChange>,
}

/// The files of a closure, parsed when they are asked for.
struct Parsed {
    files: HashMap<String, File>,
}

impl candidate::Files for Parsed {
    fn file(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }
}

impl<'a> Rewriter<'a> {
    /// Begins with a tree and what came of all its specs. Jobs of specs with mistakes are left as they are.
    pub fn new(evaluator: &'a Evaluator, source: &'a Source, outcome: &Outcome) -> Rewriter<'a> {
        let closures = outcome.specs.iter();
        let jobs = outcome.jobs.iter();
        Rewriter {
            evaluator,
            base: source,
            closures: closures
                .map(|spec| (spec.file.clone(), Arc::clone(&spec.closure)))
                .collect(),
            before: jobs
                .clone()
                .map(|job| (job.spec.id(), job.spec.clone()))
                .collect(),
            jobs: jobs
                .map(|job| (job.spec.id(), (job.spec.clone(), job.file.clone())))
                .collect(),
            texts: BTreeMap::new(),
            accepted: Vec::new(),
        }
    }

    /// The job as the specs have it, with what was accepted.
    pub fn job(&self, job: &JobId) -> Option<&JobSpec> {
        self.jobs.get(job).map(|(spec, _)| spec)
    }

    /// Whether the job has what is wished for already.
    pub fn is_met(&self, wish: &Wish) -> bool {
        let current = self.job(&wish.job).map(|spec| wish.wanted.of(spec));
        current.is_some_and(|current| wish.wanted.is_met_by(&current.stored().into()))
    }

    /// Finds where a wish can be written; `wishes` are all that are to be met, so that a place which several share is
    /// known to be right. Places that change the least come first. A refusal says why there is none.
    pub fn places(
        &self,
        wish: &Wish,
        wishes: &[Wish],
    ) -> Result<Result<Vec<Place>, Refusal>, RewriteError> {
        let (job, spec) = self.located(&wish.job)?;
        let target = Target {
            current: wish.wanted.of(&job.spec),
            wanted: wish.wanted,
        };
        let files = self.parsed(&job);
        let mut trials = Trials::new(self, wish, wishes);
        for candidate in candidate::numbers(&files, &job.provenance, target) {
            trials.run(candidate)?;
        }
        if !trials.has_exact() {
            for path in modules(&job.closure) {
                let file = candidate::Files::file(&files, path);
                let equal = file.map(|file| candidate::equal_numbers(file, target));
                for candidate in equal.into_iter().flatten() {
                    trials.run(candidate)?;
                }
            }
        }
        if !trials.has_exact() {
            let uses = candidate::uses(&files, &job.provenance, target, false);
            let insertions = candidate::insertions(&files, &job.provenance, target);
            let narrowed = candidate::narrowed(&files, &job.provenance, target);
            for candidate in uses.into_iter().chain(insertions).chain(narrowed) {
                trials.run(candidate)?;
            }
        }
        if !trials.has_exact()
            && !trials.places.is_empty()
            && let Some(candidate) = self.override_of(&files, &job, wish, &spec)
        {
            trials.run(candidate)?;
        }
        let mut places = trials.places;
        if places.is_empty() {
            return Ok(Err(self.refusal(&files, &job, wish, wishes, target)?));
        }
        places.sort_by_key(|place| (!place.is_exact, place.changes.len()));
        Ok(Ok(places))
    }

    /// Takes a place that [`Rewriter::places`] gave for the specs as they are now.
    pub fn accept(&mut self, place: &Place) -> Result<(), RewriteError> {
        let overlay = self.overlay(&place.at.file, &place.text);
        for outcome in self.evaluate(&overlay, &place.at.file)? {
            for job in outcome.jobs {
                self.jobs
                    .insert(job.spec.id(), (job.spec, outcome.file.clone()));
            }
            self.closures.insert(outcome.file, outcome.closure);
        }
        self.texts.insert(place.at.file.clone(), place.text.clone());
        self.accepted.extend(place.changes.iter().cloned());
        Ok(())
    }

    /// Evaluates all that the edits can reach once more, and refuses if anything else came of it than was accepted.
    pub fn finish(self) -> Result<Rewritten, RewriteError> {
        let wanted = by_field(self.accepted.iter().cloned());
        let overlay = self.with_texts(&self.texts);
        let touched: Vec<&str> = self.texts.keys().map(String::as_str).collect();
        let mut changes = Vec::new();
        for outcome in self.evaluate_all(&overlay, &touched)? {
            if let Some(error) = outcome.errors.first() {
                return Err(RewriteError::Check {
                    found: format!("{}: {}", outcome.file, error.message),
                });
            }
            for job in &outcome.jobs {
                changes.extend(changes_of(self.before.get(&job.spec.id()), &job.spec));
            }
        }
        let found = by_field(changes.iter().cloned());
        if found != wanted {
            return Err(RewriteError::Check {
                found: difference(&wanted, &found),
            });
        }
        let mut files = Vec::new();
        for (path, new) in self.texts {
            let old = text_of(self.base, &path)?.unwrap_or_default();
            files.push(RewrittenFile { path, old, new });
        }
        Ok(Rewritten { changes, files })
    }

    /// Evaluates the job's spec with everything known about where its values come from.
    fn located(&self, id: &JobId) -> Result<(EvaluatedJob, String), RewriteError> {
        let none = || RewriteError::NoJob { job: id.clone() };
        let (_, file) = self.jobs.get(id).ok_or_else(none)?;
        let overlay = self.with_texts(&self.texts);
        let tree = Snapshot::new(&overlay, None);
        let outcome = evaluate_one(self.evaluator, &tree, file, Detail::References)?;
        let job = outcome.jobs.into_iter().find(|job| job.spec.id() == *id);
        Ok((job.ok_or_else(none)?, file.clone()))
    }

    fn parsed(&self, job: &EvaluatedJob) -> Parsed {
        let overlay = self.with_texts(&self.texts);
        let files = modules(&job.closure).filter_map(|path| {
            let syntax = Syntax::parse(text_of(&overlay, path).ok()??)?;
            let path = path.to_owned();
            Some((path.clone(), File { path, syntax }))
        });
        Parsed {
            files: files.collect(),
        }
    }

    fn override_of(
        &self,
        files: &Parsed,
        job: &EvaluatedJob,
        wish: &Wish,
        spec: &str,
    ) -> Option<Candidate> {
        let has = &job.spec.resources;
        let default = tw_model::Resources::default();
        let mut fields = Vec::new();
        let is_cpu = matches!(wish.wanted, Wanted::Cpu(_));
        if is_cpu || has.cpu != default.cpu {
            let cpu = if is_cpu {
                wish.wanted
            } else {
                Wanted::Cpu(has.cpu)
            };
            fields.push(("cpu", cpu));
        }
        if !is_cpu || has.memory != default.memory {
            let memory = if is_cpu {
                Wanted::Memory(has.memory)
            } else {
                wish.wanted
            };
            fields.push(("memory", memory));
        }
        if has.disk != default.disk {
            fields.push(("disk", Wanted::Memory(has.disk)));
        }
        candidate::overrides(files, &job.provenance, &fields, spec)
    }

    /// Says why nothing can be written, and looks for a patch that a person may make.
    fn refusal(
        &self,
        files: &Parsed,
        job: &EvaluatedJob,
        wish: &Wish,
        wishes: &[Wish],
        target: Target,
    ) -> Result<Refusal, RewriteError> {
        let at = job.provenance.written(target.wanted.path());
        let data: Vec<&str> = asked_files(&job.closure)
            .filter(|path| !path.ends_with(".py") && *path != job.file)
            .collect();
        let written = at.map_or_else(
            || "it is written nowhere that could be found".to_owned(),
            |at| format!("what makes it at {at} is no number that stands in a spec"),
        );
        let read = match data.is_empty() {
            true => String::new(),
            false => format!("; the spec reads {}", data.join(", ")),
        };
        let mut trials = Trials::new(self, wish, wishes);
        for candidate in candidate::uses(files, &job.provenance, target, true) {
            trials.run(candidate)?;
        }
        if !trials.has_exact()
            && let Some(candidate) = self.override_of(files, job, wish, &job.file)
        {
            trials.run(candidate)?;
        }
        let found = trials.places.iter().find(|place| place.is_exact);
        let by_hand = found.or(trials.places.first()).map(|place| {
            let old = self.text(&place.at.file).unwrap_or_default();
            result::unified(&place.at.file, &old, &place.text)
        });
        Ok(Refusal {
            at: at.cloned(),
            reason: format!("{written}{read}"),
            by_hand,
        })
    }

    fn text(&self, path: &str) -> Option<String> {
        match self.texts.get(path) {
            Some(text) => Some(text.clone()),
            None => text_of(self.base, path).ok()?,
        }
    }

    fn overlay(&self, file: &str, text: &str) -> Source {
        let mut texts = self.texts.clone();
        texts.insert(file.to_owned(), text.to_owned());
        self.with_texts(&texts)
    }

    fn with_texts(&self, texts: &BTreeMap<String, String>) -> Source {
        let bytes = texts.iter();
        self.base.with_edits(
            bytes
                .map(|(path, text)| (path.clone(), text.clone().into_bytes()))
                .collect(),
        )
    }

    fn evaluate(&self, tree: &Source, file: &str) -> Result<Vec<SpecOutcome>, RewriteError> {
        self.evaluate_all(tree, &[file])
    }

    /// Evaluates the specs that a change of `files` can reach.
    fn evaluate_all(
        &self,
        tree: &Source,
        files: &[&str],
    ) -> Result<Vec<SpecOutcome>, RewriteError> {
        let reached: Vec<&String> = self
            .closures
            .iter()
            .filter(|(_, closure)| files.iter().any(|file| depends_on(closure, file)))
            .map(|(spec, _)| spec)
            .collect();
        let tree = Snapshot::new(tree, None);
        let outcomes = self.evaluator.in_parallel(&reached, |spec| {
            evaluate_one(self.evaluator, &tree, spec, Detail::Places)
        });
        outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(RewriteError::from))
            .collect()
    }

    /// What editing a file would do; none if it breaks a spec, or makes or ends a job.
    fn effects(&self, file: &str, text: &str) -> Result<Option<Vec<FieldChange>>, RewriteError> {
        let overlay = self.overlay(file, text);
        let mut changes = Vec::new();
        for outcome in self.evaluate(&overlay, file)? {
            let had = self.jobs.values().filter(|(_, spec)| *spec == outcome.file);
            if !outcome.errors.is_empty() || had.count() != outcome.jobs.len() {
                return Ok(None);
            }
            for job in &outcome.jobs {
                let Some((old, _)) = self.jobs.get(&job.spec.id()) else {
                    return Ok(None);
                };
                changes.extend(changes_of(Some(old), &job.spec));
            }
        }
        Ok(Some(changes))
    }
}

/// Tries candidates for one wish and keeps those that work.
struct Trials<'r, 'a> {
    rewriter: &'r Rewriter<'a>,
    wish: &'r Wish,
    wishes: &'r [Wish],
    tried: HashSet<String>,
    places: Vec<Place>,
}

impl<'r, 'a> Trials<'r, 'a> {
    fn new(rewriter: &'r Rewriter<'a>, wish: &'r Wish, wishes: &'r [Wish]) -> Trials<'r, 'a> {
        Trials {
            rewriter,
            wish,
            wishes,
            tried: HashSet::new(),
            places: Vec::new(),
        }
    }

    fn has_exact(&self) -> bool {
        self.places.iter().any(|place| place.is_exact)
    }

    fn run(&mut self, candidate: Candidate) -> Result<(), RewriteError> {
        let Some(old) = self.rewriter.text(&candidate.file) else {
            return Ok(());
        };
        let Some(text) = syntax::apply(&old, &candidate.edits) else {
            return Ok(());
        };
        let key = format!("{}\n{text}", candidate.file);
        if self.tried.len() >= TRIALS_MAX || !self.tried.insert(key) {
            return Ok(());
        }
        let Some(changes) = self.rewriter.effects(&candidate.file, &text)? else {
            return Ok(());
        };
        let does_it = |change: &FieldChange| {
            change.job == self.wish.job
                && change.path == self.wish.wanted.path()
                && self.wish.wanted.is_met_by(&change.new)
        };
        if !changes.iter().any(does_it) {
            return Ok(());
        }
        let is_exact = changes.iter().all(|change| {
            self.wishes.iter().chain([self.wish]).any(|wish| {
                change.job == wish.job
                    && change.path == wish.wanted.path()
                    && wish.wanted.is_met_by(&change.new)
            })
        });
        let (before, after) = changed_lines(&old, &text);
        self.keep(Place {
            at: self.location(&candidate, &old),
            before,
            after,
            caution: candidate.caution,
            changes,
            is_exact,
            text,
        });
        Ok(())
    }

    /// Keeps a place; of two ways to edit the same one, the way that comes closer to what is wished for.
    fn keep(&mut self, place: Place) {
        let Some(other) = self.places.iter().position(|other| other.at == place.at) else {
            return self.places.push(place);
        };
        if self.value_after(&place) < self.value_after(&self.places[other]) {
            self.places[other] = place;
        }
    }

    /// What a place makes of the value that is wished for; never below the wish.
    fn value_after(&self, place: &Place) -> Option<u64> {
        let is_meant = |change: &&FieldChange| {
            change.job == self.wish.job && change.path == self.wish.wanted.path()
        };
        place.changes.iter().find(is_meant)?.new.as_u64()
    }

    fn location(&self, candidate: &Candidate, text: &str) -> Location {
        let before = text.get(..candidate.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Location {
            file: candidate.file.clone(),
            line: before.matches('\n').count() as u32 + 1,
            column: before[line_start..].chars().count() as u32 + 1,
        }
    }
}

fn changes_of(old: Option<&JobSpec>, new: &JobSpec) -> Vec<FieldChange> {
    let Some(found) = diff_jobs(old, Some(new)) else {
        return Vec::new();
    };
    let change = |change: tw_model::Change| FieldChange {
        job: new.id(),
        path: change.path,
        old: change.old,
        new: change.new,
        effect: change.effect,
    };
    found.changes.into_iter().map(change).collect()
}

/// The lines that differ, imports left out where they are not all.
fn changed_lines(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
    let diff = similar::TextDiff::from_lines(old, new);
    let is_import = |line: &String| line.starts_with("from tw import ");
    let lines = |tag| {
        let changes = diff.iter_all_changes().filter(|change| change.tag() == tag);
        let mut lines: Vec<String> = changes
            .map(|change| change.value().trim_end().to_owned())
            .collect();
        if !lines.iter().all(is_import) {
            lines.retain(|line| !is_import(line));
        }
        lines
    };
    (
        lines(similar::ChangeTag::Delete),
        lines(similar::ChangeTag::Insert),
    )
}

/// What each field of each job becomes; of several changes of a field the last counts.
fn by_field(changes: impl Iterator<Item = FieldChange>) -> BTreeMap<(String, String), Value> {
    changes
        .map(|change| ((change.job.to_string(), change.path), change.new))
        .collect()
}

fn difference(
    wanted: &BTreeMap<(String, String), Value>,
    found: &BTreeMap<(String, String), Value>,
) -> String {
    let said = |(job, path): &(String, String)| format!("{path} of job '{job}'");
    for (key, value) in found {
        match wanted.get(key) {
            None => return format!("{} would become {value}", said(key)),
            Some(other) if other != value => {
                return format!("{} would become {value} and not {other}", said(key));
            }
            Some(_) => {}
        }
    }
    let missing = wanted.keys().find(|key| !found.contains_key(*key));
    missing.map_or_else(String::new, |key| {
        format!("{} would stay as it is", said(key))
    })
}

/// The files of a closure that are Python.
fn modules(closure: &[Question]) -> impl Iterator<Item = &str> {
    asked_files(closure).filter(|path| path.ends_with(".py") || path.ends_with(".tw"))
}

fn asked_files(closure: &[Question]) -> impl Iterator<Item = &str> {
    let read = closure
        .iter()
        .filter(|asked| asked.kind == QuestionKind::Read && asked.answer_hash.is_some());
    read.map(|asked| asked.path.as_str())
}

fn depends_on(closure: &[Question], file: &str) -> bool {
    closure.iter().any(|asked| match asked.kind {
        QuestionKind::Read => asked.path == file,
        QuestionKind::Package => {
            asked.path.is_empty()
                || file
                    .strip_prefix(asked.path.as_str())
                    .is_some_and(|rest| rest.starts_with('/'))
        }
        QuestionKind::List | QuestionKind::Exists => false,
    })
}

/// A file's text; none if there is no file, or it is not UTF-8.
fn text_of(source: &Source, path: &str) -> Result<Option<String>, SourceError> {
    Ok(source
        .read(path)?
        .and_then(|bytes| String::from_utf8(bytes).ok()))
}
