//! The runs of jobs with a schedule: when the next is due, what happens when one has not ended by then, and what
//! becomes of those whose time passed while nothing could be started.
//!
//! A run is all tasks of the job once, at the version that was wanted when it began; an update reaches the next run.
//! One run is under way at a time. A run whose moment lies further back than [`LATE_MAX`] was missed.

use tw_model::{
    Desired, JobId, Millis, Missed, Overlap, RUNS_KEPT, RunOutcome, RunRecord, RunsRecord,
    Schedule, TaskState, Timestamp,
};

use crate::JobState;
use crate::draft::Draft;
use crate::reconcile::{edit, exhausted};

/// How late a run may begin and still count as the one of its moment: a controller that starts again is back by then.
const LATE_MAX: Millis = Millis::minutes(1);

/// How many missed moments are counted one by one.
const MISSED_COUNTED_MAX: u32 = 1000;

/// Ends the run that is over, and begins the one that is due.
pub(crate) fn advance(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let schedule = job.spec().schedule.clone().filter(|_| !job.row.stopped);
    match (schedule, &job.row.runs) {
        (None, None) => {}
        (None, Some(runs)) => {
            if runs.open().is_some() || runs.next_at.is_some() || runs.queued.is_some() {
                give_up(draft, id);
            }
        }
        (Some(schedule), _) => {
            close(draft, id);
            look_ahead(draft, id, &schedule);
            begin_queued(draft, id);
            if due_at(draft, id).is_some_and(|due| due <= draft.now) {
                fall_due(draft, id, &schedule);
            }
        }
    }
}

/// Begins a run that someone asks for. Refuses, in words, where one is under way and is not to be replaced.
pub(crate) fn begin_now(draft: &mut Draft, id: &JobId, by: &str) -> Result<(), String> {
    let Some(job) = draft.job(id) else {
        return Ok(());
    };
    let overlap = job
        .spec()
        .schedule
        .as_ref()
        .map(|schedule| schedule.overlap);
    match (job.open_run(), overlap) {
        (Some(open), Some(Overlap::Skip)) => {
            return Err(format!("run {} of {id} has not ended", open.number));
        }
        _ => start(draft, id, draft.now, overlap, format!("asked for by {by}")),
    }
    Ok(())
}

fn due_at(draft: &Draft, id: &JobId) -> Option<Timestamp> {
    draft.job(id)?.row.runs.as_ref()?.next_at
}

fn change(draft: &mut Draft, id: &JobId, change: impl FnOnce(&mut RunsRecord)) {
    edit(draft, id, |row| {
        change(row.runs.get_or_insert_with(RunsRecord::default))
    });
}

/// Nobody wants runs of it any more.
fn give_up(draft: &mut Draft, id: &JobId) {
    let reason = match draft.job(id).is_some_and(|job| job.row.stopped) {
        true => "the job was stopped",
        false => "the schedule was taken away",
    };
    end(draft, id, RunOutcome::Stopped, reason.to_owned());
    change(draft, id, |runs| {
        runs.next_at = None;
        runs.queued = None;
    });
}

/// Ends the run under way if all of its tasks have.
fn close(draft: &mut Draft, id: &JobId) {
    let Some((job, run)) = draft.job(id).and_then(|job| Some((job, job.open_run()?))) else {
        return;
    };
    let rows: Vec<_> = job
        .wanted_rows()
        .map(|(_, row)| row.filter(|row| row.run == run.number))
        .collect();
    // One that was only asked to make way has not done its work.
    let done =
        |row: &tw_model::TaskRecord| row.state == TaskState::Done && row.desired == Desired::Run;
    let is_over = |row: &tw_model::TaskRecord| done(row) || exhausted(job, row);
    if !rows.iter().all(|row| row.is_some_and(is_over)) {
        return;
    }
    let (version, number) = (run.version, run.number);
    let failed: Vec<_> = rows
        .into_iter()
        .flatten()
        .filter(|row| !done(row))
        .collect();
    match failed.first() {
        None => {
            end(draft, id, RunOutcome::Done, String::new());
            let stable = |row: &mut tw_model::JobRecord| row.stable_version = version;
            edit(draft, id, stable);
            draft.note(id, "run.done", (None, None), format!("run {number}"));
        }
        Some(first) => {
            let reason = format!("{} of its tasks failed: {}", failed.len(), first.reason);
            end(draft, id, RunOutcome::Failed, reason.clone());
            let message = format!("run {number}: {reason}");
            draft.note(id, "run.failed", (None, None), message);
        }
    }
}

fn end(draft: &mut Draft, id: &JobId, outcome: RunOutcome, reason: String) {
    let now = draft.now;
    change(draft, id, |runs| {
        let last = runs.newest.last_mut();
        if let Some(open) = last.filter(|run| run.outcome == RunOutcome::Running) {
            open.outcome = outcome;
            open.ended_at = Some(now);
            open.reason = reason;
        }
    });
}

/// Computes when the next run is due, where another schedule than before says so.
fn look_ahead(draft: &mut Draft, id: &JobId, schedule: &Schedule) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let known = job.row.runs.as_ref();
    let (now, version) = (draft.now, job.row.version);
    if known.is_some_and(|runs| runs.version == version && runs.next_at.is_some()) {
        return;
    }
    let before = known.and_then(|runs| job.version(runs.version));
    let same = |before: &Schedule| {
        (&before.cron, &before.time_zone) == (&schedule.cron, &schedule.time_zone)
    };
    let same = before
        .and_then(|version| version.spec.schedule.as_ref())
        .is_some_and(same);
    let kept = known.and_then(|runs| runs.next_at).filter(|_| same);
    let next = kept.or_else(|| schedule.next_after(now));
    change(draft, id, |runs| {
        runs.version = version;
        runs.next_at = next;
    });
}

/// Deals with all moments of the schedule up to now.
fn fall_due(draft: &mut Draft, id: &JobId, schedule: &Schedule) {
    let (now, Some(due)) = (draft.now, due_at(draft, id)) else {
        return;
    };
    let mut latest = due;
    let mut missed = 0;
    while let Some(next) = schedule.next_after(latest).filter(|next| *next <= now) {
        latest = next;
        missed += 1;
        if missed >= MISSED_COUNTED_MAX {
            break;
        }
    }
    let on_time = now.since(latest) <= LATE_MAX;
    missed += u32::from(!on_time);
    let next = schedule.next_after(now);
    change(draft, id, |runs| runs.next_at = next);
    let makes_up = missed > 0 && schedule.missed == Missed::RunOnce;
    if missed > 0 {
        let what = match makes_up {
            true => "one run makes up for all",
            false => "left out",
        };
        let count = match missed >= MISSED_COUNTED_MAX {
            true => format!("{MISSED_COUNTED_MAX} or more"),
            false => missed.to_string(),
        };
        let message = format!("{count} missed, the first of them due at {due}: {what}");
        draft.note(id, "run.missed", (None, None), message);
    }
    if on_time || makes_up {
        start(draft, id, latest, Some(schedule.overlap), String::new());
    }
}

/// Begins a run, or does what the overlap policy says where one is under way.
fn start(draft: &mut Draft, id: &JobId, due: Timestamp, overlap: Option<Overlap>, reason: String) {
    let open = draft
        .job(id)
        .and_then(JobState::open_run)
        .map(|run| run.number);
    match (open, overlap) {
        (None, _) | (_, None) => begin(draft, id, due, reason),
        (Some(open), Some(Overlap::Skip)) => {
            let message = format!("due at {due}: run {open} has not ended");
            draft.note(id, "run.skipped", (None, None), message);
        }
        (Some(_), Some(Overlap::Queue)) => change(draft, id, |runs| {
            runs.queued.get_or_insert(due);
        }),
        (Some(open), Some(Overlap::Replace)) => {
            end(
                draft,
                id,
                RunOutcome::Replaced,
                "the next run was due".to_owned(),
            );
            draft.note(id, "run.replaced", (None, None), format!("run {open}"));
            begin(draft, id, due, reason);
        }
    }
}

fn begin_queued(draft: &mut Draft, id: &JobId) {
    let runs = draft.job(id).and_then(|job| job.row.runs.as_ref());
    let queued = runs.filter(|runs| runs.open().is_none());
    if let Some(due) = queued.and_then(|runs| runs.queued) {
        change(draft, id, |runs| runs.queued = None);
        begin(draft, id, due, "waited for the run before it".to_owned());
    }
}

fn begin(draft: &mut Draft, id: &JobId, due: Timestamp, reason: String) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let (now, version) = (draft.now, job.row.version);
    let newest = job.row.runs.as_ref().and_then(|runs| runs.newest.last());
    let number = newest.map_or(1, |run| run.number + 1);
    let run = RunRecord {
        number,
        version,
        due_at: due,
        began_at: now,
        ended_at: None,
        outcome: RunOutcome::Running,
        reason: reason.clone(),
    };
    change(draft, id, |runs| {
        runs.newest.push(run);
        let over = runs.newest.len().saturating_sub(RUNS_KEPT);
        runs.newest.drain(..over);
    });
    let message = match reason.is_empty() {
        true => format!("run {number}, due at {due}"),
        false => format!("run {number}: {reason}"),
    };
    draft.note(id, "run.began", (None, None), message);
}

/// Whether there is something to do for the runs of a job now, whatever the time.
pub(crate) fn has_loose_ends(job: &JobState) -> bool {
    let scheduled = job.spec().schedule.is_some() && !job.row.stopped;
    match &job.row.runs {
        None => scheduled,
        Some(runs) if scheduled => {
            let empty = runs.open().is_some() && job.wanted() == 0;
            runs.version != job.row.version
                || empty
                || (runs.queued.is_some() && runs.open().is_none())
        }
        Some(runs) => runs.open().is_some() || runs.next_at.is_some() || runs.queued.is_some(),
    }
}
