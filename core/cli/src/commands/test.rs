//! `tw test`

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use quick_junit::TestSuite;
use serde_json::json;
use tw_spec::{
    EvalConfig, Evaluator, Failure, RenderOptions, Source, Test, TestFiles, TestOutcome,
    TestResult, run_tests,
};

use crate::cache;
use crate::failure::advice;
use crate::junit;
use crate::spec;
use crate::text::{BOLD, DIM, GREEN, RED, YELLOW, count, painted};

/// Run the tests beside specs, each sealed like a spec
///
/// A test is a function `test_…` in a file `test_*.py` or `*_test.py` that imports `tw`.
/// Exit code: 0 all pass, 1 one fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Test files, or folders with tests below them
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tests whose file or name contains PATTERN
    #[arg(short = 'k', value_name = "PATTERN")]
    pattern: Option<String>,
    /// Test this git revision instead of the work tree
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// The longest a test may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    deadline: u64,
    /// Also write the results to FILE as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Name every test, not only those that fail
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = spec::open(&args.paths, args.rev.as_deref())?;
    let found = source.find_tests(&spec::from_root(&source, &args.paths)?)?;
    super::init::refresh(&source);
    let began = Instant::now();
    let results = run_all(&args, &source, &found)?;
    if let Some(file) = &args.junit {
        junit::write(file, "tw test", suites(&results))?;
    }
    if let Some(pattern) = args.pattern.as_ref().filter(|_| results.is_empty()) {
        return Err(advice(
            format!(
                "no test of {} is called like '{pattern}'",
                count(found.files.len(), "file")
            ),
            "`tw test --verbose` names all",
        ));
    }
    let counts = Counts::of(&results);
    match args.json {
        true => print_json(&results, &counts)?,
        false => print(&args, &found, &results, &counts, began.elapsed()),
    }
    Ok(ExitCode::from(u8::from(counts.failed > 0)))
}

fn run_all(args: &Args, source: &Source, found: &TestFiles) -> anyhow::Result<Vec<TestResult>> {
    if found.files.is_empty() {
        return Ok(Vec::new());
    }
    let deadline = Duration::from_secs(args.deadline.max(1));
    let evaluator = Evaluator::start(EvalConfig {
        cpu: deadline,
        deadline,
        ..cache::eval_config()
    })?;
    let progress = spec::progress("running tests");
    let is_wanted = |test: &Test| match &args.pattern {
        None => true,
        Some(pattern) => format!("{}::{}", test.file, test.title()).contains(pattern.as_str()),
    };
    let tell = |result: &TestResult| {
        progress.set_message(format!("{}::{}", result.test.file, result.test.title()));
    };
    let results = run_tests(&evaluator, source, &found.files, &is_wanted, &tell);
    progress.finish_and_clear();
    Ok(results?)
}

/// How many ended how.
#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    fn of(results: &[TestResult]) -> Counts {
        let mut counts = Counts::default();
        for result in results {
            match result.outcome {
                TestOutcome::Passed => counts.passed += 1,
                TestOutcome::Skipped { .. } => counts.skipped += 1,
                TestOutcome::Failed(_) => counts.failed += 1,
            }
        }
        counts
    }

    fn shown(&self) -> String {
        let parts = [
            (self.passed, format!("{} passed", self.passed)),
            (self.failed, painted(RED, format!("{} failed", self.failed))),
            (
                self.skipped,
                painted(YELLOW, format!("{} skipped", self.skipped)),
            ),
        ];
        let parts = parts.into_iter().filter(|(number, _)| *number > 0);
        parts.map(|(_, text)| text).collect::<Vec<_>>().join(", ")
    }
}

fn print_json(results: &[TestResult], counts: &Counts) -> anyhow::Result<()> {
    let answer = json!({
        "version": 1,
        "summary": {"passed": counts.passed, "failed": counts.failed, "skipped": counts.skipped},
        "tests": results,
    });
    anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
    Ok(())
}

fn print(args: &Args, found: &TestFiles, results: &[TestResult], counts: &Counts, took: Duration) {
    if results.is_empty() {
        anstream::println!("There are no tests here.");
        anstream::println!(
            "{DIM}A test is a function test_… in a file test_*.py or *_test.py that imports tw.{DIM:#}"
        );
        print_passed_over(found);
        return;
    }
    let mut by_file: BTreeMap<&str, Vec<&TestResult>> = BTreeMap::new();
    for result in results {
        by_file.entry(&result.test.file).or_default().push(result);
    }
    for (file, results) in by_file {
        print_file(args, file, &results);
    }
    for result in results {
        if let TestOutcome::Failed(failure) = &result.outcome {
            print_failure(result, failure);
        }
    }
    print_passed_over(found);
    let verdict = match counts.failed {
        0 => painted(GREEN, "ok"),
        _ => painted(RED, "failed"),
    };
    anstream::println!(
        "{verdict} {}: {} {DIM}in {:.1} s{DIM:#}",
        count(results.len(), "test"),
        counts.shown(),
        took.as_secs_f64()
    );
}

fn print_file(args: &Args, file: &str, results: &[&TestResult]) {
    let counts = Counts::of(
        &results
            .iter()
            .map(|result| (*result).clone())
            .collect::<Vec<_>>(),
    );
    anstream::println!("{BOLD}{file}{BOLD:#}: {}", counts.shown());
    for result in results.iter().filter(|_| args.verbose) {
        let title = result.test.title();
        match &result.outcome {
            TestOutcome::Passed => anstream::println!("  {} {title}", painted(GREEN, "ok")),
            TestOutcome::Failed(_) => anstream::println!("  {} {title}", painted(RED, "FAILED")),
            TestOutcome::Skipped { reason } => {
                anstream::println!("  {} {title}: {reason}", painted(YELLOW, "skipped"));
            }
        }
    }
}

fn print_failure(result: &TestResult, failure: &Failure) {
    let color = std::io::stdout().is_terminal();
    let title = result.test.title();
    anstream::println!(
        "\n{RED}FAILED{RED:#} {BOLD}{}::{title}{BOLD:#}",
        result.test.file
    );
    anstream::print!("{}", failure.render(RenderOptions { color }));
    if !result.output.is_empty() {
        anstream::println!("  {DIM}printed:{DIM:#}");
        for line in tw_spec::visible(&result.output).lines() {
            anstream::println!("    {line}");
        }
    }
    anstream::println!();
}

fn print_passed_over(found: &TestFiles) {
    if !found.passed_over.is_empty() {
        let shown: Vec<&str> = found
            .passed_over
            .iter()
            .map(String::as_str)
            .take(3)
            .collect();
        let more = found.passed_over.len() - shown.len();
        let more = match more {
            0 => String::new(),
            _ => format!(" and {more} more"),
        };
        anstream::println!(
            "{DIM}Passed over, because they do not import tw: {}{more}.{DIM:#}",
            shown.join(", ")
        );
    }
}

/// One suite a file.
fn suites(results: &[TestResult]) -> Vec<TestSuite> {
    let mut suites: BTreeMap<&str, TestSuite> = BTreeMap::new();
    for result in results {
        let file = result.test.file.as_str();
        let status = match &result.outcome {
            TestOutcome::Passed => junit::success(),
            TestOutcome::Skipped { reason } => junit::skipped(reason),
            TestOutcome::Failed(failure) => junit::failure(
                failure.error.code.as_str(),
                &failure.error.message,
                failure.render(RenderOptions::default()),
            ),
        };
        let mut case = junit::case(file, &result.test.title(), status);
        case.set_time(result.duration);
        if !result.output.is_empty() {
            case.set_system_out(result.output.as_str());
        }
        let suite = suites.entry(file).or_insert_with(|| TestSuite::new(file));
        suite.add_test_case(case);
    }
    suites.into_values().collect()
}
