//! From git to the cluster: branches are followed, their commits evaluated and planned, and what may not be applied
//! by itself waits for someone's decision.
//!
//! Each repository has a task of its own, the only one that writes rows about it. What is remembered beyond a row,
//! such as the jobs of a commit, can be made again from the mirror.

mod candidate;
mod follower;
mod shelf;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tw_api::{ApproveReply, DecideRequest, ErrorBody, PlanReply, RepositoryStatus};
use tw_model::{Code, JobId, Name, PlanRecord, PlanState, RepositoryRecord, Timestamp};
use tw_scheduler::Review;
use tw_spec::Cache;

use crate::config::{ControllerConfig, RepositoryConfig};
use crate::driver::Driver;
use crate::hub::Hub;
use crate::registry::Registry;
use crate::reply::job_not_found;
use crate::secrets::Secrets;
use crate::status::SHAPE;

use follower::Follower;
pub(crate) use shelf::Shelf;

/// How many orders may wait for one repository.
const ORDERS_MAX: usize = 64;

/// Something that a person wants of a repository.
enum Order {
    /// Look at the branch now. Answered once that is done.
    Fetch { answer: oneshot::Sender<()> },
    Approve {
        digest: String,
        by: String,
        reason: String,
        answer: Answer<ApproveReply>,
    },
    Reject {
        digest: String,
        by: String,
        reason: String,
        answer: Answer<()>,
    },
    RollBack {
        job: JobId,
        revision: String,
        answer: Answer<PlanReply>,
    },
}

type Answer<T> = oneshot::Sender<Result<T, ErrorBody>>;

/// What the followers share.
struct Shared {
    driver: Driver,
    hub: Arc<Hub>,
    registry: Arc<Registry>,
    secrets: Arc<Secrets>,
    shelf: Arc<Shelf>,
    cache: Arc<Cache>,
    /// One commit is evaluated at a time.
    turn: Semaphore,
}

/// The moments of a repository's fetches, which are no transitions and so are not stored.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    fetched_at: Option<Timestamp>,
    next_fetch_at: Option<Timestamp>,
}

struct Handle {
    config: RepositoryConfig,
    orders: mpsc::Sender<Order>,
    moments: Arc<Mutex<Moments>>,
}

/// The repositories that are followed.
pub(crate) struct Follow {
    handles: BTreeMap<Name, Handle>,
    hub: Arc<Hub>,
    shelf: Arc<Shelf>,
}

/// The followers, before they are started.
pub(crate) struct Followers {
    followers: Vec<(Follower, mpsc::Receiver<Order>)>,
    gone: Vec<RepositoryRecord>,
    shared: Arc<Shared>,
}

impl Follow {
    /// Makes a follower for each repository of the configuration.
    pub(crate) fn new(
        config: &ControllerConfig,
        driver: Driver,
        hub: Arc<Hub>,
        registry: Arc<Registry>,
        secrets: Arc<Secrets>,
    ) -> (Follow, Followers) {
        let shelf = Arc::new(Shelf::default());
        let shared = Arc::new(Shared {
            driver,
            registry,
            secrets,
            shelf: Arc::clone(&shelf),
            cache: Arc::new(Cache::open(&config.evaluations_path())),
            turn: Semaphore::new(1),
            hub: Arc::clone(&hub),
        });
        let mut handles = BTreeMap::new();
        let mut followers = Vec::new();
        for repository in &config.repositories {
            let (orders, inbox) = mpsc::channel(ORDERS_MAX);
            let moments = Arc::default();
            let mirror: PathBuf = config.mirror_path(&repository.name);
            let follower = Follower::new(
                repository.clone(),
                mirror,
                Arc::clone(&shared),
                Arc::clone(&moments),
            );
            followers.push((follower, inbox));
            let handle = Handle {
                config: repository.clone(),
                orders,
                moments,
            };
            handles.insert(repository.name.clone(), handle);
        }
        let gone = hub.read(|view| {
            let rows = view.repositories().map(|row| (**row).clone());
            rows.filter(|row| !handles.contains_key(&row.name))
                .collect()
        });
        let follow = Follow {
            handles,
            hub,
            shelf,
        };
        let followers = Followers {
            followers,
            gone,
            shared,
        };
        (follow, followers)
    }

    /// Plans as they were computed lately.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// How far every repository is.
    pub(crate) fn statuses(&self) -> Vec<RepositoryStatus> {
        let handles = self.handles.values();
        handles.map(|handle| self.status(handle)).collect()
    }

    fn status(&self, handle: &Handle) -> RepositoryStatus {
        let config = &handle.config;
        let moments = *handle.moments.lock().expect("no holder panics");
        let (row, waiting) = self.hub.read(|view| {
            let waiting = view
                .plans()
                .filter(|plan| plan.repository == config.name && plan.state == PlanState::Waiting);
            let waiting = waiting.map(|plan| plan.digest.clone()).collect();
            (view.repository(&config.name).cloned(), waiting)
        });
        let row = row.map_or_else(|| follower::fresh(config), |row| (*row).clone());
        RepositoryStatus {
            name: config.name.clone(),
            url: config.remote.shown(),
            branch: config.remote.branch.clone(),
            namespace: config.namespace.clone(),
            folders: config.folders.clone(),
            mode: config.mode,
            poll_ms: u64::try_from(config.poll_every.as_millis()).unwrap_or(u64::MAX),
            head: row.head,
            applied: row.applied,
            applied_at: row.applied_at,
            jobs: row.jobs.len(),
            fetched_at: moments.fetched_at,
            next_fetch_at: moments.next_fetch_at,
            trouble: row.trouble,
            waiting,
            reviewed: row.reviewed,
            events: row.events,
        }
    }

    /// Looks at a branch now. Returns when what came of it is durable.
    pub(crate) async fn fetch(&self, repository: &Name) -> Result<RepositoryStatus, ErrorBody> {
        let handle = self.handle(repository)?;
        let (answer, answered) = oneshot::channel();
        send(handle, Order::Fetch { answer }).await?;
        answered.await.map_err(|_| stopping())?;
        Ok(self.status(handle))
    }

    /// All plans of commits: those that wait first, then the newest.
    pub(crate) fn plans(&self) -> Vec<PlanRecord> {
        let mut plans: Vec<PlanRecord> = self
            .hub
            .read(|view| view.plans().map(|row| (**row).clone()).collect());
        plans.sort_by_key(|row| (row.state.is_decided(), std::cmp::Reverse(row.made_at)));
        for row in &mut plans {
            row.basis.clear();
        }
        plans
    }

    /// One plan, and what it would do.
    pub(crate) fn plan(&self, digest: &str) -> Result<PlanReply, ErrorBody> {
        let record = self.record(digest)?;
        Ok(plan_reply(record, self.shelf.find(digest).as_deref()))
    }

    /// Has a plan applied, if it is still what would happen.
    pub(crate) async fn approve(
        &self,
        digest: String,
        caller: &str,
        request: DecideRequest,
    ) -> Result<ApproveReply, ErrorBody> {
        let handle = self.handle(&self.record(&digest)?.repository)?;
        let by = named(caller, &request.name);
        let reason = request.reason;
        ask(handle, |answer| Order::Approve {
            digest,
            by,
            reason,
            answer,
        })
        .await
    }

    /// Has a plan never applied.
    pub(crate) async fn reject(
        &self,
        digest: String,
        caller: &str,
        request: DecideRequest,
    ) -> Result<(), ErrorBody> {
        let handle = self.handle(&self.record(&digest)?.repository)?;
        let by = named(caller, &request.name);
        let reason = request.reason;
        ask(handle, |answer| Order::Reject {
            digest,
            by,
            reason,
            answer,
        })
        .await
    }

    /// Plans to have a job as a commit of its branch has it.
    pub(crate) async fn roll_back(
        &self,
        job: JobId,
        revision: String,
    ) -> Result<PlanReply, ErrorBody> {
        let repository = self.hub.read(|view| {
            if view.job(&job).is_none() {
                return Err(job_not_found(&job));
            }
            let mut rows = view.repositories();
            let owner =
                rows.find(|row| row.namespace == job.namespace && row.jobs.contains_key(&job.name));
            owner.map(|row| row.name.clone()).ok_or_else(|| {
                ErrorBody::new(
                    Code::RepositoryNotFound,
                    format!("job {job} comes from no repository that is followed"),
                )
                .with_hint("apply a revision of your own: `tw apply --rev REV PATH`")
            })
        })?;
        let handle = self.handle(&repository)?;
        ask(handle, |answer| Order::RollBack {
            job,
            revision,
            answer,
        })
        .await
    }

    /// The row of a plan of a commit.
    pub(crate) fn record(&self, digest: &str) -> Result<PlanRecord, ErrorBody> {
        let found = self.hub.read(|view| view.plan(digest).cloned());
        found.map(|row| (*row).clone()).ok_or_else(|| {
            ErrorBody::new(
                Code::PlanNotFound,
                format!("no plan has the digest {digest}"),
            )
            .with_hint(
                "`tw plans` lists those that wait; an approval names the whole digest of one",
            )
        })
    }

    fn handle(&self, repository: &Name) -> Result<&Handle, ErrorBody> {
        self.handles.get(repository).ok_or_else(|| {
            ErrorBody::new(
                Code::RepositoryNotFound,
                format!("no repository '{repository}' is followed"),
            )
            .with_hint("`tw repos` lists those of the configuration")
        })
    }
}

impl Followers {
    /// Follows until it is dropped.
    pub(crate) async fn run(self) {
        if let Err(cause) = forget(&self.shared, &self.gone).await {
            tracing::warn!(%cause, "repositories that are followed no more cannot be forgotten");
        }
        let mut tasks = JoinSet::new();
        for (follower, orders) in self.followers {
            tasks.spawn(follower.run(orders));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(cause) = ended {
                tracing::error!(%cause, "a repository is followed no more");
            }
        }
        std::future::pending().await
    }
}

/// Removes what is known of repositories that the configuration does not name any more; what runs stays.
async fn forget(shared: &Shared, gone: &[RepositoryRecord]) -> Result<(), ErrorBody> {
    for row in gone {
        tracing::info!(repository = %row.name, "followed no more");
        let plans = superseded(&shared.hub, &row.name, |_| true);
        let review = Review {
            plans,
            forget: vec![row.name.clone()],
            ..Review::default()
        };
        shared.driver.review(review).await?;
    }
    Ok(())
}

/// The undecided plans of a repository that another has taken the place of.
fn superseded(
    hub: &Hub,
    repository: &Name,
    is_meant: impl Fn(&PlanRecord) -> bool,
) -> Vec<PlanRecord> {
    hub.read(|view| {
        let open = view.plans().filter(|row| {
            let is_open = !row.state.is_decided() || row.state == PlanState::Refused;
            row.repository == *repository && is_open && is_meant(row)
        });
        let over = open.map(|row| PlanRecord {
            state: PlanState::Superseded,
            ..(**row).clone()
        });
        over.collect()
    })
}

/// The caller as the system knows it, with the name that it gives itself.
fn named(caller: &str, name: &str) -> String {
    let plain = name.chars().filter(|char| !char.is_control());
    let plain: String = plain.take(80).collect();
    match plain.trim() {
        "" => caller.to_owned(),
        name if name == caller => caller.to_owned(),
        name => format!("{name} ({caller})"),
    }
}

fn plan_reply(mut record: PlanRecord, plan: Option<&tw_scheduler::Plan>) -> PlanReply {
    record.basis.clear();
    PlanReply {
        version: SHAPE,
        plan: plan.and_then(|plan| serde_json::to_value(plan).ok()),
        record,
    }
}

async fn ask<T>(handle: &Handle, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, ErrorBody> {
    let (answer, answered) = oneshot::channel();
    send(handle, order(answer)).await?;
    answered.await.unwrap_or_else(|_| Err(stopping()))
}

async fn send(handle: &Handle, order: Order) -> Result<(), ErrorBody> {
    handle.orders.send(order).await.map_err(|_| stopping())
}

fn stopping() -> ErrorBody {
    ErrorBody::new(Code::StoreUnavailable, "the controller is stopping")
        .with_hint("try again once it is back")
}
