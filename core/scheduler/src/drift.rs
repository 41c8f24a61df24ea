//! Where what runs is not what was asked for, before a submission changes anything.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use tw_model::{JobId, Name, RolloutState, TaskState, Version};

use crate::plan::Submission;
use crate::{JobState, State};

/// One way in which a job is not as its newest version says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub job: JobId,
    #[serde(flatten)]
    pub found: DriftKind,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "drift", rename_all = "snake_case")]
pub enum DriftKind {
    /// Someone stopped the job.
    Stopped,
    /// An update is under way, or has halted; so many of the tasks have its version.
    Update {
        state: RolloutState,
        to: Version,
        updated: u32,
        of: u32,
        reason: String,
    },
    /// So many of the wanted tasks do not run; why, where it is known.
    Down { tasks: u32, of: u32, reason: String },
    /// So many tasks run and fail their checks.
    Unhealthy { tasks: u32, of: u32 },
    /// It runs, and the file that it came from does not export it any more.
    NotExported { file: String },
}

/// The drift of the submitted jobs, and of those that came from the same files.
pub(crate) fn drift(state: &State, submission: &Submission) -> Vec<Drift> {
    let names: BTreeSet<JobId> = submission.jobs.iter().map(|job| job.spec.id()).collect();
    let known = names.iter().filter_map(|id| state.job(id));
    let mut found: Vec<Drift> = known.flat_map(of_job).collect();
    found.extend(not_exported(state, submission, &names));
    found.sort_by(|a, b| a.job.cmp(&b.job));
    found
}

/// The jobs that came from the same files, and that neither is submitted nor removed.
fn not_exported(state: &State, submission: &Submission, names: &BTreeSet<JobId>) -> Vec<Drift> {
    let files: BTreeSet<(&Name, &str)> = submission
        .jobs
        .iter()
        .map(|job| (&job.spec.namespace, job.source.file.as_str()))
        .filter(|(_, file)| !file.is_empty())
        .collect();
    if files.is_empty() {
        return Vec::new();
    }
    let is_left_out = |job: &&JobState| {
        let id = &job.row.id;
        !job.row.stopped
            && files.contains(&(&id.namespace, job.current().source.file.as_str()))
            && !names.contains(id)
            && !submission.remove.contains(id)
    };
    let left_out = state.jobs().filter(is_left_out);
    left_out
        .map(|job| Drift {
            job: job.row.id.clone(),
            found: DriftKind::NotExported {
                file: job.current().source.file.clone(),
            },
        })
        .collect()
}

fn of_job(job: &JobState) -> Vec<Drift> {
    let of = job.wanted();
    let mut found = Vec::new();
    if job.row.stopped {
        found.push(DriftKind::Stopped);
    }
    if let Some(rollout) = &job.row.rollout {
        let newest = (0..of).filter_map(|index| job.latest(index));
        found.push(DriftKind::Update {
            state: rollout.state,
            to: rollout.to,
            updated: newest.filter(|row| row.version == rollout.to).count() as u32,
            of,
            reason: rollout.reason.clone(),
        });
    }
    let rows: Vec<_> = (0..of).map(|index| job.latest(index)).collect();
    let down = rows.iter().filter(|row| {
        row.is_none_or(|row| {
            !matches!(
                row.state,
                TaskState::Starting | TaskState::Running | TaskState::Done
            )
        })
    });
    let down: Vec<_> = down.collect();
    if !job.row.stopped && !down.is_empty() {
        let reasons = down
            .iter()
            .filter_map(|row| Some(row.as_ref()?.reason.as_str()));
        found.push(DriftKind::Down {
            tasks: down.len() as u32,
            of,
            reason: reasons
                .into_iter()
                .find(|reason| !reason.is_empty())
                .unwrap_or_default()
                .to_owned(),
        });
    }
    let ill = rows.iter().flatten();
    let ill = ill.filter(|row| row.state == TaskState::Running && row.healthy == Some(false));
    match ill.count() as u32 {
        0 => {}
        tasks => found.push(DriftKind::Unhealthy { tasks, of }),
    }
    let job = &job.row.id;
    let found = found.into_iter().map(|found| Drift {
        job: job.clone(),
        found,
    });
    found.collect()
}

impl fmt::Display for DriftKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = |reason: &str| match reason.is_empty() {
            true => String::new(),
            false => format!(": {reason}"),
        };
        match self {
            DriftKind::Stopped => f.write_str("was stopped by hand"),
            DriftKind::Update {
                state,
                to,
                updated,
                of,
                reason,
            } => write!(
                f,
                "an update to version {to} is {state} at {updated} of {of} tasks{}",
                because(reason)
            ),
            DriftKind::Down { tasks, of, reason } => {
                write!(f, "{tasks} of {of} tasks are down{}", because(reason))
            }
            DriftKind::Unhealthy { tasks, of } => {
                write!(f, "{tasks} of {of} tasks fail their checks")
            }
            DriftKind::NotExported { file } => {
                write!(f, "runs, and {file} does not export it any more")
            }
        }
    }
}
