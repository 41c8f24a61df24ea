//! Ends tasks whose checks ask for that, so that they start again: here, or on another machine.
//!
//! A bound that was badly chosen is broken by all tasks of a job at once. Hence no more are ended at a time than an
//! update may take away, and each waits before its next start as after a failure.

use tw_model::{Desired, JobId, Kind, Remedy, TaskRecord, TaskState};

use crate::draft::Draft;
use crate::lifecycle::{self, Details, TaskEvent};
use crate::{JobState, reconcile};

/// Asks tasks of a job to end that are beyond their bounds, as many as may be away now.
pub(crate) fn advance(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id).filter(|job| !job.row.stopped) else {
        return;
    };
    let running = job.tasks_where(|state| state == TaskState::Running);
    let ill = running.filter(|row| is_ill(job, row));
    let ill: Vec<TaskRecord> = ill.cloned().collect();
    if ill.is_empty() {
        return;
    }
    let most = job.spec().rollout.max_unavailable.max(1) as usize;
    let away = job
        .wanted_rows()
        .filter(|(_, latest)| latest.is_none_or(|row| row.state != TaskState::Running))
        .count();
    for mut row in ill.into_iter().take(most.saturating_sub(away)) {
        let Some(job) = draft.job(id) else {
            return;
        };
        let why = Details {
            reset_after: (job.spec_of(&row).kind == Kind::Service)
                .then_some(job.spec_of(&row).restart.reset_after),
            ..Details::because(row.reason.clone())
        };
        row.comes_back = true;
        lifecycle::count_failure(&mut row, &why, draft.now);
        reconcile::tell(draft, &row, TaskEvent::StopAsked, &why);
    }
}

fn is_ill(job: &JobState, row: &TaskRecord) -> bool {
    row.state == TaskState::Running
        && row.desired == Desired::Run
        && row.healthy == Some(false)
        && row.remedy.is_some()
        && row.id.index < job.wanted()
}

/// Whether a task was ended for its own good, which counts as a failure.
pub(crate) fn was_ended(row: &TaskRecord) -> bool {
    row.state == TaskState::Done && row.comes_back && row.remedy.is_some()
}

/// Whether the next task of its index is to leave the machine.
pub(crate) fn leaves_machine(row: &TaskRecord) -> bool {
    was_ended(row) && row.remedy == Some(Remedy::Move)
}
