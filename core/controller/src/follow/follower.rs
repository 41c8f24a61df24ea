//! One repository: looks at its branch, plans its newest commit, applies what may be applied.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tw_api::{AppliedJob, ApproveReply, ErrorBody, PlanReply};
use tw_model::{
    Approval, Code, CommitRef, FollowMode, JobId, PlanDecision, PlanRecord, PlanState,
    REPOSITORY_EVENTS_KEPT, RepositoryEvent, RepositoryRecord, Timestamp, Trouble,
};
use tw_scheduler::{ExpectedPlan, Plan, PlanBasis, Review, Submission, Verdict};
use tw_spec::{Mirror, MirrorError};

use super::candidate::{self, Candidate, Obstacle, chain};
use super::{Moments, Order, Shared, plan_reply, superseded};
use crate::clock;
use crate::config::RepositoryConfig;
use crate::registry::PackageDigest;
use crate::status::SHAPE;

/// The longest wait before a branch that cannot be fetched is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// How often a plan is made anew because the cluster moved on before it was applied.
const ATTEMPTS: usize = 3;
/// The most jobs whose basis is kept with a plan; of a larger one a refusal says less of what has moved.
const BASIS_JOBS_MAX: usize = 1000;

/// The one task that follows a repository.
pub(super) struct Follower {
    config: RepositoryConfig,
    mirror: PathBuf,
    shared: Arc<Shared>,
    moments: Arc<Mutex<Moments>>,
    /// The newest commit that evaluates.
    candidate: Option<Arc<Candidate>>,
    /// The newest commit that does not, so that it is not evaluated again.
    broken: Option<(String, Obstacle)>,
    /// What rollbacks go back to, by the digests of their plans.
    rollbacks: HashMap<String, Arc<Candidate>>,
    /// Fetches that failed since the last that did not.
    failures: u32,
}

/// Why a plan was not applied.
enum NotApplied {
    /// It would be another plan by now.
    Stale(ErrorBody),
    Refused(ErrorBody),
}

/// A repository of which nothing is known yet.
pub(super) fn fresh(config: &RepositoryConfig) -> RepositoryRecord {
    RepositoryRecord {
        name: config.name.clone(),
        url: config.remote.shown(),
        branch: config.remote.branch.clone(),
        namespace: config.namespace.clone(),
        head: None,
        applied: None,
        applied_at: None,
        jobs: Default::default(),
        reviewed: Vec::new(),
        trouble: None,
        events: Vec::new(),
    }
}

impl Follower {
    pub(super) fn new(
        config: RepositoryConfig,
        mirror: PathBuf,
        shared: Arc<Shared>,
        moments: Arc<Mutex<Moments>>,
    ) -> Follower {
        Follower {
            config,
            mirror,
            shared,
            moments,
            candidate: None,
            broken: None,
            rollbacks: HashMap::new(),
            failures: 0,
        }
    }

    /// Follows for ever.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.carry_on().await;
        loop {
            let next = Instant::now() + self.look().await;
            loop {
                let order = tokio::select! {
                    order = orders.recv() => order,
                    () = sleep_until(next) => break,
                };
                match order {
                    Some(Order::Fetch { answer }) => {
                        self.look().await;
                        // Whoever asked may have gone; so below.
                        let _ = answer.send(());
                    }
                    Some(order) => self.obey(order).await,
                    None => return,
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Fetch { .. } => {}
            Order::Approve {
                digest,
                by,
                reason,
                answer,
            } => {
                let _ = answer.send(self.approve(&digest, by, reason).await);
            }
            Order::Reject {
                digest,
                by,
                reason,
                answer,
            } => {
                let _ = answer.send(self.reject(&digest, by, reason).await);
            }
            Order::RollBack {
                job,
                revision,
                answer,
            } => {
                let _ = answer.send(self.roll_back(&job, &revision).await);
            }
        }
    }

    /// Looks at the branch, and deals with what is new. Returns the wait until the next look.
    async fn look(&mut self) -> Duration {
        let fetched = self.fetch().await;
        let outcome = match fetched {
            Ok(head) => {
                self.failures = 0;
                self.moments().fetched_at = Some(clock::wall());
                self.reach(&head).await
            }
            Err(obstacle) => {
                self.failures = self.failures.saturating_add(1);
                self.trouble(Some(obstacle)).await
            }
        };
        if let Err(cause) = outcome {
            tracing::warn!(repository = %self.config.name, %cause, "looking at a branch failed; trying again");
        }
        let factor = 2_u32.saturating_pow(self.failures.min(16));
        let limit = BACKOFF_MAX.max(self.config.poll_every);
        let wait = self.config.poll_every.saturating_mul(factor).min(limit);
        let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        self.moments().next_fetch_at = Some(Timestamp(clock::wall().0.saturating_add(micros)));
        wait
    }

    async fn fetch(&self) -> Result<String, Obstacle> {
        let (path, remote) = (self.mirror.clone(), self.config.remote.clone());
        let fetched = blocking(move || Mirror::open(&path)?.fetch(&remote)).await?;
        fetched.map_err(|cause| {
            let code = match &cause {
                MirrorError::NoBranch { .. } => Code::RepositoryBranchGone,
                _ => Code::RepositoryUnreachable,
            };
            Obstacle::new(code, chain(&cause))
        })
    }

    /// Deals with the commit that the branch is at.
    async fn reach(&mut self, head: &str) -> Result<(), ErrorBody> {
        let row = self.row();
        let known = row.head.as_ref().map(|commit| commit.id.as_str());
        if known != Some(head) {
            self.note_head(&row, head).await?;
        }
        if self.is_applied(head) && !self.has_open_plans() {
            return self.trouble(None).await;
        }
        let obstacle = match self.evaluate_head(head).await {
            Ok(candidate) => match self.propose(&candidate).await {
                Ok(obstacle) => obstacle,
                // What the store cannot take now is tried again; what is wrong with the jobs is said.
                Err(refusal) if refusal.code == Code::StoreUnavailable => return Err(refusal),
                Err(refusal) => Some(obstacle_of(&candidate.commit, &refusal)),
            },
            Err(obstacle) => Some(obstacle),
        };
        self.trouble(obstacle).await
    }

    /// Writes down that the branch is at another commit, and whether that builds on the one before.
    async fn note_head(&mut self, row: &RepositoryRecord, head: &str) -> Result<(), ErrorBody> {
        let (path, id) = (self.mirror.clone(), head.to_owned());
        let before = row.head.clone();
        let looked = blocking(move || {
            let mirror = Mirror::open(&path)?;
            let builds_on = match &before {
                Some(before) => mirror.builds_on(&id, &before.id)?,
                None => true,
            };
            Ok::<_, MirrorError>((mirror.commit(&id)?, builds_on))
        });
        let looked = looked.await.map_err(|obstacle| refusal(&obstacle))?;
        let (commit, builds_on) = looked
            .map_err(|cause| refusal(&Obstacle::new(Code::RepositoryBroken, chain(&cause))))?;
        let mut row = row.clone();
        if let (false, Some(before)) = (builds_on, &row.head) {
            let message = format!(
                "branch '{}' was moved from {} to {}, which does not build on it",
                row.branch,
                before.short(),
                commit.short()
            );
            note(&mut row, "branch.rewritten", message);
        }
        let message = format!("{} {}", commit.short(), commit.subject);
        note(&mut row, "commit.seen", message);
        row.head = Some(commit);
        self.keep(row).await
    }

    async fn evaluate_head(&mut self, head: &str) -> Result<Arc<Candidate>, Obstacle> {
        if let Some((commit, obstacle)) = &self.broken
            && commit == head
        {
            return Err(obstacle.clone());
        }
        if let Some(known) = &self.candidate
            && known.commit.id == head
        {
            return Ok(Arc::clone(known));
        }
        match self.evaluate(head, None).await {
            Ok(candidate) => {
                let candidate = Arc::new(candidate);
                self.candidate = Some(Arc::clone(&candidate));
                self.broken = None;
                Ok(candidate)
            }
            Err(obstacle) => {
                self.broken = Some((head.to_owned(), obstacle.clone()));
                Err(obstacle)
            }
        }
    }

    async fn evaluate(&self, commit: &str, judge: Option<String>) -> Result<Candidate, Obstacle> {
        // Never closed.
        let _turn = self.shared.turn.acquire().await;
        let (path, config) = (self.mirror.clone(), self.config.clone());
        let (commit, cache) = (commit.to_owned(), Arc::clone(&self.shared.cache));
        let base = self.row().applied.map(|applied| applied.id);
        blocking(move || {
            let mirror = Mirror::open(&path)
                .map_err(|cause| Obstacle::new(Code::RepositoryBroken, chain(&cause)))?;
            let sides = candidate::Sides {
                commit: &commit,
                base: base.as_deref(),
                judge: judge.as_deref(),
            };
            candidate::evaluate(&mirror, &sides, &config, &cache)
        })
        .await?
    }

    /// Plans a commit, and applies the plan or lets it wait. Returns what stands in its way.
    async fn propose(&mut self, candidate: &Arc<Candidate>) -> Result<Option<Obstacle>, ErrorBody> {
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
    fn shelve(&self, candidate: &Candidate, mut plan: Plan) -> Arc<Plan> {
        if let Some(origins) = &candidate.origins {
            plan.explain(
                |job, path| candidate.cause_of(job, path),
                origins.modules.clone(),
            );
        }
        self.shared.shelf.put(plan)
    }

    /// What the commit is to make of the cluster.
    fn submission(&self, candidate: &Candidate) -> Submission {
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
    async fn plan_of(
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
    async fn apply(
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

    async fn approve(
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
    async fn apply_approved(
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

    async fn reject(&mut self, digest: &str, by: String, reason: String) -> Result<(), ErrorBody> {
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

    async fn roll_back(&mut self, job: &JobId, revision: &str) -> Result<PlanReply, ErrorBody> {
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

    /// Applies what was approved and not applied when the controller ended, and plans what waited.
    async fn carry_on(&mut self) {
        let approved: Vec<PlanRecord> = self.shared.hub.read(|view| {
            let rows = view.plans().filter(|row| {
                row.repository == self.config.name && row.state == PlanState::Approved
            });
            rows.map(|row| (**row).clone()).collect()
        });
        for row in approved {
            tracing::info!(
                plan = row.digest,
                "carrying on with a plan that was approved"
            );
            if let Err(cause) = self.apply_approved(row, true).await {
                tracing::warn!(%cause, "a plan that was approved is not applied");
            }
        }
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

    /// Says what stands in the way, or that nothing does any more.
    async fn trouble(&mut self, obstacle: Option<Obstacle>) -> Result<(), ErrorBody> {
        let mut row = self.row();
        let same = match (&row.trouble, &obstacle) {
            (None, None) => true,
            (Some(was), Some(is)) => was.code == is.code && was.message == is.message,
            _ => false,
        };
        if same {
            return Ok(());
        }
        let now = clock::wall();
        match obstacle {
            Some(obstacle) => {
                let since = row.trouble.as_ref().filter(|was| was.code == obstacle.code);
                let since = since.map_or(now, |was| was.since);
                let first = obstacle
                    .message
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                note(&mut row, obstacle.code.as_str(), first);
                tracing::warn!(repository = %row.name, code = %obstacle.code, message = obstacle.message, "trouble");
                row.trouble = Some(Trouble {
                    code: obstacle.code,
                    message: obstacle.message,
                    since,
                });
            }
            None => {
                note(
                    &mut row,
                    "repository.well",
                    "nothing stands in the way any more".to_owned(),
                );
                row.trouble = None;
            }
        }
        self.keep(row).await
    }

    async fn keep(&mut self, row: RepositoryRecord) -> Result<(), ErrorBody> {
        self.review(Review {
            repository: Some(row),
            ..Review::default()
        })
        .await
        .map(drop)
    }

    async fn keep_plan(&mut self, plan: PlanRecord) -> Result<(), ErrorBody> {
        self.review(Review {
            plans: vec![plan],
            ..Review::default()
        })
        .await
        .map(drop)
    }

    /// Keeps the newest plan of the branch in place of those before it.
    async fn keep_plan_of_branch(&mut self, plan: PlanRecord) -> Result<(), ErrorBody> {
        let over = superseded(&self.shared.hub, &self.config.name, |other| {
            other.rollback.is_none() && plan.digest != other.digest
        });
        let mut row = self.row();
        let (kind, what) = match plan.state {
            PlanState::Refused => ("plan.refused", "is refused by policy".to_owned()),
            _ => ("plan.made", format!("waits: {}", plan.waits_for)),
        };
        let message = format!(
            "plan {} of {} {what}",
            short(&plan.digest),
            plan.commit.short()
        );
        note(&mut row, kind, message);
        if let Some(candidate) = &self.candidate {
            // A commit that asks for more is heard at once; one that asks for less, once it is applied.
            let more = candidate.policy.reviewed.iter();
            let more: Vec<_> = more
                .filter(|rule| !row.reviewed.contains(rule))
                .cloned()
                .collect();
            row.reviewed.extend(more);
        }
        self.review(Review {
            repository: Some(row),
            plans: std::iter::once(plan).chain(over).collect(),
            ..Review::default()
        })
        .await
        .map(drop)
    }

    async fn review(&mut self, review: Review) -> Result<Option<Plan>, ErrorBody> {
        self.shared.driver.review(review).await
    }

    /// The repository's row; one of another branch or address begins anew, but for its jobs.
    fn row(&self) -> RepositoryRecord {
        let found = self
            .shared
            .hub
            .read(|view| view.repository(&self.config.name).cloned());
        let fresh = fresh(&self.config);
        let Some(found) = found else {
            return fresh;
        };
        let same = found.url == fresh.url && found.branch == fresh.branch;
        match found.namespace == fresh.namespace {
            true if same => (*found).clone(),
            true => RepositoryRecord {
                url: fresh.url,
                branch: fresh.branch,
                head: None,
                ..(*found).clone()
            },
            false => fresh,
        }
    }

    fn plan_row(&self, digest: &str) -> Option<PlanRecord> {
        let found = self.shared.hub.read(|view| view.plan(digest).cloned());
        found.map(|row| (*row).clone())
    }

    fn is_applied(&self, head: &str) -> bool {
        self.row().applied.is_some_and(|applied| applied.id == head)
    }

    fn has_open_plans(&self) -> bool {
        self.shared.hub.read(|view| {
            view.plans().any(|row| {
                row.repository == self.config.name
                    && row.rollback.is_none()
                    && !row.state.is_decided()
            })
        })
    }

    fn moments(&self) -> std::sync::MutexGuard<'_, Moments> {
        self.moments.lock().expect("no holder panics")
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Obstacle> {
    tokio::task::spawn_blocking(work).await.map_err(|cause| {
        tracing::error!(%cause, "work on a repository failed");
        Obstacle::new(
            Code::RepositoryBroken,
            "the controller failed over this commit; its log says why",
        )
    })
}

/// Whether nothing about a plan is new to those who wait for it.
fn is_same(known: &PlanRecord, plan: &PlanRecord) -> bool {
    (known.state, &known.commit, &known.waits_for) == (plan.state, &plan.commit, &plan.waits_for)
}

fn note(row: &mut RepositoryRecord, kind: &str, message: String) {
    row.events.push(RepositoryEvent {
        at: clock::wall(),
        kind: kind.to_owned(),
        message,
    });
    let over = row.events.len().saturating_sub(REPOSITORY_EVENTS_KEPT);
    row.events.drain(..over);
}

fn make_applied(row: &mut RepositoryRecord, candidate: &Candidate) {
    row.applied = Some(candidate.commit.clone());
    row.applied_at = Some(clock::wall());
    row.jobs = candidate.files.clone();
    row.reviewed = candidate.policy.reviewed.clone();
}

fn decided(row: PlanRecord, state: PlanState, by: String, reason: String) -> PlanRecord {
    PlanRecord {
        state,
        decided: Some(PlanDecision {
            by,
            at: clock::wall(),
            reason: reason.chars().take(500).collect(),
        }),
        ..row
    }
}

fn basis(plan: &Plan) -> Vec<serde_json::Value> {
    let jobs = plan.jobs.iter().map(|job| job.basis());
    match plan.jobs.len() <= BASIS_JOBS_MAX {
        true => jobs
            .filter_map(|basis| serde_json::to_value(basis).ok())
            .collect(),
        false => Vec::new(),
    }
}

fn expected(row: &PlanRecord) -> ExpectedPlan {
    let basis: Option<Vec<PlanBasis>> = row
        .basis
        .iter()
        .map(|basis| serde_json::from_value(basis.clone()).ok())
        .collect();
    ExpectedPlan {
        digest: row.digest.clone(),
        basis: basis.unwrap_or_default(),
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

fn policy_refusals(plan: &Plan) -> String {
    let findings = plan.policy.findings.iter().filter(|found| found.refuses());
    let said: Vec<String> = findings
        .map(|found| format!("{}: {}, says {}", found.job, found.message, found.policy))
        .collect();
    format!("policy refuses what was planned: {}", said.join("; "))
}

fn obstacle_of(commit: &CommitRef, refusal: &ErrorBody) -> Obstacle {
    Obstacle::new(
        refusal.code,
        format!("commit {}: {}", commit.short(), refusal.message),
    )
}

fn refusal(obstacle: &Obstacle) -> ErrorBody {
    ErrorBody::new(obstacle.code, obstacle.message.clone())
}

fn with_fresh(refusal: ErrorBody, fresh: Option<&str>) -> ErrorBody {
    let hint = match fresh {
        Some(digest) => format!("a fresh plan waits: `tw plans {}` shows it", short(digest)),
        None => "`tw plans` lists those that wait; there may be nothing left to do".to_owned(),
    };
    refusal.with_hint(hint)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
