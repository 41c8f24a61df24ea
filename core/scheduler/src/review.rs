//! What is followed and reviewed: rows about repositories and plans, and jobs that must come from a reviewed commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use tw_model::{
    DECIDED_PLANS_KEPT, JobId, Location, Name, PlanRecord, PolicyFinding, PolicyLevel, PolicyRule,
    Record, RecordKey, RepositoryRecord,
};

use crate::draft::Draft;
use crate::plan::{ExpectedPlan, Plan, Submission, SubmittedJob, plan};
use crate::step::{Reply, submit};
use crate::{Op, State};

/// Rows about a repository and its plans. With a submission, they are written only if that is accepted, after
/// everything that it writes.
#[derive(Clone, Debug, Default)]
pub struct Review {
    pub repository: Option<RepositoryRecord>,
    pub plans: Vec<PlanRecord>,
    /// Repositories that are followed no more.
    pub forget: Vec<Name>,
    /// What is to be applied, and the plan that was let through.
    pub submission: Option<(Submission, ExpectedPlan)>,
    /// Whether the submission may have been applied in part, by a controller that ended over it.
    pub carries_on: bool,
}

pub(crate) fn review(draft: &mut Draft, review: &Review) -> Reply {
    let mut reply = Reply::Reviewed;
    if let Some((submission, expected)) = &review.submission {
        reply = match review.carries_on && is_rest(draft, submission, expected) {
            true => {
                // The whole was confirmed.
                let rest = Submission {
                    confirm: None,
                    ..submission.clone()
                };
                submit(draft, &rest, None)
            }
            false => submit(draft, submission, Some(expected)),
        };
        if matches!(reply, Reply::Refused(_)) {
            return reply;
        }
    }
    for name in &review.forget {
        draft.review(Op::Delete(RecordKey::Repository(name.clone())));
    }
    for digest in over(draft.base(), &review.plans) {
        draft.review(Op::Delete(RecordKey::Plan(digest)));
    }
    for row in &review.plans {
        draft.review(Op::Put(Record::Plan(Arc::new(row.clone()))));
    }
    if let Some(row) = &review.repository {
        draft.review(Op::Put(Record::Repository(Arc::new(row.clone()))));
    }
    reply
}

fn is_rest(draft: &Draft, submission: &Submission, expected: &ExpectedPlan) -> bool {
    plan(draft.base(), submission, draft.now, draft.seed)
        .is_ok_and(|plan| continues(draft.base(), expected, &plan))
}

/// Whether a plan is the rest of one that was applied in part: what is left is as it was said, and what is not left
/// was done by that plan.
pub fn continues(state: &State, expected: &ExpectedPlan, plan: &Plan) -> bool {
    let left: BTreeSet<&JobId> = plan.jobs.iter().map(|job| &job.job).collect();
    let as_said = plan
        .jobs
        .iter()
        .all(|job| expected.basis.contains(&job.basis()));
    let done = |id: &JobId| {
        let job = state.job(id);
        job.is_some_and(|job| job.row().stopped || job.current().plan == expected.digest)
    };
    let mut others = expected
        .basis
        .iter()
        .map(|basis| &basis.job)
        .filter(|id| !left.contains(id));
    !expected.basis.is_empty() && as_said && others.all(done)
}

/// The oldest decided plans, as far as they are too many.
fn over(state: &State, coming: &[PlanRecord]) -> Vec<String> {
    let is_coming = |row: &PlanRecord| coming.iter().any(|one| one.digest == row.digest);
    let mut decided: Vec<&PlanRecord> = state
        .plans()
        .filter(|row| row.state.is_decided() && !is_coming(row))
        .collect();
    decided.sort_by_key(|row| row.made_at);
    let kept = DECIDED_PLANS_KEPT.saturating_sub(coming.len());
    let over = decided.len().saturating_sub(kept);
    decided[..over]
        .iter()
        .map(|row| row.digest.clone())
        .collect()
}

/// What stands against jobs that someone submits by hand: the policies of followed repositories that let jobs of
/// their folders come from reviewed commits alone.
///
/// The file that a submission names can only bring a job under such a policy, never out of it.
pub fn from_nowhere(state: &State, jobs: &[SubmittedJob], remove: &[JobId]) -> Vec<PolicyFinding> {
    let submitted = jobs.iter().map(|job| {
        let at = Location {
            file: job.source.file.clone(),
            line: job.source.line,
            column: 1,
        };
        (job.spec.id(), Some(at))
    });
    let removed = remove.iter().map(|id| (id.clone(), None));
    let mut findings: Vec<PolicyFinding> = submitted
        .chain(removed)
        .filter_map(|(job, at)| finding(state, job, at))
        .collect();
    findings.sort_by(|a, b| a.job.cmp(&b.job));
    findings
}

fn finding(state: &State, job: JobId, at: Option<Location>) -> Option<PolicyFinding> {
    let (repository, rule) = state.repositories().find_map(|repository| {
        let claimed = at.as_ref().map(|at| at.file.as_str());
        Some((repository, ruling(repository, &job, claimed)?))
    })?;
    let at = at.unwrap_or_else(|| Location {
        file: rule.file.clone(),
        line: rule.line,
        column: 1,
    });
    let whose = match rule.folder() {
        "" => "its jobs come".to_owned(),
        folder => format!("jobs below '{folder}' come"),
    };
    Some(PolicyFinding {
        level: PolicyLevel::Forbid,
        policy: rule.clone(),
        job,
        field: None,
        message: format!(
            "{whose} from reviewed commits of branch '{}' of repository {} alone",
            repository.branch, repository.name
        ),
        at,
    })
}

/// The rule that holds over a job, by where the repository has it, or by where it is said to be.
fn ruling<'a>(
    repository: &'a RepositoryRecord,
    job: &JobId,
    claimed: Option<&str>,
) -> Option<&'a PolicyRule> {
    if repository.namespace != job.namespace {
        return None;
    }
    let known = repository.jobs.get(&job.name).map(String::as_str);
    let files = [known, claimed];
    repository.reviewed.iter().find(|rule| {
        rule.folder().is_empty() || files.iter().flatten().any(|file| rule.covers(file))
    })
}
