//! Makes the tasks of a job what its spec wants: stops what is too much, begins what is missing, places what waits.
//!
//! Works from the rows alone, so that any prefix of an earlier decision is a fine place to go on from.

use std::sync::Arc;

use tw_model::{
    Desired, ENDED_TASKS_KEPT, JobId, JobRecord, JobSpec, Kind, MachineId, Millis, Operation,
    Requires, RolloutState, TaskId, TaskRecord, TaskState, Timestamp, Version,
};

use crate::allocate::{self, Placer, View, Wish};
use crate::departure::{self, Departure};
use crate::dependency;
use crate::draft::Draft;
use crate::fleet::{Request, Slot};
use crate::lifecycle::{self, Details, TaskEvent};
use crate::reach::is_orphan;
use crate::requires::unmet;
use crate::{
    JobState, control, daemon, drain, maintenance, preempt, remedy, rollout, runs, seed, why,
};

/// Brings one job closer to what is wanted of it, as far as that is possible now.
pub(crate) fn reconcile(draft: &mut Draft, id: &JobId) {
    lose_orphans(draft, id);
    stop_overdue(draft, id);
    runs::advance(draft, id);
    rollout::begin_overlooked(draft, id, Vec::new());
    stop_surplus(draft, id);
    daemon::settle(draft, id);
    fill(draft, id);
    // Who may be given another version yet is not placed at the one it has, only to make way at once.
    let awaits_update = place_pending(draft, id, |job, row| !rollout::may_take(job, row));
    drain::advance(draft, id);
    remedy::advance(draft, id);
    let updated = rollout::advance(draft, id);
    if updated {
        // Extra tasks that are too many by now look for no room.
        stop_surplus(draft, id);
        fill(draft, id);
    }
    if updated || awaits_update {
        place_pending(draft, id, |_, _| true);
    }
    leave_unfit(draft, id);
    control::withdraw(draft, id);
    note_stable(draft, id);
    trim(draft, id);
}

/// Lets something happen to a task. True when its row has changed; a refusal changes nothing.
pub(crate) fn tell(
    draft: &mut Draft,
    row: &TaskRecord,
    event: TaskEvent,
    details: &Details,
) -> bool {
    let mut after = row.clone();
    let changed = lifecycle::carry_out(&mut after, event, details, draft.now).unwrap_or(false);
    if changed {
        note(draft, row, &after);
        draft.put_task(after);
    }
    changed
}

/// Changes a job's row.
pub(crate) fn edit(draft: &mut Draft, id: &JobId, change: impl FnOnce(&mut JobRecord)) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let mut row = job.row.clone();
    change(&mut row);
    if row != job.row {
        draft.put_job(row);
    }
}

/// Whether a batch task has used up its attempts.
pub(crate) fn exhausted(job: &JobState, row: &TaskRecord) -> bool {
    let spec = job.spec_of(row);
    spec.kind == Kind::Batch
        && row.state == TaskState::Failed
        && row.failures > spec.restart.attempts
}

/// Notes the transitions that people care about.
fn note(draft: &mut Draft, before: &TaskRecord, after: &TaskRecord) {
    let Some(job) = draft.job(&after.id.job) else {
        return;
    };
    let kind = match (before.state, after.state) {
        (old, new) if old == new => match (before.healthy, after.healthy) {
            (old, Some(true)) if old != Some(true) => "task.healthy",
            (old, Some(false)) if old != Some(false) => "task.unhealthy",
            _ => return,
        },
        (_, TaskState::Starting) => "task.placed",
        (_, TaskState::Running) => "task.started",
        (_, TaskState::Stopping) => "task.stopping",
        (_, TaskState::Failed) => "task.failed",
        (_, TaskState::Lost) => "task.lost",
        (_, TaskState::Done) if after.desired == Desired::Stop => "task.stopped",
        (_, TaskState::Done) => "task.done",
        (_, TaskState::Pending) => return,
    };
    let message = match exhausted(job, after) {
        true => format!("{}; no attempt is left", after.reason),
        false => after.reason.clone(),
    };
    let about = (Some(after.id.clone()), after.machine.clone());
    draft.note(&after.id.job, kind, about, message);
}

/// Ends the tasks of machines that are lost, or have begun a new epoch since.
///
/// Usually they are ended together with the epoch; this also catches what a crash left between two portions.
fn lose_orphans(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let orphans = job.live().filter(|row| {
        let machine = row.machine.as_ref();
        machine.is_some_and(|id| is_orphan(row, job.spec_of(row), draft.machine(id)))
    });
    let orphans: Vec<TaskRecord> = orphans.cloned().collect();
    for row in orphans {
        let why = Details::because("its machine was lost or restarted");
        tell(draft, &row, TaskEvent::MachineLost, &why);
    }
}

/// Asks batch tasks to end that have taken longer than one try may.
fn stop_overdue(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id).filter(|job| job.spec().kind == Kind::Batch) else {
        return;
    };
    let running = job.tasks_where(|state| state == TaskState::Running);
    let overdue = running.filter_map(|row| {
        let (started, timeout) = (row.started_at?, job.spec_of(row).timeout?);
        (started.plus(timeout) <= draft.now).then(|| (row.clone(), timeout))
    });
    let overdue: Vec<(TaskRecord, Millis)> = overdue.collect();
    for (row, timeout) in overdue {
        let why = Details::because(format!("took longer than {timeout}"));
        tell(draft, &row, TaskEvent::TimedOut, &why);
    }
}

/// Which tasks of a job are too many: their index is not wanted, or their run is not the one under way.
///
/// A job that is given a schedule lets the batch tasks end that ran without one; those of another kind do not stay.
pub(crate) struct Surplus<'a> {
    job: &'a JobState,
    wanted: u32,
    scheduled: bool,
    open: Option<u64>,
}

impl Surplus<'_> {
    pub(crate) fn of(job: &JobState) -> Surplus<'_> {
        Surplus {
            job,
            wanted: job.wanted(),
            scheduled: job.spec().schedule.is_some(),
            open: job.open_run().map(|run| run.number),
        }
    }

    /// Whether tasks of an index may be too many; where it is false, none is.
    pub(crate) fn may_hold(&self, index: u32) -> bool {
        self.scheduled || index >= self.wanted
    }

    pub(crate) fn holds(&self, row: &TaskRecord) -> bool {
        let beyond = || row.id.index >= self.wanted && !rollout::is_extra(self.job, row);
        if !self.scheduled {
            return beyond();
        }
        let job = self.job;
        let older = row.run == 0 && !job.row.stopped && job.spec_of(row).kind == Kind::Batch;
        !older && (self.open != Some(row.run) || beyond())
    }
}

/// Asks tasks to end whose index is not wanted any more.
fn stop_surplus(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let surplus = Surplus::of(job);
    let stays = |row: &TaskRecord| row.desired != Desired::Run || !surplus.holds(row);
    let surplus = job.live().filter(|row| !stays(row));
    let surplus: Vec<TaskRecord> = surplus.cloned().collect();
    if surplus.is_empty() {
        return;
    }
    let why = match (job.row.stopped, &job.spec().schedule) {
        (true, _) => "the job was stopped".to_owned(),
        (false, Some(_)) => "its run is over".to_owned(),
        (false, None) => format!("only {} tasks are wanted", job.wanted()),
    };
    // The highest first, should the decision be cut short.
    for row in surplus.iter().rev() {
        tell(
            draft,
            row,
            TaskEvent::StopAsked,
            &Details::because(why.clone()),
        );
    }
}

/// Asks tasks to leave machines that are not what their job requires any more.
fn leave_unfit(draft: &mut Draft, id: &JobId) {
    let may_leave = |job: &&JobState| {
        let (idle, spec) = (job.row.rollout.is_none(), job.spec());
        idle && spec.kind != Kind::Daemon && spec.requires != Requires::default()
    };
    let Some(job) = draft.job(id).filter(may_leave) else {
        return;
    };
    let rows = job.wanted_rows().filter_map(|(_, row)| row);
    let placed = rows.filter(|row| row.desired == Desired::Run && !row.state.is_terminal());
    let unfit = placed.filter(|row| {
        let machine = row.machine.as_ref().and_then(|id| draft.machine(id));
        machine.is_some_and(|machine| unmet(&job.spec().requires, &machine.facts).is_some())
    });
    let leaving: Vec<Departure> = unfit
        .map(|row| Departure {
            row: row.clone(),
            must: false,
            returns: false,
            why: "its machine is not what the job requires any more".to_owned(),
        })
        .collect();
    departure::begin(draft, id, Operation::Move, leaving);
}

/// Begins a task for every wanted index that has none, as many as may run at the same time. Nothing of a run begins before
/// all of the one that it replaces has ended.
fn fill(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    if another_run_lives(job) {
        return;
    }
    let missing = job
        .wanted_rows()
        .filter_map(|(index, last)| Some((index, missing_version(job, last)?)));
    let missing: Vec<(u32, Version)> = match turns(job) {
        None => missing.collect(),
        Some(turns) => {
            let live = job.live().count();
            missing.take(turns.saturating_sub(live)).collect()
        }
    };
    for (index, version) in missing {
        begin(draft, id, index, version);
    }
}

/// Whether tasks of another run than the one under way have not ended.
fn another_run_lives(job: &JobState) -> bool {
    let run = job.open_run().filter(|_| job.spec().schedule.is_some());
    run.is_some_and(|run| job.live().any(|row| row.run != run.number))
}

/// How many tasks of a batch job may run at the same time; none where all may.
fn turns(job: &JobState) -> Option<usize> {
    let version = job.open_run().and_then(|run| job.version(run.version));
    let spec = version.map_or_else(|| job.spec(), |version| &version.spec);
    spec.parallelism.map(|most| most as usize)
}

/// How many tasks of a batch job may begin to run now beside those that do; none where all may.
pub(crate) fn turns_left(job: &JobState) -> Option<usize> {
    let most = turns(job)?;
    let placed = job.live().filter(|row| row.machine.is_some());
    Some(most.saturating_sub(placed.count()))
}

/// The version at which an index has to begin again; none where it has what it needs.
///
/// An index that ended on request comes back at the version that is wanted, as does one that never was. All others
/// keep theirs while an update is under way or has halted: the update reaches them in its own time.
pub(crate) fn missing_version(job: &JobState, last: Option<&TaskRecord>) -> Option<Version> {
    let run = job.open_run().filter(|_| job.spec().schedule.is_some());
    let Some(last) = last else {
        return Some(run.map_or(job.row.version, |run| run.version));
    };
    if let Some(run) = run.filter(|run| run.number != last.run) {
        return last.state.is_terminal().then_some(run.version);
    }
    let on_request = last.desired == Desired::Stop && !last.comes_back && !last.overdue;
    if !last.state.is_terminal() || exhausted(job, last) {
        return None;
    }
    if last.state == TaskState::Done && last.desired == Desired::Run {
        return None;
    }
    if let Some(run) = run {
        return Some(run.version);
    }
    let state = job.row.rollout.as_ref().map(|rollout| rollout.state);
    let keeps = match state {
        None => false,
        Some(RolloutState::Running | RolloutState::Paused) => !on_request,
        Some(RolloutState::Halted) => true,
    };
    match keeps && job.versions.contains_key(&last.version) {
        true => Some(last.version),
        false => Some(job.row.version),
    }
}

/// Begins a new incarnation of an index: a row that waits for its machine.
pub(crate) fn begin(draft: &mut Draft, id: &JobId, index: u32, version: Version) {
    begin_on(draft, id, index, version, None);
}

/// Begins a new incarnation of an index, of a daemon on the machine that the index belongs to.
pub(crate) fn begin_on(
    draft: &mut Draft,
    id: &JobId,
    index: u32,
    version: Version,
    machine: Option<MachineId>,
) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let incarnation = job.row.next_incarnation;
    let task = TaskId::new(id.clone(), index, incarnation);
    let last = job.latest(index).cloned();
    let run = job.open_run().filter(|_| job.spec().schedule.is_some());
    let run = run.map_or(0, |run| run.number);
    let meant_for = match job.spec().kind {
        Kind::Daemon => machine.or_else(|| last.as_ref().and_then(daemon::machine_of).cloned()),
        Kind::Service | Kind::Batch => None,
    };
    // Each run begins anew.
    let before = last.as_ref().filter(|last| last.run == run);
    let unasked = before.filter(|last| {
        ended_by_itself(last) && matches!(last.state, TaskState::Failed | TaskState::Lost)
            || remedy::was_ended(last)
    });
    // A change of version is an update, and owes nothing to what went before.
    let kept = before.filter(|last| last.version == version);
    let failures = kept
        .filter(|last| ended_by_itself(last) || remedy::was_ended(last))
        .map_or(0, |last| last.failures);
    let failed = kept.filter(|last| {
        last.state == TaskState::Failed && ended_by_itself(last) || remedy::was_ended(last)
    });
    let not_before = failed.map(|last| backoff_end(draft, job, last));
    let update = last.as_ref().is_some_and(|last| last.version != version);
    let reason = match (failed, not_before) {
        (Some(last), Some(_)) => format!("waits before it starts again after {}", last.reason),
        _ => String::new(),
    };
    let row = TaskRecord {
        reason,
        not_before,
        run,
        meant_for,
        restarts: before.map_or(0, |last| last.restarts) + u32::from(unasked.is_some() && !update),
        failures,
        ..TaskRecord::pending(task, version, draft.now)
    };
    let now = draft.now;
    edit(draft, id, |job| {
        job.next_incarnation += 1;
        if let Some(rollout) = job
            .rollout
            .as_mut()
            .filter(|rollout| update && rollout.to == version)
        {
            rollout.progress_at = now;
        }
    });
    draft.put_task(row);
}

/// Whether nobody asked a task to end, but for one that took too long.
pub(crate) fn ended_by_itself(row: &TaskRecord) -> bool {
    row.desired == Desired::Run || row.overdue
}

/// When a failed task may start again: the wait doubles with each failure in a row, up to a quarter less by chance
/// so that tasks which failed together do not return together.
fn backoff_end(draft: &Draft, job: &JobState, failed: &TaskRecord) -> Timestamp {
    let restart = &job.spec_of(failed).restart;
    let doublings = failed.failures.saturating_sub(1).min(32);
    let full = (restart.delay * (1 << doublings)).min(restart.delay_max);
    let chance = seed::unit(seed::derive(draft.seed, &failed.id));
    draft.now.plus(full.scale(1.0 - 0.25 * chance))
}

/// Gives a machine to every task that waits for nothing else and that `may` be placed. True where one was left for that.
fn place_pending(
    draft: &mut Draft,
    id: &JobId,
    may: impl Fn(&JobState, &TaskRecord) -> bool,
) -> bool {
    let Some(job) = draft.job(id).filter(|job| job.pending > 0) else {
        return false;
    };
    let waiting = job.tasks_where(|state| state == TaskState::Pending);
    let due = waiting.filter(|row| row.not_before.is_none_or(|moment| moment <= draft.now));
    let (due, left): (Vec<_>, Vec<_>) = due.partition(|row| may(job, row));
    let left = !left.is_empty();
    let due = due.into_iter();
    let mut due: Vec<(TaskRecord, Wish)> = due
        .map(|row| {
            (
                row.clone(),
                allocate::wish_of(draft, job, row, leaves(job, row)),
            )
        })
        .collect();
    // Those that have a place to come to keep it from those that look for one: where their data is, where room is made for
    // them, and where they were.
    due.sort_by_key(|(row, wish)| {
        let is_claimed = preempt::claimed(job, row).is_some();
        let at_its_data = wish.bound && !is_claimed;
        (!at_its_data, !is_claimed, wish.prefer.is_none())
    });
    let mut turns = turns_left(job);
    let mut placer: Option<Placer> = None;
    let mut claimed: Vec<Slot> = Vec::new();
    // Says the same of all that look for the same room.
    let mut no_room: Option<(Arc<JobSpec>, String)> = None;
    for (mut row, wish) in due {
        let Some(job) = draft.job(id) else {
            return left;
        };
        let spec = job.spec_of(&row).clone();
        let awaited = maintenance::awaited(draft, job, &row);
        if let Some(reason) = dependency::ready(draft, &spec).err().or(awaited) {
            wait(draft, row, &reason);
            continue;
        }
        if turns == Some(0) {
            wait(draft, row, &why::turn_reason(&spec));
            continue;
        }
        let fresh = || {
            let mut placer = Placer::of_job(draft, job, &spec);
            let view = View::of(draft);
            claimed.iter().for_each(|slot| placer.expect(view, *slot));
            placer
        };
        let same = placer.take().filter(|placer| placer.is_for(&spec));
        let mut open = same.unwrap_or_else(fresh);
        let slot = match spec.kind {
            Kind::Daemon => open.place_on_own(draft, &row),
            Kind::Service | Kind::Batch => open.place(View::of(draft), wish),
        };
        match slot {
            Some(slot) => {
                turns = turns.map(|turns| turns.saturating_sub(1));
                assign(draft, &mut row, slot, &spec.ports);
            }
            None => {
                let known = no_room.take().filter(|(of, _)| Arc::ptr_eq(of, &spec));
                let (_, reason) = no_room.insert(match known {
                    Some(known) if spec.kind != Kind::Daemon => known,
                    _ => {
                        let reason = why::no_room_reason(job, &row, &Request::of(&spec));
                        (Arc::clone(&spec), reason)
                    }
                });
                let stays = spec.kind == Kind::Daemon || rollout::is_extra(job, &row);
                let helpless = open.helpless && row.meant_for.is_none();
                let made = match stays || helpless {
                    true => None,
                    false => preempt::make_room(draft, &mut row, &open),
                };
                match made {
                    Some(slot) => {
                        turns = turns.map(|turns| turns.saturating_sub(1));
                        open.expect(View::of(draft), slot);
                        claimed.push(slot);
                    }
                    None => {
                        open.helpless |= !stays;
                        wait(draft, row, reason);
                    }
                }
            }
        }
        placer = Some(open);
    }
    left
}

/// Whether a task is to leave the machine of the one before it, because the plan said so or a check asked for it.
fn leaves(job: &JobState, row: &TaskRecord) -> bool {
    let last = job.of_index(row.id.index).rev().nth(1);
    if last.is_some_and(remedy::leaves_machine) {
        return true;
    }
    let Some(rollout) = &job.row.rollout else {
        return false;
    };
    let updated = last.is_some_and(|last| last.version != row.version);
    updated && row.version == rollout.to && rollout.moves.contains(&row.id.index)
}

fn wait(draft: &mut Draft, mut row: TaskRecord, reason: &str) {
    let before = draft.task(&row.id).map(|before| before.meant_for.clone());
    if row.reason != reason || before.as_ref() != Some(&row.meant_for) {
        row.reason = reason.to_owned();
        draft.put_task(row);
    }
}

/// Gives a waiting task its machine and ports.
pub(crate) fn assign(draft: &mut Draft, row: &mut TaskRecord, slot: u32, ports: &[tw_model::Name]) {
    let before = row.clone();
    let (machine, epoch) = allocate::machine_at(draft, slot);
    row.ports = allocate::pick_ports(draft, slot, &row.id, ports);
    row.machine = Some(machine);
    row.machine_epoch = epoch;
    row.not_before = None;
    row.reason = String::new();
    if draft
        .job(&row.id.job)
        .is_some_and(|job| job.spec_of(row).kind != Kind::Daemon)
    {
        row.meant_for = None;
    }
    let placed = lifecycle::carry_out(row, TaskEvent::Placed, &Details::default(), draft.now);
    if placed.is_ok() {
        note(draft, &before, row);
        draft.put_task(row.clone());
    }
}

/// Notes when a job that is not being updated has all its tasks healthy, or done, for the first time.
fn note_stable(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    // A run that succeeds says it of a job with a schedule.
    let idle = job.row.rollout.is_none() && !job.row.stopped && job.spec().schedule.is_none();
    if !idle || job.row.stable_version == job.row.version || !is_good(job, draft.now) {
        return;
    }
    let (kind, version) = (job.spec().kind, job.row.version);
    edit(draft, id, |row| row.stable_version = version);
    if kind != Kind::Batch {
        let message = format!("all tasks of version {version} are healthy");
        draft.note(id, "job.healthy", (None, None), message);
    }
}

fn is_good(job: &JobState, now: Timestamp) -> bool {
    let spec = job.spec();
    job.wanted_rows().all(|(_, row)| {
        row.is_some_and(|row| match spec.kind {
            Kind::Service | Kind::Daemon => {
                row.version == job.row.version
                    && rollout::settled(job, row, spec.rollout.healthy_for, now)
            }
            // Done is done: a version that asks for no other result leaves it so.
            Kind::Batch => row.state == TaskState::Done,
        })
    })
}

/// Forgets all but the newest ended tasks of each index.
fn trim(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let mut surplus = Vec::new();
    let mut ended = 0;
    let mut index = None;
    for row in job.tasks().rev() {
        if index != Some(row.id.index) {
            index = Some(row.id.index);
            ended = 0;
        }
        ended += usize::from(row.state.is_terminal());
        if ended > ENDED_TASKS_KEPT {
            surplus.push(row.id.clone());
        }
    }
    for task in surplus {
        draft.delete_task(&task);
    }
}
