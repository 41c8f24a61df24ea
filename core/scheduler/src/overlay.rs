//! What a decision in the making has taken and freed on the machines, over a fleet that stays as it is.
//!
//! Dropping it undoes everything: a dry run and a decision that comes to nothing cost no more than what they touched.

use std::collections::BTreeMap;

use tw_model::{Domain, FlapRecord, MachineFacts, MachineRecord};

use crate::domains::Part;
use crate::fleet::{Fleet, Reserved, Room, Slot, empty_room};

/// What has changed on one machine.
#[derive(Clone, Debug)]
struct Touched {
    room: Room,
    /// Ports taken (true) or freed (false).
    ports: BTreeMap<u16, bool>,
}

/// Changes on top of a fleet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay {
    touched: BTreeMap<Slot, Touched>,
    /// One bit a slot of `touched`, so that searches ask the map only where it answers.
    bits: Vec<u64>,
    /// Machines that were given room back; the fleet's index shows them fuller than they are.
    grown: Vec<Slot>,
    /// What machines say of themselves now, where that is something else than before.
    facts: BTreeMap<Slot, MachineFacts>,
    /// Machines that have just gone away without notice.
    flaps: BTreeMap<Slot, FlapRecord>,
    /// How many more, or fewer, tasks that use much network are in each rack.
    heavy: BTreeMap<Part, i64>,
}

impl Overlay {
    /// What is free on a machine.
    pub(crate) fn room(&self, fleet: &Fleet, slot: Slot) -> Room {
        match self.is_touched(slot) {
            true => self.touched[&slot].room,
            false => fleet.room(slot),
        }
    }

    pub(crate) fn port_taken(&self, fleet: &Fleet, slot: Slot, port: u16) -> bool {
        let changed = self
            .touched
            .get(&slot)
            .and_then(|host| host.ports.get(&port));
        match changed {
            Some(taken) => *taken,
            None => fleet.host(slot).ports.contains(&port),
        }
    }

    /// The machines that have more room than the fleet's index says, or may have.
    pub(crate) fn grown(&self) -> &[Slot] {
        &self.grown
    }

    pub(crate) fn take(&mut self, fleet: &Fleet, slot: Slot, reserved: &Reserved) {
        let touched = self.touch(fleet, slot);
        touched.room.take(reserved);
        let ports = reserved.ports.iter().map(|port| (*port, true));
        touched.ports.extend(ports);
        self.count_heavy(fleet, slot, reserved, 1);
    }

    pub(crate) fn give(&mut self, fleet: &Fleet, slot: Slot, reserved: &Reserved) {
        let touched = self.touch(fleet, slot);
        touched.room.give(reserved);
        let ports = reserved.ports.iter().map(|port| (*port, false));
        touched.ports.extend(ports);
        self.grown.push(slot);
        self.count_heavy(fleet, slot, reserved, -1);
    }

    /// The machine itself changed from one size to another, or says other things of itself.
    pub(crate) fn change(
        &mut self,
        fleet: &Fleet,
        slot: Slot,
        before: &MachineRecord,
        after: &MachineRecord,
    ) {
        let room = &mut self.touch(fleet, slot).room;
        room.resize(&empty_room(before), &empty_room(after));
        self.grown.push(slot);
        if before.facts != after.facts {
            self.facts.insert(slot, after.facts.clone());
        }
        if before.flaps != after.flaps {
            self.flaps.extend(after.flaps.map(|flaps| (slot, flaps)));
        }
    }

    /// How often a machine went away without notice.
    pub(crate) fn flaps(&self, fleet: &Fleet, slot: Slot) -> Option<FlapRecord> {
        let known = match self.flaps.is_empty() {
            true => None,
            false => self.flaps.get(&slot).copied(),
        };
        known.or_else(|| fleet.flaps(slot))
    }

    /// What a machine says of itself, where that is something else than what the fleet knows.
    pub(crate) fn facts(&self, slot: Slot) -> Option<&MachineFacts> {
        match self.facts.is_empty() {
            true => None,
            false => self.facts.get(&slot),
        }
    }

    /// How many tasks that use much network are in a rack.
    pub(crate) fn heavy_in(&self, fleet: &Fleet, rack: Part) -> u32 {
        let more = self.heavy.get(&rack).copied().unwrap_or(0);
        (i64::from(fleet.heavy_in(rack)) + more).max(0) as u32
    }

    fn count_heavy(&mut self, fleet: &Fleet, slot: Slot, reserved: &Reserved, by: i64) {
        if reserved.heavy {
            *self
                .heavy
                .entry(fleet.part(Domain::Rack, slot))
                .or_default() += by;
        }
    }

    /// The machines touched, each with what is free there.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = (Slot, Room)> {
        self.touched.iter().map(|(slot, host)| (*slot, host.room))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        for slot in self.touched.keys() {
            self.bits[*slot as usize / 64] = 0;
        }
        self.touched.clear();
        self.grown.clear();
        self.facts.clear();
        self.flaps.clear();
        self.heavy.clear();
    }

    fn touch(&mut self, fleet: &Fleet, slot: Slot) -> &mut Touched {
        if self.bits.len() < fleet.len().div_ceil(64) {
            self.bits.resize(fleet.len().div_ceil(64), 0);
        }
        self.bits[slot as usize / 64] |= 1 << (slot % 64);
        self.touched.entry(slot).or_insert_with(|| Touched {
            room: fleet.room(slot),
            ports: BTreeMap::new(),
        })
    }

    fn is_touched(&self, slot: Slot) -> bool {
        let word = self.bits.get(slot as usize / 64);
        word.is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}
