//! The updater with every wait left out: where the tasks of a job would be when a submission has been carried out.

use std::collections::BTreeSet;
use std::sync::Arc;

use tw_model::{Desired, Effect, JobId, JobSpec, Kind, MachineId, TaskId, TaskRecord, TaskState};

use crate::allocate::{Placer, View, Wish};
use crate::draft::Draft;
use crate::endpoints::serves;
use crate::escalate::escalate;
use crate::fleet::Slot;
use crate::forecast::StageWork;
use crate::plan::{TaskCounts, TaskPlan, Verdict, tasks_of};
use crate::rollout::{self, Distance, task_effect};
use crate::{JobState, NoRoom, daemon, preempt, reconcile, why};

/// What a dry run found.
pub(crate) struct Found {
    /// How many tasks meet which fate.
    pub(crate) counts: TaskCounts,
    /// What becomes of each.
    pub(crate) tasks: Vec<TaskPlan>,
    /// Whether all find room.
    pub(crate) verdict: Verdict,
    /// How many tasks have the new version after each stage.
    pub(crate) stages: Vec<u32>,
    /// What each stage does.
    pub(crate) work: Vec<StageWork>,
    /// How many tasks beyond the wanted number find room while the update runs.
    pub(crate) surge: u32,
}

/// Carries out the version that the draft wants of a job.
pub(crate) fn update(
    draft: &mut Draft,
    id: &JobId,
    spec: &JobSpec,
    old: Option<&JobState>,
) -> Found {
    let mut run = DryRun::new(draft, id.clone(), spec);
    run.stop_surplus(old);
    if spec.schedule.is_some() {
        run.try_one();
        return run.finish();
    }
    match spec.kind {
        Kind::Daemon => run.start_on_machines(),
        Kind::Service | Kind::Batch => run.start_missing(),
    }
    run.update();
    run.finish()
}

/// Ends a job.
pub(crate) fn removal(draft: &mut Draft, old: &JobState) -> Found {
    let mut run = DryRun::new(draft, old.row.id.clone(), old.spec());
    run.removed = true;
    run.stop_surplus(Some(old));
    run.finish()
}

/// A task with a machine whose turn has not come.
struct Waiting {
    distance: Distance,
    serves: bool,
    effect: Effect,
    row: TaskRecord,
}

/// A task that makes way for its successor on another machine.
struct Stopped {
    index: u32,
    from: Option<MachineId>,
}

/// Changes that no stage holds back.
fn is_free(effect: Effect) -> bool {
    matches!(effect, Effect::None | Effect::Recreate)
}

struct DryRun<'a, 'b> {
    draft: &'a mut Draft<'b>,
    id: JobId,
    spec: Arc<JobSpec>,
    /// Whether the job ends.
    removed: bool,
    counts: TaskCounts,
    tasks: Vec<TaskPlan>,
    unplaced: u32,
    why: Option<NoRoom>,
    stages: Vec<u32>,
    work: Vec<StageWork>,
    /// Extra tasks that found room, and how many there were at most.
    extras: Vec<TaskId>,
    surge: u32,
    /// Tasks of other jobs that make room.
    preempted: Vec<TaskId>,
}

impl<'a, 'b> DryRun<'a, 'b> {
    fn new(draft: &'a mut Draft<'b>, id: JobId, spec: &JobSpec) -> DryRun<'a, 'b> {
        DryRun {
            draft,
            id,
            spec: Arc::new(spec.clone()),
            removed: false,
            counts: TaskCounts::default(),
            tasks: Vec::new(),
            unplaced: 0,
            why: None,
            stages: Vec::new(),
            work: Vec::new(),
            extras: Vec::new(),
            surge: 0,
            preempted: Vec::new(),
        }
    }

    /// Tasks beyond the wanted number, and what is left of a job that was stopped, make room at once.
    fn stop_surplus(&mut self, old: Option<&JobState>) {
        let live = old.into_iter().flat_map(JobState::tasks);
        for row in live.filter(|row| !row.state.is_terminal()) {
            let surplus = self.is_surplus(row, old);
            let stopping = row.desired == Desired::Stop;
            if !surplus && !stopping {
                continue;
            }
            self.end(row);
            if surplus && !stopping {
                self.counts.stopped += 1;
                self.tell(row.id.index, Effect::Scale, row.machine.clone(), None);
            }
        }
    }

    /// Whether a task is not wanted any more.
    fn is_surplus(&self, row: &TaskRecord, old: Option<&JobState>) -> bool {
        let other_kind = old.is_some_and(|old| old.spec_of(row).kind != self.spec.kind);
        match (self.spec.schedule.is_some(), self.spec.kind) {
            _ if self.removed => true,
            // The run under way goes on as it is.
            (true, _) => other_kind,
            (false, Kind::Daemon) => daemon::why_leaves(self.draft, &self.spec, row).is_some(),
            (false, _) => row.id.index >= tasks_of(self.draft, &self.spec),
        }
    }

    /// Whether a task of a run would find room now. Nothing is kept for it.
    fn try_one(&mut self) {
        let Some(mut placer) = self.placer() else {
            return;
        };
        if placer
            .place(View::of(self.draft), Wish::default())
            .is_none()
        {
            self.unplaced = 1;
            self.why = Some(why::no_room(self.draft, &placer, None));
        }
    }

    /// Machines that have no task of the daemon get one.
    fn start_on_machines(&mut self) {
        let Some(job) = self.draft.job(&self.id) else {
            return;
        };
        let latest: Vec<TaskRecord> = job.latest_of_each().cloned().collect();
        let live = |row: &&TaskRecord| !row.state.is_terminal() && row.machine.is_some();
        let served: BTreeSet<&MachineId> = latest
            .iter()
            .filter(live)
            .filter_map(daemon::machine_of)
            .collect();
        let targets = self.draft.machines();
        let targets = targets.filter(|machine| daemon::is_target(&self.spec, machine));
        let targets = targets.map(|machine| machine.id.clone());
        let targets: Vec<MachineId> = targets.filter(|id| !served.contains(id)).collect();
        let mut next = latest.last().map_or(0, |row| row.id.index + 1);
        for machine in targets {
            let mut known = latest.iter();
            let known = known.find(|row| daemon::machine_of(row) == Some(&machine));
            let index = known.map_or(next, |row| row.id.index);
            next += u32::from(known.is_none());
            let to = self.start_on(index, &machine);
            self.counts.started += 1;
            self.tell(index, Effect::Scale, None, to);
        }
    }

    /// Starts a daemon's task on its machine, if there is room for it.
    fn start_on(&mut self, index: u32, machine: &MachineId) -> Option<MachineId> {
        let version = self.draft.job(&self.id)?.row.version;
        let latest = self.draft.job(&self.id)?.latest(index);
        if latest.is_none_or(|row| row.state.is_terminal()) {
            let machine = Some(machine.clone());
            reconcile::begin_on(self.draft, &self.id, index, version, machine);
        }
        let mut row = self.draft.job(&self.id)?.latest(index)?.clone();
        row.version = version;
        let mut placer = self.placer()?;
        let Some(slot) = placer.place_on_own(self.draft, &row) else {
            self.unplaced += 1;
            if self.why.is_none() {
                let only = self.draft.slot(machine);
                self.why = Some(why::no_room(self.draft, &placer, only));
            }
            return None;
        };
        reconcile::assign(self.draft, &mut row, slot, &self.spec.ports);
        row.machine
    }

    /// Indexes that have no task get one; tasks that wait are looked at again.
    fn start_missing(&mut self) {
        let Some(job) = self.draft.job(&self.id) else {
            return;
        };
        let indexes = 0..tasks_of(self.draft, &self.spec);
        let rows = indexes.map(|index| (index, job.latest(index).cloned()));
        let mut rows: Vec<(u32, Option<TaskRecord>)> = rows.collect();
        rows.sort_by_key(|(_, row)| {
            let row = row.as_ref();
            row.is_none_or(|row| preempt::claimed(job, row).is_none())
        });
        let mut turns = self.spec.parallelism.unwrap_or(u32::MAX);
        let mut placer = self.placer();
        for (index, row) in rows {
            let fate = self.fate_of_waiting(row.as_ref());
            let Some(effect) = fate else {
                continue;
            };
            // Those that wait for their turn take the room of those before them.
            let to = match turns {
                0 => None,
                _ => self.start(index, Wish::default(), &mut placer),
            };
            turns = turns.saturating_sub(1);
            match effect {
                Effect::None => self.counts.untouched += 1,
                Effect::Scale => self.counts.started += 1,
                _ => self.counts.restarted += 1,
            }
            self.tell(index, effect, None, to);
        }
    }

    /// What becomes of an index without a task on a machine; none where it has one, or needs none.
    fn fate_of_waiting(&mut self, row: Option<&TaskRecord>) -> Option<Effect> {
        let Some(row) = row else {
            return Some(Effect::Scale);
        };
        if row.state == TaskState::Pending {
            return Some(Effect::None);
        }
        if !row.state.is_terminal() {
            return None;
        }
        let over = self.spec.kind == Kind::Batch && reconcile::ended_by_itself(row);
        if !over {
            return Some(Effect::Scale);
        }
        let job = self.draft.job(&self.id)?;
        let effect = task_effect(job, row, &self.spec, false);
        if effect == Effect::None {
            self.counts.untouched += 1;
        }
        (effect != Effect::None).then_some(effect.max(Effect::Restart))
    }

    /// The tasks that have a machine, in the order in which the updater takes them.
    fn update(&mut self) {
        let Some(job) = self.draft.job(&self.id) else {
            return;
        };
        let live = job.latest_of_each().filter(|row| {
            !self.is_surplus(row, None)
                && row.version < job.row.version
                && matches!(row.state, TaskState::Starting | TaskState::Running)
                && row.desired == Desired::Run
        });
        let live: Vec<&TaskRecord> = live.collect();
        let effect = |row: &TaskRecord| task_effect(job, row, &self.spec, false);
        let placed = rollout::are_placed(&self.spec);
        let held_back = |row: &&&TaskRecord| !is_free(effect(row));
        let origin = live.iter().filter(|_| placed).find(held_back);
        let origin = origin.and_then(|row| row.machine.as_ref());
        let distance = |machine| Distance::between(self.draft, origin, machine);
        let all = job
            .latest_of_each()
            .take_while(|row| row.id.index < job.wanted());
        let distances: Vec<Distance> = all.map(|row| distance(row.machine.as_ref())).collect();
        let tasks = tasks_of(self.draft, &self.spec);
        let stages = rollout::sizes(&self.spec, tasks, &distances);
        let live_tasks = live.len();
        let live = live.into_iter();
        let mut live: Vec<Waiting> = live
            .map(|row| Waiting {
                distance: distance(row.machine.as_ref()),
                serves: serves(job, row),
                effect: effect(row),
                row: row.clone(),
            })
            .collect();
        live.sort_by_key(|one| (one.distance, one.serves, one.row.id.index));
        let (free, mut waiting): (Vec<_>, Vec<_>) =
            live.into_iter().partition(|one| is_free(one.effect));
        let stopped = free
            .iter()
            .filter_map(|one| self.change(one, one.effect))
            .collect();
        self.start_elsewhere(stopped);
        let recreated = free.iter().any(|one| one.effect == Effect::Recreate);
        let replaces = |one: &Waiting| one.serves && one.effect.replaces_task();
        let surges = waiting.iter().any(replaces);
        let adds = (live_tasks as u32) < tasks;
        self.stages = stages;
        for size in self.stages.clone() {
            let first = self.work.is_empty();
            let more = match surges {
                true => self.start_extra(size),
                false => false,
            };
            self.work.push(StageWork {
                rounds: u32::from(first && recreated) + u32::from(more),
                in_place: false,
                adds: first && adds,
                bakes: false,
            });
            let left = tasks.saturating_sub(size) as usize;
            self.update_until(left, &mut waiting);
            if let Some(work) = self.work.last_mut() {
                work.bakes = !waiting.is_empty();
            }
        }
        self.end_extra();
    }

    /// Starts tasks beyond the wanted number where there is room, no more than the stage has. True when one started.
    fn start_extra(&mut self, stage: u32) -> bool {
        let wanted = tasks_of(self.draft, &self.spec);
        let most = rollout::most_extra(&self.spec).min(stage);
        let mut started = false;
        for index in wanted + self.surge..wanted + most {
            let Some(mut placer) = self.placer() else {
                break;
            };
            let Some(slot) = placer.place(View::of(self.draft), Wish::default()) else {
                break;
            };
            let Some(task) = self.begin_on_slot(index, slot) else {
                break;
            };
            self.extras.push(task.id);
            self.surge += 1;
            started = true;
        }
        started
    }

    /// Ends the extra tasks; they give their room to those that are wanted. True when there were some.
    fn end_extra(&mut self) -> bool {
        let extras = std::mem::take(&mut self.extras);
        for task in &extras {
            if let Some(row) = self.draft.task(task).cloned() {
                self.end(&row);
            }
        }
        !extras.is_empty()
    }

    /// One stage: changes tasks until only so many are left, as many at a time as the budget allows.
    fn update_until(&mut self, left: usize, waiting: &mut Vec<Waiting>) {
        while waiting.len() > left {
            let mut room = waiting.len() - left;
            let mut budget = match self.extras.len() as u32 {
                0 => self.spec.rollout.max_unavailable,
                extras => extras,
            };
            let mut stopped = Vec::new();
            let mut later = Vec::new();
            let (mut replaces, mut in_place) = (false, false);
            for one in std::mem::take(waiting) {
                let effect = self.escalated(&one);
                let stops = effect.replaces_task() && one.serves;
                if room == 0 || (stops && budget == 0) {
                    later.push(one);
                    continue;
                }
                room -= 1;
                budget -= u32::from(stops);
                stopped.extend(self.change(&one, effect));
                replaces |= effect.replaces_task();
                in_place |= effect == Effect::InPlace;
            }
            *waiting = later;
            if let Some(work) = self.work.last_mut() {
                work.rounds += u32::from(replaces);
                work.in_place |= in_place;
            }
            self.start_elsewhere(stopped);
        }
    }

    fn escalated(&self, one: &Waiting) -> Effect {
        match self.draft.job(&self.id) {
            Some(job) => escalate(one.effect, self.draft, job, &one.row, &self.spec),
            None => one.effect,
        }
    }

    /// Changes a task where it is, or ends it to start it again.
    fn change(&mut self, one: &Waiting, effect: Effect) -> Option<Stopped> {
        let from = one.row.machine.clone();
        if !effect.replaces_task() {
            let mut after = one.row.clone();
            after.version = self.draft.job(&self.id)?.row.version;
            self.draft.put_task(after);
            match effect {
                Effect::InPlace => self.counts.in_place += 1,
                _ => self.counts.untouched += 1,
            }
            self.tell(one.row.id.index, effect, from.clone(), from);
            return None;
        }
        self.end(&one.row);
        let index = one.row.id.index;
        if effect == Effect::Move {
            self.counts.moved += 1;
            return Some(Stopped { index, from });
        }
        self.counts.restarted += 1;
        if let Some(home) = from.as_ref().filter(|_| self.spec.kind == Kind::Daemon) {
            // It begins again when its machine takes tasks again.
            let machine = self.draft.machine(home);
            let is_target = machine.is_some_and(|it| daemon::is_target(&self.spec, it));
            let to = is_target.then(|| self.start_on(index, home)).flatten();
            self.tell(index, effect, from, to);
            return None;
        }
        let home = from.as_ref().and_then(|machine| self.draft.slot(machine));
        let wish = Wish {
            prefer: home,
            avoid: None,
            bound: !self.spec.volumes.is_empty(),
        };
        let mut placer = self.placer();
        let to = self.start(index, wish, &mut placer);
        self.tell(index, effect, from, to);
        None
    }

    /// Places those that have to leave, after all that stay where they are.
    fn start_elsewhere(&mut self, stopped: Vec<Stopped>) {
        for one in stopped {
            let old = one
                .from
                .as_ref()
                .and_then(|machine| self.draft.slot(machine));
            let wish = Wish {
                prefer: None,
                avoid: old,
                bound: false,
            };
            let mut placer = self.placer();
            let to = self.start(one.index, wish, &mut placer);
            self.tell(one.index, Effect::Move, one.from, to);
        }
    }

    fn end(&mut self, row: &TaskRecord) {
        let mut ended = row.clone();
        ended.state = TaskState::Done;
        ended.desired = Desired::Stop;
        self.draft.put_task(ended);
    }

    fn placer(&self) -> Option<Placer> {
        let job = self.draft.job(&self.id)?;
        Some(Placer::of_job(self.draft, job, &self.spec))
    }

    fn start(&mut self, index: u32, wish: Wish, placer: &mut Option<Placer>) -> Option<MachineId> {
        let placer = placer.as_mut()?;
        let mut slot = placer.place(View::of(self.draft), wish);
        if slot.is_none() && self.end_extra() {
            *placer = self.placer()?;
            slot = placer.place(View::of(self.draft), wish);
        }
        let given = match slot {
            Some(_) => None,
            None => self.make_room(index, placer),
        };
        let Some(slot) = slot.or(given) else {
            self.unplaced += 1;
            if self.why.is_none() {
                self.why = Some(why::no_room(self.draft, placer, None));
            }
            return None;
        };
        let row = self.begin_on_slot(index, slot)?;
        if given.is_some() {
            // Who comes next finds what the tasks leave that have gone, and this one there.
            *placer = self.placer()?;
        }
        row.machine
    }

    /// Gives an index a task of the wanted version on a machine.
    fn begin_on_slot(&mut self, index: u32, slot: Slot) -> Option<TaskRecord> {
        let pending = self.draft.job(&self.id).and_then(|job| job.latest(index));
        if pending.is_none_or(|row| row.state.is_terminal()) {
            let version = self.draft.job(&self.id)?.row.version;
            reconcile::begin(self.draft, &self.id, index, version);
        }
        let mut row = self.draft.job(&self.id)?.latest(index)?.clone();
        row.version = self.draft.job(&self.id)?.row.version;
        reconcile::assign(self.draft, &mut row, slot, &self.spec.ports);
        Some(row)
    }

    /// Ends tasks of lower priority, if that gives the next task its room.
    fn make_room(&mut self, index: u32, placer: &mut Placer) -> Option<Slot> {
        let latest = self.draft.job(&self.id)?.latest(index);
        let waiting = latest.filter(|row| row.state == TaskState::Pending);
        let promised = waiting.is_some_and(|row| row.meant_for.is_some());
        if placer.helpless && !promised {
            return None;
        }
        let waiting = waiting.map(|row| row.id.clone());
        let found = preempt::find(self.draft, &self.id, waiting.as_ref(), placer);
        placer.helpless = found.is_none() && !promised;
        let found = found?;
        for task in found.tasks.iter().chain(&found.leaving) {
            if let Some(row) = self.draft.task(task).cloned() {
                self.end(&row);
            }
        }
        self.preempted.extend(found.tasks);
        Some(found.slot)
    }

    fn tell(&mut self, index: u32, effect: Effect, from: Option<MachineId>, to: Option<MachineId>) {
        self.tasks.push(TaskPlan {
            index,
            effect,
            from,
            to,
        });
    }

    fn finish(mut self) -> Found {
        self.tasks.sort_by_key(|task| task.index);
        let verdict = match (self.why, self.counts.moved) {
            (Some(why), _) => Verdict::DoesNotFit {
                tasks: self.unplaced,
                why,
                preempts: self.preempted,
            },
            (None, _) if !self.preempted.is_empty() => Verdict::Preempts {
                tasks: self.preempted,
            },
            (None, 0) => Verdict::Fits,
            (None, _) => Verdict::Moves,
        };
        Found {
            counts: self.counts,
            tasks: self.tasks,
            verdict,
            stages: self.stages,
            work: self.work,
            surge: self.surge,
        }
    }
}
