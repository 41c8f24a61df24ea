//! The parts of the fleet that can fail, or be near, as a whole: a number for each, and which machine is in which.

use std::collections::BTreeMap;

use tw_model::{Domain, MachineFacts};

use crate::fleet::Slot;

/// A part of the fleet: a number of its own among those of its kind.
pub(crate) type Part = u32;

/// The kinds of parts that are larger than a machine.
const LARGER: [Domain; 4] = [
    Domain::Rack,
    Domain::Cluster,
    Domain::Datacenter,
    Domain::Region,
];

/// Numbers for the parts of each kind, and the part of each machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domains {
    numbers: [BTreeMap<String, Part>; LARGER.len()],
    of: [Vec<Part>; LARGER.len()],
}

impl Domains {
    /// Notes where a machine is. A new machine has the next slot.
    pub(crate) fn put(&mut self, slot: Slot, facts: &MachineFacts) {
        for (level, kind) in LARGER.into_iter().enumerate() {
            let next = self.numbers[level].len() as Part;
            let name = path(kind, facts);
            let part = *self.numbers[level].entry(name).or_insert(next);
            match self.of[level].get_mut(slot as usize) {
                Some(known) => *known = part,
                None => self.of[level].push(part),
            }
        }
    }

    /// How many parts of a kind there are, or have been.
    pub(crate) fn count(&self, kind: Domain) -> usize {
        match kind {
            Domain::Machine => self.of[0].len(),
            Domain::Rack => self.numbers[0].len(),
            Domain::Cluster => self.numbers[1].len(),
            Domain::Datacenter => self.numbers[2].len(),
            Domain::Region => self.numbers[3].len(),
        }
    }

    /// The part of a kind that a machine is in. Machines that name none are in one together.
    pub(crate) fn of(&self, kind: Domain, slot: Slot) -> Part {
        match kind {
            Domain::Machine => slot,
            Domain::Rack => self.of[0][slot as usize],
            Domain::Cluster => self.of[1][slot as usize],
            Domain::Datacenter => self.of[2][slot as usize],
            Domain::Region => self.of[3][slot as usize],
        }
    }
}

/// A name that no other part of the kind has: racks of two clusters may be called alike.
fn path(kind: Domain, facts: &MachineFacts) -> String {
    let names = [
        &facts.region,
        &facts.datacenter,
        &facts.cluster,
        &facts.rack,
    ];
    let depth = match kind {
        Domain::Region => 1,
        Domain::Datacenter => 2,
        Domain::Cluster => 3,
        Domain::Rack | Domain::Machine => 4,
    };
    names[..depth]
        .iter()
        .map(|name| name.as_str())
        .collect::<Vec<_>>()
        .join("/")
}
