//! Tasks beyond the wanted number, so that an update starts new ones before old ones end.
//!
//! They have the indexes that follow those that are wanted, run the new version, and are asked to end as soon as the
//! update is over. While some of them run, no more of the wanted tasks are down than of these serve: `replicas` keep
//! serving. They take only room that is free, displace nobody, and go when a task that is wanted has none. As never more
//! of the wanted tasks are down than `max_unavailable`, their end, whenever it comes, breaks no budget.

use tw_model::{Effect, JobId, JobSpec, RolloutRecord, RolloutState, TaskRecord, TaskState};

use super::{Member, failure, settled, write};
use crate::draft::Draft;
use crate::{JobState, reconcile};

/// The extra tasks of an update, as the updater sees them.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// How many have been healthy for long enough.
    pub(crate) up: usize,
    /// Whether some have a machine, or had one, and may still become healthy.
    pub(crate) coming: bool,
    /// Why those count as failed that do.
    pub(crate) failed: Vec<String>,
}

/// Whether a task is one that an update runs beside those that are wanted.
pub(crate) fn is_extra(job: &JobState, row: &TaskRecord) -> bool {
    job.row.rollout.as_ref().is_some_and(|rollout| {
        let wanted = job.wanted();
        rollout.state != RolloutState::Halted
            && row.version == rollout.to
            && (wanted..wanted.saturating_add(rollout.surge)).contains(&row.id.index)
    })
}

/// How many tasks an update of a job may run beside those that are wanted.
pub(crate) fn most(spec: &JobSpec) -> u32 {
    match spec.against_surge() {
        None => spec.rollout.max_surge.min(spec.rollout.max_unavailable),
        Some(_) => 0,
    }
}

/// How the extra tasks are.
pub(super) fn extras(draft: &Draft, id: &JobId, rollout: &RolloutRecord) -> Extras {
    let mut extras = Extras::default();
    let Some(job) = draft.job(id).filter(|_| rollout.surge > 0) else {
        return extras;
    };
    for row in job.live().filter(|row| is_extra(job, row)) {
        if waits_for_room(draft, row) {
            continue;
        }
        let gate = job.spec().rollout.healthy_for;
        // One that became healthy in time may wait for the others as long as a stage bakes.
        if settled(job, row, gate, draft.now) {
            extras.up += 1;
            continue;
        }
        match failure(job, rollout, row, draft.now) {
            Some(failed) => extras.failed.push(failed),
            None => extras.coming = true,
        }
    }
    extras
}

impl Extras {
    /// How many of the wanted tasks may be down, those included that have failed at the new version and may.
    pub(super) fn may_be_down(&self, most: usize, failed: usize) -> usize {
        match self.up > 0 || self.coming {
            true => most.min(self.up + failed),
            false => most,
        }
    }
}

/// Whether a task was looked at, and no machine had room for it.
fn waits_for_room(draft: &Draft, row: &TaskRecord) -> bool {
    let due = row.not_before.is_none_or(|moment| moment <= draft.now);
    row.state == TaskState::Pending && row.failures == 0 && due && !row.reason.is_empty()
}

/// Begins the extra tasks that are missing, or lets all of them go where they are in the way. True when a row changed.
pub(super) fn adjust(
    draft: &mut Draft,
    id: &JobId,
    rollout: &RolloutRecord,
    members: &[Member],
    stage: u32,
) -> bool {
    let Some(spec) = draft.job(id).map(|job| job.spec().clone()) else {
        return false;
    };
    let new = |member: &&Member| member.row.version == rollout.to;
    let mut crowded_out = members.iter().filter(new);
    if rollout.surge > 0 && crowded_out.any(|member| waits_for_room(draft, &member.row)) {
        write(draft, id, |rollout| {
            rollout.surge = 0;
            rollout.crowded = true;
        });
        return true;
    }
    let replaced = |member: &Member| {
        let replaces = matches!(member.effect, Effect::Restart | Effect::Move);
        !member.reached && !member.held && member.available && replaces
    };
    let needed = rollout.surge > 0 || members.iter().any(replaced);
    if !needed || rollout.crowded || rollout.rollback {
        return false;
    }
    let surge = most(&spec).min(stage).max(rollout.surge);
    if surge != rollout.surge {
        write(draft, id, |rollout| rollout.surge = surge);
    }
    begin_missing(draft, id, rollout, surge) || surge != rollout.surge
}

fn begin_missing(draft: &mut Draft, id: &JobId, rollout: &RolloutRecord, surge: u32) -> bool {
    let Some(job) = draft.job(id) else {
        return false;
    };
    let wanted = job.wanted();
    let indexes = wanted..wanted.saturating_add(surge);
    let ended = |index: &u32| job.latest(*index).is_none_or(|row| row.state.is_terminal());
    let missing: Vec<u32> = indexes.filter(ended).collect();
    for index in &missing {
        reconcile::begin(draft, id, *index, rollout.to);
    }
    !missing.is_empty()
}
