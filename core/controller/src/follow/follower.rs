//! One repository: looks at its branch, plans its newest commit, applies what may be applied.

mod decision;
mod proposal;
mod rows;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tw_api::ErrorBody;
use tw_model::{Code, CommitRef, PlanRecord, PlanState, RepositoryRecord, Timestamp, Trouble};
use tw_spec::{Mirror, MirrorError};

use self::rows::note;
use super::candidate::{self, Candidate, Obstacle, chain};
use super::{Moments, Order, Shared};
use crate::clock;
use crate::config::RepositoryConfig;

/// The longest wait before a branch that cannot be fetched is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(600);

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

fn obstacle_of(commit: &CommitRef, refusal: &ErrorBody) -> Obstacle {
    Obstacle::new(
        refusal.code,
        format!("commit {}: {}", commit.short(), refusal.message),
    )
}

fn refusal(obstacle: &Obstacle) -> ErrorBody {
    ErrorBody::new(obstacle.code, obstacle.message.clone())
}
