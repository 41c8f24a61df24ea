//! Policy: the rules that a folder's `POLICY.py` holds over the jobs of all specs below it.
//!
//! Policies run after evaluation, in sealed children of their own, one a file; they see typed jobs and nothing
//! of the specs that made them. So no spec can reach, shadow or change one, and no file of policies another.
//! One that fails refuses the jobs it was to judge.

use std::collections::BTreeSet;

use serde::Deserialize;
use tw_model::{
    Code, JobId, Location, PolicyFinding, PolicyLevel, PolicyReport, PolicyRule, SpecType,
};

use crate::error::line_of;
use crate::evaluator::{Answers, Role};
use crate::field_names::json_path;
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
        let mut groups: Vec<Vec<&PolicyFinding>> = Vec::new();
        for finding in &self.report.findings {
            match groups
                .iter_mut()
                .find(|group| says_the_same(group[0], finding))
            {
                Some(group) => group.push(finding),
                None => groups.push(vec![finding]),
            }
        }
        let shown = groups
            .iter()
            .map(|group| render_finding(source, group, options));
        let errors = self.errors.iter().map(|error| render_error(error, options));
        errors.chain(shown).collect::<Vec<_>>().join("\n")
    }
}

/// Whether two findings are one about several jobs, none of whose values is at fault.
fn says_the_same(one: &PolicyFinding, other: &PolicyFinding) -> bool {
    one.level == other.level
        && one.field.is_none()
        && other.field.is_none()
        && one.policy == other.policy
        && one.message == other.message
}

/// Shows findings that say the same, with the author's line of the first.
fn render_finding(source: &Source, findings: &[&PolicyFinding], options: RenderOptions) -> String {
    let (finding, others) = (findings[0], &findings[1..]);
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
    let job = match others {
        [] => job,
        [other] => format!("{job} and {}", other.job),
        others => format!("{job} and {} others", others.len()),
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

/// Runs every policy of `source` over those of `jobs` whose specs stand below it. `jobs` are all that there are.
pub fn review(
    evaluator: &Evaluator,
    source: &Source,
    jobs: &[EvaluatedJob],
) -> Result<PolicyReview, PolicyError> {
    review_files(evaluator, source, jobs, false)
}

/// As [`review`], where `jobs` are some of those that the specs of `source` export. A policy whose answer depends on
/// which jobs there are sees all of those below its folder.
pub fn review_some(
    evaluator: &Evaluator,
    source: &Source,
    jobs: &[EvaluatedJob],
) -> Result<PolicyReview, PolicyError> {
    review_files(evaluator, source, jobs, true)
}

fn review_files(
    evaluator: &Evaluator,
    source: &Source,
    jobs: &[EvaluatedJob],
    has_others: bool,
) -> Result<PolicyReview, PolicyError> {
    let mut review = PolicyReview::default();
    for file in policy_files(source, jobs)? {
        let folder = path::parent(&file);
        let below = jobs.iter().filter(|job| is_below(&job.file, folder));
        let asked = Asked {
            evaluator,
            source,
            file: &file,
            has_others,
        };
        asked.review(below.collect(), &mut review)?;
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
        let listed = source.folder(folder)?;
        let is_named = listed.is_some_and(|listed| listed.get(POLICY_FILE).is_some());
        let file = path::join(folder, POLICY_FILE);
        if is_named && source.kind(&file)?.is_some() {
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

/// A part of what a file of policies reports. A finding without a job is about all of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Ran(Ran),
    Broken {
        rule: usize,
        job: Option<usize>,
        error: Reported,
    },
    Found {
        rule: usize,
        job: Option<usize>,
        level: PolicyLevel,
        message: String,
        field: Option<String>,
    },
}

/// What a file of policies did.
#[derive(Deserialize)]
struct Ran {
    seen: usize,
    rules: Vec<PolicyRule>,
    #[serde(default)]
    reviewed: Vec<PolicyRule>,
    /// Whether the answer depends on which jobs there are.
    whole: bool,
    /// Whether a policy keeps something from one job for the next.
    remembers: bool,
    /// The rules over all jobs together, by their numbers.
    over_folder: BTreeSet<usize>,
}

impl Said {
    /// The rule, and the job that it is about.
    fn about(&self) -> Option<(usize, Option<usize>)> {
        match self {
            Said::Ran(_) => None,
            Said::Broken { rule, job, .. } | Said::Found { rule, job, .. } => Some((*rule, *job)),
        }
    }
}

/// One file of policies, and the jobs that it is asked about.
struct Asked<'a> {
    evaluator: &'a Evaluator,
    source: &'a Source,
    file: &'a str,
    /// Whether specs below the folder may export more jobs than are asked about.
    has_others: bool,
}

impl Asked<'_> {
    fn review(
        &self,
        jobs: Vec<&EvaluatedJob>,
        review: &mut PolicyReview,
    ) -> Result<(), PolicyError> {
        let Some((ran, said)) = self.run(&jobs, review)? else {
            return Ok(());
        };
        if !(ran.whole && self.has_others) {
            self.take_in(ran, said, &jobs, &jobs, review);
            return Ok(());
        }
        let specs = self
            .source
            .specs_if_any(&[path::parent(self.file).to_owned()])?;
        let outcome = crate::evaluate(self.evaluator, self.source, &specs)?;
        if let Some(first) = outcome.errors.first() {
            review.errors.push(self.blind(first));
            return Ok(());
        }
        let all: Vec<&EvaluatedJob> = outcome.jobs.iter().collect();
        if let Some((ran, said)) = self.run(&all, review)? {
            self.take_in(ran, said, &all, &jobs, review);
        }
        Ok(())
    }

    /// Has the file run over `jobs`; none if it did not judge them, which is noted.
    fn run(
        &self,
        jobs: &[&EvaluatedJob],
        review: &mut PolicyReview,
    ) -> Result<Option<(Ran, Vec<Said>)>, EvaluatorError> {
        let ran = sealed::run::<Said>(
            self.evaluator,
            self.source,
            Role::Policy,
            self.file,
            &Jobs(jobs),
        )?;
        if let Some(error) = ran.error {
            review.errors.push(error);
            return Ok(None);
        }
        let mut said = ran.report.into_iter();
        match said.next() {
            Some(Said::Ran(ran)) if ran.seen == jobs.len() => Ok(Some((ran, said.collect()))),
            _ => {
                let message = format!("the policies did not judge all of {} jobs", jobs.len());
                review.errors.push(self.broken(message));
                Ok(None)
            }
        }
    }

    /// Takes in what is said of the jobs asked about, and what depends on which jobs there are.
    fn take_in(
        &self,
        ran: Ran,
        said: Vec<Said>,
        judged: &[&EvaluatedJob],
        asked_about: &[&EvaluatedJob],
        review: &mut PolicyReview,
    ) {
        let wanted: BTreeSet<JobId> = asked_about.iter().map(|job| job.spec.id()).collect();
        for one in said {
            let Some((rule, number)) = one.about() else {
                review.errors.push(self.unasked());
                continue;
            };
            let depends = ran.remembers || ran.over_folder.contains(&rule);
            let about: Vec<&EvaluatedJob> = match number {
                Some(number) => judged.get(number).copied().into_iter().collect(),
                None => asked_about.to_vec(),
            };
            let about = about
                .into_iter()
                .filter(|job| depends || wanted.contains(&job.spec.id()));
            match ran.rules.get(rule) {
                Some(rule) if number.is_none_or(|number| number < judged.len()) => review
                    .report
                    .findings
                    .extend(self.findings(&one, rule, about)),
                _ => review.errors.push(self.unasked()),
            }
        }
        review.report.policies.extend(ran.rules);
        // A child can only speak for the file that it was given.
        let reviewed = ran.reviewed.into_iter().map(|rule| PolicyRule {
            file: self.file.to_owned(),
            ..rule
        });
        review.report.reviewed.extend(reviewed);
    }

    fn findings<'a>(
        &self,
        said: &Said,
        rule: &PolicyRule,
        about: impl Iterator<Item = &'a EvaluatedJob>,
    ) -> Vec<PolicyFinding> {
        about
            .filter_map(|job| finding(said, rule, job, self.file))
            .collect()
    }

    fn broken(&self, message: String) -> SpecError {
        SpecError::of_file(Code::PolicyBroken, self.file, message, None)
    }

    fn unasked(&self) -> SpecError {
        self.broken("the policies reported what they were not asked".to_owned())
    }

    /// Policies over all jobs of a folder, of which some are not known.
    fn blind(&self, first: &SpecError) -> SpecError {
        let message = format!(
            "the policies judge all jobs of the folder together, and {} has a mistake: {}",
            first.file, first.message
        );
        let hint = format!("mend it first; `tw check {}` shows all of it", first.file);
        SpecError::of_file(Code::PolicyBroken, self.file, message, Some(hint))
    }
}

fn finding(
    said: &Said,
    policy: &PolicyRule,
    job: &EvaluatedJob,
    file: &str,
) -> Option<PolicyFinding> {
    match said {
        Said::Ran(_) => None,
        Said::Broken { error, .. } => {
            let error = error.clone().located(file, Role::Policy);
            Some(PolicyFinding {
                level: PolicyLevel::Broken,
                job: job.spec.id(),
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
                policy: policy.clone(),
            })
        }
        Said::Found {
            level,
            message,
            field,
            ..
        } => {
            let field = field.as_deref().map(json_path);
            Some(PolicyFinding {
                level: *level,
                policy: policy.clone(),
                job: job.spec.id(),
                at: place(job, field.as_deref()),
                field,
                message: message.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_what_is_below_it_and_no_namesake() {
        assert!(is_below("web/config.tw", ""));
        assert!(is_below("web/a/config.tw", "web"));
        assert!(!is_below("website/config.tw", "web"));
    }
}
