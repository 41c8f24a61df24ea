//! What people decide of plans: an approval, a rejection, a way back.

use std::sync::Arc;

use tw_api::{AppliedJob, ApproveReply, ErrorBody, PlanReply};
use tw_model::{Approval, Code, JobId, PlanRecord, PlanState};
use tw_scheduler::{Plan, Review};
use tw_spec::Mirror;

use super::super::candidate::{Candidate, Obstacle};
use super::super::plan_reply;
use super::proposal::NotApplied;
use super::rows::{decided, expected, note, short};
use super::{Follower, blocking, refusal};
use crate::status::SHAPE;

impl Follower {
    pub(super) async fn approve(
        &mut self,
        digest: &str,
        by: String,
        reason: String,
    ) -> Result<ApproveReply, ErrorBody> {
        let row = self.open_plan(digest)?;
        if row.state == PlanState::Refused {
            return Err(ErrorBody::new(
                Code::PolicyRefused,
                format!("policy refuses plan {}", short(digest)),
            )
            .with_hint("change the jobs, or ask the owner of the policy"));
        }
        let message = format!("plan {} was approved, by {by}", short(digest));
        let row = decided(row, PlanState::Approved, by, reason);
        let mut repository = self.row();
        note(&mut repository, "plan.approved", message);
        self.review(Review {
            repository: Some(repository),
            plans: vec![row.clone()],
            ..Review::default()
        })
        .await?;
        tracing::info!(plan = digest, repository = %self.config.name, "a plan was approved");
        self.apply_approved(row, false).await
    }

    /// Applies a plan whose approval is durable. One that is stale makes way for a fresh one.
    pub(super) async fn apply_approved(
        &mut self,
        row: PlanRecord,
        carries_on: bool,
    ) -> Result<ApproveReply, ErrorBody> {
        let digest = row.digest.clone();
        let candidate = match self.candidate_of(&row).await {
            Ok(candidate) => candidate,
            Err(obstacle) => {
                self.give_back(row).await?;
                return Err(refusal(&obstacle));
            }
        };
        let submission = match &row.rollback {
            Some(job) => candidate.submission_of(job).unwrap_or_default(),
            None => self.submission(&candidate),
        };
        let approval = Approval::Reviewed {
            repository: self.config.name.clone(),
        };
        let applied = PlanRecord {
            state: PlanState::Applied,
            ..row.clone()
        };
        match self
            .apply(&candidate, submission, applied, approval, carries_on)
            .await
        {
            Ok(plan) => Ok(ApproveReply {
                version: SHAPE,
                digest,
                jobs: changed(&plan),
            }),
            Err(NotApplied::Refused(refusal)) => {
                self.give_back(row).await?;
                Err(refusal)
            }
            Err(NotApplied::Stale(refusal)) => {
                let fresh = self.plan_anew(row, &candidate).await?;
                Err(with_fresh(refusal, fresh.as_deref()))
            }
        }
    }

    /// Lets a plan wait again that could not be applied though nothing has moved.
    async fn give_back(&mut self, row: PlanRecord) -> Result<(), ErrorBody> {
        self.keep_plan(PlanRecord {
            state: PlanState::Waiting,
            decided: None,
            ..row
        })
        .await
    }

    /// Makes the plan that takes the place of a stale one. Returns its digest; none if nothing is left to do.
    async fn plan_anew(
        &mut self,
        stale: PlanRecord,
        candidate: &Arc<Candidate>,
    ) -> Result<Option<String>, ErrorBody> {
        let rollback = stale.rollback.clone();
        let submission = match &rollback {
            Some(job) => candidate.submission_of(job).unwrap_or_default(),
            None => self.submission(candidate),
        };
        let mut row = self.row();
        note(
            &mut row,
            "plan.stale",
            format!(
                "plan {} was approved and would be another one by now",
                short(&stale.digest)
            ),
        );
        let over = PlanRecord {
            state: PlanState::Superseded,
            ..stale
        };
        let plan = self.shared.driver.propose(submission).await?;
        let plan = self.shelve(candidate, plan);
        let mut plans = vec![over];
        let mut fresh = None;
        if !plan.jobs.is_empty() {
            let mut record = self.plan_of(candidate, &plan, rollback).await?;
            if record.waits_for.is_empty() {
                // Whoever approved the one before wants to see this one.
                record.waits_for = "the plan before it was approved, and was stale".to_owned();
            }
            if record.rollback.is_some() {
                self.rollbacks
                    .insert(record.digest.clone(), Arc::clone(candidate));
            }
            fresh = Some(record.digest.clone());
            plans.push(record);
        }
        self.review(Review {
            repository: Some(row),
            plans,
            ..Review::default()
        })
        .await?;
        Ok(fresh)
    }

    pub(super) async fn reject(
        &mut self,
        digest: &str,
        by: String,
        reason: String,
    ) -> Result<(), ErrorBody> {
        let plan = self.open_plan(digest)?;
        let mut row = self.row();
        note(
            &mut row,
            "plan.rejected",
            format!("plan {} was rejected, by {by}", short(digest)),
        );
        let plans = vec![decided(plan, PlanState::Rejected, by, reason)];
        self.review(Review {
            repository: Some(row),
            plans,
            ..Review::default()
        })
        .await
        .map(drop)
    }

    pub(super) async fn roll_back(
        &mut self,
        job: &JobId,
        revision: &str,
    ) -> Result<PlanReply, ErrorBody> {
        let (path, named) = (self.mirror.clone(), revision.to_owned());
        let resolved = blocking(move || Mirror::open(&path)?.resolve(&named)).await;
        let resolved = resolved.map_err(|obstacle| refusal(&obstacle))?;
        let commit = resolved.map_err(|cause| {
            ErrorBody::new(Code::RepositoryNoCommit, cause.to_string()).with_hint(format!(
                "`tw history {job}` lists the commits that changed it"
            ))
        })?;
        // What policy says now is what counts, and not what it said then.
        let judge = self.row().applied.map(|applied| applied.id);
        let candidate = self.evaluate(&commit, judge).await;
        let candidate = Arc::new(candidate.map_err(|obstacle| refusal(&obstacle))?);
        let submission = candidate.submission_of(job).ok_or_else(|| {
            ErrorBody::new(
                Code::JobNotFound,
                format!("commit {} has no job {job}", candidate.commit.short()),
            )
        })?;
        let plan = self.shared.driver.propose(submission).await?;
        let plan = self.shelve(&candidate, plan);
        let row = self.plan_of(&candidate, &plan, Some(job.clone())).await?;
        if plan.jobs.is_empty() {
            return Ok(plan_reply(row, Some(&plan)));
        }
        self.rollbacks.insert(row.digest.clone(), candidate);
        self.keep_plan(row.clone()).await?;
        Ok(plan_reply(row, Some(&plan)))
    }

    /// The jobs of the commit that a plan is of.
    async fn candidate_of(&mut self, row: &PlanRecord) -> Result<Arc<Candidate>, Obstacle> {
        if row.rollback.is_some() {
            if let Some(known) = self.rollbacks.get(&row.digest) {
                return Ok(Arc::clone(known));
            }
            let judge = self.row().applied.map(|applied| applied.id);
            return Ok(Arc::new(self.evaluate(&row.commit.id, judge).await?));
        }
        match &self.candidate {
            Some(known) if known.commit.id == row.commit.id => Ok(Arc::clone(known)),
            _ => Ok(Arc::new(self.evaluate(&row.commit.id, None).await?)),
        }
    }

    /// A plan on which someone may decide.
    fn open_plan(&self, digest: &str) -> Result<PlanRecord, ErrorBody> {
        let row = self
            .plan_row(digest)
            .filter(|row| row.repository == self.config.name);
        let row = row.ok_or_else(|| {
            ErrorBody::new(
                Code::PlanNotFound,
                format!("no plan has the digest {digest}"),
            )
        })?;
        if matches!(
            row.state,
            PlanState::Waiting | PlanState::Refused | PlanState::Approved
        ) {
            return Ok(row);
        }
        if row.state == PlanState::Superseded {
            return Err(self.gave_way(&row));
        }
        let by = row.decided.as_ref().map_or_else(String::new, |decided| {
            format!(", by {} at {}", decided.by, decided.at)
        });
        let message = format!("plan {} is {}{by}", short(digest), row.state);
        Err(ErrorBody::new(Code::PlanDecided, message)
            .with_hint("`tw plans` lists those that wait"))
    }

    /// The refusal of a plan in whose place another one waits.
    fn gave_way(&self, row: &PlanRecord) -> ErrorBody {
        let waiting = self.shared.hub.read(|view| {
            let mut rows = view.plans().filter(|other| {
                other.repository == row.repository
                    && other.rollback == row.rollback
                    && other.state == PlanState::Waiting
            });
            rows.next().map(|other| other.digest.clone())
        });
        let plan = waiting
            .as_deref()
            .and_then(|digest| self.shared.shelf.find(digest));
        let moved = plan.map(|plan| tw_scheduler::moved_between(&expected(row), &plan));
        let moved = moved.unwrap_or_default();
        let message = format!("plan {} is superseded", short(&row.digest));
        let message = match moved.is_empty() {
            true => message,
            false => format!("{message}: {}", moved.join("; ")),
        };
        let refusal = ErrorBody::new(Code::PlanStale, message);
        match moved.is_empty() {
            true => with_fresh(refusal, waiting.as_deref()),
            false => with_fresh(
                refusal.with_details(serde_json::json!(moved)),
                waiting.as_deref(),
            ),
        }
    }
}

fn changed(plan: &Plan) -> Vec<AppliedJob> {
    let jobs = plan.jobs.iter().map(|job| AppliedJob {
        job: job.job.clone(),
        version: job.version,
        changed: true,
    });
    jobs.collect()
}

fn with_fresh(refusal: ErrorBody, fresh: Option<&str>) -> ErrorBody {
    let hint = match fresh {
        Some(digest) => format!("a fresh plan waits: `tw plans {}` shows it", short(digest)),
        None => "`tw plans` lists those that wait; there may be nothing left to do".to_owned(),
    };
    refusal.with_hint(hint)
}
