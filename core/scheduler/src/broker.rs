//! Who has been heard of lately. Soft state: it is never stored, and a restarted controller begins it anew.

use std::collections::BTreeMap;

use tw_model::{MachineId, MachineState, Millis};

use crate::{SchedulerConfig, State};

/// A monotonic moment in milliseconds, from any origin; only compared within one process.
pub type TickMs = u64;

/// When each machine was last heard of.
#[derive(Clone, Debug)]
pub struct Broker {
    lost_after: Millis,
    /// Nobody can have been heard before this; silence counts from here at the earliest.
    since: TickMs,
    last_heard: BTreeMap<MachineId, TickMs>,
}

impl Broker {
    /// A broker that begins to listen at `now`: when the controller has recovered.
    pub fn new(config: &SchedulerConfig, now: TickMs) -> Broker {
        Broker {
            lost_after: config.lost_after,
            since: now,
            last_heard: BTreeMap::new(),
        }
    }

    /// A registration or a heartbeat of the current epoch arrived.
    pub fn heard(&mut self, machine: &MachineId, now: TickMs) {
        match self.last_heard.get_mut(machine) {
            Some(last) => *last = now.max(*last),
            None => {
                self.last_heard.insert(machine.clone(), now);
            }
        }
    }

    /// How long a machine has been silent.
    pub fn silence(&self, machine: &MachineId, now: TickMs) -> Millis {
        let last = self.last_heard.get(machine).copied().unwrap_or(self.since);
        Millis(now.saturating_sub(last))
    }

    /// The machines that count as up and have been silent for too long. Each deserves an
    /// [`Event::MachineLost`](crate::Event::MachineLost).
    pub fn silent(&self, state: &State, now: TickMs) -> Vec<MachineId> {
        let up = state.machines().filter(|row| {
            row.state == MachineState::Up && self.silence(&row.id, now) > self.lost_after
        });
        up.map(|row| row.id.clone()).collect()
    }
}
