//! The moments at which something falls due for a job although nothing happens to it.

use tw_model::{Kind, TaskState, Timestamp};

use crate::JobState;

/// When something falls due for a job: its next run, or the moment at which a task of it has taken too long.
pub(crate) fn alarm(job: &JobState) -> Option<Timestamp> {
    if job.row.stopped || job.spec().kind != Kind::Batch {
        return None;
    }
    let scheduled = job.spec().schedule.is_some();
    let runs = job.row.runs.as_ref().filter(|_| scheduled);
    let next = runs.and_then(|runs| runs.next_at);
    next.into_iter().chain(first_overdue(job)).min()
}

/// When the first of the running tasks will have taken too long.
fn first_overdue(job: &JobState) -> Option<Timestamp> {
    let limited = |job: &JobState| job.versions().any(|version| version.spec.timeout.is_some());
    if !limited(job) {
        return None;
    }
    let running = job.tasks_where(|state| state == TaskState::Running);
    let ends = running.filter_map(|row| Some(row.started_at?.plus(job.spec_of(row).timeout?)));
    ends.min()
}
