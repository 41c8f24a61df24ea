//! `tw diff`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use tw_model::{ChangeKind, Effect};
use tw_spec::{
    DiffChange, DiffJob, EvaluatedJob, Evaluator, PolicyError, PolicyReview, Side, SpecDiff,
};

use crate::cache;
use crate::spec::{self, Specs};
use crate::text::{self, BOLD, DIM, GREEN, RED, YELLOW, count, painted};

/// Show what changes between two revisions, from the specs alone
///
/// Exit code: 0 nothing changes, 2 something does, 3 something destructive does or a policy refuses it, 1 an error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The revision to compare from
    #[arg(default_value = "HEAD")]
    base: String,
    /// The revision to compare to [default: the work tree]
    head: Option<String>,
    /// Only these spec files, or folders with *.tw files below them
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let base = Specs::find_any(&args.paths, Some(&args.base))?;
    let head = Specs::find_any(&args.paths, args.head.as_deref())?;
    let evaluator = Evaluator::start(cache::eval_config())?;
    let compared = head.with_progress(|| tw_spec::diff(&evaluator, base.side(), head.side()))?;
    let mut diff = compared.diff;
    let changed = Side {
        source: &head.source,
        outcome: &compared.head,
    };
    let review = policy_on(&diff, &evaluator, changed)?;
    diff.errors.extend_from_slice(&review.errors);
    match args.json {
        true => {
            let mut answer = serde_json::to_value(&diff)?;
            answer["policy"] = serde_json::to_value(&review.report)?;
            anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
        }
        false => {
            print(&diff);
            spec::print_policy(&review, &head.source);
        }
    }
    Ok(ExitCode::from(match () {
        () if !diff.errors.is_empty() => 1,
        () if diff.summary.destructive || review.report.refuses() => 3,
        () if !diff.is_empty() => 2,
        () => 0,
    }))
}

/// What policies say of the jobs that are added or modified.
fn policy_on(
    diff: &SpecDiff,
    evaluator: &Evaluator,
    head: Side<'_>,
) -> Result<PolicyReview, PolicyError> {
    let changed: BTreeSet<(&str, &str)> = diff
        .jobs
        .iter()
        .map(|job| (job.namespace.as_str(), job.name.as_str()))
        .collect();
    let is_changed = |job: &&EvaluatedJob| {
        changed.contains(&(job.spec.namespace.as_str(), job.spec.name.as_str()))
    };
    let jobs: Vec<EvaluatedJob> = head
        .outcome
        .jobs
        .iter()
        .filter(is_changed)
        .cloned()
        .collect();
    tw_spec::review(evaluator, head.source, &jobs)
}

fn print(diff: &SpecDiff) {
    spec::print_errors(&diff.errors);
    anstream::println!("{}", summary(diff));
    diff.jobs.iter().for_each(print_job);
    for module in &diff.modules {
        anstream::println!(
            "{DIM}{}: {}, {} changed{DIM:#}",
            module.file,
            count(module.importers, "importer"),
            count(module.changed_jobs, "job")
        );
    }
}

fn summary(diff: &SpecDiff) -> String {
    let found = &diff.summary;
    if diff.is_empty() {
        return format!(
            "Nothing changes: {} evaluate to the same.",
            count(found.unchanged, "job")
        );
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
    format!(
        "{BOLD}{} added, {} modified{effects}, {} removed{BOLD:#}, {} unchanged",
        found.added, found.modified, found.removed, found.unchanged
    )
}

fn print_job(job: &DiffJob) {
    let name = match job.namespace.as_str() {
        tw_model::DEFAULT_NAMESPACE => job.name.clone(),
        namespace => format!("{namespace}/{}", job.name),
    };
    let mark = match job.change {
        ChangeKind::Added => painted(GREEN, "+"),
        ChangeKind::Removed => painted(RED, "-"),
        ChangeKind::Modified => painted(YELLOW, "~"),
    };
    let effect = match job.change {
        ChangeKind::Modified => format!(": {}", effect(job.effect)),
        _ => String::new(),
    };
    anstream::println!(
        "\n{mark} {BOLD}{name}{BOLD:#} {DIM}{}{DIM:#}{effect}",
        job.file
    );
    for change in &job.changes {
        anstream::println!(
            "    {}",
            change_line(
                &change.path,
                &change.old,
                &change.new,
                change.effect,
                &cause(change)
            )
        );
    }
}

/// One change as a line, shared with the plan.
pub(crate) fn change_line(
    path: &str,
    old: &serde_json::Value,
    new: &serde_json::Value,
    what: Effect,
    cause: &str,
) -> String {
    let values = format!("{} → {}", text::value(path, old), text::value(path, new));
    format!("{path:<28} {values:<28} {}{cause}", effect(what))
        .trim_end()
        .to_owned()
}

fn cause(change: &DiffChange) -> String {
    let Some(cause) = &change.cause else {
        return String::new();
    };
    let line = cause
        .line
        .map(|line| format!(":{line}"))
        .unwrap_or_default();
    let commit = cause
        .commit
        .as_ref()
        .map(|commit| format!(" in {}", &commit[..commit.len().min(8)]))
        .unwrap_or_default();
    format!("  {DIM}{}{line}{commit}{DIM:#}", cause.file)
}

/// An effect in its colour.
pub(crate) fn effect(effect: Effect) -> String {
    let style = match effect {
        Effect::None | Effect::InPlace | Effect::Scale => GREEN,
        Effect::Restart | Effect::Move => YELLOW,
        Effect::Recreate => RED,
    };
    painted(style, effect)
}
