//! Policy: the rules that a folder's `POLICY.py` holds over the jobs of all specs below it.
//!
//! Policies run after evaluation, in sealed children of their own, one a file; they see typed jobs and nothing
//! of the specs that made them. So no spec can reach, shadow or change one, and no file of policies another.
//! One that fails refuses the jobs it was to judge.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tw_model::{
    Code, JobSpec, Location, PolicyFinding, PolicyLevel, PolicyReport, PolicyRule, SpecType,
    StructInfo,
};

use crate::error::line_of;
use crate::evaluator::{Answers, Role};
use crate::render::{Severity, render_as, render_error};
use crate::sealed::{self, Reported};
use crate::source::path;
use crate::{
    EvaluatedJob, Evaluator, EvaluatorError, RenderOptions, Source, SourceError, SpecError,
};

/// The name of a file of policies.
pub const POLICY_FILE: &str = "POLICY.py";

/// The most bytes of jobs that are handed over at once.
const PART_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What policies say of jobs, and what is wrong with the files of policies themselves.
#[derive(Clone, Debug, Default)]
pub struct PolicyReview {
    pub report: PolicyReport,
    /// Files that could not be run; each refuses every job below it.
    pub errors: Vec<SpecError>,
}

impl PolicyReview {
    /// Whether a job is refused, by a policy or because one could not be asked.
    pub fn refuses(&self) -> bool {
        self.report.refuses() || !self.errors.is_empty()
    }

    /// Shows errors of files, then findings, with the authors' lines.
    pub fn render(&self, source: &Source, options: RenderOptions) -> String {
        let findings = self.report.findings.iter();
        let shown = findings.map(|finding| render_finding(source, finding, options));
        let errors = self.errors.iter().map(|error| render_error(error, options));
        errors.chain(shown).collect::<Vec<_>>().join("\n")
    }
}

/// Shows one finding, with the author's line.
fn render_finding(source: &Source, finding: &PolicyFinding, options: RenderOptions) -> String {
    let (severity, code) = match finding.level {
        PolicyLevel::Warn => (Severity::Warning, Code::PolicyWarning),
        PolicyLevel::Forbid | PolicyLevel::Require => (Severity::Error, Code::PolicyRefused),
        PolicyLevel::Broken => (Severity::Error, Code::PolicyBroken),
    };
    let mut error = SpecError::at(code, &finding.at, finding.message.clone(), None);
    error.source_line = line_of(source, &finding.at.file, finding.at.line);
    let job = match &finding.field {
        Some(field) => format!("{}, {field}", finding.job),
        None => finding.job.to_string(),
    };
    let notes = [("job", job), ("policy", finding.policy.to_string())];
    render_as(severity, &error, &notes, options)
}

/// Why policies could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Evaluator(#[from] EvaluatorError),
}

/// Runs every policy of `source` over those of `jobs` whose specs stand below it.
pub fn review(
    evaluator: &Evaluator,
    source: &Source,
    jobs: &[EvaluatedJob],
) -> Result<PolicyReview, PolicyError> {
    let mut review = PolicyReview::default();
    for file in policy_files(source, jobs)? {
        let folder = path::parent(&file);
        let below = jobs.iter().filter(|job| is_below(&job.file, folder));
        review_file(evaluator, source, &file, below.collect(), &mut review)?;
    }
    let report = &mut review.report;
    report
        .policies
        .sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    report.findings.sort_by(|a, b| {
        (&a.job, &a.policy.file, a.policy.line).cmp(&(&b.job, &b.policy.file, b.policy.line))
    });
    Ok(review)
}

/// The files of policies of all folders that the jobs' specs stand in, the root's first.
fn policy_files(source: &Source, jobs: &[EvaluatedJob]) -> Result<Vec<String>, SourceError> {
    let mut folders = BTreeSet::new();
    for job in jobs {
        let mut folder = path::parent(&job.file);
        while folders.insert(folder) && !folder.is_empty() {
            folder = path::parent(folder);
        }
    }
    let mut files = Vec::new();
    for folder in folders {
        let file = path::join(folder, POLICY_FILE);
        if source.kind(&file)?.is_some() {
            files.push(file);
        }
    }
    Ok(files)
}

fn is_below(file: &str, folder: &str) -> bool {
    folder.is_empty()
        || file
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// The jobs as policies see them, in parts.
struct Jobs<'a>(&'a [&'a EvaluatedJob]);

impl Answers for Jobs<'_> {
    fn answer(&self, ask: &str, from: &str) -> Option<Vec<u8>> {
        let from: usize = (ask == "input").then(|| from.parse().ok())??;
        let mut bytes = 0;
        let part: Vec<String> = self
            .0
            .get(from..)?
            .iter()
            .map(|job| job.spec.to_python())
            .take_while(|text| {
                let fits = bytes == 0 || bytes + text.len() <= PART_BYTES_MAX;
                bytes += text.len();
                fits
            })
            .collect();
        match part.is_empty() {
            true => None,
            false => serde_json::to_vec(&part).ok(),
        }
    }
}

/// A part of what a file of policies reports.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Ran {
        seen: usize,
        rules: Vec<PolicyRule>,
        #[serde(default)]
        reviewed: Vec<PolicyRule>,
    },
    Broken {
        rule: usize,
        job: usize,
        error: Reported,
    },
    Found {
        rule: usize,
        job: usize,
        level: PolicyLevel,
        message: String,
        field: Option<String>,
    },
}

fn review_file(
    evaluator: &Evaluator,
    source: &Source,
    file: &str,
    jobs: Vec<&EvaluatedJob>,
    review: &mut PolicyReview,
) -> Result<(), EvaluatorError> {
    let ran = sealed::run::<Said>(evaluator, source, Role::Policy, file, &Jobs(&jobs))?;
    if let Some(error) = ran.error {
        review.errors.push(error);
        return Ok(());
    }
    let mut said = ran.report.into_iter();
    let (rules, reviewed) = match said.next() {
        Some(Said::Ran {
            seen,
            rules,
            reviewed,
        }) if seen == jobs.len() => (rules, reviewed),
        _ => {
            let message = format!("the policies did not judge all of {} jobs", jobs.len());
            review
                .errors
                .push(SpecError::of_file(Code::PolicyBroken, file, message, None));
            return Ok(());
        }
    };
    for one in said {
        match finding(one, &rules, &jobs, file) {
            Some(found) => review.report.findings.push(found),
            None => {
                let message = "the policies reported what they were not asked".to_owned();
                review
                    .errors
                    .push(SpecError::of_file(Code::PolicyBroken, file, message, None));
            }
        }
    }
    review.report.policies.extend(rules);
    // A child can only speak for the file that it was given.
    let reviewed = reviewed.into_iter().map(|rule| PolicyRule {
        file: file.to_owned(),
        ..rule
    });
    review.report.reviewed.extend(reviewed);
    Ok(())
}

fn finding(
    said: Said,
    rules: &[PolicyRule],
    jobs: &[&EvaluatedJob],
    file: &str,
) -> Option<PolicyFinding> {
    match said {
        Said::Ran { .. } => None,
        Said::Broken { rule, job, error } => {
            let policy = rules.get(rule)?.clone();
            let error = error.located(file, Role::Policy);
            Some(PolicyFinding {
                level: PolicyLevel::Broken,
                job: jobs.get(job)?.spec.id(),
                field: None,
                message: match &error.hint {
                    Some(hint) => format!("the policy failed: {} ({hint})", error.message),
                    None => format!("the policy failed: {}", error.message),
                },
                at: Location {
                    line: error.line.unwrap_or(policy.line),
                    column: error.column.unwrap_or(1),
                    file: error.file,
                },
                policy,
            })
        }
        Said::Found {
            rule,
            job,
            level,
            message,
            field,
        } => {
            let job = jobs.get(job)?;
            let field = field.map(|field| json_path(&field));
            Some(PolicyFinding {
                level,
                policy: rules.get(rule)?.clone(),
                job: job.spec.id(),
                at: place(job, field.as_deref()),
                field,
                message,
            })
        }
    }
}

/// Where the value was written, or else the job; a field of another name than a job has is the job's.
fn place(job: &EvaluatedJob, field: Option<&str>) -> Location {
    let written = field.and_then(|field| job.provenance.locate(field));
    match written {
        Some(place) if !place.file.is_empty() => place.clone(),
        _ => job.source.clone(),
    }
}

/// The path in JSON of a field as authors name it: `resources.memory` is `resources.memory_bytes`.
fn json_path(field: &str) -> String {
    let tables: BTreeMap<&str, StructInfo> = JobSpec::tables()
        .into_iter()
        .map(|table| (table.name, table))
        .collect();
    let mut class = tables.get("Job");
    let parts = field.split('.').map(|part| {
        let known = class.and_then(|table| table.fields.iter().find(|field| field.name == part));
        class = known.and_then(|field| tables.get(field.python_type.trim_end_matches(" | None")));
        known.map_or(part, |field| field.json).to_owned()
    });
    parts.collect::<Vec<String>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_names_in_json() {
        assert_eq!(json_path("resources.memory"), "resources.memory_bytes");
        assert_eq!(json_path("env.PATH"), "env.PATH");
        assert_eq!(json_path("stop.grace"), "stop.grace_ms");
        assert_eq!(json_path("nonsense.memory"), "nonsense.memory");
    }

    #[test]
    fn a_folder_holds_what_is_below_it_and_no_namesake() {
        assert!(is_below("web/config.tw", ""));
        assert!(is_below("web/a/config.tw", "web"));
        assert!(!is_below("website/config.tw", "web"));
    }
}
