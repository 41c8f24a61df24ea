//! What goes wrong.

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The controller dies with all that is not durable, and comes back.
    ControllerCrash,
    /// The controller stands still while agents talk to it; another one takes its place before it goes on.
    ControllerPaused,
    /// The store refuses a commit; the controller lists again.
    StoreFails,
    /// An agent dies and comes back; the tasks run on.
    AgentCrash,
    /// An agent comes back with an empty state folder and does not know what runs; later the machine is switched off
    /// and on.
    AgentReplaced,
    /// A machine restarts within seconds; nothing of what ran is left.
    MachineReboots,
    /// A machine is gone for minutes, then starts anew.
    MachineDies,
    /// A machine is cut off for longer than it may be silent; its tasks run on.
    MachineCutOff,
    /// A whole rack is cut off; its tasks run on.
    RackCutOff,
    /// A machine is cut off again and again, each time for longer than it may be silent.
    MachineFlaps,
    /// A machine is cut off for a moment.
    NetworkBlip,
    /// For some minutes the messages of an agent take seconds, and overtake each other.
    NetworkSlow,
    /// For some minutes every message of an agent arrives twice.
    NetworkRepeats,
    /// An agent says for some minutes that something ails its machine.
    MachineAils,
    /// A task is killed.
    TaskKilled,
    /// A task stops answering for a while.
    TaskUnhealthy,
}

impl Fault {
    pub const ALL: [Fault; 16] = [
        Fault::ControllerCrash,
        Fault::ControllerPaused,
        Fault::StoreFails,
        Fault::AgentCrash,
        Fault::AgentReplaced,
        Fault::MachineReboots,
        Fault::MachineDies,
        Fault::MachineCutOff,
        Fault::RackCutOff,
        Fault::MachineFlaps,
        Fault::NetworkBlip,
        Fault::NetworkSlow,
        Fault::NetworkRepeats,
        Fault::MachineAils,
        Fault::TaskKilled,
        Fault::TaskUnhealthy,
    ];
}
