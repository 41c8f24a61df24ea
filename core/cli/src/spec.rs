//! Evaluating specs for a command: which tree, which files, and what to show of the mistakes.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tw_api::SubmittedJob;
use tw_model::{Code, JobSpec, SourceRef, diff_jobs};
use tw_spec::{
    EvalConfig, EvaluatedJob, Evaluator, Outcome, PolicyReview, RenderOptions, Source, SpecError,
};

/// Work that takes longer than this shows that it goes on.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// Objects that shift the heap of the second evaluator.
const OTHER_HEAP: u32 = 1009;

/// What a command evaluates.
pub(crate) struct Specs {
    pub(crate) source: Source,
    /// Spec files, from the root.
    pub(crate) files: Vec<String>,
    /// Whether these are all specs of the tree.
    pub(crate) is_whole: bool,
}

impl Specs {
    /// Finds the specs that a person named, in the work tree or at a revision.
    pub(crate) fn find(paths: &[PathBuf], revision: Option<&str>) -> anyhow::Result<Specs> {
        let source = open(paths, revision)?;
        let roots = from_root(&source, paths)?;
        Ok(Specs {
            files: source.find_specs(&roots)?,
            is_whole: roots.iter().any(String::is_empty),
            source,
        })
    }

    /// As [`Specs::find`], but a tree without any spec is fine.
    pub(crate) fn find_any(paths: &[PathBuf], revision: Option<&str>) -> anyhow::Result<Specs> {
        let source = open(paths, revision)?;
        let roots = from_root(&source, paths)?;
        Ok(Specs {
            files: source.specs_if_any(&roots)?,
            is_whole: roots.iter().any(String::is_empty),
            source,
        })
    }

    pub(crate) fn evaluate(&self) -> anyhow::Result<Outcome> {
        self.evaluate_with(&Evaluator::start(EvalConfig::default())?)
    }

    pub(crate) fn evaluate_with(&self, evaluator: &Evaluator) -> anyhow::Result<Outcome> {
        let progress = progress(&format!(
            "evaluating {}",
            crate::text::count(self.files.len(), "spec")
        ));
        let outcome = tw_spec::evaluate(evaluator, &self.source, &self.files);
        progress.finish_and_clear();
        Ok(outcome?)
    }

    /// Evaluates a second time, with other hashes and another heap, and makes each difference an error.
    pub(crate) fn verify(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let config = EvalConfig {
            hash_seed: 1,
            heap_shift: OTHER_HEAP,
            ..EvalConfig::default()
        };
        let again = tw_spec::evaluate(&Evaluator::start(config)?, &self.source, &self.files)?;
        let others: BTreeMap<_, &JobSpec> = again
            .jobs
            .iter()
            .map(|job| (job.spec.id(), &job.spec))
            .collect();
        let mut errors = Vec::new();
        for job in &outcome.jobs {
            let other = others.get(&job.spec.id()).copied();
            if let Some(change) = diff_jobs(Some(&job.spec), other) {
                let value = change
                    .changes
                    .first()
                    .map_or("the job".to_owned(), |change| {
                        format!("{}: {} and then {}", change.path, change.old, change.new)
                    });
                errors.push(nondeterministic(job, &value));
            }
        }
        outcome.errors.extend(errors);
        Ok(())
    }
}

fn nondeterministic(job: &EvaluatedJob, value: &str) -> SpecError {
    SpecError {
        code: Code::SpecNondeterministic,
        file: job.file.clone(),
        line: Some(job.source.line),
        column: Some(job.source.column),
        end_line: None,
        end_column: None,
        message: format!("job '{}' came out differently in a second evaluation: {value}", job.spec.id()),
        hint: Some("sort what comes from a set, and let no value depend on id() or on the order of objects".to_owned()),
        source_line: None,
        trace: Vec::new(),
    }
}

pub(crate) fn open(paths: &[PathBuf], revision: Option<&str>) -> anyhow::Result<Source> {
    let folder = common_folder(paths)?;
    Ok(match revision {
        Some(revision) => Source::revision(&folder, revision)?,
        None => Source::work_tree(&folder)?,
    })
}

/// The deepest folder that holds all of what was named: the root of the specs where there is no git.
fn common_folder(paths: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("the current folder is gone")?;
    let folders = paths.iter().map(|path| match here.join(path) {
        path if path.is_dir() => path,
        path => path.parent().map(Path::to_owned).unwrap_or(path),
    });
    let shared = folders.reduce(|one, other| {
        let same = one
            .components()
            .zip(other.components())
            .take_while(|(a, b)| a == b);
        same.map(|(part, _)| part).collect()
    });
    match shared {
        // A path that exists at a revision only is looked for from here.
        Some(folder) if folder.is_dir() => Ok(folder),
        _ => Ok(here),
    }
}

pub(crate) fn from_root(source: &Source, paths: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let here = std::env::current_dir().context("the current folder is gone")?;
    let paths = if paths.is_empty() {
        &[PathBuf::from(".")]
    } else {
        paths
    };
    paths
        .iter()
        .map(|path| Ok(source.relative(&here, path)?))
        .collect()
}

/// A job as the controller takes it.
pub(crate) fn submitted(job: &EvaluatedJob, source: &Source) -> SubmittedJob {
    SubmittedJob {
        spec: job.spec.clone(),
        source: SourceRef {
            file: job.source.file.clone(),
            line: job.source.line,
            revision: source.commit().unwrap_or_default(),
        },
    }
}

/// A job in the stable JSON of `tw eval`.
pub(crate) fn job_json(job: &EvaluatedJob) -> serde_json::Value {
    let mut value = serde_json::to_value(&job.spec).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert(
            "source".to_owned(),
            serde_json::json!({"file": job.source.file, "line": job.source.line}),
        );
    }
    value
}

/// Shows mistakes on standard error.
pub(crate) fn print_errors(errors: &[SpecError]) {
    print_rendered(&tw_spec::render_errors(errors, on_standard_error()));
}

/// Shows on standard error what only deserves attention.
pub(crate) fn print_warnings(warnings: &[SpecError]) {
    print_rendered(&tw_spec::render_warnings(warnings, on_standard_error()));
}

/// Shows what policies say on standard error.
pub(crate) fn print_policy(review: &PolicyReview, source: &Source) {
    print_rendered(&review.render(source, on_standard_error()));
}

fn print_rendered(text: &str) {
    if !text.is_empty() {
        anstream::eprintln!("{text}");
    }
}

/// Colours where a person reads standard error.
fn on_standard_error() -> RenderOptions {
    RenderOptions {
        color: std::io::stderr().is_terminal(),
    }
}

/// A spinner that appears only on a terminal and only when the work takes its time.
pub(crate) fn progress(message: &str) -> ProgressBar {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(message.to_owned());
    bar.enable_steady_tick(PROGRESS_AFTER);
    bar
}
