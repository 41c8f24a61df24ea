//! Jobs that wait for other jobs.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{JobId, JobSpec, Kind, TaskState};

use crate::JobState;
use crate::draft::Draft;
use crate::endpoints::serves;

/// Whether everything that a job waits for is there; otherwise what it waits for, in words.
pub(crate) fn ready(draft: &Draft, spec: &JobSpec) -> Result<(), String> {
    for name in &spec.depends_on {
        let id = JobId::new(spec.namespace.clone(), name.clone());
        match draft.job(&id) {
            None => return Err(format!("waits for {id}, which does not exist")),
            Some(job) if job.row.stopped => {
                return Err(format!("waits for {id}, which is stopped"));
            }
            Some(job) if !is_ready(job) => {
                return Err(match job.spec().kind {
                    Kind::Service => format!("waits for {id}, which has no healthy task yet"),
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
/// A batch job is ready when every one of its tasks is done.
pub(crate) fn is_ready(job: &JobState) -> bool {
    match job.spec().kind {
        Kind::Service => job.tasks().any(|row| serves(job, row)),
        Kind::Batch => (0..job.wanted()).all(|index| {
            let latest = job.latest(index);
            latest.is_some_and(|row| row.state == TaskState::Done)
        }),
    }
}

/// Jobs that would wait for each other, in order, if these specs were applied; none when all is well.
pub(crate) fn cycle<'a>(
    draft: &'a Draft,
    specs: impl Iterator<Item = &'a JobSpec>,
) -> Option<Vec<JobId>> {
    let known = draft
        .jobs()
        .map(|job| (job.row.id.clone(), job.spec().as_ref()));
    let mut all: BTreeMap<JobId, &JobSpec> = known.collect();
    let submitted: BTreeMap<JobId, &JobSpec> = specs.map(|spec| (spec.id(), spec)).collect();
    let starts: Vec<JobId> = submitted.keys().cloned().collect();
    all.extend(submitted);
    let mut cleared = BTreeSet::new();
    starts
        .into_iter()
        .find_map(|start| search(&all, start, &mut cleared))
}

/// Walks depth first without recursion: a chain of dependencies may be long.
fn search(
    all: &BTreeMap<JobId, &JobSpec>,
    start: JobId,
    cleared: &mut BTreeSet<JobId>,
) -> Option<Vec<JobId>> {
    let mut path: Vec<(JobId, usize)> = vec![(start, 0)];
    while let Some((id, next)) = path.last_mut() {
        let spec = all.get(id);
        let dependency = spec.and_then(|spec| spec.depends_on.get(*next));
        let Some(name) = dependency else {
            let (done, _) = path.pop()?;
            cleared.insert(done);
            continue;
        };
        *next += 1;
        let dependency = JobId::new(id.namespace.clone(), name.clone());
        if let Some(place) = path.iter().position(|(on_path, _)| *on_path == dependency) {
            let mut names: Vec<JobId> = path.drain(place..).map(|(id, _)| id).collect();
            names.push(dependency);
            return Some(names);
        }
        if !cleared.contains(&dependency) {
            path.push((dependency, 0));
        }
    }
    None
}
