//! `tw history`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use tw_model::JobId;
use tw_spec::{Evaluator, HistoryChange, HistoryEntry, RenderOptions, job_history, render_error};

use super::{applied, diff};
use crate::cache;
use crate::context::Context;
use crate::spec::{self, Specs};
use crate::text::{BOLD, DIM, GREEN, RED, YELLOW, painted};

/// Show how a job changed from commit to commit, in the terms of its spec
///
/// Also where only a module that the spec imports has changed. Nothing is checked out.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME
    job: JobId,
    /// The spec file, or a folder with it; for a job that is gone, the file that exported it
    #[arg(default_value = ".", value_name = "PATH")]
    path: PathBuf,
    /// Show at most this many changes
    #[arg(short, value_name = "N", default_value_t = 20)]
    number: usize,
    /// Begin at this git revision instead of the work tree
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// Show what has run instead: each version that the controller keeps, and who let it through
    #[arg(long, conflicts_with_all = ["path", "rev"])]
    applied: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    if args.applied {
        return applied::run(&args.job, args.number, args.json, context).await;
    }
    let paths = [args.path.clone()];
    let source = spec::open(&paths, args.rev.as_deref())?;
    let files = match spec::from_root(&source, &paths)?.pop() {
        // A spec that is gone is named all the same.
        Some(file) if source.kind(&file)?.is_none() && file.ends_with(".tw") => vec![file],
        _ => Specs::find(&paths, args.rev.as_deref())?.files,
    };
    let evaluator = Evaluator::start(cache::eval_config())?;
    let progress = spec::progress("looking through commits");
    let looked = |number: usize| {
        if number.is_multiple_of(50) {
            progress.set_message(format!("looking through commits: {number}"));
        }
    };
    let entries = job_history(&evaluator, &source, &files, &args.job, args.number, &looked);
    progress.finish_and_clear();
    let entries = entries?;
    if args.json {
        let answer = json!({"version": 1, "job": args.job, "entries": entries});
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
    } else if entries.is_empty() {
        anstream::println!(
            "Job {} has not changed: nothing of it is committed.",
            args.job
        );
    } else {
        entries.iter().for_each(print);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(entry: &HistoryEntry) {
    let commit = match &entry.commit {
        Some(commit) => painted(YELLOW, &commit[..commit.len().min(10)]),
        None => painted(YELLOW, "not committed"),
    };
    let date = entry.date.map(|date| date.to_string());
    let date = date
        .as_deref()
        .and_then(|date| date.get(..10))
        .unwrap_or_default();
    let words = [
        date,
        entry.author.as_deref().unwrap_or_default(),
        entry.subject.as_deref().unwrap_or_default(),
    ];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let headline = format!("{commit} {}", words.join("  "));
    anstream::println!("{}", headline.trim_end());
    let before = entry.file_before.as_ref();
    let before = before
        .map(|file| format!(", before in {file}"))
        .unwrap_or_default();
    anstream::println!("    {} {DIM}{}{before}{DIM:#}", what(entry), entry.file);
    for change in &entry.changes {
        anstream::println!(
            "    {}",
            tw_review::change_line(
                &change.path,
                &change.old,
                &change.new,
                diff::effect(change.effect),
            )
        );
    }
    let color = std::io::stdout().is_terminal();
    for error in &entry.errors {
        for line in render_error(error, RenderOptions { color }).lines() {
            anstream::println!("    {line}");
        }
    }
    anstream::println!();
}

fn what(entry: &HistoryEntry) -> String {
    let effect = entry.effect.map(diff::effect).unwrap_or_default();
    match entry.change {
        HistoryChange::Added => painted(GREEN, "added"),
        HistoryChange::Modified => format!("{BOLD}modified{BOLD:#}: {effect}"),
        HistoryChange::Removed => painted(RED, "removed"),
        HistoryChange::Moved => format!("{BOLD}moved{BOLD:#} to another file"),
        HistoryChange::Broken => painted(RED, "does not evaluate"),
        HistoryChange::Repaired => format!("{GREEN}evaluates again{GREEN:#} {effect}"),
    }
}
