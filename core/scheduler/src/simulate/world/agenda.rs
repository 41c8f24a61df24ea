//! What is to happen, and when.

use tw_model::{MachineId, TaskId};

use super::super::agent::{Doing, FromAgent, ToAgent};

/// Something that happens at a moment.
#[derive(Debug)]
pub(super) enum Action {
    Tick,
    Audit,
    /// The store has written the oldest portion of this life of the controller.
    Commit(u64),
    /// A message of an agent's run arrives, sent when the machine had registered so often.
    Arrives {
        machine: usize,
        run: u64,
        number: u64,
        message: FromAgent,
    },
    Hears {
        machine: usize,
        run: u64,
        message: ToAgent,
    },
    Beat(usize),
    Acts {
        machine: usize,
        boot: u64,
        task: TaskId,
        doing: Doing,
    },
    /// The next request, or the same again.
    Asks,
    AskArrives(u64),
    Strike,
    /// Someone begins to drain machines.
    Drains,
    /// They take tasks again.
    DrainEnds(Vec<MachineId>),
    /// A helper's deadline on this boot of a machine.
    Lapse {
        machine: usize,
        boot: u64,
    },
    /// A controller that was replaced goes on.
    FormerWakes,
    CutOff {
        machine: usize,
        length: u64,
    },
    PowerOn(usize),
    /// Nothing ails a machine any more.
    Recovers(usize),
    /// Whoever finds a machine with tasks that nobody speaks to switches it off and on.
    PowerCycle(usize),
    AgentUp(usize),
    ControllerUp,
    Calm,
    SecondRound,
}

pub(super) struct Scheduled {
    pub(super) at: u64,
    pub(super) number: u64,
    pub(super) action: Action,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
