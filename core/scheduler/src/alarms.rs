//! The moments at which something falls due for a job although nothing happens to it.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{JobId, Kind, TaskState, Timestamp};

use crate::JobState;

/// One moment a job, by job and by moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarms {
    of: BTreeMap<JobId, Timestamp>,
    by_moment: BTreeSet<(Timestamp, JobId)>,
}

impl Alarms {
    /// Notes when something falls due for a job; none where nothing does.
    pub(crate) fn set(&mut self, id: &JobId, moment: Option<Timestamp>) {
        if self.of.get(id).copied() == moment {
            return;
        }
        if let Some(old) = self.of.remove(id) {
            self.by_moment.remove(&(old, id.clone()));
        }
        if let Some(moment) = moment {
            self.of.insert(id.clone(), moment);
            self.by_moment.insert((moment, id.clone()));
        }
    }

    /// The jobs for which something is due.
    pub(crate) fn due(&self, now: Timestamp) -> impl Iterator<Item = &JobId> {
        let due = self.by_moment.iter();
        due.take_while(move |(moment, _)| *moment <= now)
            .map(|(_, id)| id)
    }
}

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
    let running = job.tasks().filter(|row| row.state == TaskState::Running);
    let ends = running.filter_map(|row| Some(row.started_at?.plus(job.spec_of(row).timeout?)));
    ends.min()
}
