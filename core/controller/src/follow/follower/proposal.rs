//! The plan of a commit: made, kept for those who look at it, applied where nobody need look.

use std::sync::Arc;

use tw_api::ErrorBody;
use tw_model::{Approval, Code, FollowMode, JobId, PlanRecord, PlanState};
use tw_scheduler::{Plan, Review, Submission, Verdict};
use tw_spec::Mirror;

use super::super::candidate::{Candidate, Obstacle, chain};
use super::super::superseded;
use super::rows::{basis, decided, expected, make_applied, note, short};
use super::{Follower, blocking, refusal};
use crate::clock;
use crate::registry::PackageDigest;

/// How often a plan is made anew because the cluster moved on before it was applied.
const ATTEMPTS: usize = 3;

/// Why a plan was not applied.
pub(super) enum NotApplied {
    /// It would be another plan by now.
    Stale(ErrorBody),
    Refused(ErrorBody),
}

impl Follower {
    /// Plans a commit, and applies the plan or lets it wait. Returns what stands in its way.
    pub(super) async fn propose(
        &mut self,
        candidate: &Arc<Candidate>,
    ) -> Result<Option<Obstacle>, ErrorBody> {
        for _ in 0..ATTEMPTS {
            self.check_owners(candidate)?;
            let submission = self.submission(candidate);
            let plan = self.shared.driver.propose(submission.clone()).await?;
            let plan = self.shelve(candidate, plan);
            if plan.jobs.is_empty() {
                self.settled(candidate).await?;
                return Ok(None);
            }
            let known = self.plan_row(&plan.digest);
            if known
                .as_ref()
                .is_some_and(|row| row.state == PlanState::Rejected)
            {
                return Ok(None);
            }
            let row = self.plan_of(candidate, &plan, None).await?;
            if row.state == PlanState::Refused || !row.waits_for.is_empty() {
                let refused = row.state == PlanState::Refused;
                if !known.is_some_and(|known| is_same(&known, &row)) {
                    tracing::info!(repository = %self.config.name, plan = row.digest, "a plan waits");
                    self.keep_plan_of_branch(row).await?;
                }
                let obstacle = || Obstacle::new(Code::PolicyRefused, policy_refusals(&plan));
                return Ok(refused.then(obstacle));
            }
            let by = format!("repository {}", self.config.name);
            let approval = Approval::Followed {
                repository: self.config.name.clone(),
            };
            let decided = decided(row, PlanState::Applied, by, String::new());
            match self
                .apply(candidate, submission, decided, approval, false)
                .await
            {
                Ok(_) => return Ok(None),
                Err(NotApplied::Stale(_)) => {}
                Err(NotApplied::Refused(refusal)) => return Err(refusal),
            }
        }
        Ok(None)
    }

    /// Keeps a plan for those who look at it, with where its changes come from.
    pub(super) fn shelve(&self, candidate: &Candidate, mut plan: Plan) -> Arc<Plan> {
        if let Some(origins) = &candidate.origins {
            plan.explain(
                |job, path| candidate.cause_of(job, path),
                origins.modules.clone(),
            );
        }
        self.shared.shelf.put(plan)
    }

    /// What the commit is to make of the cluster.
    pub(super) fn submission(&self, candidate: &Candidate) -> Submission {
        let row = self.row();
        let mut submission = candidate.submission(&self.config.namespace, &row.jobs);
        self.shared.hub.read(|view| {
            let runs = |id: &JobId| view.job(id).is_some_and(|(record, _)| !record.stopped);
            submission.remove.retain(runs);
        });
        submission
    }

    /// Refuses jobs that another repository has.
    fn check_owners(&self, candidate: &Candidate) -> Result<(), ErrorBody> {
        let taken = self.shared.hub.read(|view| {
            let mut others = view.repositories().filter(|row| {
                row.name != self.config.name && row.namespace == self.config.namespace
            });
            others.find_map(|row| {
                let mut names = candidate.files.keys();
                let name = names.find(|name| row.jobs.contains_key(*name))?;
                Some((name.clone(), row.name.clone()))
            })
        });
        match taken {
            None => Ok(()),
            Some((job, other)) => Err(ErrorBody::new(
                Code::RepositoryBroken,
                format!("job '{job}' comes from repository {other} already"),
            )),
        }
    }

    /// The row of a plan that was just made.
    pub(super) async fn plan_of(
        &self,
        candidate: &Candidate,
        plan: &Plan,
        rollback: Option<JobId>,
    ) -> Result<PlanRecord, ErrorBody> {
        let refused = plan.policy.refuses();
        let waits_for = match rollback {
            Some(_) => "a rollback is approved by someone".to_owned(),
            None => self.waits_for(candidate, plan).await?,
        };
        Ok(PlanRecord {
            digest: plan.digest.clone(),
            repository: self.config.name.clone(),
            commit: candidate.commit.clone(),
            rollback,
            made_at: clock::wall(),
            waits_for,
            state: match refused {
                true => PlanState::Refused,
                false => PlanState::Waiting,
            },
            decided: None,
            basis: basis(plan),
        })
    }

    /// Why a plan is not applied by itself; empty where it is.
    async fn waits_for(&self, candidate: &Candidate, plan: &Plan) -> Result<String, ErrorBody> {
        if self.config.mode == FollowMode::Approve {
            return Ok("its repository's plans are approved by someone".to_owned());
        }
        let applied = self.row().applied;
        if let Some(applied) = applied.filter(|applied| applied.id != candidate.commit.id) {
            let (path, commit) = (self.mirror.clone(), candidate.commit.id.clone());
            let earlier = applied.id.clone();
            let builds_on = blocking(move || Mirror::open(&path)?.builds_on(&commit, &earlier));
            let builds_on = builds_on.await.map_err(|obstacle| refusal(&obstacle))?;
            if !builds_on.unwrap_or(false) {
                return Ok(format!(
                    "the branch was rewritten: it does not build on {}, which was applied last",
                    applied.short()
                ));
            }
        }
        if let Some(over) = plan.allowances.iter().find(|one| one.over) {
            return Ok(over.to_string());
        }
        if let Some(confirmation) = &plan.confirmation {
            return Ok(format!("it {confirmation}"));
        }
        if let Some((job, _)) = plan.destructive.first() {
            return Ok(format!("it destroys something of {job}"));
        }
        let waiting = plan.jobs.iter().find_map(|job| match &job.verdict {
            Verdict::DoesNotFit { tasks, .. } => Some((&job.job, *tasks)),
            _ => None,
        });
        Ok(match waiting {
            Some((job, tasks)) => format!("{tasks} tasks of {job} would find no room"),
            None => String::new(),
        })
    }

    /// Writes down that the cluster is as a commit wants it.
    async fn settled(&mut self, candidate: &Candidate) -> Result<(), ErrorBody> {
        let mut row = self.row();
        let plans = superseded(&self.shared.hub, &self.config.name, |plan| {
            plan.rollback.is_none()
        });
        if row.applied.as_ref() == Some(&candidate.commit) && plans.is_empty() {
            return Ok(());
        }
        if row.applied.as_ref() != Some(&candidate.commit) {
            let message = format!("{} changes nothing that runs", candidate.commit.short());
            note(&mut row, "commit.applied", message);
        }
        make_applied(&mut row, candidate);
        row.trouble = None;
        self.review(Review {
            repository: Some(row),
            plans,
            ..Review::default()
        })
        .await
        .map(drop)
    }

    /// Submits what a plan said, and writes down with it that it is applied.
    pub(super) async fn apply(
        &mut self,
        candidate: &Arc<Candidate>,
        mut submission: Submission,
        plan: PlanRecord,
        approval: Approval,
        carries_on: bool,
    ) -> Result<Plan, NotApplied> {
        self.bring_packages(candidate, &submission)
            .await
            .map_err(NotApplied::Refused)?;
        submission.by = plan
            .decided
            .as_ref()
            .map_or_else(String::new, |decided| decided.by.clone());
        // Who approves a plan names its digest.
        submission.confirmed = match &approval {
            Approval::Reviewed { .. } => Some(plan.digest.clone()),
            _ => None,
        };
        submission.approval = approval;
        let mut row = self.row();
        let message = match &plan.rollback {
            Some(job) => format!(
                "plan {} brought {job} back to {}, by {}",
                short(&plan.digest),
                candidate.commit.short(),
                submission.by
            ),
            None => format!(
                "plan {} of {} was applied, by {}",
                short(&plan.digest),
                candidate.commit.short(),
                submission.by
            ),
        };
        note(&mut row, "plan.applied", message);
        if plan.rollback.is_none() {
            make_applied(&mut row, candidate);
            row.trouble = None;
        }
        let others = superseded(&self.shared.hub, &self.config.name, |other| {
            other.digest != plan.digest && other.rollback.is_none()
        });
        let expected = expected(&plan);
        let review = Review {
            repository: Some(row),
            plans: std::iter::once(plan).chain(others).collect(),
            submission: Some((submission, expected)),
            carries_on,
            ..Review::default()
        };
        match self.review(review).await {
            Ok(Some(applied)) => Ok(applied),
            Ok(None) => Err(NotApplied::Refused(ErrorBody::new(
                Code::RequestInvalid,
                "the scheduler had no answer to this request",
            ))),
            Err(refusal) if refusal.code == Code::PlanStale => Err(NotApplied::Stale(refusal)),
            Err(refusal) => Err(NotApplied::Refused(refusal)),
        }
    }

    /// Puts the packages of what is submitted into the registry, from the commit. Refused where a secret has no value.
    async fn bring_packages(
        &self,
        candidate: &Arc<Candidate>,
        submission: &Submission,
    ) -> Result<(), ErrorBody> {
        let specs = submission.jobs.iter().map(|job| &job.spec);
        self.shared.secrets.check(specs)?;
        let packages = submission.jobs.iter().flat_map(|job| &job.spec.packages);
        let digests: std::collections::BTreeSet<_> =
            packages.map(|package| package.digest.clone()).collect();
        let (registry, candidate) = (Arc::clone(&self.shared.registry), Arc::clone(candidate));
        let brought = blocking(move || {
            for digest in digests {
                let name = PackageDigest::parse(&digest.0)?;
                if registry.size_bytes(&name).is_some() {
                    registry.touch(&name);
                    continue;
                }
                let folder = candidate.packages.get(&digest).cloned().unwrap_or_default();
                let packed = tw_spec::package::pack(&candidate.source, &folder)
                    .map_err(|cause| ErrorBody::new(Code::PackageInvalid, chain(&cause)))?;
                let mut upload = registry.upload(name)?;
                upload.write(&packed.archive.into())?;
                upload.finish()?;
            }
            Ok(())
        });
        brought.await.map_err(|obstacle| refusal(&obstacle))?
    }
}

/// Whether nothing about a plan is new to those who wait for it.
fn is_same(known: &PlanRecord, plan: &PlanRecord) -> bool {
    (known.state, &known.commit, &known.waits_for) == (plan.state, &plan.commit, &plan.waits_for)
}

fn policy_refusals(plan: &Plan) -> String {
    let findings = plan.policy.findings.iter().filter(|found| found.refuses());
    let said: Vec<String> = findings
        .map(|found| format!("{}: {}, says {}", found.job, found.message, found.policy))
        .collect();
    format!("policy refuses what was planned: {}", said.join("; "))
}
