//! The machines and what is still free on them, kept for fast scans.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use tw_model::{
    Bytes, Cores, Domain, FlapRecord, JobSpec, MachineFacts, MachineId, MachineRecord,
    MachineState, Requires, TaskId, Timestamp,
};

use crate::ailment;
use crate::domains::{Domains, Part};
use crate::index::Index;
use crate::requires::{Eligible, Memo};
use crate::steadiness;

/// The place of a machine in the fleet; stable while the process lives, never stored.
pub(crate) type Slot = u32;

/// What one task asks of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Request {
    pub cpu: Cores,
    pub memory: Bytes,
    pub disk: Bytes,
    /// How many ports.
    pub ports: u32,
    /// Network bandwidth, in bytes per second.
    pub bandwidth: Bytes,
}

impl Request {
    /// What a task of this job asks for.
    pub fn of(spec: &JobSpec) -> Request {
        Request {
            cpu: spec.resources.cpu,
            memory: spec.resources.memory,
            disk: spec.resources.disk,
            ports: spec.ports.len() as u32,
            bandwidth: spec.resources.bandwidth,
        }
    }
}

impl Request {
    /// Whether it asks for no more of anything than another.
    pub(crate) fn is_within(&self, other: &Request) -> bool {
        self.cpu <= other.cpu
            && self.memory <= other.memory
            && self.disk <= other.disk
            && self.ports <= other.ports
            && self.bandwidth <= other.bandwidth
    }

    /// Adds what another task asks for.
    pub(crate) fn add(&mut self, other: &Request) {
        self.cpu = self.cpu + other.cpu;
        self.memory = self.memory + other.memory;
        self.disk = self.disk + other.disk;
        self.ports += other.ports;
        self.bandwidth = self.bandwidth + other.bandwidth;
    }
}

/// What is free on a machine. Below zero where a machine came back smaller than it was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Room {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) disk: i64,
    pub(crate) ports: i64,
    pub(crate) bandwidth: i64,
    pub(crate) up: bool,
    /// The machine's whole size, to weigh what is left.
    pub(crate) cpu_whole: f64,
    pub(crate) memory_whole: f64,
}

impl Room {
    /// Whether a machine that takes tasks has room for one.
    pub(crate) fn fits(&self, request: &Request) -> bool {
        self.up && self.holds(request)
    }

    /// Whether there is so much, whether or not the machine takes tasks.
    pub(crate) fn holds(&self, request: &Request) -> bool {
        self.cpu >= request.cpu.0 as i64
            && self.memory >= request.memory.0 as i64
            && self.disk >= request.disk.0 as i64
            && self.ports >= i64::from(request.ports)
            // One that asks for none may also be where more was promised than there is.
            && (request.bandwidth.0 == 0 || self.bandwidth >= request.bandwidth.0 as i64)
    }

    pub(crate) fn take(&mut self, reserved: &Reserved) {
        self.shift(reserved, -1);
    }

    pub(crate) fn give(&mut self, reserved: &Reserved) {
        self.shift(reserved, 1);
    }

    /// Keeps room for a task that is yet to come.
    pub(crate) fn keep(&mut self, request: &Request) {
        self.cpu -= request.cpu.0 as i64;
        self.memory -= request.memory.0 as i64;
        self.disk -= request.disk.0 as i64;
        self.ports -= i64::from(request.ports);
        self.bandwidth -= request.bandwidth.0 as i64;
    }

    /// The machine itself changed from one size to another.
    pub(crate) fn resize(&mut self, before: &Room, after: &Room) {
        self.cpu += after.cpu - before.cpu;
        self.memory += after.memory - before.memory;
        self.disk += after.disk - before.disk;
        self.ports += after.ports - before.ports;
        self.bandwidth += after.bandwidth - before.bandwidth;
        self.up = after.up;
        self.cpu_whole = after.cpu_whole;
        self.memory_whole = after.memory_whole;
    }

    fn shift(&mut self, reserved: &Reserved, sign: i64) {
        self.cpu += sign * reserved.cpu.0 as i64;
        self.memory += sign * reserved.memory.0 as i64;
        self.disk += sign * reserved.disk.0 as i64;
        self.ports += sign * reserved.ports.len() as i64;
        self.bandwidth += sign * reserved.bandwidth.0 as i64;
    }
}

/// What one task holds on its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) cpu: Cores,
    pub(crate) memory: Bytes,
    pub(crate) disk: Bytes,
    pub(crate) ports: Vec<u16>,
    pub(crate) bandwidth: Bytes,
    /// Whether the task is to be alone behind its rack's switch with what it sends.
    pub(crate) heavy: bool,
}

/// A machine with what its live tasks hold.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) row: Arc<MachineRecord>,
    pub(crate) tasks: BTreeMap<TaskId, Reserved>,
    pub(crate) ports: BTreeSet<u16>,
}

/// Whether the tasks of a machine may stay there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) epoch: u64,
    pub(crate) lost: bool,
    pub(crate) drains: bool,
}

impl Standing {
    fn of(row: &MachineRecord) -> Standing {
        Standing {
            epoch: row.epoch,
            lost: row.state == MachineState::Lost,
            drains: row.drain.is_some(),
        }
    }
}

/// All machines, by name and by slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    /// Only ever asked for one name, so that its order means nothing.
    by_id: std::collections::HashMap<MachineId, Slot, BuildHasherDefault<DefaultHasher>>,
    hosts: Vec<Host>,
    rooms: Vec<Room>,
    /// Beside the rows, small and in one piece, for those who ask of every task.
    standings: Vec<Standing>,
    index: Index,
    domains: Domains,
    memo: Memo,
    /// How many tasks that use much network are in each rack.
    heavy: BTreeMap<Part, u32>,
    /// Machines that went away without notice more than once, so that few have to be asked.
    flapped: BTreeMap<Slot, FlapRecord>,
    /// Machines that something ails or has ailed, by [`ailment::until`].
    ailed: BTreeMap<Slot, Timestamp>,
    /// How many machines are being drained.
    drains: usize,
    /// Machines that are to be drained, by the moment at which that begins.
    planned: BTreeSet<(Timestamp, Slot)>,
    /// Lost machines, by the moment at which they were lost.
    lost: BTreeSet<(Timestamp, Slot)>,
    /// Lost machines whose tasks are kept, by the moment until which they are.
    spared: BTreeSet<(Timestamp, Slot)>,
}

/// How much a machine has, with nothing on it.
pub(crate) fn empty_room(row: &MachineRecord) -> Room {
    let capacity = &row.capacity;
    let ports = i64::from(capacity.port_last) - i64::from(capacity.port_first) + 1;
    Room {
        cpu: capacity.cpu.0 as i64,
        memory: capacity.memory.0 as i64,
        disk: capacity.disk.0 as i64,
        ports: ports.max(0),
        bandwidth: capacity.bandwidth.0 as i64,
        up: row.takes_tasks(),
        cpu_whole: capacity.cpu.0.max(1) as f64,
        memory_whole: capacity.memory.0.max(1) as f64,
    }
}

impl Fleet {
    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    pub(crate) fn slot(&self, machine: &MachineId) -> Option<Slot> {
        self.by_id.get(machine).copied()
    }

    pub(crate) fn host(&self, slot: Slot) -> &Host {
        &self.hosts[slot as usize]
    }

    pub(crate) fn standing(&self, slot: Slot) -> Standing {
        self.standings[slot as usize]
    }

    pub(crate) fn room(&self, slot: Slot) -> Room {
        self.rooms[slot as usize]
    }

    /// The part of a kind that a machine is in.
    pub(crate) fn part(&self, kind: Domain, slot: Slot) -> Part {
        self.domains.of(kind, slot)
    }

    /// How many parts of a kind there are, or have been.
    pub(crate) fn parts(&self, kind: Domain) -> usize {
        self.domains.count(kind)
    }

    /// The machines that satisfy a requirement; none where every machine does.
    pub(crate) fn eligible(&self, requires: &Requires) -> Option<Arc<Eligible>> {
        let facts = self.hosts.iter().map(|host| &host.row.facts);
        (*requires != Requires::default()).then(|| self.memo.eligible(requires, facts))
    }

    /// How many tasks that use much network are in a rack.
    pub(crate) fn heavy_in(&self, rack: Part) -> u32 {
        self.heavy.get(&rack).copied().unwrap_or(0)
    }

    /// How often a machine went away without notice; none where it never did twice.
    pub(crate) fn flaps(&self, slot: Slot) -> Option<FlapRecord> {
        match self.flapped.is_empty() {
            true => None,
            false => self.flapped.get(&slot).copied(),
        }
    }

    /// Until when something has ailed a machine, as in [`ailment::until`].
    pub(crate) fn ailed_until(&self, slot: Slot) -> Option<Timestamp> {
        match self.ailed.is_empty() {
            true => None,
            false => self.ailed.get(&slot).copied(),
        }
    }

    /// How many machines are being drained.
    pub(crate) fn drains(&self) -> usize {
        self.drains
    }

    /// The machines that are to be drained, and from when on, the first first.
    pub(crate) fn planned_drains(&self) -> &BTreeSet<(Timestamp, Slot)> {
        &self.planned
    }

    /// How many machines are lost.
    pub(crate) fn lost(&self) -> usize {
        self.lost.len()
    }

    /// How many machines are lost since a moment.
    pub(crate) fn lost_since(&self, since: Timestamp) -> usize {
        self.lost.range((since, 0)..).count()
    }

    /// The lost machines whose tasks are kept, and until when, the first first.
    pub(crate) fn spared(&self) -> &BTreeSet<(Timestamp, Slot)> {
        &self.spared
    }

    /// The same rooms, by what is free.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    pub(crate) fn put_machine(&mut self, row: Arc<MachineRecord>) {
        let mut room = empty_room(&row);
        let slot = match self.slot(&row.id) {
            Some(slot) => {
                self.standings[slot as usize] = Standing::of(&row);
                self.note_absence(slot, false);
                let host = &mut self.hosts[slot as usize];
                host.tasks.values().for_each(|held| room.take(held));
                let facts = (row.facts != host.row.facts).then(|| row.facts.clone());
                host.row = row;
                if let Some(facts) = facts {
                    self.move_machine(slot, &facts);
                }
                slot
            }
            None => {
                let slot = self.hosts.len() as Slot;
                self.domains.put(slot, &row.facts);
                self.memo.forget();
                self.by_id.insert(row.id.clone(), slot);
                self.standings.push(Standing::of(&row));
                self.rooms.push(room);
                self.hosts.push(Host {
                    row,
                    tasks: BTreeMap::new(),
                    ports: BTreeSet::new(),
                });
                slot
            }
        };
        self.note_absence(slot, true);
        self.set_room(slot, room);
    }

    /// Notes, or forgets, what the row of a machine says of its absences and of drains.
    fn note_absence(&mut self, slot: Slot, holds: bool) {
        let row = &self.hosts[slot as usize].row;
        let lost = row.state == MachineState::Lost;
        let lost = lost.then_some((row.changed_at, slot));
        let until = row.spared_until.filter(|_| row.spares_tasks());
        let spared = until.map(|until| (until, slot));
        let drains = usize::from(row.drain.is_some());
        let planned = row.next_drain.as_ref().map(|drain| (drain.since, slot));
        match holds {
            true => {
                self.drains += drains;
                self.planned.extend(planned);
                self.lost.extend(lost);
                self.spared.extend(spared);
            }
            false => {
                self.drains -= drains;
                planned.map(|one| self.planned.remove(&one));
                lost.map(|one| self.lost.remove(&one));
                spared.map(|one| self.spared.remove(&one));
            }
        }
        match ailment::until(row) {
            Some(until) => self.ailed.insert(slot, until),
            None => self.ailed.remove(&slot),
        };
        let flaps = row.flaps.filter(steadiness::may_matter);
        match flaps {
            Some(flaps) => self.flapped.insert(slot, flaps),
            None => self.flapped.remove(&slot),
        };
    }

    /// A machine says other things of itself than before.
    fn move_machine(&mut self, slot: Slot, facts: &MachineFacts) {
        self.memo.forget();
        let rack = self.domains.of(Domain::Rack, slot);
        self.domains.put(slot, facts);
        let tasks = self.hosts[slot as usize].tasks.values();
        let heavy = tasks.filter(|held| held.heavy).count() as u32;
        count(&mut self.heavy, rack, -i64::from(heavy));
        let rack = self.domains.of(Domain::Rack, slot);
        count(&mut self.heavy, rack, i64::from(heavy));
    }

    /// Says what is free on a machine now.
    pub(crate) fn set_room(&mut self, slot: Slot, room: Room) {
        self.rooms[slot as usize] = room;
        self.index.put(slot, &room);
    }

    pub(crate) fn reserve(&mut self, slot: Slot, task: &TaskId, reserved: Reserved) {
        let mut room = self.room(slot);
        room.take(&reserved);
        self.count_task(slot, &reserved, 1);
        let host = &mut self.hosts[slot as usize];
        host.ports.extend(reserved.ports.iter().copied());
        host.tasks.insert(task.clone(), reserved);
        self.set_room(slot, room);
    }

    pub(crate) fn release(&mut self, slot: Slot, task: &TaskId) {
        let mut room = self.room(slot);
        let host = &mut self.hosts[slot as usize];
        if let Some(reserved) = host.tasks.remove(task) {
            reserved.ports.iter().for_each(|port| {
                host.ports.remove(port);
            });
            room.give(&reserved);
            self.set_room(slot, room);
            self.count_task(slot, &reserved, -1);
        }
    }

    fn count_task(&mut self, slot: Slot, reserved: &Reserved, by: i64) {
        if reserved.heavy {
            count(&mut self.heavy, self.domains.of(Domain::Rack, slot), by);
        }
    }
}

/// Changes a count; one of nothing is not kept.
fn count(counts: &mut BTreeMap<u32, u32>, what: u32, by: i64) {
    let count = counts.entry(what).or_default();
    *count = (i64::from(*count) + by).max(0) as u32;
    if *count == 0 {
        counts.remove(&what);
    }
}
