//! All that decisions rest on: the rows of the store, held in memory with a few indexes over them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tw_model::{
    AllowanceRecord, Desired, EventRecord, Incarnation, JobId, JobRecord, JobSpec, Kind, MachineId,
    MachineRecord, Name, PlanRecord, Record, RecordKey, RepositoryRecord, RunRecord, TaskId,
    TaskRecord, TaskState, Timestamp, Version, VersionRecord,
};

use crate::alarms::alarm;
use crate::fleet::{Fleet, Reserved, Slot};
use crate::neighbours::shunned;
use crate::preempt;
use crate::ranked::Ranked;
use crate::unsettled::unsettled;
use crate::{Op, StopLimits, Txn};

/// A row of a task. What is asked of every task of a cluster stands beside it, in one piece with that of the job's
/// other tasks: a look at the row itself, at its machine's name and at the machine costs several times as much.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) row: Arc<TaskRecord>,
    pub(crate) version: Version,
    pub(crate) machine_epoch: u64,
    /// The place of its machine; none of a task without one, of a machine that is unknown yet, and in a draft.
    slot: Option<Slot>,
    pub(crate) state: TaskState,
    pub(crate) desired: Desired,
}

impl Held {
    fn new(row: Arc<TaskRecord>, slot: Option<Slot>) -> Held {
        Held {
            version: row.version,
            machine_epoch: row.machine_epoch,
            slot,
            state: row.state,
            desired: row.desired,
            row,
        }
    }

    /// The machine of the task, if it has one; `Err` where that is not known.
    pub(crate) fn slot(&self, fleet: &Fleet) -> Result<Option<Slot>, UnknownMachine> {
        if self.slot.is_some() {
            return Ok(self.slot);
        }
        let machine = self.row.machine.as_ref();
        let slot = machine.map(|machine| fleet.slot(machine).ok_or(UnknownMachine));
        slot.transpose()
    }
}

/// A task is on a machine of which there is no row.
pub(crate) struct UnknownMachine;

/// One job with its versions and tasks.
#[derive(Clone, Debug)]
pub struct JobState {
    pub(crate) row: JobRecord,
    pub(crate) versions: BTreeMap<Version, Arc<VersionRecord>>,
    tasks: BTreeMap<(u32, Incarnation), Held>,
    /// How many of the tasks wait for a machine.
    pub(crate) pending: usize,
    /// How many are asked to end and have not ended.
    pub(crate) stopping: usize,
}

impl JobState {
    /// A job with nothing but its row.
    pub(crate) fn new(row: JobRecord) -> JobState {
        JobState {
            row,
            versions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            pending: 0,
            stopping: 0,
        }
    }

    /// The job's row.
    pub fn row(&self) -> &JobRecord {
        &self.row
    }

    /// The version that is wanted.
    pub fn current(&self) -> &VersionRecord {
        // A job's row and its version are written in one transaction, and a version outlives its use.
        &self.versions[&self.row.version]
    }

    /// The spec that is wanted.
    pub fn spec(&self) -> &Arc<JobSpec> {
        &self.current().spec
    }

    /// A version that the job has had and that is still kept.
    pub fn version(&self, version: Version) -> Option<&VersionRecord> {
        self.versions.get(&version).map(Arc::as_ref)
    }

    /// The versions that are kept, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = &VersionRecord> {
        self.versions.values().map(Arc::as_ref)
    }

    /// All rows of tasks, by index and then by incarnation.
    pub fn tasks(&self) -> impl DoubleEndedIterator<Item = &TaskRecord> {
        self.tasks.values().map(|held| held.row.as_ref())
    }

    /// The same with what stands beside the rows, each by its index.
    pub(crate) fn held(&self) -> impl Iterator<Item = (u32, &Held)> {
        self.tasks.iter().map(|((index, _), held)| (*index, held))
    }

    /// The rows of tasks that have not ended, in the same order.
    pub fn live(&self) -> impl Iterator<Item = &TaskRecord> {
        self.tasks_where(|state| !state.is_terminal())
    }

    /// The rows of tasks that are in such a state, in the same order.
    pub(crate) fn tasks_where(
        &self,
        holds: impl Fn(TaskState) -> bool,
    ) -> impl Iterator<Item = &TaskRecord> {
        let rows = self.tasks.values();
        rows.filter(move |held| holds(held.state))
            .map(|held| held.row.as_ref())
    }

    /// The indexes that are wanted now, each with its newest row.
    pub(crate) fn wanted_rows(&self) -> impl Iterator<Item = (u32, Option<&TaskRecord>)> {
        let daemon = self.spec().kind == Kind::Daemon;
        let mut latest = self.latest_of_each().peekable();
        let rows = (0..self.wanted()).map(move |index| {
            let row = latest.next_if(|row| row.id.index == index);
            (index, row)
        });
        rows.filter(move |(_, row)| !daemon || row.is_some_and(|row| !row.retired))
    }

    /// The newest row of an index: its live task if there is one.
    pub fn latest(&self, index: u32) -> Option<&TaskRecord> {
        self.of_index(index).next_back()
    }

    /// The newest row of each index that ever had one.
    pub fn latest_of_each(&self) -> impl Iterator<Item = &TaskRecord> {
        self.latest_held().map(|(_, held)| held.row.as_ref())
    }

    /// The same with what stands beside the rows, each by its index.
    pub(crate) fn latest_held(&self) -> impl Iterator<Item = (u32, &Held)> {
        let mut rows = self.held().peekable();
        std::iter::from_fn(move || {
            let mut row = rows.next()?;
            while let Some(newer) = rows.next_if(|next| next.0 == row.0) {
                row = newer;
            }
            Some(row)
        })
    }

    /// The rows of one index, oldest first.
    pub fn of_index(&self, index: u32) -> impl DoubleEndedIterator<Item = &TaskRecord> {
        self.tasks
            .range((index, 0)..=(index, Incarnation::MAX))
            .map(|(_, held)| held.row.as_ref())
    }

    /// The row of one task.
    pub fn task(&self, index: u32, incarnation: Incarnation) -> Option<&TaskRecord> {
        self.shared_task(index, incarnation).map(Arc::as_ref)
    }

    /// The row of a task, to be kept.
    pub(crate) fn shared_task(
        &self,
        index: u32,
        incarnation: Incarnation,
    ) -> Option<&Arc<TaskRecord>> {
        let held = self.tasks.get(&(index, incarnation))?;
        Some(&held.row)
    }

    /// Every wanted index is below this number, and of all jobs but daemons every number below it is a wanted index.
    ///
    /// A job with a schedule wants none between its runs, a daemon as many as there are machines for it.
    pub fn wanted(&self) -> u32 {
        if self.row.stopped {
            return 0;
        }
        let spec = self.spec();
        if spec.schedule.is_some() {
            let open = self.open_run();
            let version = open.and_then(|run| self.version(run.version));
            return version.map_or(0, |version| version.spec.replicas);
        }
        match spec.kind {
            Kind::Daemon => self
                .tasks
                .keys()
                .next_back()
                .map_or(0, |(last, _)| last + 1),
            Kind::Service | Kind::Batch => spec.tasks(self.row.scaled()),
        }
    }

    /// The indexes that are wanted now: of a daemon one for each machine that is to have a task.
    pub fn indexes(&self) -> impl Iterator<Item = u32> {
        let daemon = self.spec().kind == Kind::Daemon;
        let retired = move |index: &u32| self.latest(*index).is_none_or(|row| row.retired);
        (0..self.wanted()).filter(move |index| !daemon || !retired(index))
    }

    /// The run that is under way, of a job with a schedule.
    pub fn open_run(&self) -> Option<&RunRecord> {
        self.row.runs.as_ref()?.open()
    }

    /// The spec of a task's own version; that of the job where the version is gone.
    pub fn spec_of(&self, row: &TaskRecord) -> &Arc<JobSpec> {
        self.spec_at(row.version)
    }

    /// The spec of a version; that of the job where the version is gone.
    pub(crate) fn spec_at(&self, version: Version) -> &Arc<JobSpec> {
        match self.versions.get(&version) {
            Some(version) => &version.spec,
            None => self.spec(),
        }
    }

    /// What a task holds on its machine; none while it has no machine, and once it has ended.
    pub(crate) fn reservation(&self, row: &TaskRecord) -> Option<(MachineId, Reserved)> {
        let machine = row.machine.clone()?;
        if row.state.is_terminal() {
            return None;
        }
        let spec = self.spec_of(row);
        let resources = &spec.resources;
        let reserved = Reserved {
            cpu: row.fitted.map_or(resources.cpu, |fitted| fitted.cpu),
            memory: row.fitted.map_or(resources.memory, |fitted| fitted.memory),
            disk: resources.disk,
            ports: row.ports.values().copied().collect(),
            bandwidth: resources.bandwidth,
            heavy: spec.bandwidth_heavy,
        };
        Some((machine, reserved))
    }

    /// Puts in the row of a task, with the place of its machine as far as it is known.
    pub(crate) fn put_task(&mut self, row: Arc<TaskRecord>, slot: Option<Slot>) {
        let key = (row.id.index, row.id.incarnation);
        self.pending += usize::from(row.state == TaskState::Pending);
        self.stopping += usize::from(row.state == TaskState::Stopping);
        let old = self.tasks.insert(key, Held::new(row, slot));
        self.uncount(old.as_ref());
    }

    /// Takes out the row of a task.
    pub(crate) fn take_task(&mut self, task: &TaskId) -> Option<Arc<TaskRecord>> {
        let old = self.tasks.remove(&(task.index, task.incarnation));
        self.uncount(old.as_ref());
        old.map(|held| held.row)
    }

    fn uncount(&mut self, old: Option<&Held>) {
        let was = |state| usize::from(old.is_some_and(|held| held.state == state));
        self.pending -= was(TaskState::Pending);
        self.stopping -= was(TaskState::Stopping);
    }
}

/// Everything that is stored, as decisions see it.
///
/// [`State::apply`] is the only thing that changes it, so that folding the stored rows gives the same again.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) jobs: BTreeMap<JobId, JobState>,
    pub(crate) events: BTreeMap<JobId, BTreeMap<u64, Arc<EventRecord>>>,
    pub(crate) fleet: Fleet,
    /// Jobs with tasks that wait, so that freed room finds them; those of the highest priority first.
    pub(crate) pending: Ranked<Reverse<u32>>,
    /// Jobs with tasks on machines, by priority.
    pub(crate) placed: Ranked<u32>,
    /// Jobs with tasks for which others were asked to make room.
    pub(crate) claiming: BTreeSet<JobId>,
    /// Jobs with tasks that are asked to end and have not ended.
    pub(crate) stopping: BTreeSet<JobId>,
    /// Jobs for which time alone may bring something to do; see [`crate::unsettled`].
    pub(crate) unsettled: BTreeSet<JobId>,
    /// When something falls due for a job that is settled until then.
    pub(crate) alarms: Ranked<Timestamp>,
    /// Jobs that want a task on each machine.
    pub(crate) daemons: BTreeSet<JobId>,
    /// The jobs that each job wants none of its tasks near to, and the same the other way round.
    shuns: BTreeMap<JobId, Vec<JobId>>,
    shunned_by: BTreeMap<JobId, BTreeSet<JobId>>,
    repositories: BTreeMap<Name, Arc<RepositoryRecord>>,
    plans: BTreeMap<String, Arc<PlanRecord>>,
    allowances: BTreeMap<Name, Arc<AllowanceRecord>>,
    pub(crate) stop_limits: StopLimits,
}

impl State {
    /// Names the limits that the decisions on this state pass, so that they begin in time what has to be done by then. By
    /// default they are those of [`StopLimits`].
    pub fn set_stop_limits(&mut self, limits: StopLimits) {
        self.stop_limits = limits;
    }

    /// Builds the state from stored rows in any order.
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> State {
        let mut state = State::default();
        let mut records: Vec<Record> = records.into_iter().collect();
        records.sort_by_key(rank);
        // Versions come first; those of a job whose row follows wait here.
        let mut versions: BTreeMap<JobId, BTreeMap<Version, Arc<VersionRecord>>> = BTreeMap::new();
        for record in records {
            match record {
                Record::Version(row) => {
                    let of_job = versions.entry(row.job.clone()).or_default();
                    of_job.insert(row.version, row);
                }
                Record::Job(row) => {
                    let versions = versions.remove(&row.id).unwrap_or_default();
                    state.put_job(row, versions);
                }
                other => state.put(other),
            }
        }
        state.claiming = state.jobs_where(preempt::claims);
        state.stopping = state.jobs_where(|job| job.stopping > 0);
        state.unsettled = state.jobs_where(|job| unsettled(&state, job));
        state.daemons = state.jobs_where(is_daemon);
        let ids: Vec<JobId> = state.jobs.keys().cloned().collect();
        for id in &ids {
            state.index_shunned(id);
            state.rank(id);
        }
        state
    }

    fn jobs_where(&self, holds: impl Fn(&JobState) -> bool) -> BTreeSet<JobId> {
        let jobs = self.jobs.iter().filter(|(_, job)| holds(job));
        jobs.map(|(id, _)| id.clone()).collect()
    }

    /// Applies a decision. The only way in which the state ever changes.
    pub fn apply(&mut self, txn: &Txn) {
        let mut versions: BTreeMap<JobId, BTreeMap<Version, Arc<VersionRecord>>> = BTreeMap::new();
        let mut touched = BTreeSet::new();
        for op in &txn.ops {
            self.touch(op, &mut touched);
            match op {
                Op::Put(Record::Version(row)) if !self.jobs.contains_key(&row.job) => {
                    let of_job = versions.entry(row.job.clone()).or_default();
                    of_job.insert(row.version, row.clone());
                }
                Op::Put(Record::Job(row)) if !self.jobs.contains_key(&row.id) => {
                    let versions = versions.remove(&row.id).unwrap_or_default();
                    self.put_job(row.clone(), versions);
                }
                Op::Put(record) => self.put(record.clone()),
                Op::Delete(key) => self.delete(key),
            }
        }
        touched.into_iter().for_each(|id| self.index_job(id));
    }

    /// Notes the jobs to which an operation may mean something.
    fn touch(&self, op: &Op, touched: &mut BTreeSet<JobId>) {
        let id = match op {
            Op::Put(Record::Machine(row)) => {
                let slot = self.fleet.slot(&row.id);
                let host = slot.map(|slot| self.fleet.host(slot));
                let tasks = host.into_iter().flat_map(|host| host.tasks.keys());
                touched.extend(tasks.map(|task| task.job.clone()));
                touched.extend(self.daemons.iter().cloned());
                return;
            }
            Op::Put(Record::Job(row)) => &row.id,
            Op::Put(Record::Version(row)) => &row.job,
            Op::Put(Record::Task(row)) => &row.id.job,
            Op::Delete(RecordKey::Job(id) | RecordKey::Version(id, _)) => id,
            Op::Delete(RecordKey::Task(task)) => &task.job,
            Op::Put(
                Record::Event(_) | Record::Repository(_) | Record::Plan(_) | Record::Allowance(_),
            )
            | Op::Delete(
                RecordKey::Event(..)
                | RecordKey::Machine(_)
                | RecordKey::Repository(_)
                | RecordKey::Plan(_)
                | RecordKey::Allowance(_),
            ) => {
                return;
            }
        };
        if !touched.contains(id) {
            touched.insert(id.clone());
        }
    }

    /// The jobs that want none of their tasks near those of this one.
    pub(crate) fn shunned_by(&self, id: &JobId) -> impl Iterator<Item = &JobId> {
        self.shunned_by.get(id).into_iter().flatten()
    }

    fn index_shunned(&mut self, id: &JobId) {
        let now: Vec<JobId> = self.jobs.get(id).into_iter().flat_map(shunned).collect();
        if self
            .shuns
            .get(id)
            .map_or(now.is_empty(), |before| *before == now)
        {
            return;
        }
        for other in self.shuns.remove(id).unwrap_or_default() {
            if let Some(by) = self.shunned_by.get_mut(&other) {
                by.remove(id);
            }
        }
        for other in &now {
            let by = self.shunned_by.entry(other.clone()).or_default();
            by.insert(id.clone());
        }
        self.shuns.insert(id.clone(), now);
    }

    /// Brings the indexes over jobs up to date with one job.
    fn index_job(&mut self, id: JobId) {
        self.index_shunned(&id);
        let job = self.jobs.get(&id);
        let open = job.is_some_and(|job| unsettled(self, job));
        let daemon = job.is_some_and(is_daemon);
        let claims = job.is_some_and(preempt::claims);
        let stopping = job.is_some_and(|job| job.stopping > 0);
        self.rank(&id);
        for (index, holds) in [
            (&mut self.claiming, claims),
            (&mut self.stopping, stopping),
            (&mut self.unsettled, open),
            (&mut self.daemons, daemon),
        ] {
            match holds {
                true if index.contains(&id) => {}
                true => {
                    index.insert(id.clone());
                }
                false => {
                    index.remove(&id);
                }
            }
        }
    }

    /// Brings the ranks of a job up to date.
    fn rank(&mut self, id: &JobId) {
        let job = self.jobs.get(id);
        let priority = |job: &JobState| job.spec().priority;
        let waits = job.filter(|job| job.pending > 0).map(priority);
        let placed = job.filter(|job| preempt::may_give_way(job)).map(priority);
        self.alarms.set(id, job.and_then(alarm));
        self.pending.set(id, waits.map(Reverse));
        self.placed.set(id, placed);
    }

    /// Every row, as the store holds it.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let jobs = self.jobs.values().flat_map(|job| {
            let versions = job
                .versions
                .values()
                .map(|row| Record::Version(row.clone()));
            let tasks = job.held();
            let tasks = tasks.map(|(_, held)| Record::Task(held.row.clone()));
            std::iter::once(Record::Job(job.row.clone()))
                .chain(versions)
                .chain(tasks)
        });
        let machines = self.machines().cloned().map(Record::Machine);
        let events = self.events.values().flat_map(BTreeMap::values);
        let repositories = self.repositories.values().cloned();
        let plans = self.plans.values().cloned();
        jobs.chain(machines)
            .chain(events.map(|row| Record::Event(row.clone())))
            .chain(repositories.map(Record::Repository))
            .chain(plans.map(Record::Plan))
            .chain(self.allowances.values().cloned().map(Record::Allowance))
    }

    /// Whether a row is held just as it is.
    pub fn holds(&self, record: &Record) -> bool {
        match record {
            Record::Job(row) => self.job(&row.id).map(JobState::row) == Some(row),
            Record::Version(row) => {
                let job = self.job(&row.job);
                job.and_then(|job| job.version(row.version)) == Some(row)
            }
            Record::Task(row) => self.task(&row.id) == Some(row.as_ref()),
            Record::Machine(row) => self.machine(&row.id) == Some(row),
            Record::Event(row) => {
                let of_job = self.events.get(&row.job);
                let event = of_job.and_then(|events| events.get(&row.seq));
                event == Some(row)
            }
            Record::Repository(row) => self.repositories.get(&row.name) == Some(row),
            Record::Plan(row) => self.plans.get(&row.digest) == Some(row),
            Record::Allowance(row) => self.allowances.get(&row.name) == Some(row),
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        let of_jobs = self.jobs.values();
        let of_jobs = of_jobs.map(|job| 1 + job.versions.len() + job.tasks.len());
        of_jobs.sum::<usize>()
            + self.events.values().map(BTreeMap::len).sum::<usize>()
            + self.fleet.len()
            + self.repositories.len()
            + self.plans.len()
            + self.allowances.len()
    }

    /// Whether there is no row at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All jobs, by namespace and name.
    pub fn jobs(&self) -> impl Iterator<Item = &JobState> {
        self.jobs.values()
    }

    /// One job.
    pub fn job(&self, job: &JobId) -> Option<&JobState> {
        self.jobs.get(job)
    }

    /// The row of one task.
    pub fn task(&self, task: &TaskId) -> Option<&TaskRecord> {
        self.jobs.get(&task.job)?.task(task.index, task.incarnation)
    }

    /// All machines, in the order in which they became known.
    pub fn machines(&self) -> impl Iterator<Item = &MachineRecord> {
        self.fleet.hosts().map(|host| host.row.as_ref())
    }

    /// One machine.
    pub fn machine(&self, machine: &MachineId) -> Option<&MachineRecord> {
        let slot = self.fleet.slot(machine)?;
        Some(&self.fleet.host(slot).row)
    }

    /// The repositories that are followed, by name.
    pub fn repositories(&self) -> impl Iterator<Item = &RepositoryRecord> {
        self.repositories.values().map(Arc::as_ref)
    }

    /// The plans of commits that are kept, by digest.
    pub fn plans(&self) -> impl Iterator<Item = &PlanRecord> {
        self.plans.values().map(Arc::as_ref)
    }

    /// All allowances, by name.
    pub fn allowances(&self) -> impl Iterator<Item = &AllowanceRecord> {
        self.allowances.values().map(Arc::as_ref)
    }

    /// One allowance.
    pub fn allowance(&self, name: &Name) -> Option<&AllowanceRecord> {
        self.allowances.get(name).map(Arc::as_ref)
    }

    /// The live tasks of a machine.
    pub fn tasks_on(&self, machine: &MachineId) -> impl Iterator<Item = &TaskRecord> {
        let host = self.fleet.slot(machine).map(|slot| self.fleet.host(slot));
        host.into_iter()
            .flat_map(|host| host.tasks.keys())
            .filter_map(|task| self.task(task))
    }

    /// What the live tasks of a machine hold together.
    pub fn reserved_on(&self, machine: &MachineId) -> crate::Request {
        let mut sum = crate::Request::default();
        if let Some(slot) = self.fleet.slot(machine) {
            for held in self.fleet.host(slot).tasks.values() {
                sum.cpu = sum.cpu + held.cpu;
                sum.memory = sum.memory + held.memory;
                sum.disk = sum.disk + held.disk;
                sum.ports += held.ports.len() as u32;
                sum.bandwidth = sum.bandwidth + held.bandwidth;
            }
        }
        sum
    }

    /// The events of a job that are kept, oldest first.
    pub fn events(&self, job: &JobId) -> impl DoubleEndedIterator<Item = &EventRecord> {
        let of_job = self.events.get(job);
        of_job
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(Arc::as_ref)
    }

    fn put(&mut self, record: Record) {
        match record {
            Record::Job(row) => self.put_job(row, BTreeMap::new()),
            Record::Version(row) => {
                if let Some(job) = self.jobs.get_mut(&row.job) {
                    job.versions.insert(row.version, row);
                }
            }
            Record::Task(row) => self.put_task(row),
            Record::Machine(row) => self.fleet.put_machine(Arc::new(row)),
            Record::Event(row) => {
                let of_job = self.events.entry(row.job.clone()).or_default();
                of_job.insert(row.seq, row);
            }
            Record::Repository(row) => {
                self.repositories.insert(row.name.clone(), row);
            }
            Record::Plan(row) => {
                self.plans.insert(row.digest.clone(), row);
            }
            Record::Allowance(row) => {
                self.allowances.insert(row.name.clone(), row);
            }
        }
    }

    fn put_job(&mut self, row: JobRecord, versions: BTreeMap<Version, Arc<VersionRecord>>) {
        match self.jobs.get_mut(&row.id) {
            Some(job) => job.row = row,
            None => {
                let id = row.id.clone();
                let job = JobState {
                    versions,
                    ..JobState::new(row)
                };
                self.jobs.insert(id, job);
            }
        }
    }

    fn put_task(&mut self, row: Arc<TaskRecord>) {
        let Some(job) = self.jobs.get_mut(&row.id.job) else {
            return;
        };
        let old = job.task(row.id.index, row.id.incarnation);
        let before = old.and_then(|old| self.fleet.slot(old.machine.as_ref()?));
        let slot = row.machine.as_ref();
        let slot = slot.and_then(|machine| self.fleet.slot(machine));
        if let Some(slot) = before {
            self.fleet.release(slot, &row.id);
        }
        if let Some(slot) = slot
            && let Some(reserved) = job.reservation(&row)
        {
            self.fleet.reserve(slot, &row.id, reserved.1);
        }
        job.put_task(row, slot);
    }

    fn delete(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Job(id) => {
                self.jobs.remove(id);
            }
            RecordKey::Version(id, version) => {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.versions.remove(version);
                }
            }
            RecordKey::Task(task) => {
                self.unreserve(task);
                if let Some(job) = self.jobs.get_mut(&task.job) {
                    job.take_task(task);
                }
            }
            // Machines are never removed: their epochs must not begin again.
            RecordKey::Machine(_) => {}
            RecordKey::Event(id, seq) => {
                if let Some(of_job) = self.events.get_mut(id) {
                    of_job.remove(seq);
                }
            }
            RecordKey::Repository(name) => {
                self.repositories.remove(name);
            }
            RecordKey::Plan(digest) => {
                self.plans.remove(digest);
            }
            RecordKey::Allowance(name) => {
                self.allowances.remove(name);
            }
        }
    }

    fn unreserve(&mut self, task: &TaskId) {
        let old = self.task(task).and_then(|row| row.machine.clone());
        if let Some(slot) = old.and_then(|machine| self.fleet.slot(&machine)) {
            self.fleet.release(slot, task);
        }
    }
}

fn is_daemon(job: &JobState) -> bool {
    job.spec().kind == Kind::Daemon && !job.row.stopped
}

/// The order in which rows build on each other.
fn rank(record: &Record) -> u8 {
    match record {
        Record::Version(_) => 0,
        Record::Job(_) => 1,
        Record::Machine(_) => 2,
        Record::Task(_) => 3,
        Record::Event(_) => 4,
        Record::Repository(_) | Record::Plan(_) | Record::Allowance(_) => 5,
    }
}
