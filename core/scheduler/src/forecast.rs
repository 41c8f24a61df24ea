//! How long each stage of an update takes where nothing fails: what its spec makes it wait, and how long tasks of the
//! job took to become healthy before.

use tw_model::{HealthCheck, JobSpec, Millis};

use crate::JobState;

/// What the updater does within one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StageWork {
    /// How often it stops tasks and waits for their successors, as many at a time as the budget allows.
    pub(crate) rounds: u32,
    /// Whether a task changes while it runs.
    pub(crate) in_place: bool,
    /// Whether tasks start for which none has to end.
    pub(crate) adds: bool,
    /// Whether tasks are left for a later stage: the last one has nothing to wait for once its tasks are healthy.
    pub(crate) bakes: bool,
}

/// The expected duration of each stage. Tasks are taken to end as soon as they are asked.
pub(crate) fn stage_durations(
    old: Option<&JobState>,
    spec: &JobSpec,
    work: &[StageWork],
) -> Vec<Millis> {
    let start = old
        .and_then(usual_start)
        .unwrap_or_else(|| first_answer(spec));
    let checks_change = old.is_some_and(|job| job.spec().health != spec.health);
    let durations = work.iter().map(|stage| {
        let round = spec.stop.drain + start + spec.rollout.healthy_for;
        let changed = match checks_change {
            true => spec.rollout.healthy_for + slowest_verdict(&spec.health),
            false => spec.rollout.healthy_for,
        };
        let bake = match stage.bakes {
            true => spec.rollout.bake,
            false => Millis::ZERO,
        };
        let added = match stage.adds {
            true => start + spec.rollout.healthy_for,
            false => Millis::ZERO,
        };
        let work = match (stage.rounds, stage.in_place) {
            (0, false) => Millis::ZERO,
            (0, true) => changed,
            (rounds, _) => round * u64::from(rounds),
        };
        work.max(added) + bake
    });
    durations.collect()
}

/// From the start of a task to its first good check: the median of the tasks that are healthy now.
fn usual_start(job: &JobState) -> Option<Millis> {
    if job.spec().health.is_empty() {
        return None;
    }
    let healthy = job.latest_of_each().filter(|row| row.healthy == Some(true));
    let mut took: Vec<Millis> = healthy
        .filter_map(|row| Some(row.healthy_since?.since(row.started_at?)))
        .collect();
    took.sort_unstable();
    took.get(took.len() / 2).copied()
}

/// Checks look soon again until they pass: a task that is ready within the longest interval is healthy by then.
fn first_answer(spec: &JobSpec) -> Millis {
    let intervals = spec.health.iter().map(HealthCheck::every);
    intervals.max().unwrap_or(Millis::ZERO)
}

/// As long as changed checks may take to fail a task that runs.
fn slowest_verdict(checks: &[HealthCheck]) -> Millis {
    let verdicts = checks
        .iter()
        .map(|check| (check.every() + check.timeout()) * u64::from(check.failures()));
    verdicts.max().unwrap_or(Millis::ZERO)
}
