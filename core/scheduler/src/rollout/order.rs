//! What people order of an update: pause, resume, abort, roll back.

use tw_model::{Approval, Code, JobId, RolloutState, TaskState, Version};

use super::{begin, write};
use crate::draft::Draft;
use crate::plan::{self, SubmittedJob, Wanted};
use crate::step::{Refusal, Reply};
use crate::{JobState, reconcile};

/// What is to become of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutOrder {
    /// It takes no further step until it is resumed.
    Pause,
    /// A paused or halted one goes on.
    Resume,
    /// It ends where it is: some tasks have the new version, the others keep theirs.
    Abort,
    /// The job goes back to a version: the one named, or the last that all of its tasks have run healthily.
    Rollback { to: Option<Version> },
}

/// Carries out an order.
pub(crate) fn order(draft: &mut Draft, id: &JobId, order: RolloutOrder, by: &str) -> Reply {
    let Some(job) = draft.job(id) else {
        return Reply::Refused(Refusal::job_not_found(id));
    };
    if job.row.stopped {
        return Reply::Refused(refuse(
            format!("{id} is stopped"),
            "apply its spec to begin it again",
        ));
    }
    let state = job.row.rollout.as_ref().map(|rollout| rollout.state);
    let done = match (order, state) {
        (RolloutOrder::Rollback { to }, _) => {
            return match target(job, to) {
                Ok(target) => {
                    let version = roll_back(draft, id, target, by, format!("asked for by {by}"));
                    reconcile::reconcile(draft, id);
                    Reply::Rollout { version }
                }
                Err(refusal) => Reply::Refused(refusal),
            };
        }
        (RolloutOrder::Pause, Some(RolloutState::Running)) => {
            pause(draft, id, by);
            Ok(())
        }
        (RolloutOrder::Pause, Some(state)) => Err(format!("the update of {id} is {state} already")),
        (RolloutOrder::Resume, Some(RolloutState::Paused | RolloutState::Halted)) => {
            resume(draft, id, by);
            Ok(())
        }
        (RolloutOrder::Resume, Some(RolloutState::Running)) => {
            Err(format!("the update of {id} is running"))
        }
        (RolloutOrder::Abort, Some(RolloutState::Running | RolloutState::Paused)) => {
            super::halt(draft, id, format!("aborted by {by}"));
            Ok(())
        }
        (RolloutOrder::Abort, Some(RolloutState::Halted)) => {
            Err(format!("the update of {id} has halted already"))
        }
        (_, None) => Err(format!("no update of {id} is under way")),
    };
    match done {
        Ok(()) => {
            reconcile::reconcile(draft, id);
            let version = draft.job(id).map_or(0, |job| job.row.version);
            Reply::Rollout { version }
        }
        Err(found) => Reply::Refused(refuse(found, "`tw status` shows how far it is")),
    }
}

fn refuse(message: String, hint: &str) -> Refusal {
    Refusal::new(Code::RequestInvalid, message, hint)
}

fn pause(draft: &mut Draft, id: &JobId, by: &str) {
    write(draft, id, |rollout| {
        rollout.state = RolloutState::Paused;
        rollout.reason = format!("paused by {by}");
    });
    draft.note(id, "rollout.paused", (None, None), format!("by {by}"));
}

/// Lets an update go on. What failed before is tried anew, with all the time that the spec gives it.
fn resume(draft: &mut Draft, id: &JobId, by: &str) {
    let now = draft.now;
    write(draft, id, |rollout| {
        rollout.state = RolloutState::Running;
        rollout.reason = String::new();
        rollout.progress_at = now;
        rollout.good_since = None;
    });
    if let Some(job) = draft.job(id) {
        let failed = job.tasks().filter(|row| {
            row.version == job.row.version && row.failures > 0 && !row.state.is_terminal()
        });
        let failed: Vec<_> = failed.cloned().collect();
        for mut row in failed {
            row.failures = 0;
            if row.state == TaskState::Pending {
                row.not_before = None;
            }
            draft.put_task(row);
        }
    }
    draft.note(id, "rollout.resumed", (None, None), format!("by {by}"));
}

/// The version to go back to.
fn target(job: &JobState, asked: Option<Version>) -> Result<Version, Refusal> {
    let id = &job.row.id;
    let current = job.row.version;
    let kept = || {
        let versions: Vec<String> = job.versions.keys().map(Version::to_string).collect();
        format!("these are kept: {}", versions.join(", "))
    };
    match asked {
        Some(version) if version == current => Err(refuse(
            format!("{id} is at version {version}"),
            "name an older one",
        )),
        Some(version) => match job.version(version) {
            Some(_) => Ok(version),
            None => Err(refuse(
                format!("version {version} of {id} is not kept"),
                &kept(),
            )),
        },
        None => last_good(job).ok_or_else(|| {
            refuse(
                format!("{id} has no earlier version that all of its tasks have run healthily"),
                &kept(),
            )
        }),
    }
}

/// The last version that all tasks have run healthily; while no update is under way, the one before that.
fn last_good(job: &JobState) -> Option<Version> {
    if job.row.stable_version != job.row.version {
        return good_before(job);
    }
    let spec = job.spec();
    let mut older = job.versions.range(..job.row.version).rev();
    older
        .find(|(_, version)| version.spec != *spec)
        .map(|(version, _)| *version)
}

/// The version that a failed update goes back to by itself.
pub(super) fn good_before(job: &JobState) -> Option<Version> {
    let stable = job.row.stable_version;
    (stable != job.row.version).then_some(stable)?;
    job.version(stable).map(|_| stable)
}

/// Makes an earlier spec the newest version, and begins the update to it.
///
/// Out of the middle of an update it goes to all tasks at once, within the budget: those that the update has not
/// reached run that spec already.
pub(super) fn roll_back(
    draft: &mut Draft,
    id: &JobId,
    to: Version,
    by: &str,
    why: String,
) -> Version {
    let Some(job) = draft.job(id) else {
        return 0;
    };
    let Some(good) = job.version(to).cloned() else {
        return job.row.version;
    };
    let (bad, under_way) = (job.row.version, job.row.rollout.is_some());
    let submitted = SubmittedJob {
        spec: (*good.spec).clone(),
        source: good.source.clone(),
    };
    let wanted = Wanted {
        by: by.to_owned(),
        plan: good.plan.clone(),
        approval: Approval::default(),
    };
    let version = plan::write_version(draft, &submitted, &wanted);
    begin(draft, id, bad, Vec::new(), false);
    write(draft, id, |rollout| {
        rollout.rollback = under_way;
        rollout.reason = why.clone();
    });
    let message = format!("version {version}, as version {to} was: {why}");
    draft.note(id, "rollout.rolled_back", (None, None), message);
    version
}
