//! Brings the tasks of a job from one version to the next, stage by stage, behind health gates.
//!
//! What each effect does:
//! * `none` writes the new version into every row at once.
//! * `in_place` writes it into the rows of a stage at once; nothing stops, so the budget is not touched.
//! * `restart` and `move` stop a task, as many at a time as `max_unavailable` allows; the next incarnation begins at
//!   the new version.
//! * `recreate` stops everything at once.
//!
//! A stage counts tasks, and takes those that are down before those that serve: an update is often the cure. It is
//! over when every task at the new version has been healthy for `healthy_for` and the stage as a whole for `bake`.
//! Indexes that the update has not reached start again at the version they had.
//!
//! With `max_surge`, new tasks start beside the old ones before those end, where there is room; see [`surge`].
//!
//! A task at the new version has failed when it ended too often, or was not healthy in time. More than `failures_max`
//! of them fail the update, which then halts or, as `on_failure` says, takes itself back.

mod order;
mod stages;
mod surge;

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{
    Desired, Domain, Effect, HealthCheck, JobId, JobSpec, Kind, Millis, OnFailure, Operation,
    RolloutRecord, RolloutState, TaskRecord, TaskState, Timestamp, Version, diff_jobs,
};

use crate::dependency;
use crate::draft::Draft;
use crate::endpoints::serves;
use crate::escalate::escalate;
use crate::lifecycle::{Details, TaskEvent};
use crate::reconcile::{self, Surplus, exhausted};
use crate::{JobState, control};

pub use order::RolloutOrder;
pub(crate) use order::order;
pub(crate) use stages::{Distance, are_placed, parts, sizes};
pub(crate) use surge::{is_extra, most as most_extra};

/// A task at the new version that fails so often in a row has failed the update.
const FAILURES_TO_FAIL: u32 = 3;

/// The stages of an update that is under way.
fn stages_of(rollout: &RolloutRecord, job: &JobState, members: &[Member]) -> Vec<u32> {
    let tasks = match job.spec().kind {
        Kind::Daemon => job.indexes().count() as u32,
        Kind::Service | Kind::Batch => job.wanted(),
    };
    match rollout.rollback {
        true => vec![tasks],
        false => {
            let distances: Vec<Distance> = members.iter().map(|one| one.distance).collect();
            sizes(job.spec(), tasks, &distances)
        }
    }
}

/// How many tasks have the new version after the stage that runs now.
fn stage_now(draft: &Draft, id: &JobId, rollout: &RolloutRecord, members: &[Member]) -> u32 {
    let sizes = draft.job(id).map(|job| stages_of(rollout, job, members));
    let sizes = sizes.unwrap_or_default();
    let stage = (rollout.stage as usize).min(sizes.len().saturating_sub(1));
    sizes.get(stage).copied().unwrap_or_default()
}

/// Begins an update to the version that is wanted. A job with a schedule knows none: its next run has the new version.
pub(crate) fn begin(draft: &mut Draft, id: &JobId, from: Version, moves: Vec<u32>, restart: bool) {
    let now = draft.now;
    if draft
        .job(id)
        .is_some_and(|job| job.spec().schedule.is_some())
    {
        return;
    }
    reconcile::edit(draft, id, |row| {
        row.rollout = Some(RolloutRecord {
            from,
            to: row.version,
            stage: 0,
            state: RolloutState::Running,
            reason: String::new(),
            restart,
            moves,
            started_at: now,
            stage_started_at: now,
            progress_at: now,
            good_since: None,
            rollback: false,
            origin: None,
            surge: 0,
            crowded: false,
            awaits: String::new(),
        });
    });
}

/// Begins the update of tasks that nothing brings to the version that is wanted. That is left where a job was begun
/// again before all of its tasks had been stopped, and where a decision was cut short between the last step of an
/// update and the rows that it changes. `moves` are the tasks that leave their machine, as far as a plan said so.
pub(crate) fn begin_overlooked(draft: &mut Draft, id: &JobId, moves: Vec<u32>) {
    let found = draft.job(id).and_then(|job| {
        let mut wanted = job.wanted_rows().filter_map(|(_, row)| row);
        wanted.find(|row| is_overlooked(job, row))
    });
    if let Some(from) = found.map(|row| row.version) {
        begin(draft, id, from, moves, false);
    }
}

/// Whether a task is to go on at a version that is not wanted any more, and no update will reach it.
pub(crate) fn is_overlooked(job: &JobState, row: &TaskRecord) -> bool {
    row.version != job.row.version
        && row.desired == Desired::Run
        && !row.state.is_terminal()
        && job.row.rollout.is_none()
        && !job.row.stopped
        && job.spec().schedule.is_none()
}

/// Whether the update under way may give a task that waits for a machine the new version.
pub(crate) fn may_take(job: &JobState, row: &TaskRecord) -> bool {
    let rollout = job.row.rollout.as_ref();
    rollout.is_some_and(|rollout| {
        rollout.state == RolloutState::Running && row.version != rollout.to && !job.row.stopped
    })
}

/// What a change of the spec does to the task of an index, before the machines are looked at.
///
/// A batch task that has ended for good is untouched by what cannot matter to it any more, but one that failed is
/// tried again: the change may be its cure.
pub(crate) fn task_effect(job: &JobState, row: &TaskRecord, to: &JobSpec, restart: bool) -> Effect {
    let from = job.spec_of(row).as_ref();
    let change = match std::ptr::eq(from, to) {
        true => None,
        false => diff_jobs(Some(from), Some(to)),
    };
    let changes = change.iter().flat_map(|change| &change.changes);
    let strongest = changes
        .map(|change| change.effect)
        .filter(|effect| *effect != Effect::Scale)
        .max()
        .unwrap_or(Effect::None);
    let floor = match restart {
        true => Effect::Restart,
        false => Effect::None,
    };
    let effect = strongest.max(floor);
    match row.state {
        TaskState::Failed if to.kind == Kind::Batch => effect.max(Effect::Restart),
        TaskState::Done if effect < Effect::Restart => Effect::None,
        _ => effect,
    }
}

/// Whether a task at the new version counts as good: it has been healthy for long enough, or is done.
pub(crate) fn settled(job: &JobState, row: &TaskRecord, gate: Millis, now: Timestamp) -> bool {
    if job.spec_of(row).kind == Kind::Batch && row.state == TaskState::Done {
        return true;
    }
    let since = row.healthy_since;
    serves(job, row) && since.is_some_and(|since| now.since(since) >= gate)
}

/// How long a task must be healthy before it counts.
///
/// Where the checks of a running task were changed in place, its agent speaks up only after they have failed as often
/// as the author allows; until then its health is that of the old checks.
fn gate(job: &JobState, rollout: &RolloutRecord, row: &TaskRecord) -> Millis {
    let to = job.spec_of(row);
    let from = job
        .version(rollout.from)
        .map(|version| &version.spec.health);
    let survived = row.created_at < rollout.started_at;
    let slowest = |checks: &[HealthCheck]| {
        let verdicts = checks
            .iter()
            .map(|check| (check.every() + check.timeout()) * u64::from(check.failures()));
        verdicts.max().unwrap_or(Millis::ZERO)
    };
    match survived && from.is_some_and(|from| *from != to.health) {
        true => to.rollout.healthy_for + slowest(&to.health),
        false => to.rollout.healthy_for,
    }
}

/// One wanted index, as the updater sees it.
struct Member {
    row: TaskRecord,
    /// None of what is left to do; `Effect::None` where the new version is reached.
    effect: Effect,
    /// It has the new version, or makes way for it.
    reached: bool,
    /// It keeps the old version until all that the new one waits for is there.
    held: bool,
    settled: bool,
    /// Why it counts as failed at the new version.
    failed: Option<String>,
    /// Its users notice nothing.
    available: bool,
    /// How far it is from where the update began.
    distance: Distance,
}

/// Takes the next steps of the update of a job, if there is one. True when a row changed.
pub(crate) fn advance(draft: &mut Draft, id: &JobId) -> bool {
    let mut changed = false;
    while let Some(rollout) = running(draft, id) {
        if hold_clock(draft, id, &rollout) {
            changed = true;
            continue;
        }
        let members = members(draft, id, &rollout);
        if note_awaited(draft, id, &rollout, &members) {
            changed = true;
            continue;
        }
        let extras = surge::extras(draft, id, &rollout);
        if let Some(reason) = reason_to_end(draft, id, &members, &extras) {
            changed = true;
            if take_back(draft, id, &rollout, &reason) {
                continue;
            }
            halt(draft, id, reason);
            return true;
        }
        let stage = stage_now(draft, id, &rollout, &members);
        if settle_origin(draft, id, &rollout, &members)
            || surge::adjust(draft, id, &rollout, &members, stage)
        {
            changed = true;
            continue;
        }
        match next_step(draft, id, &rollout, &members) {
            Step::Wait => break,
            Step::Done => complete(draft, id, &rollout),
            Step::NextStage => enter_stage(draft, id, &rollout, &members),
            Step::Bake(since) => write(draft, id, |rollout| rollout.good_since = since),
            Step::Free => replace_free(draft, id, &rollout, &members),
            Step::Within(room) => {
                if !replace_within(draft, id, &rollout, &members, &extras, room) {
                    break;
                }
            }
        }
        changed = true;
    }
    changed
}

/// Notes what the new version waits for and the one before it did not: until that is there, no task that serves is ended for
/// it. What both wait for holds nobody up, nor does anything hold up a way back: the update may be the cure of the other
/// job. True when it has changed.
fn note_awaited(
    draft: &mut Draft,
    id: &JobId,
    rollout: &RolloutRecord,
    members: &[Member],
) -> bool {
    let Some(job) = draft.job(id) else {
        return false;
    };
    let ends_some = members.iter().any(|member| {
        let moves = rollout.moves.contains(&member.row.id.index);
        !member.reached && (moves || member.effect.replaces_task())
    });
    let awaits = match ends_some {
        true => awaited(draft, job, rollout),
        false => None,
    };
    let awaits = awaits.unwrap_or_default();
    if awaits == rollout.awaits {
        return false;
    }
    if !awaits.is_empty() {
        draft.note(id, "rollout.waits", (None, None), awaits.clone());
    }
    write(draft, id, |rollout| rollout.awaits = awaits);
    true
}

/// What only the new version waits for, in words; none where it is there.
fn awaited(draft: &Draft, job: &JobState, rollout: &RolloutRecord) -> Option<String> {
    let from = job.version(rollout.from).map(|version| &version.spec);
    let known = from.map_or(&[][..], |spec| &spec.depends_on);
    match rollout.rollback {
        true => None,
        false => dependency::ready_beyond(draft, job.spec(), known).err(),
    }
}

/// Gives the tasks of an update their time again while the job waits for others: how long those take is no failure of the
/// new version. Written once each half of that time, not at each look. True when it was written.
fn hold_clock(draft: &mut Draft, id: &JobId, rollout: &RolloutRecord) -> bool {
    let Some(job) = draft.job(id) else {
        return false;
    };
    let spec = job.spec();
    let is_late = draft.now.since(rollout.progress_at) * 2 > spec.rollout.deadline;
    if !is_late || dependency::ready(draft, spec).is_ok() {
        return false;
    }
    note_progress(draft, id, Vec::new(), true);
    true
}

/// Notes where an update begins whose stages are parts of the fleet. True when it is new.
fn settle_origin(
    draft: &mut Draft,
    id: &JobId,
    rollout: &RolloutRecord,
    members: &[Member],
) -> bool {
    let placed = draft.job(id).is_some_and(|job| are_placed(job.spec()));
    if rollout.origin.is_some() || rollout.rollback || !placed {
        return false;
    }
    let mut first = members
        .iter()
        .filter(|member| !member.reached && !is_free(member));
    let origin = first.find_map(|member| member.row.machine.clone());
    let found = origin.is_some();
    write(draft, id, |rollout| rollout.origin = origin);
    found
}

fn replace_free(draft: &mut Draft, id: &JobId, rollout: &RolloutRecord, members: &[Member]) {
    let free = members.iter().filter(|member| is_free(member));
    let mut recreated = false;
    for member in free {
        recreated |= member.effect == Effect::Recreate;
        replace(draft, id, rollout, &member.row, member.effect);
    }
    note_progress(draft, id, Vec::new(), recreated);
}

fn running(draft: &Draft, id: &JobId) -> Option<RolloutRecord> {
    let job = draft.job(id)?;
    let rollout = job.row.rollout.as_ref()?;
    let active = rollout.state == RolloutState::Running && !job.row.stopped;
    active.then(|| rollout.clone())
}

fn members(draft: &Draft, id: &JobId, rollout: &RolloutRecord) -> Vec<Member> {
    let Some(job) = draft.job(id) else {
        return Vec::new();
    };
    let to = job.spec();
    let mut effects: BTreeMap<(Version, TaskState), Effect> = BTreeMap::new();
    let rows = job.wanted_rows().filter_map(|(_, row)| row);
    rows.map(|row| {
        let at_target = row.version == rollout.to;
        let effect = match at_target {
            true => Effect::None,
            false => *effects
                .entry((row.version, row.state))
                .or_insert_with(|| task_effect(job, row, to, rollout.restart)),
        };
        let leaving = row.desired == Desired::Stop && !row.state.is_terminal();
        let over = row.state.is_terminal() && effect == Effect::None;
        let done = row.state == TaskState::Done;
        let settled = match at_target {
            true => settled(job, row, gate(job, rollout, row), draft.now),
            false => over && done,
        };
        let serving = match to.kind {
            Kind::Service | Kind::Daemon => serves(job, row),
            Kind::Batch => done || row.state == TaskState::Running,
        };
        let new = at_target && !settled;
        let available = serving && (settled || !at_target);
        let ends = effect.replaces_task() || rollout.moves.contains(&row.id.index);
        Member {
            effect,
            held: ends && available && !rollout.awaits.is_empty(),
            reached: at_target || leaving || over,
            settled,
            failed: new.then(|| failure(job, rollout, row, draft.now)).flatten(),
            available,
            distance: Distance::between(draft, rollout.origin.as_ref(), row.machine.as_ref()),
            row: row.clone(),
        }
    })
    .collect()
}

/// Why an update cannot go on: more tasks have failed than may.
fn reason_to_end(
    draft: &Draft,
    id: &JobId,
    members: &[Member],
    extras: &surge::Extras,
) -> Option<String> {
    let allowed = draft.job(id)?.spec().rollout.failures_max as usize;
    let failed = members.iter().filter_map(|member| member.failed.as_ref());
    let failed: Vec<&String> = failed.chain(&extras.failed).collect();
    let first = failed.first()?;
    match failed.len() {
        count if count <= allowed => None,
        1 => Some((*first).clone()),
        count => Some(format!("{count} tasks failed, and {allowed} may; {first}")),
    }
}

/// Why a task at the new version counts as failed.
fn failure(
    job: &JobState,
    rollout: &RolloutRecord,
    row: &TaskRecord,
    now: Timestamp,
) -> Option<String> {
    if row.failures >= FAILURES_TO_FAIL || exhausted(job, row) {
        let last = last_failure(job, row);
        return Some(format!(
            "task {} failed {} times in a row at version {}: {}",
            last.id, row.failures, rollout.to, last.reason
        ));
    }
    let spec = job.spec();
    // One that began again, or was healthy and is no more, has the whole time again.
    let ill_since = row.healthy_since.filter(|_| row.healthy == Some(false));
    let since = rollout.progress_at.max(row.created_at);
    let since = ill_since.map_or(since, |ill| ill.max(since));
    // How long the others take whose turn comes first, nobody knows; and one that is asked to leave begins again elsewhere.
    let takes_turns = job.spec_of(row).parallelism.is_some();
    let leaves = row.desired == Desired::Stop;
    if takes_turns || leaves || now.since(since) <= spec.rollout.deadline {
        return None;
    }
    let state = match (row.state, row.healthy) {
        (TaskState::Running, Some(false)) => "running but unhealthy".to_owned(),
        (TaskState::Running, None) if !spec.health.is_empty() => {
            "running, and no check has passed yet".to_owned()
        }
        (state, _) => state.to_string(),
    };
    let because = match row.reason.is_empty() {
        true => String::new(),
        false => format!(": {}", row.reason),
    };
    Some(format!(
        "task {} is {state} at version {} and was not healthy for {} within {}{because}",
        row.id, rollout.to, spec.rollout.healthy_for, spec.rollout.deadline
    ))
}

/// Goes back to the last good version, where the spec says so and there is one. True when it does.
fn take_back(draft: &mut Draft, id: &JobId, rollout: &RolloutRecord, reason: &str) -> bool {
    let Some(job) = draft.job(id) else {
        return false;
    };
    let wanted = job.spec().rollout.on_failure == OnFailure::Rollback && !rollout.rollback;
    let good = order::good_before(job).filter(|_| wanted);
    if let Some(good) = good {
        order::roll_back(draft, id, good, "the update itself", reason.to_owned());
    }
    good.is_some()
}

/// The newest task of an index that has failed: the one that others may look at.
fn last_failure<'a>(job: &'a JobState, row: &'a TaskRecord) -> &'a TaskRecord {
    let mut ended = job.of_index(row.id.index).rev();
    let last = ended.find(|other| other.state == TaskState::Failed);
    last.unwrap_or(row)
}

enum Step {
    Wait,
    /// Every wanted task is good.
    Done,
    NextStage,
    /// The stage is good since then, or not good any more.
    Bake(Option<Timestamp>),
    /// These members no stage holds back.
    Free,
    /// So many more tasks may get the new version in this stage.
    Within(usize),
}

fn next_step(draft: &Draft, id: &JobId, rollout: &RolloutRecord, members: &[Member]) -> Step {
    let Some(job) = draft.job(id) else {
        return Step::Wait;
    };
    if members.iter().any(is_free) {
        return Step::Free;
    }
    let sizes = stages_of(rollout, job, members);
    let stage = (rollout.stage as usize).min(sizes.len() - 1);
    let part = stages::part_now(job.spec(), rollout);
    let reached = members.iter().filter(|member| member.reached).count();
    // A failure that the budget allows holds nobody up.
    let good = members
        .iter()
        .all(|member| !member.reached || member.settled || member.failed.is_some());
    if good && reached >= members.len() {
        return Step::Done;
    }
    let room = match part {
        Some(part) => members.iter().filter(|one| is_left(one, part)).count(),
        None => (sizes[stage] as usize).saturating_sub(reached),
    };
    let complete = good && room == 0 && stage + 1 < sizes.len();
    match (complete, rollout.good_since) {
        (true, Some(since)) if draft.now.since(since) >= job.spec().rollout.bake => {
            return Step::NextStage;
        }
        (true, None) => return Step::Bake(Some(draft.now)),
        (true, Some(_)) => return Step::Wait,
        (false, Some(_)) => return Step::Bake(None),
        (false, None) => {}
    }
    match room {
        0 => Step::Wait,
        room => Step::Within(room),
    }
}

/// Whether the update has yet to reach a task of the part of the fleet that its stage is.
fn is_left(member: &Member, part: Domain) -> bool {
    !member.reached && member.distance.is_within(part)
}

/// Changes that no stage holds back: nothing notices them, or everything starts anew anyway.
fn is_free(member: &Member) -> bool {
    let free = matches!(member.effect, Effect::None | Effect::Recreate);
    free && !member.reached && !member.held
}

/// Replaces as many members as the stage and the budget allow: those nearest to where the update began, where its stages
/// ask for that, those that are down first, then by index.
fn replace_within(
    draft: &mut Draft,
    id: &JobId,
    rollout: &RolloutRecord,
    members: &[Member],
    extras: &surge::Extras,
    mut room: usize,
) -> bool {
    let Some(spec) = draft.job(id).map(|job| job.spec().clone()) else {
        return false;
    };
    let mut down = members.iter().filter(|member| !member.available).count();
    let failed = members.iter().filter(|member| member.failed.is_some());
    let most = extras.may_be_down(spec.rollout.max_unavailable as usize, failed.count());
    let part = stages::part_now(&spec, rollout);
    let inside = |member: &Member| part.is_none_or(|part| is_left(member, part));
    let under_way = |member: &Member| member.reached && !member.settled && member.failed.is_none();
    let quiet = !members.iter().any(under_way);
    let mut waiting: Vec<&Member> = members.iter().filter(|member| !member.reached).collect();
    waiting.retain(|member| inside(member) || quiet && !member.available);
    waiting.retain(|member| !member.held && may_replace(draft, rollout, member));
    waiting.sort_by_key(|member| {
        (
            !inside(member),
            member.distance,
            member.available,
            control::rank(&member.row),
            member.row.id.index,
        )
    });
    let mut moves = Vec::new();
    let mut changed = false;
    let mut stopped = false;
    let mut blocked = false;
    for member in waiting {
        // Where those that are down elsewhere use up the budget, the part would wait for them and they for the part.
        if room == 0 || !inside(member) && (changed || !blocked) {
            break;
        }
        // Who waits for room that is about to be free is not overtaken: the others might take it.
        let Some(effect) = effect_now(draft, id, rollout, member) else {
            break;
        };
        let stops = effect.replaces_task() && member.available;
        if stops && down >= most {
            blocked = true;
            continue;
        }
        down += usize::from(stops);
        room -= 1;
        if effect == Effect::Move {
            moves.push(member.row.id.index);
        }
        replace(draft, id, rollout, &member.row, effect);
        changed = true;
        stopped |= effect.replaces_task();
    }
    if stopped {
        control::note_done(draft, id);
    }
    note_progress(draft, id, moves, changed);
    changed
}

/// Whether the application has nothing against a member being replaced now; asks it where it has a say.
fn may_replace(draft: &mut Draft, rollout: &RolloutRecord, member: &Member) -> bool {
    if !member.effect.replaces_task() {
        return true;
    }
    let moves = rollout.moves.contains(&member.row.id.index) || member.effect == Effect::Move;
    let operation = match rollout.restart {
        _ if moves => Operation::Move,
        true => Operation::Restart,
        false => Operation::Update,
    };
    control::ask(draft, &member.row, operation)
}

/// What to do to a member now, given its machine; none where room for it is about to be free, or where it would end for a
/// version that waits.
fn effect_now(
    draft: &Draft,
    id: &JobId,
    rollout: &RolloutRecord,
    member: &Member,
) -> Option<Effect> {
    let job = draft.job(id)?;
    if rollout.moves.contains(&member.row.id.index) {
        return (!is_shrinking(job)).then_some(member.effect.max(Effect::Move));
    }
    let effect = escalate(member.effect, draft, job, &member.row, job.spec());
    let ends = effect.replaces_task() && !member.effect.replaces_task() && member.available;
    let waits = effect == Effect::Move && room_is_coming(draft, &member.row)
        || ends && awaited(draft, job, rollout).is_some();
    (!waits).then_some(effect)
}

/// Whether tasks are about to end that the job does not want any more. Where they leave room is where its plan sent those
/// that move: who went before would take the room that others were to grow into.
fn is_shrinking(job: &JobState) -> bool {
    let surplus = Surplus::of(job);
    job.tasks_where(|state| state == TaskState::Stopping)
        .any(|row| surplus.holds(row))
}

/// Whether tasks on the machine of this one are about to end and give room.
fn room_is_coming(draft: &Draft, row: &TaskRecord) -> bool {
    let slot = row.machine.as_ref().and_then(|machine| draft.slot(machine));
    let Some(slot) = slot else {
        return false;
    };
    let tasks = draft.base().fleet.host(slot).tasks.keys();
    tasks
        .filter_map(|task| draft.task(task))
        .any(|other| other.id != row.id && other.state == TaskState::Stopping)
}

fn replace(
    draft: &mut Draft,
    id: &JobId,
    rollout: &RolloutRecord,
    row: &TaskRecord,
    effect: Effect,
) {
    let mut row = row.clone();
    match (row.state, effect) {
        (state, _) if state.is_terminal() => {
            reconcile::begin(draft, id, row.id.index, rollout.to);
        }
        // It has not started: it starts as what is wanted now, without the wait that the old version earned.
        (TaskState::Pending, _) => {
            row.version = rollout.to;
            row.failures = 0;
            row.not_before = None;
            draft.put_task(row);
        }
        (_, Effect::None | Effect::Scale) => {
            row.version = rollout.to;
            // What failed before is no fault of the new version.
            row.failures = 0;
            draft.put_task(row);
        }
        (_, Effect::InPlace) => {
            row.version = rollout.to;
            row.failures = 0;
            row.healthy_since = row.healthy_since.map(|_| draft.now);
            draft.put_task(row);
        }
        (_, Effect::Restart | Effect::Move | Effect::Recreate) => {
            let why = Details::because(format!("makes way for version {}", rollout.to));
            reconcile::tell(draft, &row, TaskEvent::StopAsked, &why);
        }
    }
}

fn note_progress(draft: &mut Draft, id: &JobId, moves: Vec<u32>, progress: bool) {
    let now = draft.now;
    write(draft, id, |row| {
        let all: BTreeSet<u32> = row.moves.iter().copied().chain(moves).collect();
        row.moves = all.into_iter().collect();
        if progress {
            row.progress_at = now;
        }
    });
}

fn enter_stage(draft: &mut Draft, id: &JobId, rollout: &RolloutRecord, members: &[Member]) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let sizes = stages_of(rollout, job, members);
    let part = stages::part(job.spec(), rollout.stage as usize + 1);
    let stage = rollout.stage + 1;
    let now = draft.now;
    write(draft, id, |row| {
        row.stage = stage;
        row.stage_started_at = now;
        row.progress_at = now;
        row.good_since = None;
    });
    let tasks = sizes.get(stage as usize).copied().unwrap_or_default();
    let part = part.map_or(String::new(), |part| format!(" in one {}", part.as_str()));
    let message = format!(
        "version {}: stage {} of {}, {tasks} tasks{part}",
        rollout.to,
        stage + 1,
        sizes.len()
    );
    draft.note(id, "rollout.stage", (None, None), message);
}

fn complete(draft: &mut Draft, id: &JobId, rollout: &RolloutRecord) {
    reconcile::edit(draft, id, |row| {
        row.rollout = None;
        row.stable_version = rollout.to;
    });
    let message = format!("all tasks run version {}", rollout.to);
    draft.note(id, "rollout.done", (None, None), message);
}

fn halt(draft: &mut Draft, id: &JobId, reason: String) {
    write(draft, id, |row| {
        row.state = RolloutState::Halted;
        row.reason = reason.clone();
    });
    draft.note(id, "rollout.halted", (None, None), reason);
}

/// Changes the record of the update under way.
pub(crate) fn write(draft: &mut Draft, id: &JobId, change: impl FnOnce(&mut RolloutRecord)) {
    reconcile::edit(draft, id, |row| {
        if let Some(rollout) = &mut row.rollout {
            change(rollout);
        }
    });
}
