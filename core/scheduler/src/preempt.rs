//! Makes room for tasks of higher priority by ending some of lower priority.
//!
//! Who gives way: tasks of the lowest priority first, batch before services, few before many, those that began last
//! before those with more to lose. A service gives no more than its budget allows, daemons and tasks with volumes
//! stay. A task that gave way begins again as it was, and is placed when room exists.
//!
//! Nobody gives way for room that others make already. The room is promised: until the task has come, it counts as taken
//! for all who have not more priority than it. So does the room of a daemon's task that starts again: it has no other
//! machine to go to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tw_model::{Desired, JobId, Kind, MachineId, Millis, TaskId, TaskRecord, TaskState};

use crate::allocate::{Placer, View};
use crate::draft::Draft;
use crate::endpoints::serves;
use crate::fleet::{Request, Reserved, Slot};
use crate::lifecycle::{Details, TaskEvent};
use crate::{JobState, budget, reconcile};

/// How many tasks of lower priority one decision looks at for one task.
const LOOKED_AT_MAX: usize = 4096;

/// Who may take longer to end is not waited for where others could make room.
const LEAVES_WITHIN: Millis = Millis::minutes(1);

/// How much longer than its own time to end a task may take before nobody counts on its end.
const OVERDUE_AFTER: Millis = Millis::seconds(30);

/// How many of those that a task waits for are named.
const NAMED_MAX: usize = 8;

/// Tasks that make room together.
pub(crate) struct Eviction {
    pub(crate) slot: Slot,
    /// Those that have to be asked.
    pub(crate) tasks: Vec<TaskId>,
    /// Those that leave anyhow before the task comes, more than others were promised of their room.
    pub(crate) leaving: BTreeSet<TaskId>,
}

/// What a machine will have beside what is free.
#[derive(Default)]
struct Coming {
    leaving: Vec<(TaskId, Reserved)>,
    /// Whether some leave, on the machine or not, that the task may not be near to.
    opens: bool,
    /// What was promised to tasks of the same job.
    promised: Request,
}

impl Coming {
    /// Whether the task waits for some that leave anyhow.
    fn awaits(&self) -> bool {
        self.opens || !self.leaving.is_empty()
    }

    fn held(&self) -> impl Iterator<Item = &Reserved> {
        self.leaving.iter().map(|(_, held)| held)
    }
}

/// A task that may give way.
struct Candidate<'a> {
    task: &'a TaskId,
    priority: u32,
    /// How many tasks its job can spare, if it has a budget to keep.
    spare: Option<usize>,
    began: i64,
    held: Reserved,
}

/// How much giving way would hurt: the highest priority, how many services, how many tasks, and which machine.
type Cost = (u32, usize, usize, Slot);

/// Whether a job has tasks that room is kept for.
pub(crate) fn claims(job: &JobState) -> bool {
    job.pending > 0 && waiting(job).any(|row| kept_for(row).is_some())
}

fn waiting(job: &JobState) -> impl Iterator<Item = &TaskRecord> {
    job.tasks_where(|state| state == TaskState::Pending)
}

/// The machine on which room is kept for a task: what others were asked to make, or, of a daemon that starts again,
/// what it had.
fn kept_for(row: &TaskRecord) -> Option<&MachineId> {
    let waits = row.state == TaskState::Pending;
    row.meant_for.as_ref().filter(|_| waits)
}

/// The machine on which room is promised to a task.
pub(crate) fn claimed<'a>(job: &JobState, row: &'a TaskRecord) -> Option<&'a MachineId> {
    let waits = row.state == TaskState::Pending && job.spec_of(row).kind != Kind::Daemon;
    row.meant_for.as_ref().filter(|_| waits)
}

/// Whether tasks of a job may have to give way to others.
pub(crate) fn may_give_way(job: &JobState) -> bool {
    let spec = job.spec();
    let stays = spec.kind == Kind::Daemon || !spec.volumes.is_empty();
    !stays && job.live().any(|row| row.machine.is_some())
}

/// How the reason of a task begins that was asked to give way.
const MAKES_ROOM: &str = "makes room for ";

/// Whether a task ended to make room for another one.
pub(crate) fn gave_way(row: &TaskRecord) -> bool {
    row.comes_back && row.reason.starts_with(MAKES_ROOM)
}

/// The room that is promised to tasks of other jobs, and may not be taken by those of this priority.
pub(crate) fn promised(draft: &Draft, id: &JobId, priority: u32) -> BTreeMap<Slot, Request> {
    let mut promised: BTreeMap<Slot, Request> = BTreeMap::new();
    let stored = draft.base().claiming.iter();
    let stored = stored.filter_map(|id| draft.job(id));
    let touched = draft.touched_jobs();
    let touched = touched.filter(|job| !draft.base().claiming.contains(&job.row.id));
    for job in stored.chain(touched) {
        if job.row.id == *id || job.spec().priority < priority {
            continue;
        }
        for row in waiting(job) {
            let slot = kept_for(row).and_then(|machine| draft.slot(machine));
            if let Some(slot) = slot {
                promised
                    .entry(slot)
                    .or_default()
                    .add(&Request::of(job.spec_of(row)));
            }
        }
    }
    promised
}

/// Asks tasks of lower priority to end where that gives a waiting task its room. The machine on which room is on its way.
pub(crate) fn make_room(draft: &mut Draft, row: &mut TaskRecord, placer: &Placer) -> Option<Slot> {
    let priority = draft.job(&row.id.job)?.spec().priority;
    if let Some(slot) = coming_to(draft, row, placer) {
        return Some(slot);
    }
    // Who is only held off until others of its job have come takes nobody's place meanwhile, and keeps what it was promised.
    if placer.is_about_to_open() {
        return None;
    }
    let Some(found) = find(draft, &row.id.job, Some(&row.id), placer) else {
        row.meant_for = None;
        return None;
    };
    for task in &found.tasks {
        let Some(mut victim) = draft.task(task).cloned() else {
            continue;
        };
        let why = format!("{MAKES_ROOM}{}, of priority {priority}", row.id);
        let why = Details::because(why);
        victim.comes_back = true;
        reconcile::tell(draft, &victim, TaskEvent::StopAsked, &why);
    }
    let names = found.tasks.iter().chain(&found.leaving).take(NAMED_MAX);
    let names: Vec<String> = names.map(TaskId::to_string).collect();
    let machine = draft.machine_at(found.slot).id.clone();
    row.reason = format!("waits for {} to make room on {machine}", names.join(", "));
    row.meant_for = Some(machine);
    draft.put_task(row.clone());
    Some(found.slot)
}

/// The machine on which a task was promised room, if that will be there once all that are asked to end have ended.
fn coming_to(draft: &Draft, row: &TaskRecord, placer: &Placer) -> Option<Slot> {
    let slot = draft.slot(row.meant_for.as_ref()?)?;
    let machine = &draft.machine_at(slot).id;
    let ending = tasks_on(draft, machine)
        .filter(|(job, row)| row.desired == Desired::Stop && !is_stuck(draft, job, row));
    let held: Vec<Reserved> = ending
        .filter_map(|(job, row)| Some(job.reservation(row)?.1))
        .collect();
    let promised = Request::default();
    let awaits = placer.leaving(draft.fleet(), slot).next().is_some();
    let waits = !held.is_empty() || awaits;
    let comes = waits && placer.would_fit(View::of(draft), slot, held.iter(), &promised);
    comes.then_some(slot)
}

fn tasks_on<'a>(
    draft: &'a Draft,
    machine: &MachineId,
) -> impl Iterator<Item = (&'a JobState, &'a TaskRecord)> {
    let stored: Vec<TaskId> = draft
        .base()
        .tasks_on(machine)
        .map(|row| row.id.clone())
        .collect();
    stored.into_iter().filter_map(|task| {
        let job = draft.job(&task.job)?;
        let row = job.task(task.index, task.incarnation)?;
        (!row.state.is_terminal()).then_some((job, row))
    })
}

/// The tasks whose end gives a task of a job its room, at the least cost: nobody is asked where others make enough already.
pub(crate) fn find(
    draft: &Draft,
    id: &JobId,
    task: Option<&TaskId>,
    placer: &Placer,
) -> Option<Eviction> {
    let priority = draft.job(id)?.spec().priority;
    let mut coming = coming(draft, id, task, priority);
    for slot in placer.opening(draft.fleet()).take(LOOKED_AT_MAX) {
        coming.entry(slot).or_default().opens = true;
    }
    let mut on: BTreeMap<Slot, Vec<Candidate>> = BTreeMap::new();
    let leaving = coming.iter().filter(|(_, one)| one.awaits());
    on.extend(leaving.map(|(slot, _)| (*slot, Vec::new())));
    let lower = draft.base().placed.iter();
    let lower = lower.take_while(|(rank, _)| *rank < priority);
    let jobs = lower.filter_map(|(_, job)| draft.job(job));
    let rows = jobs.filter(|job| job.row.id != *id).flat_map(|job| {
        let spare = budget::spare(draft, job);
        job.tasks().map(move |row| (job, spare, row))
    });
    let placed = rows.filter(|(job, spare, row)| gives_way(job, *spare, row));
    for (job, spare, row) in placed.take(LOOKED_AT_MAX) {
        let held = job.reservation(row);
        let Some((machine, held)) = held else {
            continue;
        };
        let Some(slot) = draft.slot(&machine) else {
            continue;
        };
        on.entry(slot).or_default().push(Candidate {
            task: &row.id,
            priority: job.spec().priority,
            spare: (job.spec_of(row).kind != Kind::Batch).then_some(spare),
            began: row.created_at.0,
            held,
        });
    }
    let mut best: Option<(Cost, Vec<TaskId>)> = None;
    let nothing = Coming::default();
    for (slot, candidates) in on {
        let coming = coming.get(&slot).unwrap_or(&nothing);
        let bound = least_cost(slot, &candidates, coming);
        if best.as_ref().is_some_and(|(least, _)| *least <= bound) {
            continue;
        }
        let Some((cost, found)) = cheapest(draft, slot, candidates, coming, placer) else {
            continue;
        };
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, found));
        }
    }
    let ((.., slot), tasks) = best?;
    let on_it = coming.get(&slot).into_iter().flat_map(|one| &one.leaving);
    let on_it = on_it.map(|(task, _)| task);
    let leaving = on_it.chain(placer.leaving(draft.fleet(), slot)).cloned();
    let leaving = leaving.collect();
    Some(Eviction {
        slot,
        tasks,
        leaving,
    })
}

/// Whether a task that is asked to end leaves its room soon, and nothing comes after it there.
pub(crate) fn leaves_its_room(draft: &Draft, job: &JobState, row: &TaskRecord) -> bool {
    let soon = time_to_end(job, row) <= LEAVES_WITHIN && !is_stuck(draft, job, row);
    soon && (gave_way(row) || job.row.stopped || row.id.index >= job.wanted())
}

fn time_to_end(job: &JobState, row: &TaskRecord) -> Millis {
    let stop = &job.spec_of(row).stop;
    stop.drain + stop.grace
}

/// Whether a task should have ended long ago: it hangs in the kernel, or its machine cannot be reached.
fn is_stuck(draft: &Draft, job: &JobState, row: &TaskRecord) -> bool {
    let patience = time_to_end(job, row) + OVERDUE_AFTER;
    let asked = row.stop_asked_at;
    asked.is_some_and(|asked| draft.now.since(asked) > patience)
}

/// The machines on which tasks of lower priority or of the same job make room, or room is promised to tasks of the job.
fn coming(
    draft: &Draft,
    id: &JobId,
    task: Option<&TaskId>,
    priority: u32,
) -> BTreeMap<Slot, Coming> {
    let mut coming: BTreeMap<Slot, Coming> = BTreeMap::new();
    let stored = draft.base().stopping.iter();
    let stored = stored.filter_map(|id| draft.job(id));
    let touched = draft.touched_jobs();
    let touched = touched.filter(|job| !draft.base().stopping.contains(&job.row.id));
    let jobs = stored
        .chain(touched)
        .filter(|job| job.stopping > 0 && (job.spec().priority < priority || job.row.id == *id));
    let rows = jobs.flat_map(|job| {
        let stopping = job.tasks_where(|state| state == TaskState::Stopping);
        stopping.map(move |row| (job, row))
    });
    for (job, row) in rows.filter(|(job, row)| leaves_its_room(draft, job, row)) {
        let held = job.reservation(row);
        let found = held.and_then(|(machine, held)| Some((draft.slot(&machine)?, held)));
        if let Some((slot, held)) = found {
            let leaving = &mut coming.entry(slot).or_default().leaving;
            leaving.push((row.id.clone(), held));
        }
    }
    let own = draft.job(id).into_iter();
    let own = own.flat_map(|job| waiting(job).map(move |row| (job, row)));
    for (job, row) in own.filter(|(_, row)| Some(&row.id) != task) {
        if let Some(slot) = kept_for(row).and_then(|machine| draft.slot(machine)) {
            let promised = &mut coming.entry(slot).or_default().promised;
            promised.add(&Request::of(job.spec_of(row)));
        }
    }
    coming
}

fn gives_way(job: &JobState, spare: usize, row: &TaskRecord) -> bool {
    let runs = matches!(row.state, TaskState::Starting | TaskState::Running);
    let free = |row: &TaskRecord| {
        let spec = job.spec_of(row);
        spec.kind == Kind::Batch || !serves(job, row)
    };
    runs && row.desired == Desired::Run && (free(row) || spare > 0)
}

/// What giving way on a machine costs at least.
fn least_cost(slot: Slot, candidates: &[Candidate], coming: &Coming) -> Cost {
    if coming.awaits() {
        return (0, 0, 0, slot);
    }
    let lowest = candidates.iter().map(|one| one.priority).min().unwrap_or(0);
    let only_services = candidates.iter().all(|one| one.spare.is_some());
    (lowest, usize::from(only_services), 1, slot)
}

/// Which tasks of one machine have to go, if any of them are enough.
fn cheapest(
    draft: &Draft,
    slot: Slot,
    mut candidates: Vec<Candidate>,
    coming: &Coming,
    placer: &Placer,
) -> Option<(Cost, Vec<TaskId>)> {
    let view = View::of(draft);
    let fits = |chosen: Vec<&Reserved>| {
        let given = coming.held().chain(chosen);
        placer.would_fit(view, slot, given, &coming.promised)
    };
    candidates.sort_by_key(|one| (one.priority, one.spare.is_some(), Reverse(one.began)));
    let mut chosen: Vec<Candidate> = Vec::new();
    let mut spent: BTreeMap<&JobId, usize> = BTreeMap::new();
    for one in candidates {
        if fits(chosen.iter().map(|one| &one.held).collect()) {
            break;
        }
        if let Some(spare) = one.spare {
            let spent = spent.entry(&one.task.job).or_default();
            if *spent >= spare {
                continue;
            }
            *spent += 1;
        }
        chosen.push(one);
    }
    let enough = fits(chosen.iter().map(|one| &one.held).collect());
    if !enough || chosen.is_empty() && !coming.awaits() {
        return None;
    }
    // Those with more to lose stay where the others are enough.
    for place in (0..chosen.len()).rev() {
        let others = chosen.iter().enumerate();
        let others = others.filter(|(other, _)| *other != place);
        if fits(others.map(|(_, one)| &one.held).collect()) {
            chosen.remove(place);
        }
    }
    let highest = chosen.iter().map(|one| one.priority).max().unwrap_or(0);
    let services = chosen.iter().filter(|one| one.spare.is_some()).count();
    let cost = (highest, services, chosen.len(), slot);
    let tasks = chosen.into_iter().map(|one| one.task.clone()).collect();
    Some((cost, tasks))
}
