//! The rows that a follower reads and writes: its repository's and its plans'.

use tw_api::ErrorBody;
use tw_model::{
    PlanDecision, PlanRecord, PlanState, REPOSITORY_EVENTS_KEPT, RepositoryEvent, RepositoryRecord,
};
use tw_scheduler::{ExpectedPlan, Plan, PlanBasis, Review};

use super::super::candidate::Candidate;
use super::super::{Moments, superseded};
use super::{Follower, fresh};
use crate::clock;

/// The most jobs whose basis is kept with a plan; of a larger one a refusal says less of what has moved.
const BASIS_JOBS_MAX: usize = 1000;

impl Follower {
    pub(super) async fn keep(&mut self, row: RepositoryRecord) -> Result<(), ErrorBody> {
        self.review(Review {
            repository: Some(row),
            ..Review::default()
        })
        .await
        .map(drop)
    }

    pub(super) async fn keep_plan(&mut self, plan: PlanRecord) -> Result<(), ErrorBody> {
        self.review(Review {
            plans: vec![plan],
            ..Review::default()
        })
        .await
        .map(drop)
    }

    /// Keeps the newest plan of the branch in place of those before it.
    pub(super) async fn keep_plan_of_branch(&mut self, plan: PlanRecord) -> Result<(), ErrorBody> {
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

    pub(super) async fn review(&mut self, review: Review) -> Result<Option<Plan>, ErrorBody> {
        self.shared.driver.review(review).await
    }

    /// The repository's row; one of another branch or address begins anew, but for its jobs.
    pub(super) fn row(&self) -> RepositoryRecord {
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

    pub(super) fn plan_row(&self, digest: &str) -> Option<PlanRecord> {
        let found = self.shared.hub.read(|view| view.plan(digest).cloned());
        found.map(|row| (*row).clone())
    }

    pub(super) fn is_applied(&self, head: &str) -> bool {
        self.row().applied.is_some_and(|applied| applied.id == head)
    }

    pub(super) fn has_open_plans(&self) -> bool {
        self.shared.hub.read(|view| {
            view.plans().any(|row| {
                row.repository == self.config.name
                    && row.rollback.is_none()
                    && !row.state.is_decided()
            })
        })
    }

    pub(super) fn moments(&self) -> std::sync::MutexGuard<'_, Moments> {
        self.moments.lock().expect("no holder panics")
    }
}

pub(super) fn note(row: &mut RepositoryRecord, kind: &str, message: String) {
    row.events.push(RepositoryEvent {
        at: clock::wall(),
        kind: kind.to_owned(),
        message,
    });
    let over = row.events.len().saturating_sub(REPOSITORY_EVENTS_KEPT);
    row.events.drain(..over);
}

pub(super) fn make_applied(row: &mut RepositoryRecord, candidate: &Candidate) {
    row.applied = Some(candidate.commit.clone());
    row.applied_at = Some(clock::wall());
    row.jobs = candidate.files.clone();
    row.reviewed = candidate.policy.reviewed.clone();
}

pub(super) fn decided(row: PlanRecord, state: PlanState, by: String, reason: String) -> PlanRecord {
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

pub(super) fn basis(plan: &Plan) -> Vec<serde_json::Value> {
    let jobs = plan.jobs.iter().map(|job| job.basis());
    match plan.jobs.len() <= BASIS_JOBS_MAX {
        true => jobs
            .filter_map(|basis| serde_json::to_value(basis).ok())
            .collect(),
        false => Vec::new(),
    }
}

pub(super) fn expected(row: &PlanRecord) -> ExpectedPlan {
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

pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
