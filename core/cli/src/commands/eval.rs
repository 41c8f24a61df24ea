//! `tw eval`

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use tw_model::SpecType;
use tw_spec::{EvaluatedSpec, Outcome};

use crate::spec::{self, Specs};
use crate::text::DIM;

/// Evaluate specs and print their jobs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Spec files, or folders with *.tw files below them
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Evaluate this git revision instead of the work tree; nothing is checked out
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// Print each job as Python, in the names and units that authors write
    #[arg(long)]
    python: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let specs = Specs::find(&args.paths, args.rev.as_deref())?;
    let outcome = specs.evaluate()?;
    let jobs: Vec<serde_json::Value> = outcome.jobs.iter().map(spec::job_json).collect();
    let python: Vec<String> = match args.python {
        true => outcome
            .jobs
            .iter()
            .map(|job| job.spec.to_python())
            .collect(),
        false => Vec::new(),
    };
    if args.json {
        let printed: Vec<serde_json::Value> = printed(&outcome)
            .map(|spec| json!({"file": spec.file, "text": spec.output}))
            .collect();
        let mut answer = json!({
            "version": 1, "jobs": jobs, "errors": outcome.errors, "printed": printed,
        });
        if args.python {
            answer["python"] = python.into();
        }
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        for spec in printed(&outcome) {
            anstream::eprintln!(
                "{DIM}{} prints:{DIM:#}\n{}\n",
                spec.file,
                tw_spec::visible(spec.output.trim_end())
            );
        }
        spec::print_errors(&outcome.errors);
        python.iter().for_each(|job| anstream::println!("{job}"));
        for job in jobs.iter().filter(|_| !args.python) {
            anstream::println!("{}", serde_json::to_string_pretty(&job)?);
        }
    }
    Ok(ExitCode::from(u8::from(!outcome.errors.is_empty())))
}

/// The specs that print something.
fn printed(outcome: &Outcome) -> impl Iterator<Item = &EvaluatedSpec> {
    let specs = outcome.specs.iter();
    specs.filter(|spec| !spec.output.trim().is_empty())
}
