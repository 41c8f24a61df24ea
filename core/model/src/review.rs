//! The rows of what is followed and reviewed: repositories, and the plans that were made of their commits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Code, JobId, Name, PolicyRule, Timestamp};

/// How many events of a repository are kept.
pub const REPOSITORY_EVENTS_KEPT: usize = 30;

/// How many plans that are decided are kept, of all repositories together.
pub const DECIDED_PLANS_KEPT: usize = 200;

/// A repository whose branch is followed, and how far that is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryRecord {
    pub name: Name,
    /// Where it is fetched from, without credentials.
    pub url: String,
    pub branch: String,
    /// The namespace of all its jobs.
    pub namespace: Name,
    /// The newest commit that was fetched.
    pub head: Option<CommitRef>,
    /// The newest commit that is what is wanted.
    pub applied: Option<CommitRef>,
    pub applied_at: Option<Timestamp>,
    /// The jobs of the applied commit, each with its spec file. A later commit that lacks one removes it.
    pub jobs: BTreeMap<Name, String>,
    /// What asks for reviewed commits, in the applied commit or in a newer one.
    pub reviewed: Vec<PolicyRule>,
    /// What stands in the way of the newest commit; none where nothing does.
    pub trouble: Option<Trouble>,
    /// What happened, oldest first.
    pub events: Vec<RepositoryEvent>,
}

/// What becomes of the plan of a new commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowMode {
    /// It waits until someone approves it.
    #[default]
    Approve,
    /// It is applied by itself, unless it destroys something or something stands against it.
    Auto,
}

impl std::fmt::Display for FollowMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            FollowMode::Approve => "approve",
            FollowMode::Auto => "auto",
        })
    }
}

/// A commit as people are shown it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRef {
    /// In hex.
    pub id: String,
    /// The first line of its message.
    pub subject: String,
    pub author: String,
    pub committed_at: Timestamp,
}

impl CommitRef {
    /// The first digits, enough for people.
    pub fn short(&self) -> &str {
        self.id.get(..10).unwrap_or(&self.id)
    }
}

/// What keeps a repository from being followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    pub code: Code,
    pub message: String,
    pub since: Timestamp,
}

/// Something that happened to a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryEvent {
    pub at: Timestamp,
    /// A stable word such as `commit.seen`.
    pub kind: String,
    pub message: String,
}

/// A plan that was made of a commit, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRecord {
    /// BLAKE3 in hex; an approval names it.
    pub digest: String,
    pub repository: Name,
    pub commit: CommitRef,
    /// The one job that goes back to this commit; none where the plan is of all that the commit exports.
    pub rollback: Option<JobId>,
    pub made_at: Timestamp,
    /// Why it is not applied by itself; empty where it is.
    pub waits_for: String,
    pub state: PlanState,
    /// Who decided, and when; none while nobody has.
    pub decided: Option<PlanDecision>,
    /// What the digest rests on, job by job, so that a refusal can name what has moved; may be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub basis: Vec<serde_json::Value>,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// For someone's decision.
    Waiting,
    /// Someone has approved it, and it is being applied.
    Approved,
    Applied,
    Rejected,
    /// A policy stands against it.
    Refused,
    /// A later commit, or what has happened in the cluster, made another plan of it.
    Superseded,
}

impl PlanState {
    pub fn as_str(self) -> &'static str {
        match self {
            PlanState::Waiting => "waiting",
            PlanState::Approved => "approved",
            PlanState::Applied => "applied",
            PlanState::Rejected => "rejected",
            PlanState::Refused => "refused",
            PlanState::Superseded => "superseded",
        }
    }

    /// Whether nothing can become of the plan any more.
    pub fn is_decided(self) -> bool {
        !matches!(self, PlanState::Waiting | PlanState::Approved)
    }
}

impl std::fmt::Display for PlanState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who decided on a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanDecision {
    /// The caller as the system knows it, with the name that it gave; or the repository's own mode.
    pub by: String,
    pub at: Timestamp,
    /// In words for people; may be empty.
    pub reason: String,
}
