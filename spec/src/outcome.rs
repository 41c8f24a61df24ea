//! From specs to typed jobs: evaluates, decodes, resolves packages, and finds jobs of one name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tw_model::{Code, Decoder, JobId, JobSpec, Location, Problem};

use crate::evaluator;
use crate::field_names::author_path;
use crate::package::PackageError;
use crate::provenance::Places;
use crate::source::Snapshot;
use crate::survey;
use crate::{
    Detail, Evaluation, Evaluator, EvaluatorError, Provenance, Question, QuestionKind, Source,
    SpecError,
};

/// A job and where it came from.
#[derive(Clone, Debug)]
pub struct EvaluatedJob {
    pub spec: JobSpec,
    /// The spec file, from the repository's root.
    pub file: String,
    /// Where in the spec file the job is made.
    pub source: Location,
    /// Where each of its values was written.
    pub provenance: Provenance,
    /// Everything the result depends on.
    pub closure: Arc<[Question]>,
}

/// What is known of one spec file, whether it is good or not.
#[derive(Clone, Debug)]
pub struct EvaluatedSpec {
    pub file: String,
    pub closure: Arc<[Question]>,
    /// What it printed.
    pub output: String,
}

/// What came of a set of specs. Good jobs stand beside the errors of others.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub jobs: Vec<EvaluatedJob>,
    pub specs: Vec<EvaluatedSpec>,
    pub errors: Vec<SpecError>,
}

/// What came of one spec.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecOutcome {
    /// The spec, from the repository's root.
    pub(crate) file: String,
    /// Empty if there are errors.
    pub(crate) jobs: Vec<EvaluatedJob>,
    pub(crate) closure: Arc<[Question]>,
    pub(crate) output: String,
    pub(crate) errors: Vec<SpecError>,
    /// Whether all of this follows from the closure.
    pub(crate) is_repeatable: bool,
}

/// Evaluates `specs` of `source`, as [`Source::find_specs`] lists them. What the evaluator's cache has of them, if
/// it has one, is not evaluated again as long as its closure stays.
///
/// A spec with a mistake gives errors and no jobs. Mistakes in specs are part of the outcome; the error is
/// that of an evaluator which does not run.
pub fn evaluate(
    evaluator: &Evaluator,
    source: &Source,
    specs: &[String],
) -> Result<Outcome, EvaluatorError> {
    evaluate_in_detail(evaluator, source, specs, Detail::Places)
}

/// Makes of the recorded words of an evaluator what [`evaluate`] makes of living ones.
///
/// `said` is the stream of frames that a sealed child sent while it evaluated the spec at `path`. Whatever it
/// holds, this ends, takes memory in proportion to it, and panics at nothing.
pub fn replay(source: &Source, path: &str, said: &[u8]) -> Outcome {
    let tree = Snapshot::new(source, None);
    let spec = typed(&tree, evaluator::replay(source, path, said));
    Outcome::of(std::iter::once(spec), source)
}

/// As [`evaluate`], finding out as much as `detail` says.
pub(crate) fn evaluate_in_detail(
    evaluator: &Evaluator,
    source: &Source,
    specs: &[String],
    detail: Detail,
) -> Result<Outcome, EvaluatorError> {
    let options = survey::Options {
        detail,
        keeps: true,
        ..survey::Options::default()
    };
    let tree = evaluator.snapshot(source);
    survey::survey(evaluator, &tree, specs, options)?.load(|_| true)
}

/// Evaluates one spec, whatever is known of it.
pub(crate) fn evaluate_one(
    evaluator: &Evaluator,
    tree: &Snapshot<'_>,
    path: &str,
    detail: Detail,
) -> Result<SpecOutcome, EvaluatorError> {
    Ok(typed(tree, evaluator.evaluate_in(tree, path, detail)?))
}

/// Makes typed jobs of what a child handed over.
fn typed(tree: &Snapshot<'_>, evaluation: Evaluation) -> SpecOutcome {
    let Evaluation {
        path: file,
        jobs,
        closure,
        output,
        error,
        mut is_repeatable,
    } = evaluation;
    let mut errors = Vec::from_iter(error);
    let mut decoded = Vec::new();
    let mut asked = Vec::new();
    let was_read = files_read(&closure);
    for job in &jobs {
        match decode(job, &file, &was_read) {
            Ok(job) => decoded.push(job),
            Err(found) => errors.extend(found),
        }
    }
    for Decoded {
        spec, provenance, ..
    } in &mut decoded
    {
        let found = resolve_packages(tree, spec, provenance, &file, &mut asked);
        // What is wrong with a package is said in terms of the tree it was looked for in.
        is_repeatable &= found.is_empty();
        errors.extend(found);
    }
    for error in &mut errors {
        error.fill_source_lines(tree.source);
    }
    let closure = with_questions(closure, asked);
    if !errors.is_empty() {
        decoded.clear();
    }
    let job = |job: Decoded| EvaluatedJob {
        file: file.clone(),
        closure: Arc::clone(&closure),
        source: job.source,
        spec: job.spec,
        provenance: job.provenance,
    };
    SpecOutcome {
        jobs: decoded.into_iter().map(job).collect(),
        file,
        closure,
        output,
        errors,
        is_repeatable,
    }
}

impl Outcome {
    /// Puts the results of specs together.
    pub(crate) fn of(specs: impl Iterator<Item = SpecOutcome>, source: &Source) -> Outcome {
        let mut outcome = Outcome::default();
        for spec in specs {
            outcome.jobs.extend(spec.jobs);
            outcome.specs.push(EvaluatedSpec {
                file: spec.file,
                closure: spec.closure,
                output: spec.output,
            });
            outcome.errors.extend(spec.errors);
        }
        outcome.refuse_duplicates();
        for error in &mut outcome.errors {
            error.fill_source_lines(source);
        }
        outcome
    }

    /// Keeps the first of each name and makes the others errors that name both places.
    fn refuse_duplicates(&mut self) {
        let mut first: BTreeMap<JobId, Location> = BTreeMap::new();
        let mut kept = Vec::with_capacity(self.jobs.len());
        for job in std::mem::take(&mut self.jobs) {
            match first.get(&job.spec.id()) {
                None => {
                    first.insert(job.spec.id(), job.source.clone());
                    kept.push(job);
                }
                Some(earlier) => self.errors.push(duplicate(&job, earlier)),
            }
        }
        self.jobs = kept;
    }
}

fn duplicate(job: &EvaluatedJob, earlier: &Location) -> SpecError {
    let id = job.spec.id();
    let (message, hint) = match job.source == *earlier {
        true => (
            format!("job '{id}', which is made here, is exported twice"),
            "export it once; what is made in a loop needs a name of its own each time",
        ),
        false => (
            format!("there are two jobs '{id}': here, and at {earlier}"),
            "rename one, or give them different namespaces",
        ),
    };
    let hint = Some(hint.to_owned());
    let mut error = SpecError::at(Code::SpecDuplicateJob, &job.source, message, hint);
    set_end(&mut error, &job.provenance);
    error
}

/// The files that an evaluation was given.
fn files_read(closure: &[Question]) -> BTreeSet<&str> {
    let read = closure
        .iter()
        .filter(|asked| asked.kind == QuestionKind::Read && asked.answer_hash.is_some());
    read.map(|asked| asked.path.as_str()).collect()
}

/// A job as its author JSON says it.
struct Decoded {
    spec: JobSpec,
    provenance: Provenance,
    /// Where in the spec file it is made.
    source: Location,
}

fn decode(job: &Value, file: &str, was_read: &BTreeSet<&str>) -> Result<Decoded, Vec<SpecError>> {
    let mut decoder = Decoder::default();
    let places = Places::read(job, &mut decoder, was_read);
    let read = JobSpec::from_author(job, &mut decoder);
    let problems = std::mem::take(&mut decoder.problems);
    let places = places.finish(decoder, was_read);
    let provenance = places.packed();
    let placed = |problem: Problem| Problem {
        at: problem.at.filter(|at| was_read.contains(at.file.as_str())),
        ..problem
    };
    match read {
        Some(spec) if problems.is_empty() => Ok(Decoded {
            source: places.source_in(file).unwrap_or_else(|| start_of(file)),
            spec,
            provenance,
        }),
        _ => Err(problems
            .into_iter()
            .map(|problem| located(placed(problem), &provenance, file))
            .collect()),
    }
}

fn located(problem: Problem, provenance: &Provenance, file: &str) -> SpecError {
    let message = match problem.path.is_empty() {
        true => problem.message,
        false => format!("{}: {}", author_path(&problem.path), problem.message),
    };
    let Some(place) = problem.at else {
        return SpecError::of_file(problem.code, file, message, problem.hint);
    };
    let mut error = SpecError::at(problem.code, &place, message, problem.hint);
    set_end(&mut error, provenance);
    error.trace = calls_around(provenance, &problem.path, &place);
    error
}

/// The calls that led to a value written in a helper, outermost first; none if it stands in the spec itself.
fn calls_around(provenance: &Provenance, path: &str, place: &Location) -> Vec<crate::Frame> {
    let mut calls: Vec<crate::Frame> = provenance.calls(path).to_vec();
    if calls.len() < 2 {
        return Vec::new();
    }
    calls.reverse();
    if let Some(last) = calls.last_mut() {
        (last.file, last.line, last.column) = (place.file.clone(), place.line, place.column);
    }
    calls
}

fn set_end(error: &mut SpecError, provenance: &Provenance) {
    if let (Some(line), Some(column)) = (error.line, error.column) {
        let start = Location {
            file: error.file.clone(),
            line,
            column,
        };
        let end = provenance.end_of(&start);
        (error.end_line, error.end_column) = (end.map(|end| end.0), end.map(|end| end.1));
    }
}

fn start_of(file: &str) -> Location {
    Location {
        file: file.to_owned(),
        line: 1,
        column: 1,
    }
}

fn with_questions(closure: Arc<[Question]>, asked: Vec<Question>) -> Arc<[Question]> {
    if asked.is_empty() {
        return closure;
    }
    let mut all: Vec<Question> = closure.iter().cloned().chain(asked).collect();
    all.sort();
    all.dedup();
    all.into()
}

/// Fills in the digests of a job's packages; returns what is wrong with them.
fn resolve_packages(
    tree: &Snapshot<'_>,
    spec: &mut JobSpec,
    provenance: &Provenance,
    file: &str,
    asked: &mut Vec<Question>,
) -> Vec<SpecError> {
    let mut errors = Vec::new();
    for package in &mut spec.packages {
        let written = std::mem::take(&mut package.path.0);
        let folder = from_root(&written, file);
        package.path.0.clone_from(&folder);
        let digest = tree.package(&folder);
        asked.push(Question {
            kind: QuestionKind::Package,
            path: folder.clone(),
            answer_hash: digest.as_ref().ok().map(|digest| digest.0.clone()),
        });
        match digest {
            Ok(digest) => package.digest = digest,
            Err(cause) => errors.push(unpackable(&cause, &written, provenance, file)),
        }
    }
    errors
}

/// A package's path as its author wrote it, from the folder of the spec or after `//` from the root.
fn from_root(written: &str, file: &str) -> String {
    match (written.strip_prefix("//"), file.rsplit_once('/')) {
        (Some(path), _) => path.to_owned(),
        (None, Some((folder, _))) => format!("{folder}/{written}"),
        (None, None) => written.to_owned(),
    }
}

fn unpackable(
    cause: &PackageError,
    folder: &str,
    provenance: &Provenance,
    file: &str,
) -> SpecError {
    let code = match cause {
        PackageError::NoFolder { .. } | PackageError::Empty { .. } => Code::SpecNotFound,
        _ => Code::PackageInvalid,
    };
    let hint = match cause {
        PackageError::NoFolder { .. } => {
            "a package is a folder beside the spec, or with a leading // one named from the repository's root"
        }
        PackageError::Empty { .. } => {
            "add the files to the folder, and check that git does not ignore them"
        }
        _ => "keep links inside the folder",
    };
    let place = provenance.locate(&format!("packages[{folder}]"));
    let mut error = match place {
        Some(place) => SpecError::at(code, place, cause.to_string(), Some(hint.to_owned())),
        None => SpecError::of_file(code, file, cause.to_string(), Some(hint.to_owned())),
    };
    set_end(&mut error, provenance);
    error
}
