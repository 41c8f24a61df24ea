//! A decision in the making: the state as it will be, and the rows that make it so.
//!
//! The state below stays untouched, so a dry run is a draft that nobody applies.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tw_model::{
    EVENTS_KEPT, EventRecord, Incarnation, JobId, JobRecord, MachineId, MachineRecord, Record,
    RecordKey, TaskId, TaskRecord, Timestamp, Version, VersionRecord,
};

use crate::departure::Claims;
use crate::drain::Backlog;
use crate::fleet::{Fleet, Request, Room, Slot};
use crate::overlay::Overlay;
use crate::txn::Portions;
use crate::{JobState, Op, State, Txn};

/// The longest free text in a row, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 500;

/// What a draft does to a row of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Put,
    Delete,
}

/// A job as it will be, and which of its rows make it so.
#[derive(Clone, Debug)]
struct JobDraft {
    state: JobState,
    row_changed: bool,
    versions: BTreeMap<Version, Fate>,
    tasks: BTreeMap<(u32, Incarnation), Fate>,
    events: Vec<EventRecord>,
    /// Stored events that make room.
    events_over: Vec<u64>,
}

/// A state with changes on top.
pub(crate) struct Draft<'a> {
    base: &'a State,
    pub(crate) now: Timestamp,
    pub(crate) seed: u64,
    jobs: BTreeMap<JobId, JobDraft>,
    machines: BTreeMap<MachineId, MachineRecord>,
    overlay: Overlay,
    /// Rows of what is followed and reviewed, which go last: they say that all of the rest is done.
    review: Vec<Op>,
    /// Tasks whose rows this draft has changed and then asked to end or removed, as they were in between.
    before_end: BTreeMap<TaskId, Arc<TaskRecord>>,
    /// The tasks whose applications are asked about them in the look at their job that is under way.
    pub(crate) asked: BTreeSet<TaskId>,
    backlog: OnceCell<Backlog>,
    claims: OnceCell<Claims>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(base: &'a State, now: Timestamp, seed: u64) -> Draft<'a> {
        Draft {
            base,
            now,
            seed,
            jobs: BTreeMap::new(),
            machines: BTreeMap::new(),
            overlay: Overlay::default(),
            review: Vec::new(),
            before_end: BTreeMap::new(),
            asked: BTreeSet::new(),
            backlog: OnceCell::new(),
            claims: OnceCell::new(),
        }
    }

    /// What is on machines with a deadline, by the drains as they were when a look at a job first asked.
    pub(crate) fn backlog(&self) -> &Backlog {
        self.backlog.get_or_init(|| Backlog::of(self))
    }

    /// The room on which tasks count that were asked to leave their machines.
    pub(crate) fn claims(&self) -> &Claims {
        self.claims.get_or_init(|| Claims::of(self.base))
    }

    /// Notes that one more task counts on room of a machine.
    pub(crate) fn claim(&mut self, slot: Slot, request: &Request) {
        self.claims();
        if let Some(claims) = self.claims.get_mut() {
            claims.add(slot, request);
        }
    }

    pub(crate) fn base(&self) -> &'a State {
        self.base
    }

    pub(crate) fn job(&self, job: &JobId) -> Option<&JobState> {
        match self.jobs.get(job) {
            Some(draft) => Some(&draft.state),
            None => self.base.job(job),
        }
    }

    pub(crate) fn task(&self, task: &TaskId) -> Option<&TaskRecord> {
        self.job(&task.job)?.task(task.index, task.incarnation)
    }

    pub(crate) fn machine(&self, machine: &MachineId) -> Option<&MachineRecord> {
        self.machines
            .get(machine)
            .or_else(|| self.base.machine(machine))
    }

    /// All machines, in the order in which they became known.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &MachineRecord> {
        let known = self.base.machines();
        let changed = |row: &'a MachineRecord| -> &MachineRecord {
            self.machines.get(&row.id).unwrap_or(row)
        };
        let new = self.machines.values();
        let new = new.filter(|row| self.base.machine(&row.id).is_none());
        known.map(changed).chain(new)
    }

    /// Whether any machine is being drained.
    pub(crate) fn any_drains(&self) -> bool {
        self.base.fleet.drains() > 0 || self.machines.values().any(|row| row.drain.is_some())
    }

    pub(crate) fn slot(&self, machine: &MachineId) -> Option<Slot> {
        self.base.fleet.slot(machine)
    }

    pub(crate) fn machine_at(&self, slot: Slot) -> &MachineRecord {
        let row = &self.base.fleet.host(slot).row;
        self.machines.get(&row.id).unwrap_or(row)
    }

    pub(crate) fn room(&self, slot: Slot) -> Room {
        self.overlay.room(&self.base.fleet, slot)
    }

    /// What is free on each machine, by slot.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = (Slot, Room)> {
        (0..self.base.fleet.len() as Slot).map(|slot| (slot, self.room(slot)))
    }

    pub(crate) fn fleet(&self) -> &'a Fleet {
        &self.base.fleet
    }

    /// The jobs that this decision has touched, as they will be.
    pub(crate) fn touched_jobs(&self) -> impl Iterator<Item = &JobState> {
        self.jobs.values().map(|job| &job.state)
    }

    /// What the draft has changed on the machines.
    pub(crate) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    pub(crate) fn port_taken(&self, slot: Slot, port: u16) -> bool {
        self.overlay.port_taken(&self.base.fleet, slot, port)
    }

    pub(crate) fn put_job(&mut self, row: JobRecord) {
        match self.job_mut(&row.id) {
            Some(job) => {
                job.state.row = row;
                job.row_changed = true;
            }
            None => {
                let mut job = JobDraft::of(JobState::new(row));
                job.row_changed = true;
                self.jobs.insert(job.state.row.id.clone(), job);
            }
        }
    }

    pub(crate) fn put_version(&mut self, row: VersionRecord) {
        if let Some(job) = self.job_mut(&row.job) {
            job.versions.insert(row.version, Fate::Put);
            job.state.versions.insert(row.version, Arc::new(row));
        }
    }

    pub(crate) fn delete_version(&mut self, id: &JobId, version: Version) {
        let base = self.base.job(id);
        let stored = base.is_some_and(|job| job.versions.contains_key(&version));
        if let Some(job) = self.job_mut(id) {
            job.state.versions.remove(&version);
            erase(&mut job.versions, version, stored);
        }
    }

    pub(crate) fn put_task(&mut self, mut row: TaskRecord) {
        truncate(&mut row.reason);
        let Some(job) = self.job_mut(&row.id.job) else {
            return;
        };
        let key = (row.id.index, row.id.incarnation);
        let old = job.state.shared_task(key.0, key.1);
        let before = old.and_then(|old| job.state.reservation(old));
        let after = job.state.reservation(&row);
        let changed = job.tasks.insert(key, Fate::Put).is_some();
        let ends = old.filter(|old| changed && old.desired != row.desired);
        let ends = ends.cloned();
        job.state.put_task(Arc::new(row), None);
        if let Some(old) = ends {
            self.before_end.insert(old.id.clone(), old);
        }
        if before == after {
            return;
        }
        let (base, overlay) = (&self.base.fleet, &mut self.overlay);
        for ((machine, reserved), taken) in before
            .map(|held| (held, false))
            .into_iter()
            .chain(after.map(|held| (held, true)))
        {
            match (base.slot(&machine), taken) {
                (Some(slot), true) => overlay.take(base, slot, &reserved),
                (Some(slot), false) => overlay.give(base, slot, &reserved),
                (None, _) => {}
            }
        }
    }

    pub(crate) fn delete_task(&mut self, task: &TaskId) {
        let stored = self.base.task(task).is_some();
        let Some(job) = self.job_mut(&task.job) else {
            return;
        };
        let key = (task.index, task.incarnation);
        let old = job.state.task(key.0, key.1);
        let held = old.and_then(|old| job.state.reservation(old));
        let changed = job.tasks.contains_key(&key);
        let old = job.state.take_task(task);
        erase(&mut job.tasks, key, stored);
        if let Some(old) = old.filter(|_| changed) {
            self.before_end.insert(task.clone(), old);
        }
        if let Some((machine, reserved)) = held
            && let Some(slot) = self.base.fleet.slot(&machine)
        {
            self.overlay.give(&self.base.fleet, slot, &reserved);
        }
    }

    pub(crate) fn put_machine(&mut self, row: MachineRecord) {
        if let Some(slot) = self.slot(&row.id) {
            let before = self.machine_at(slot).clone();
            let fleet = &self.base.fleet;
            self.overlay.change(fleet, slot, &before, &row);
        }
        self.machines.insert(row.id.clone(), row);
    }

    /// Notes something that a person may want to know of a job; the oldest events make room.
    pub(crate) fn note(
        &mut self,
        id: &JobId,
        kind: &str,
        about: (Option<TaskId>, Option<MachineId>),
        message: impl Into<String>,
    ) {
        let (now, base) = (self.now, self.base);
        let Some(job) = self.job_mut(id) else {
            return;
        };
        let seq = job.state.row.next_event;
        job.state.row.next_event += 1;
        job.row_changed = true;
        let mut message = message.into();
        truncate(&mut message);
        job.events.push(EventRecord {
            job: id.clone(),
            seq,
            at: now,
            kind: kind.to_owned(),
            task: about.0,
            machine: about.1,
            message,
        });
        let Some(over) = seq.checked_sub(EVENTS_KEPT) else {
            return;
        };
        let stored = base.events.get(id);
        match stored.is_some_and(|events| events.contains_key(&over)) {
            true => job.events_over.push(over),
            false => job.events.retain(|event| event.seq != over),
        }
    }

    /// Writes or removes a row of what is followed and reviewed, once all other rows are written.
    pub(crate) fn review(&mut self, op: Op) {
        self.review.push(op);
    }

    /// Takes out the tasks whose rows were changed and then asked to end or removed, as they were in between.
    pub(crate) fn take_before_end(&mut self) -> BTreeMap<TaskId, Arc<TaskRecord>> {
        std::mem::take(&mut self.before_end)
    }

    /// The rows in portions. Every prefix is a valid state:
    /// machines first, then jobs with their versions, then tasks that end, those that change where they are and
    /// those that begin, so that room is given before it is taken; then events, and what is no longer needed.
    pub(crate) fn finish(self) -> Vec<Txn> {
        if self.jobs.is_empty() && self.machines.is_empty() && self.review.is_empty() {
            return Vec::new();
        }
        let machines = self.machines.into_values();
        let mut parts = Parts {
            machines: machines.map(|row| Op::Put(Record::Machine(row))).collect(),
            review: self.review,
            ..Parts::default()
        };
        for job in self.jobs.into_values() {
            parts.add(job, self.base);
        }
        parts.into_txns()
    }

    fn job_mut(&mut self, id: &JobId) -> Option<&mut JobDraft> {
        if !self.jobs.contains_key(id) {
            let copy = self.base.job(id)?.clone();
            self.jobs.insert(id.clone(), JobDraft::of(copy));
        }
        self.jobs.get_mut(id)
    }
}

impl JobDraft {
    fn of(state: JobState) -> JobDraft {
        JobDraft {
            state,
            row_changed: false,
            versions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            events: Vec::new(),
            events_over: Vec::new(),
        }
    }
}

/// Notes that a row goes; one that this draft had only just made is never written.
fn erase<K: Ord>(rows: &mut BTreeMap<K, Fate>, key: K, stored: bool) {
    match stored {
        true => rows.insert(key, Fate::Delete),
        false => rows.remove(&key),
    };
}

/// The operations of a draft, by what they may not come before.
#[derive(Default)]
struct Parts {
    machines: Vec<Op>,
    /// A job's versions and its row, which names them.
    headers: Vec<Vec<Op>>,
    ending: Vec<Op>,
    staying: Vec<Op>,
    beginning: Vec<Op>,
    events: Vec<Op>,
    deletes: Vec<Op>,
    review: Vec<Op>,
}

impl Parts {
    fn add(&mut self, job: JobDraft, base: &State) {
        let JobDraft { mut state, .. } = job;
        let id = state.row.id.clone();
        let mut header = Vec::new();
        for (version, fate) in job.versions {
            match (fate, state.versions.get(&version)) {
                (Fate::Put, Some(row)) => header.push(Op::Put(Record::Version(row.clone()))),
                _ => self
                    .deletes
                    .push(Op::Delete(RecordKey::Version(id.clone(), version))),
            }
        }
        let stored = base.job(&id);
        for ((index, incarnation), fate) in job.tasks {
            let task = TaskId::new(id.clone(), index, incarnation);
            match (fate, state.take_task(&task)) {
                (Fate::Put, Some(row)) => {
                    let before = stored.and_then(|job| job.task(index, incarnation));
                    let stays = before.is_some_and(|row| row.machine.is_some());
                    let part = match row.state.is_terminal() {
                        true => &mut self.ending,
                        false if stays => &mut self.staying,
                        false => &mut self.beginning,
                    };
                    part.push(Op::Put(Record::Task(row)));
                }
                _ => {
                    self.deletes.push(Op::Delete(RecordKey::Task(task)));
                }
            }
        }
        let events = job.events.into_iter();
        self.events
            .extend(events.map(|row| Op::Put(Record::Event(Arc::new(row)))));
        let over = job.events_over.into_iter();
        self.deletes
            .extend(over.map(|seq| Op::Delete(RecordKey::Event(id.clone(), seq))));
        if job.row_changed {
            header.push(Op::Put(Record::Job(state.row)));
        }
        if !header.is_empty() {
            self.headers.push(header);
        }
    }

    fn into_txns(self) -> Vec<Txn> {
        let tasks = [self.ending, self.staying, self.beginning];
        let rest = [self.events, self.deletes, self.review];
        let single = tasks.iter().chain(&rest).map(Vec::len).sum::<usize>();
        let together = self.headers.iter().map(Vec::len).sum::<usize>();
        let mut portions = Portions::of(self.machines.len() + together + single);
        portions.add(self.machines);
        for header in self.headers {
            portions.add_together(header);
        }
        for ops in tasks.into_iter().chain(rest) {
            portions.add(ops);
        }
        portions.into_txns()
    }
}

/// Cuts a text to what a row may hold.
fn truncate(text: &mut String) {
    if text.len() > REASON_BYTES_MAX {
        let mut end = REASON_BYTES_MAX - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}
