//! Jobs that wait for other jobs.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{JobId, JobSpec, Kind, Name, RunOutcome, TaskState};

use crate::JobState;
use crate::draft::Draft;
use crate::endpoints::serves;

/// Whether everything that a job waits for is there; otherwise what it waits for, in words.
pub(crate) fn ready(draft: &Draft, spec: &JobSpec) -> Result<(), String> {
    ready_beyond(draft, spec, &[])
}

/// The same of what a job waits for beside what it has known before.
pub(crate) fn ready_beyond(draft: &Draft, spec: &JobSpec, known: &[Name]) -> Result<(), String> {
    for name in spec.depends_on.iter().filter(|name| !known.contains(name)) {
        let id = JobId::new(spec.namespace.clone(), name.clone());
        match draft.job(&id) {
            None => return Err(format!("waits for {id}, which does not exist")),
            Some(job) if job.row.stopped => {
                return Err(format!("waits for {id}, which is stopped"));
            }
            Some(job) if !is_ready(job) => {
                return Err(match job.spec().kind {
                    Kind::Service | Kind::Daemon => {
                        format!("waits for {id}, which has no healthy task yet")
                    }
                    Kind::Batch => format!("waits for {id}, which is not done yet"),
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether jobs that wait for this one may start.
///
/// One healthy task makes a service ready, so that an update or a failure of some of its tasks holds nobody up.
/// A batch job is ready when every one of its tasks is done, one with a schedule once a run has succeeded.
pub(crate) fn is_ready(job: &JobState) -> bool {
    match job.spec().kind {
        Kind::Service | Kind::Daemon => job.tasks().any(|row| serves(job, row)),
        Kind::Batch if job.spec().schedule.is_some() => {
            let mut runs = job.row.runs.iter().flat_map(|runs| &runs.newest);
            runs.any(|run| run.outcome == RunOutcome::Done)
        }
        Kind::Batch => job.indexes().all(|index| {
            let latest = job.latest(index);
            latest.is_some_and(|row| row.state == TaskState::Done)
        }),
    }
}

/// Jobs that would wait for each other, in order, if these specs were applied; none when all is well.
pub(crate) fn cycle<'a>(
    draft: &Draft,
    specs: impl Iterator<Item = &'a JobSpec>,
) -> Option<Vec<JobId>> {
    let submitted: BTreeMap<JobId, &JobSpec> = specs.map(|spec| (spec.id(), spec)).collect();
    let waits_for = |id: &JobId| -> Vec<Name> {
        let known = || draft.job(id).map(|job| job.spec().as_ref());
        let spec = submitted.get(id).copied().or_else(known);
        spec.map(|spec| spec.depends_on.clone()).unwrap_or_default()
    };
    let mut cleared = BTreeSet::new();
    let mut starts = submitted.keys();
    starts.find_map(|start| search(waits_for, start.clone(), &mut cleared))
}

/// Walks depth first without recursion: a chain of dependencies may be long.
fn search(
    waits_for: impl Fn(&JobId) -> Vec<Name>,
    start: JobId,
    cleared: &mut BTreeSet<JobId>,
) -> Option<Vec<JobId>> {
    let mut path = vec![(start.clone(), waits_for(&start))];
    while let Some((id, left)) = path.last_mut() {
        let Some(name) = left.pop() else {
            let (done, _) = path.pop()?;
            cleared.insert(done);
            continue;
        };
        let dependency = JobId::new(id.namespace.clone(), name);
        if let Some(place) = path.iter().position(|(on_path, _)| *on_path == dependency) {
            let mut names: Vec<JobId> = path.drain(place..).map(|(id, _)| id).collect();
            names.push(dependency);
            return Some(names);
        }
        if !cleared.contains(&dependency) {
            let next = waits_for(&dependency);
            path.push((dependency, next));
        }
    }
    None
}
