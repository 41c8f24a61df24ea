//! `tw eval`

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::spec::{self, Specs};

/// Evaluate specs and print their jobs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Spec files, or folders with *.tw files below them
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Evaluate this git revision instead of the work tree; nothing is checked out
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let specs = Specs::find(&args.paths, args.rev.as_deref())?;
    let outcome = specs.evaluate()?;
    let jobs: Vec<serde_json::Value> = outcome.jobs.iter().map(spec::job_json).collect();
    if args.json {
        let answer = json!({"version": 1, "jobs": jobs, "errors": outcome.errors});
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        spec::print_errors(&outcome.errors);
        for job in jobs {
            anstream::println!("{}", serde_json::to_string_pretty(&job)?);
        }
    }
    Ok(ExitCode::from(u8::from(!outcome.errors.is_empty())))
}
