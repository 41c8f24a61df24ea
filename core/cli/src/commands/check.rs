//! `tw check`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use quick_junit::TestSuite;
use serde_json::json;
use tw_model::{PolicyFinding, PolicyRule};
use tw_spec::{Evaluator, PolicyReview, RenderOptions, SpecError, dependencies, render_error};

use crate::cache;
use crate::junit;
use crate::spec::{self, Specs};
use crate::text::{GREEN, RED, count, painted};

/// With at most this many specs, each is always evaluated twice.
const ALWAYS_STRICT_UP_TO: usize = 100;

/// Check specs, and what policies say of their jobs, without doing anything else
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
    /// Also write the results to FILE as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
struct Checked {
    specs: Specs,
    jobs: usize,
    errors: Vec<SpecError>,
    warnings: Vec<SpecError>,
    review: PolicyReview,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let checked = check(&args)?;
    if let Some(file) = &args.junit {
        junit::write(file, "tw check", checked.suites())?;
    }
    match args.json {
        true => checked.print_json()?,
        false => checked.print(),
    }
    Ok(ExitCode::from(u8::from(!checked.is_good())))
}

fn check(args: &Args) -> anyhow::Result<Checked> {
    let specs = Specs::find(&args.paths, args.rev.as_deref())?;
    super::init::refresh(&specs.source);
    let evaluator = Evaluator::start(cache::eval_config())?;
    let is_strict = args.strict || specs.files.len() <= ALWAYS_STRICT_UP_TO;
    let outcome = match is_strict {
        true => specs.evaluate_strictly(&evaluator)?,
        false => specs.evaluate_with(&evaluator)?,
    };
    let names = dependencies(&specs.source, &outcome, specs.is_whole);
    let review = specs.review(&evaluator, &outcome.jobs)?;
    let mut errors = outcome.errors;
    errors.extend(names.errors);
    errors.extend_from_slice(&review.errors);
    Ok(Checked {
        specs,
        jobs: outcome.jobs.len(),
        errors,
        warnings: names.warnings,
        review,
    })
}

impl Checked {
    fn is_good(&self) -> bool {
        self.errors.is_empty() && !self.review.report.refuses()
    }

    fn print_json(&self) -> anyhow::Result<()> {
        let answer = json!({
            "version": 1, "specs": self.specs.files.len(), "jobs": self.jobs,
            "errors": self.errors, "warnings": self.warnings,
            "policies": self.review.report.policies, "findings": self.review.report.findings,
        });
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
        Ok(())
    }

    fn print(&self) {
        spec::print_errors(&self.errors);
        spec::print_warnings(&self.warnings);
        let findings = PolicyReview {
            report: self.review.report.clone(),
            errors: Vec::new(),
        };
        spec::print_policy(&findings, &self.specs.source);
        let verdict = match self.is_good() {
            true => painted(GREEN, "ok"),
            false => painted(RED, "failed"),
        };
        anstream::println!("{verdict} {}", self.summary());
    }

    fn summary(&self) -> String {
        let report = &self.review.report;
        let refusing = report
            .findings
            .iter()
            .filter(|found| found.refuses())
            .count();
        let warnings = self.warnings.len() + report.findings.len() - refusing;
        let always = [
            count(self.specs.files.len(), "spec"),
            count(self.jobs, "job"),
        ];
        let where_any = [
            (report.policies.len(), count_policies(report.policies.len())),
            (self.errors.len(), count(self.errors.len(), "error")),
            (
                refusing,
                format!("{} by policy", count(refusing, "refusal")),
            ),
            (warnings, count(warnings, "warning")),
        ];
        let where_any = where_any.into_iter().filter(|(number, _)| *number > 0);
        let parts: Vec<String> = always
            .into_iter()
            .chain(where_any.map(|(_, text)| text))
            .collect();
        parts.join(", ")
    }

    /// One case a spec file, and one a policy.
    fn suites(&self) -> Vec<TestSuite> {
        let mut specs = TestSuite::new("specs");
        let mut by_file: BTreeMap<&str, Vec<&SpecError>> = BTreeMap::new();
        self.specs.files.iter().for_each(|file| {
            by_file.entry(file).or_default();
        });
        for error in &self.errors {
            by_file.entry(&error.file).or_default().push(error);
        }
        for (file, errors) in by_file {
            specs.add_test_case(junit::case("spec", file, spec_status(&errors)));
        }
        let mut policies = TestSuite::new("policies");
        for rule in &self.review.report.policies {
            let refusing = self.review.report.findings.iter();
            let refusing: Vec<&PolicyFinding> = refusing
                .filter(|found| found.policy == *rule && found.refuses())
                .collect();
            policies.add_test_case(junit::case(
                &rule.file,
                &rule.name,
                policy_status(rule, &refusing),
            ));
        }
        vec![specs, policies]
    }
}

fn count_policies(number: usize) -> String {
    match number {
        1 => "1 policy".to_owned(),
        _ => format!("{number} policies"),
    }
}

fn spec_status(errors: &[&SpecError]) -> quick_junit::TestCaseStatus {
    let Some(first) = errors.first() else {
        return junit::success();
    };
    let shown = errors
        .iter()
        .map(|error| render_error(error, RenderOptions::default()));
    junit::failure(
        first.code.as_str(),
        &first.message,
        shown.collect::<Vec<_>>().join("\n"),
    )
}

fn policy_status(rule: &PolicyRule, refusing: &[&PolicyFinding]) -> quick_junit::TestCaseStatus {
    let Some(first) = refusing.first() else {
        return junit::success();
    };
    let line = |found: &&PolicyFinding| format!("{}: {}: {}", found.at, found.job, found.message);
    let lines: Vec<String> = refusing.iter().map(line).collect();
    junit::failure(
        first.level.as_str(),
        &format!("{} (owner: {})", first.message, rule.owner),
        lines.join("\n"),
    )
}
