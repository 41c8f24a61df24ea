//! A decision in the making: the state as it will be, and the rows that make it so.
//!
//! The state below stays untouched, so a dry run is a draft that nobody applies.

use std::collections::BTreeMap;
use std::sync::Arc;

use tw_model::{
    EVENTS_KEPT, EventRecord, JobId, JobRecord, MachineId, MachineRecord, Record, RecordKey,
    TaskId, TaskRecord, Timestamp, VersionRecord,
};

use crate::fleet::{Reserved, Room, Slot, empty_room};
use crate::{JobState, Op, State, Txn, txn};

/// The longest free text in a row, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 500;

/// What a draft has changed on one machine.
#[derive(Clone, Debug)]
struct HostDraft {
    room: Room,
    /// Ports taken (true) or freed (false) since the state below.
    ports: BTreeMap<u16, bool>,
}

/// A state with changes on top.
pub(crate) struct Draft<'a> {
    base: &'a State,
    pub(crate) now: Timestamp,
    pub(crate) seed: u64,
    jobs: BTreeMap<JobId, JobState>,
    machines: BTreeMap<MachineId, MachineRecord>,
    hosts: BTreeMap<Slot, HostDraft>,
    /// One bit a slot that `hosts` holds, so that scans ask the map only where it answers.
    touched: Vec<u64>,
    ops: BTreeMap<RecordKey, Op>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(base: &'a State, now: Timestamp, seed: u64) -> Draft<'a> {
        Draft {
            base,
            now,
            seed,
            jobs: BTreeMap::new(),
            machines: BTreeMap::new(),
            hosts: BTreeMap::new(),
            touched: Vec::new(),
            ops: BTreeMap::new(),
        }
    }

    pub(crate) fn base(&self) -> &'a State {
        self.base
    }

    pub(crate) fn job(&self, job: &JobId) -> Option<&JobState> {
        self.jobs.get(job).or_else(|| self.base.job(job))
    }

    pub(crate) fn task(&self, task: &TaskId) -> Option<&TaskRecord> {
        self.job(&task.job)?.task(task.index, task.incarnation)
    }

    pub(crate) fn machine(&self, machine: &MachineId) -> Option<&MachineRecord> {
        self.machines
            .get(machine)
            .or_else(|| self.base.machine(machine))
    }

    pub(crate) fn slot(&self, machine: &MachineId) -> Option<Slot> {
        self.base.fleet.slot(machine)
    }

    pub(crate) fn machine_at(&self, slot: Slot) -> &MachineRecord {
        let row = &self.base.fleet.host(slot).row;
        self.machines.get(&row.id).unwrap_or(row)
    }

    pub(crate) fn machine_count(&self) -> usize {
        self.base.fleet.len()
    }

    pub(crate) fn room(&self, slot: Slot) -> Room {
        match self.is_touched(slot) {
            true => self.hosts[&slot].room,
            false => self.base.fleet.room(slot),
        }
    }

    /// What is free on each machine, by slot.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = (Slot, Room)> {
        let rooms = self.base.fleet.rooms().iter();
        rooms.enumerate().map(|(slot, room)| {
            let slot = slot as Slot;
            match self.is_touched(slot) {
                true => (slot, self.hosts[&slot].room),
                false => (slot, *room),
            }
        })
    }

    pub(crate) fn port_taken(&self, slot: Slot, port: u16) -> bool {
        let changed = self.hosts.get(&slot).and_then(|host| host.ports.get(&port));
        match changed {
            Some(taken) => *taken,
            None => self.base.fleet.host(slot).ports.contains(&port),
        }
    }

    pub(crate) fn put_job(&mut self, row: JobRecord) {
        match self.job_mut(&row.id) {
            Some(job) => job.row = row.clone(),
            None => {
                let job = JobState {
                    row: row.clone(),
                    versions: BTreeMap::new(),
                    tasks: BTreeMap::new(),
                    pending: 0,
                };
                self.jobs.insert(row.id.clone(), job);
            }
        }
        self.record(Record::Job(row));
    }

    pub(crate) fn put_version(&mut self, row: VersionRecord) {
        let row = Arc::new(row);
        if let Some(job) = self.job_mut(&row.job) {
            job.versions.insert(row.version, row.clone());
        }
        self.record(Record::Version(row));
    }

    pub(crate) fn delete_version(&mut self, job: &JobId, version: u64) {
        if let Some(state) = self.job_mut(job) {
            state.versions.remove(&version);
        }
        self.erase(RecordKey::Version(job.clone(), version));
    }

    pub(crate) fn put_task(&mut self, mut row: TaskRecord) {
        truncate(&mut row.reason);
        self.release(&row.id);
        if let Some(job) = self.job_mut(&row.id.job) {
            let reservation = job.reservation(&row);
            job.put_task(Arc::new(row.clone()));
            if let Some((machine, reserved)) = reservation {
                self.hold(&machine, &reserved, true);
            }
        }
        self.record(Record::Task(row));
    }

    pub(crate) fn delete_task(&mut self, task: &TaskId) {
        self.release(task);
        if let Some(job) = self.job_mut(&task.job) {
            job.delete_task(task);
        }
        self.erase(RecordKey::Task(task.clone()));
    }

    pub(crate) fn put_machine(&mut self, row: MachineRecord) {
        if let Some(slot) = self.slot(&row.id) {
            let before = empty_room(self.machine_at(slot));
            self.host_mut(slot).room.resize(&before, &empty_room(&row));
        }
        self.machines.insert(row.id.clone(), row.clone());
        self.record(Record::Machine(row));
    }

    /// Notes something that a person may want to know of a job; the oldest events make room.
    pub(crate) fn note(
        &mut self,
        job: &JobId,
        kind: &str,
        about: (Option<TaskId>, Option<MachineId>),
        message: impl Into<String>,
    ) {
        let Some(state) = self.job(job) else {
            return;
        };
        let mut row = state.row.clone();
        let seq = row.next_event;
        row.next_event += 1;
        self.put_job(row);
        let mut message = message.into();
        truncate(&mut message);
        self.record(Record::Event(EventRecord {
            job: job.clone(),
            seq,
            at: self.now,
            kind: kind.to_owned(),
            task: about.0,
            machine: about.1,
            message,
        }));
        if let Some(old) = seq.checked_sub(EVENTS_KEPT) {
            self.erase(RecordKey::Event(job.clone(), old));
        }
    }

    /// The rows in portions. Every prefix is a valid state:
    /// machines first, then jobs with their versions, then tasks that end, those that change where they are and
    /// those that begin, so that room is given before it is taken; then events, and what is no longer needed.
    pub(crate) fn finish(self) -> Vec<Txn> {
        let mut parts: [Vec<Vec<Op>>; 7] = Default::default();
        let mut headers: BTreeMap<JobId, Vec<Op>> = BTreeMap::new();
        for op in self.ops.into_values() {
            match &op {
                Op::Put(Record::Machine(_)) => parts[0].push(vec![op]),
                Op::Put(Record::Job(row)) => headers.entry(row.id.clone()).or_default().push(op),
                // Before the job's row, which names it.
                Op::Put(Record::Version(row)) => {
                    headers.entry(row.job.clone()).or_default().insert(0, op);
                }
                Op::Put(Record::Task(row)) if row.state.is_terminal() => parts[2].push(vec![op]),
                Op::Put(Record::Task(row)) if self.base.holds_machine(&row.id) => {
                    parts[3].push(vec![op]);
                }
                Op::Put(Record::Task(_)) => parts[4].push(vec![op]),
                Op::Put(Record::Event(_)) => parts[5].push(vec![op]),
                Op::Delete(_) => parts[6].push(vec![op]),
            }
        }
        parts[1] = headers.into_values().collect();
        txn::split(parts.into_iter().flatten())
    }

    fn record(&mut self, record: Record) {
        self.ops.insert(record.key(), Op::Put(record));
    }

    /// Removes a row; one that this draft had only just made is never written.
    fn erase(&mut self, key: RecordKey) {
        let stored = match &key {
            RecordKey::Task(task) => self.base.task(task).is_some(),
            RecordKey::Event(job, seq) => {
                let events = self.base.events.get(job);
                events.is_some_and(|events| events.contains_key(seq))
            }
            RecordKey::Version(job, version) => {
                let job = self.base.job(job);
                job.is_some_and(|job| job.versions.contains_key(version))
            }
            RecordKey::Job(_) | RecordKey::Machine(_) => true,
        };
        match stored {
            true => self.ops.insert(key.clone(), Op::Delete(key)),
            false => self.ops.remove(&key),
        };
    }

    fn job_mut(&mut self, job: &JobId) -> Option<&mut JobState> {
        if !self.jobs.contains_key(job) {
            let copy = self.base.job(job)?.clone();
            self.jobs.insert(job.clone(), copy);
        }
        self.jobs.get_mut(job)
    }

    fn release(&mut self, task: &TaskId) {
        let held = self
            .job(&task.job)
            .and_then(|job| job.reservation(job.task(task.index, task.incarnation)?));
        if let Some((machine, reserved)) = held {
            self.hold(&machine, &reserved, false);
        }
    }

    fn hold(&mut self, machine: &MachineId, reserved: &Reserved, taken: bool) {
        let Some(slot) = self.slot(machine) else {
            return;
        };
        let host = self.host_mut(slot);
        match taken {
            true => host.room.take(reserved),
            false => host.room.give(reserved),
        }
        host.ports
            .extend(reserved.ports.iter().map(|port| (*port, taken)));
    }

    fn host_mut(&mut self, slot: Slot) -> &mut HostDraft {
        if self.touched.is_empty() {
            self.touched = vec![0; self.machine_count().div_ceil(64)];
        }
        self.touched[slot as usize / 64] |= 1 << (slot % 64);
        let room = self.base.fleet.room(slot);
        self.hosts.entry(slot).or_insert_with(|| HostDraft {
            room,
            ports: BTreeMap::new(),
        })
    }

    fn is_touched(&self, slot: Slot) -> bool {
        let word = self.touched.get(slot as usize / 64);
        word.is_some_and(|word| word >> (slot % 64) & 1 == 1)
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
