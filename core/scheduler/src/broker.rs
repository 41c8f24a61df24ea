//! Who has been heard of lately, and who was granted what. Soft state: it is never stored, and a restarted controller
//! begins it anew.

use std::collections::BTreeMap;

use tw_model::{MachineId, MachineRecord, MachineState, Millis};

use crate::lease::Tenure;
use crate::{Event, SchedulerConfig, State, reach};

/// A monotonic moment in milliseconds, from any origin; only compared within one process.
pub type TickMs = u64;

/// The moment in which a heartbeat was received, noted before anything else was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt(TickMs);

impl Receipt {
    /// Notes a receipt.
    pub fn at(now: TickMs) -> Receipt {
        Receipt(now)
    }
}

/// When each machine was last heard of, and last granted a term.
#[derive(Clone, Debug)]
pub struct Broker {
    lost_after: Millis,
    /// Nobody can have been heard before this, and whatever was granted was granted before: silence counts from here
    /// at the earliest.
    since: TickMs,
    tenure: Tenure,
    last_heard: BTreeMap<MachineId, TickMs>,
    last_granted: BTreeMap<MachineId, TickMs>,
}

impl Broker {
    /// A broker that begins to listen at `now`: when it has become the only one, and has recovered.
    pub fn new(config: &SchedulerConfig, tenure: Tenure, now: TickMs) -> Broker {
        Broker {
            lost_after: config.lost_after,
            since: now,
            tenure,
            last_heard: BTreeMap::new(),
            last_granted: BTreeMap::new(),
        }
    }

    /// The store has confirmed that nobody else can be the broker until then.
    pub fn renew(&mut self, tenure: Tenure) {
        self.tenure = tenure;
    }

    /// A registration or a heartbeat of the current epoch arrived.
    pub fn heard(&mut self, machine: &MachineId, now: TickMs) {
        note(&mut self.last_heard, machine, now);
    }

    /// Answers a heartbeat of the current epoch: whether the failover tasks of its machine may run for their terms,
    /// counted from before the heartbeat was sent.
    ///
    /// The receipt is older than `now`, at which the tenure is looked at; a broker that was replaced in between grants
    /// nothing, and one that is replaced afterwards had noted the receipt before its successor began to count.
    pub fn grant(&mut self, machine: &MachineId, received: Receipt, now: TickMs) -> bool {
        let granted = self.tenure.is_held(now);
        if granted {
            note(&mut self.last_granted, machine, received.0);
        }
        granted
    }

    /// How long ago a machine was heard of; none where this broker never did.
    pub fn heard_ago(&self, machine: &MachineId, now: TickMs) -> Option<Millis> {
        let last = self.last_heard.get(machine)?;
        Some(Millis(now.saturating_sub(*last)))
    }

    /// How long a machine has been silent.
    pub fn silence(&self, machine: &MachineId, now: TickMs) -> Millis {
        let last = self.last_heard.get(machine).copied().unwrap_or(self.since);
        Millis(now.saturating_sub(last))
    }

    /// How long ago a machine was granted a term for the last time.
    pub fn ungranted(&self, machine: &MachineId, now: TickMs) -> Millis {
        let last = self.last_granted.get(machine).copied();
        Millis(now.saturating_sub(last.unwrap_or(self.since).max(self.since)))
    }

    /// What follows from silence: machines that are lost, and tasks on lost machines whose terms are over.
    pub fn due(&self, state: &State, now: TickMs) -> Vec<Event> {
        let up = |row: &&MachineRecord| row.state == MachineState::Up;
        // Those that went with the first one are late by now, although their time is not over yet.
        let late = |row: &&MachineRecord| self.silence(&row.id, now).0 * 2 > self.lost_after.0;
        let mut silent = state.machines().filter(up).filter(late).count() as u32;
        let rows = state.machines();
        rows.filter_map(|row| match row.state {
            MachineState::Up => (self.silence(&row.id, now) > self.lost_after).then(|| {
                let machine = row.id.clone();
                let event = Event::MachineLost { machine, silent };
                silent = silent.saturating_sub(1);
                event
            }),
            MachineState::Lost => {
                let silence = self.ungranted(&row.id, now);
                reach::has_lapsed(state, row, silence).then(|| Event::TermsOver {
                    machine: row.id.clone(),
                    silence,
                })
            }
        })
        .collect()
    }
}

fn note(moments: &mut BTreeMap<MachineId, TickMs>, machine: &MachineId, now: TickMs) {
    match moments.get_mut(machine) {
        Some(last) => *last = now.max(*last),
        None => {
            moments.insert(machine.clone(), now);
        }
    }
}
