//! Between people's tools and the controller: repositories that are followed, and plans that wait.

use serde::{Deserialize, Serialize};
use tw_model::{
    CommitRef, FollowMode, Name, PlanRecord, PolicyRule, RepositoryEvent, Timestamp, Trouble,
};

use crate::AppliedJob;

/// `GET /v1/repositories`, and `tw repos --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepositoriesReply {
    pub version: u32,
    pub repositories: Vec<RepositoryStatus>,
}

/// How far a repository is that is followed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepositoryStatus {
    pub name: Name,
    /// Without credentials.
    pub url: String,
    pub branch: String,
    /// The namespace of all its jobs.
    pub namespace: Name,
    /// Where its specs are; `""` is the root.
    pub folders: Vec<String>,
    pub mode: FollowMode,
    pub poll_ms: u64,
    /// The newest commit that was fetched.
    pub head: Option<CommitRef>,
    /// The newest commit that is what is wanted.
    pub applied: Option<CommitRef>,
    pub applied_at: Option<Timestamp>,
    /// How many jobs the applied commit has.
    pub jobs: usize,
    /// When the last fetch that went well ended; none since the controller began.
    pub fetched_at: Option<Timestamp>,
    pub next_fetch_at: Option<Timestamp>,
    pub trouble: Option<Trouble>,
    /// Digests of the plans that wait for someone.
    pub waiting: Vec<String>,
    /// What asks for reviewed commits.
    pub reviewed: Vec<PolicyRule>,
    /// Oldest first.
    pub events: Vec<RepositoryEvent>,
}

/// `GET /v1/plans`, and `tw plans --json`. Those that wait first, then the newest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlansReply {
    pub version: u32,
    pub plans: Vec<PlanRecord>,
}

/// `GET /v1/plans/{digest}`, and `tw plans DIGEST --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanReply {
    pub version: u32,
    pub record: PlanRecord,
    /// What it would do, in the shape of `POST /v1/plan`; none for one that was decided long ago.
    pub plan: Option<serde_json::Value>,
}

/// `POST /v1/plans/{digest}/approve` and `/reject`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecideRequest {
    /// The name that the caller gives itself; kept beside the one that the system knows.
    #[serde(default)]
    pub name: String,
    /// In words for people.
    #[serde(default)]
    pub reason: String,
}

/// The answer to an approval, once the plan is applied durably.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApproveReply {
    pub version: u32,
    pub digest: String,
    pub jobs: Vec<AppliedJob>,
}

/// `POST /v1/jobs/{namespace}/{name}/rollback`: back to how a commit of the followed branch has the job. The answer is
/// a [`PlanReply`], whose plan waits to be approved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Any expression of git; `HEAD` is the newest commit of the branch.
    pub revision: String,
}

/// What is looked at: all plans, or one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRequest {
    /// The digest of a plan.
    #[serde(default)]
    pub plan: Option<String>,
}

/// `POST /v1/page`: an address that lets one browser of this machine look at the pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PageReply {
    pub version: u32,
    /// Good for one use, soon.
    pub url: String,
}
