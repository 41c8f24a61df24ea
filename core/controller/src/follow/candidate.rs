//! What a commit wants, found out by the controller itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use tw_model::{
    Cause, Code, CommitRef, DEFAULT_NAMESPACE, Digest, JobId, Name, PolicyReport, SourceRef,
};
use tw_scheduler::{Submission, SubmittedJob};
use tw_spec::{
    Cache, EvalConfig, EvaluatedJob, Evaluator, Mirror, Outcome, RenderOptions, Source, SpecDiff,
    SpecError, Tree, render_errors,
};

use crate::config::RepositoryConfig;

/// The most of what is wrong with a commit that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 4000;
/// The most jobs that one repository may have: their names are in one row.
const JOBS_MAX: usize = 10_000;

/// A commit that evaluates.
pub(super) struct Candidate {
    pub(super) commit: CommitRef,
    pub(super) jobs: Vec<SubmittedJob>,
    pub(super) policy: PolicyReport,
    /// The spec file of each job.
    pub(super) files: BTreeMap<Name, String>,
    /// The folder of each package.
    pub(super) packages: BTreeMap<Digest, String>,
    pub(super) source: Source,
    /// What its specs change since the commit that was applied; none where that is not known.
    pub(super) origins: Option<SpecDiff>,
}

/// The commits that an evaluation looks at.
pub(super) struct Sides<'a> {
    pub(super) commit: &'a str,
    /// The one that is applied now.
    pub(super) base: Option<&'a str>,
    /// The one whose policies judge the jobs, if these are not the commit's own.
    pub(super) judge: Option<&'a str>,
}

/// What stands in the way of a commit, or of all of them.
#[derive(Clone, Debug)]
pub(super) struct Obstacle {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Obstacle {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Obstacle {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let mut end = MESSAGE_BYTES_MAX;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        Obstacle { code, message }
    }
}

/// Evaluates a commit, sealed and twice under different conditions.
///
/// Blocks.
pub(super) fn evaluate(
    mirror: &Mirror,
    sides: &Sides<'_>,
    config: &RepositoryConfig,
    cache: &Arc<Cache>,
) -> Result<Candidate, Obstacle> {
    let broken =
        |cause: &dyn std::error::Error| Obstacle::new(Code::RepositoryBroken, chain(cause));
    let commit = mirror
        .commit(sides.commit)
        .map_err(|cause| broken(&cause))?;
    let source = mirror.source(&commit.id).map_err(|cause| broken(&cause))?;
    let specs = source
        .specs_if_any(&config.folders)
        .map_err(|cause| broken(&cause))?;
    let evaluator = Evaluator::start(EvalConfig {
        cache: Some(Arc::clone(cache)),
        ..EvalConfig::default()
    })
    .map_err(|cause| broken(&cause))?;
    let outcome = tw_spec::evaluate_strictly(&evaluator, &source, &specs);
    let outcome = outcome.map_err(|cause| broken(&cause))?;
    cache.flush();
    mistakes(&commit, &outcome.errors)?;
    let jobs = placed(outcome, config)?;
    let policies = match sides.judge {
        Some(judge) => mirror.source(judge).map_err(|cause| broken(&cause))?,
        None => source.clone(),
    };
    let review = tw_spec::review(&evaluator, &policies, &jobs).map_err(|cause| broken(&cause))?;
    mistakes(&commit, &review.errors)?;
    let tree = Tree {
        source: &source,
        specs: &specs,
    };
    let origins = sides
        .base
        .and_then(|base| origins(mirror, &evaluator, base, tree, config));
    cache.flush();
    Ok(Candidate {
        origins,
        jobs: jobs.iter().map(|job| submitted(job, &commit)).collect(),
        policy: review.report,
        files: jobs
            .iter()
            .map(|job| (job.spec.name.clone(), job.file.clone()))
            .collect(),
        packages: jobs
            .iter()
            .flat_map(|job| &job.spec.packages)
            .map(|package| (package.digest.clone(), package.path.0.clone()))
            .collect(),
        source,
        commit,
    })
}

/// Compares a commit with the one that is applied. A plan without it lacks a courtesy and nothing else.
fn origins(
    mirror: &Mirror,
    evaluator: &Evaluator,
    base: &str,
    head: Tree<'_>,
    config: &RepositoryConfig,
) -> Option<SpecDiff> {
    let source = mirror.source(base).ok()?;
    let specs = source.specs_if_any(&config.folders).ok()?;
    let base = Tree {
        source: &source,
        specs: &specs,
    };
    Some(tw_spec::diff(evaluator, base, head).ok()?.diff)
}

impl Candidate {
    /// Where a change comes from. In the specs, the job may have no namespace yet.
    pub(super) fn cause_of(&self, job: &JobId, path: &str) -> Option<Cause> {
        let origins = self.origins.as_ref()?;
        let namespaces = [job.namespace.as_str(), DEFAULT_NAMESPACE];
        let mut found = namespaces
            .iter()
            .filter_map(|namespace| origins.cause_of(namespace, job.name.as_str(), path));
        found.next().cloned()
    }

    /// All jobs of the commit, in place of those that the repository had.
    pub(super) fn submission(&self, namespace: &Name, had: &BTreeMap<Name, String>) -> Submission {
        let gone = had.keys().filter(|name| !self.files.contains_key(*name));
        Submission {
            jobs: self.jobs.clone(),
            remove: gone
                .map(|name| JobId::new(namespace.clone(), name.clone()))
                .collect(),
            policy: self.policy.clone(),
            ..Submission::default()
        }
    }

    /// One job of the commit.
    pub(super) fn submission_of(&self, job: &JobId) -> Option<Submission> {
        let one = self.jobs.iter().find(|one| one.spec.id() == *job)?;
        let mut policy = self.policy.clone();
        policy.findings.retain(|finding| finding.job == *job);
        Some(Submission {
            jobs: vec![one.clone()],
            policy,
            ..Submission::default()
        })
    }
}

fn mistakes(commit: &CommitRef, errors: &[SpecError]) -> Result<(), Obstacle> {
    if errors.is_empty() {
        return Ok(());
    }
    let rendered = render_errors(errors, RenderOptions { color: false });
    let what = match errors.len() {
        1 => "a mistake".to_owned(),
        several => format!("{several} mistakes"),
    };
    let message = format!("commit {} has {what}:\n{rendered}", commit.short());
    Err(Obstacle::new(Code::RepositoryBroken, message.trim_end()))
}

/// The jobs in the repository's namespace.
fn placed(outcome: Outcome, config: &RepositoryConfig) -> Result<Vec<EvaluatedJob>, Obstacle> {
    let mut jobs = outcome.jobs;
    if jobs.len() > JOBS_MAX {
        let message = format!(
            "the commit has {} jobs; one repository may have {JOBS_MAX}",
            jobs.len()
        );
        return Err(Obstacle::new(Code::RepositoryBroken, message));
    }
    for job in &mut jobs {
        if job.spec.namespace.as_str() == DEFAULT_NAMESPACE {
            job.spec.namespace = config.namespace.clone();
        } else if job.spec.namespace != config.namespace {
            let message = format!(
                "{}: job '{}' is in namespace '{}', and this repository's jobs are in '{}'; leave its namespace out",
                job.source, job.spec.name, job.spec.namespace, config.namespace
            );
            return Err(Obstacle::new(Code::RepositoryBroken, message));
        }
    }
    let mut names: Vec<&Name> = jobs.iter().map(|job| &job.spec.name).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Obstacle::new(
            Code::RepositoryBroken,
            format!(
                "two jobs are called '{}' in namespace '{}'",
                pair[0], config.namespace
            ),
        )),
        None => Ok(jobs),
    }
}

fn submitted(job: &EvaluatedJob, commit: &CommitRef) -> SubmittedJob {
    SubmittedJob {
        spec: job.spec.clone(),
        source: SourceRef {
            file: job.source.file.clone(),
            line: job.source.line,
            revision: commit.id.clone(),
        },
    }
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
