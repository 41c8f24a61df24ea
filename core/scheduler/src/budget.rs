//! How many more tasks of a job may be away because of what Twill does: one budget, whoever asks.

use tw_model::{TaskRecord, Timestamp};

use crate::draft::Draft;
use crate::{JobState, rollout};

/// Whether a task has served for long enough to be counted on.
pub(crate) fn is_available(job: &JobState, row: &TaskRecord, now: Timestamp) -> bool {
    rollout::settled(job, row, job.spec_of(row).rollout.healthy_for, now)
}

/// How many tasks of a job that are counted on may be taken away now.
pub(crate) fn spare(draft: &Draft, job: &JobState) -> usize {
    let down = job
        .wanted_rows()
        .filter(|(_, latest)| latest.is_none_or(|row| !is_available(job, row, draft.now)));
    let most = job.spec().rollout.max_unavailable as usize;
    most.saturating_sub(down.count())
}
