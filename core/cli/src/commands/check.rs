//! `tw check`

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::spec::{self, Specs};
use crate::text::{GREEN, count, painted};

/// With at most this many specs, each is always evaluated twice.
const ALWAYS_STRICT_UP_TO: usize = 100;

/// Check specs without doing anything else
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Spec files, or folders with *.tw files below them
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Check this git revision instead of the work tree
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// Evaluate each spec a second time under other conditions, even when there are many
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let specs = Specs::find(&args.paths, args.rev.as_deref())?;
    let mut outcome = specs.evaluate()?;
    if args.strict || specs.files.len() <= ALWAYS_STRICT_UP_TO {
        specs.verify(&mut outcome)?;
    }
    if args.json {
        let answer = json!({
            "version": 1, "specs": specs.files.len(), "jobs": outcome.jobs.len(), "errors": outcome.errors,
        });
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        spec::print_errors(&outcome.errors);
        let found = format!(
            "{}, {}",
            count(specs.files.len(), "spec"),
            count(outcome.jobs.len(), "job")
        );
        match outcome.errors.len() {
            0 => anstream::println!("{} {found}", painted(GREEN, "ok")),
            errors => anstream::println!("{found}, {}", count(errors, "error")),
        }
    }
    Ok(ExitCode::from(u8::from(!outcome.errors.is_empty())))
}
