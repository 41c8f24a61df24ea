//! `tw git-diff`, which git calls for each changed spec where `tw init` has set it up.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tw_model::PolicyReport;
use tw_review::{Review, terminal};
use tw_spec::{Evaluator, Source, Tree, source_diff, trees_of_blobs};

use crate::cache;
use crate::text::{CYAN, DIM, GREEN, RED, painted};

/// Show a changed spec to git: its lines, and what they change in its jobs
///
/// git calls this as `diff.twill.command`, as gitattributes(5) says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The spec, from the root of the repository
    path: String,
    /// A file with the old contents
    old_file: PathBuf,
    /// The old blob
    old_hex: String,
    old_mode: String,
    /// A file with the new contents
    new_file: PathBuf,
    /// The new blob; zeros for the work tree
    new_hex: String,
    new_mode: String,
    /// Where the file was renamed to, and how alike both are
    renamed: Vec<String>,
}

/// Never fails: git would give up the whole diff.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let read = |file: &Path| std::fs::read(file).unwrap_or_default();
    let (old, new) = (read(&args.old_file), read(&args.new_file));
    let lines = source_diff(&args.path, &old, &new);
    lines.lines().for_each(print_line);
    match evaluated(&args) {
        Ok(Some(text)) => anstream::print!("{text}"),
        Ok(None) => {}
        Err(cause) => anstream::println!("{DIM}not evaluated: {cause:#}{DIM:#}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_line(line: &str) {
    let shown = tw_spec::visible(line);
    match line.as_bytes().first() {
        Some(b'+') => anstream::println!("{}", painted(GREEN, shown)),
        Some(b'-') => anstream::println!("{}", painted(RED, shown)),
        Some(b'@') => anstream::println!("{}", painted(CYAN, shown)),
        _ => anstream::println!("{shown}"),
    }
}

/// What the change does to the jobs of the spec; none where it does nothing to them.
fn evaluated(args: &Args) -> anyhow::Result<Option<String>> {
    let root = std::env::current_dir()?;
    let name = args.renamed.first().unwrap_or(&args.path);
    let Some((base, head)) = trees_of_blobs(&root, &args.path, name, &args.old_hex, &args.new_hex)?
    else {
        return Ok(None);
    };
    let (old, new) = (
        base.specs_if_any(std::slice::from_ref(&args.path))?,
        head.specs_if_any(std::slice::from_ref(name))?,
    );
    let evaluator = Evaluator::start(cache::eval_config())?;
    let compared = tw_spec::diff(
        &evaluator,
        Tree {
            source: &base,
            specs: &old,
        },
        Tree {
            source: &head,
            specs: &new,
        },
    )?;
    let diff = &compared.diff;
    if diff.is_empty() && diff.errors.is_empty() {
        return Ok(None);
    }
    let review = Review {
        totals: Vec::new(),
        ..tw_review::of_diff(diff, &PolicyReport::default())
    };
    let place = |source: &Source| source.describe();
    Ok(Some(format!(
        "{DIM}evaluated, {} → {}:{DIM:#} {}\n",
        place(&base),
        place(&head),
        terminal(&review)
    )))
}
