//! Evaluating specs for a command: which tree, which files, and what to show of the mistakes.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tw_api::SubmittedJob;
use tw_model::{SourceRef, masked};
use tw_spec::{
    EvaluatedJob, Evaluator, Outcome, PolicyError, PolicyReview, RenderOptions, Source, SpecError,
};

use crate::cache;

/// Work that takes longer than this shows that it goes on.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

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
        self.evaluate_with(&Evaluator::start(cache::eval_config())?)
    }

    pub(crate) fn evaluate_with(&self, evaluator: &Evaluator) -> anyhow::Result<Outcome> {
        self.with_progress(|| tw_spec::evaluate(evaluator, &self.source, &self.files))
    }

    /// As [`Specs::evaluate_with`], under two conditions; a difference is an error.
    pub(crate) fn evaluate_strictly(&self, evaluator: &Evaluator) -> anyhow::Result<Outcome> {
        self.with_progress(|| tw_spec::evaluate_strictly(evaluator, &self.source, &self.files))
    }

    /// What policies say of the jobs of these specs; those that look at whole folders see the jobs of others, too.
    pub(crate) fn review(
        &self,
        evaluator: &Evaluator,
        jobs: &[EvaluatedJob],
    ) -> Result<PolicyReview, PolicyError> {
        match self.is_whole {
            true => tw_spec::review(evaluator, &self.source, jobs),
            false => tw_spec::review_some(evaluator, &self.source, jobs),
        }
    }

    pub(crate) fn with_progress<T, E: Into<anyhow::Error>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> anyhow::Result<T> {
        let progress = progress(&format!(
            "evaluating {}",
            crate::text::count(self.files.len(), "spec")
        ));
        let done = work();
        progress.finish_and_clear();
        done.map_err(Into::into)
    }

    /// The tree and its specs, for a comparison.
    pub(crate) fn side(&self) -> tw_spec::Tree<'_> {
        tw_spec::Tree {
            source: &self.source,
            specs: &self.files,
        }
    }
}

pub(crate) fn open(paths: &[PathBuf], revision: Option<&str>) -> anyhow::Result<Source> {
    let folder = common_folder(paths)?;
    let source = match revision {
        Some(revision) => Source::revision(&folder, revision)?,
        None => Source::work_tree(&folder)?,
    };
    Ok(match cache::cache() {
        Some(cache) => source.with_cache(cache),
        None => source,
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

/// A job as the controller takes it; the revision is empty where no commit has these files.
pub(crate) fn submitted(job: &EvaluatedJob, revision: &str) -> SubmittedJob {
    SubmittedJob {
        spec: job.spec.clone(),
        source: SourceRef {
            file: job.source.file.clone(),
            line: job.source.line,
            revision: revision.to_owned(),
        },
    }
}

/// A job in the stable JSON of `tw eval`, without what looks like a credential.
pub(crate) fn job_json(job: &EvaluatedJob) -> serde_json::Value {
    let mut value = masked("", &serde_json::to_value(&job.spec).unwrap_or_default());
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
