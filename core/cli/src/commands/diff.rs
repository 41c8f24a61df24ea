//! `tw diff`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use tw_model::{Effect, PolicyReport};
use tw_spec::{
    CompareError, Compared, EvaluatedJob, Evaluator, PolicyError, PolicyReview, Side, SpecDiff,
};

use crate::cache;
use crate::context::Context;
use crate::review::{self, Format};
use crate::running;
use crate::spec::{self, Specs};
use crate::text::painted;

/// Show what changes between two revisions, from the specs alone
///
/// Exit code: 0 nothing changes, 2 something does, 3 something destructive does or a policy refuses it, 1 an error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The revision to compare from; with --running the only one, to compare to [default: HEAD]
    base: Option<String>,
    /// The revision to compare to [default: the work tree]
    #[arg(conflicts_with = "running")]
    head: Option<String>,
    /// Compare from what runs in the cluster
    #[arg(long)]
    running: bool,
    /// Only these spec files, or folders with *.tw files below them
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    format: Format,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let evaluator = Evaluator::start(cache::eval_config())?;
    let (compared, head) = match args.running {
        true => with_cluster(&args, &evaluator, context).await?,
        false => with_revision(&args, &evaluator)?,
    };
    let mut diff = compared.diff;
    let changed = Side {
        source: &head.source,
        outcome: &compared.head,
    };
    let policy = policy_on(&diff, &evaluator, changed)?;
    diff.errors.extend_from_slice(&policy.errors);
    show(&args, &diff, &policy, &head)?;
    Ok(ExitCode::from(match () {
        () if !diff.errors.is_empty() => 1,
        () if diff.summary.destructive || policy.report.refuses() => 3,
        () if !diff.is_empty() => 2,
        () => 0,
    }))
}

fn with_revision(args: &Args, evaluator: &Evaluator) -> anyhow::Result<(Compared, Specs)> {
    if args.head.is_none() {
        // Who asks for the work tree has most likely changed it.
        evaluator.wake();
    }
    let base = Specs::find_any(&args.paths, Some(args.base.as_deref().unwrap_or("HEAD")))?;
    let head = Specs::find_any(&args.paths, args.head.as_deref())?;
    let compared = head.with_progress(|| tw_spec::diff(evaluator, base.side(), head.side()))?;
    Ok((compared, head))
}

async fn with_cluster(
    args: &Args,
    evaluator: &Evaluator,
    context: &Context,
) -> anyhow::Result<(Compared, Specs)> {
    let head = Specs::find_any(&args.paths, args.base.as_deref())?;
    let jobs = running::jobs(&context.client()?).await?;
    let compare = || -> Result<Compared, CompareError> {
        tw_spec::diff_with_running(evaluator, &jobs, head.side())
    };
    let compared = head.with_progress(compare)?;
    Ok((compared, head))
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
    tw_spec::review_some(evaluator, head.source, &jobs)
}

fn show(args: &Args, diff: &SpecDiff, policy: &PolicyReview, head: &Specs) -> anyhow::Result<()> {
    if args.format.json {
        let mut answer = serde_json::to_value(diff)?;
        answer["policy"] = serde_json::to_value(&policy.report)?;
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let mut document = tw_review::of_diff(diff, &policy.report);
    if !args.format.markdown {
        // With the author's lines they say more, and they come first.
        spec::print_errors(&diff.errors);
        document = tw_review::Review {
            errors: Vec::new(),
            ..tw_review::of_diff(diff, &PolicyReport::default())
        };
    }
    review::print(&document, args.format, &command(args));
    if !args.format.markdown {
        spec::print_policy(policy, &head.source);
    }
    Ok(())
}

/// The command that shows all of it.
fn command(args: &Args) -> String {
    let mut words = vec!["tw", "diff"];
    if args.running {
        words.push("--running");
    }
    words.extend(args.base.as_deref());
    words.extend(args.head.as_deref());
    words.join(" ")
}

/// An effect in its colour.
pub(crate) fn effect(effect: Effect) -> String {
    painted(tw_review::effect_style(effect), effect)
}
