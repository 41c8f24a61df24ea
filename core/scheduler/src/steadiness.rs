//! Which machines are not to be relied on: those that keep going away, those that something ails (see
//! [`crate::ailment`]), and those on which the tasks of a job keep failing.
//!
//! Both are counted, and the counts fade: what happened fifteen minutes ago counts half. Whoever is above the bound is
//! taken last, and not left out: a task on such a machine is better off than one that waits. The count of a machine is
//! part of its row; that of a job on a machine follows from the rows of its ended tasks. So neither begins anew with
//! the controller.

use std::collections::BTreeMap;
use std::sync::Arc;

use tw_model::{
    FlapRecord, JobSpec, MachineRecord, MachineState, Millis, TaskRecord, TaskState, Timestamp,
    Version, diff_jobs,
};

use crate::draft::Draft;
use crate::fleet::Slot;
use crate::{JobState, reconcile, remedy};

/// After so long a count is half of what it was.
pub const HALF_LIFE: Millis = Millis::minutes(15);

/// From here on something is avoided: twice within a few minutes.
const AVOIDED_FROM: f64 = 1.5;

/// What ails a machine by its agent's word counts as if it had gone away so often: a half-life long after it was taken back.
const AILS: f64 = 2.0 * AVOIDED_FROM;

/// How much is left of a count after a while.
fn faded(since: Timestamp, now: Timestamp) -> f64 {
    let half_lives = now.since(since).0 as f64 / HALF_LIFE.0 as f64;
    (-half_lives).exp2()
}

/// How much speaks against someone: nothing below the bound, one more with every doubling from there.
fn level(score: f64) -> u32 {
    match score < AVOIDED_FROM {
        true => 0,
        false => 1 + (score / AVOIDED_FROM).log2() as u32,
    }
}

/// How often a machine went away without notice, as far as that counts today.
pub fn flaps(row: &MachineRecord, now: Timestamp) -> f64 {
    row.flaps.map_or(0.0, |flaps| score(flaps, now))
}

/// Whether a machine is taken last because it keeps going away.
pub fn is_unsteady(row: &MachineRecord, now: Timestamp) -> bool {
    level(flaps(row, now)) > 0
}

fn score(flaps: FlapRecord, now: Timestamp) -> f64 {
    f64::from(flaps.score_milli) / 1000.0 * faded(flaps.at, now)
}

/// How much speaks against a machine that went away so often, and that something has ailed until a moment.
pub(crate) fn level_of(
    flaps: Option<FlapRecord>,
    ailed_until: Option<Timestamp>,
    now: Timestamp,
) -> u32 {
    let flaps = flaps.map_or(0.0, |flaps| score(flaps, now));
    let ails = ailed_until.map_or(0.0, |until| AILS * faded(until, now));
    level(flaps + ails)
}

/// Whether a count is above the bound, now or in the past.
pub(crate) fn may_matter(flaps: &FlapRecord) -> bool {
    f64::from(flaps.score_milli) / 1000.0 >= AVOIDED_FROM
}

/// What counts of a machine that goes away now. Its row is that of before: one that is lost was counted then, and one
/// that is drained may go.
pub(crate) fn after_flap(row: &MachineRecord, now: Timestamp) -> Option<FlapRecord> {
    if row.state == MachineState::Lost || row.drain.is_some() {
        return row.flaps;
    }
    let score = (flaps(row, now) + 1.0) * 1000.0;
    Some(FlapRecord {
        score_milli: score.round() as u32,
        at: now,
    })
}

/// How much speaks against the machines on which tasks of a job have failed lately, as they are by this spec: a change
/// for which they would have to start again may be the cure.
pub(crate) fn failing(draft: &Draft, job: &JobState, spec: &Arc<JobSpec>) -> BTreeMap<Slot, u32> {
    let mut scores: BTreeMap<Slot, f64> = BTreeMap::new();
    let mut alike: BTreeMap<Version, bool> = BTreeMap::new();
    for row in job
        .tasks_where(TaskState::is_terminal)
        .filter(|row| has_failed(row))
    {
        let slot = row.machine.as_ref().and_then(|id| draft.slot(id));
        if let Some((slot, ended)) = slot.zip(row.ended_at)
            && *alike
                .entry(row.version)
                .or_insert_with(|| is_alike(job.spec_of(row), spec))
        {
            *scores.entry(slot).or_default() += faded(ended.min(draft.now), draft.now);
        }
    }
    let levels = scores
        .into_iter()
        .map(|(slot, score)| (slot, level(score)))
        .filter(|(_, level)| *level > 0);
    levels.collect()
}

/// Whether a task of one spec is that of the other.
fn is_alike(one: &Arc<JobSpec>, other: &Arc<JobSpec>) -> bool {
    let same = || {
        let change = diff_jobs(Some(one), Some(other));
        let mut changes = change.iter().flat_map(|change| &change.changes);
        !changes.any(|change| change.effect.replaces_task())
    };
    Arc::ptr_eq(one, other) || same()
}

/// Whether a task ended in a way that speaks against its machine, as far as it was the job itself.
pub(crate) fn has_failed(row: &TaskRecord) -> bool {
    row.state == TaskState::Failed && reconcile::ended_by_itself(row) || remedy::was_ended(row)
}
