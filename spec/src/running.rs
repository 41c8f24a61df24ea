//! What runs, compared with a tree of specs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tw_model::{Cause, JobId, JobSpec, Location, SourceRef};

use crate::compare::{CompareError, Compared, Side, SpecDiff, Tree, compare};
use crate::{EvaluatedJob, Evaluator, Outcome, Provenance, Source, evaluate};

/// A job that a cluster runs, and where its spec came from.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningJob {
    pub spec: JobSpec,
    pub source: SourceRef,
}

/// Compares what runs with `head`. Jobs that came from elsewhere than the tree's repository are left out.
///
/// Each job is held against the revision that it was applied from, so that causes can be told; of a job that was
/// applied from a work tree, or from a commit that is not here, the cause is where the new value is written.
pub fn diff_with_running(
    evaluator: &Evaluator,
    running: &[RunningJob],
    head: Tree<'_>,
) -> Result<Compared, CompareError> {
    let outcome = evaluate(evaluator, head.source, head.specs)?;
    let mut revisions = Revisions::new(head);
    let mut by_revision: BTreeMap<&str, Vec<&RunningJob>> = BTreeMap::new();
    for job in running.iter().filter(|job| revisions.is_ours(job)) {
        by_revision
            .entry(&job.source.revision)
            .or_default()
            .push(job);
    }
    let known: BTreeSet<JobId> = by_revision
        .values()
        .flatten()
        .map(|job| job.spec.id())
        .collect();
    let part = |keep: &dyn Fn(&JobId) -> bool| Outcome {
        jobs: outcome
            .jobs
            .iter()
            .filter(|job| keep(&job.spec.id()))
            .cloned()
            .collect(),
        specs: outcome.specs.clone(),
        errors: outcome.errors.clone(),
    };
    let mut whole: Option<SpecDiff> = None;
    let mut add = |diff: SpecDiff| match &mut whole {
        Some(whole) => whole.merge(diff),
        None => whole = Some(diff),
    };
    let fresh = part(&|id| !known.contains(id));
    let nothing = Outcome::default();
    add(compare(
        evaluator,
        side(head.source, &nothing),
        side(head.source, &fresh),
    )?);
    for (revision, jobs) in by_revision {
        let ids: BTreeSet<JobId> = jobs.iter().map(|job| job.spec.id()).collect();
        let base = Outcome {
            jobs: jobs.into_iter().map(evaluated).collect(),
            ..Outcome::default()
        };
        let known = revisions.get(revision);
        let is_unknown = known.is_none();
        let source = known.unwrap_or_else(|| head.source.clone());
        let head_part = part(&|id| ids.contains(id));
        let mut diff = compare(
            evaluator,
            side(&source, &base),
            side(head.source, &head_part),
        )?;
        if is_unknown {
            name_places(&mut diff, &head_part);
        }
        add(diff);
    }
    let diff = whole.expect("the jobs that are new were compared");
    Ok(Compared {
        diff,
        head: outcome,
    })
}

/// Says where new values are written, as the cause of changes whose old side nobody has.
fn name_places(diff: &mut SpecDiff, head: &Outcome) {
    for job in &mut diff.jobs {
        let known = head.jobs.iter().find(|one| {
            one.spec.name.as_str() == job.name && one.spec.namespace.as_str() == job.namespace
        });
        let Some(known) = known else { continue };
        let unexplained = job.changes.iter_mut().filter(|one| one.cause.is_none());
        for change in unexplained.filter(|change| !change.new.is_null()) {
            let place = known.provenance.locate(&change.path);
            let place = place.filter(|place| !place.file.is_empty());
            change.cause = place.map(|place| Cause {
                file: place.file.clone(),
                line: Some(place.line),
                commit: None,
            });
        }
    }
}

/// The revisions of the head's repository that jobs were applied from.
struct Revisions<'a> {
    head: Tree<'a>,
    known: BTreeMap<String, Option<Source>>,
}

impl<'a> Revisions<'a> {
    fn new(head: Tree<'a>) -> Revisions<'a> {
        Revisions {
            head,
            known: BTreeMap::new(),
        }
    }

    fn get(&mut self, revision: &str) -> Option<Source> {
        if revision.is_empty() {
            return None;
        }
        let root = self.head.source.root();
        let known = self.known.entry(revision.to_owned());
        let source = known.or_insert_with(|| Source::revision(root, revision).ok());
        source.clone()
    }

    /// Whether a job came from this repository, as far as can be told.
    fn is_ours(&mut self, job: &RunningJob) -> bool {
        let file = &job.source.file;
        self.head.specs.contains(file)
            || self
                .get(&job.source.revision)
                .is_some_and(|source| source.kind(file).is_ok_and(|kind| kind.is_some()))
    }
}

fn side<'a>(source: &'a Source, outcome: &'a Outcome) -> Side<'a> {
    Side { source, outcome }
}

fn evaluated(job: &RunningJob) -> EvaluatedJob {
    let SourceRef { file, line, .. } = &job.source;
    EvaluatedJob {
        spec: job.spec.clone(),
        file: file.clone(),
        source: Location {
            file: file.clone(),
            line: *line,
            column: 1,
        },
        provenance: Provenance::default(),
        closure: Arc::new([]),
    }
}
