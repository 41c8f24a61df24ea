//! A whole cluster in one thread and no time: the real decisions, and everything around them made of chance.
//!
//! The store, the network, the agents, the machines and the people are simulated; [`crate::step`] and
//! [`crate::State::apply`] are the real ones. The controller may crash between applying, queueing and committing,
//! also between two portions of one decision; the state that follows is what the durable rows say.
//! One seed is one history: a failing one can be run again.

mod agent;
mod checks;
mod client;
mod controller;
mod coverage;
mod faults;
mod placement;
mod rehearsal;
mod reviewed;
mod rng;
mod sabotage;
mod trace;
mod witness;
mod workload;
mod world;

pub use coverage::{Budget, Coverage};
pub use faults::Fault;
pub use placement::{Fill, TracePlacement, place_trace};
pub use rehearsal::{Observed, Performance, Rehearsal, Stage};
pub use trace::{
    Apart, BadRow, TraceError, TraceMachines, TraceRows, TraceTasks, read_machines, read_tasks,
    shuffled,
};
pub use world::run;

use tw_model::Millis;

/// How much happens in one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulationConfig {
    pub machines: u32,
    /// About how many tasks the jobs have together.
    pub tasks: u32,
    /// The time during which things go wrong.
    pub stormy: Millis,
    /// The time after that in which everything has to come right.
    pub quiet: Millis,
    pub faults: u32,
    /// What people ask for, beside the first submission of each job.
    pub requests: u32,
    /// A bug planted at the edges, to see that it is found.
    pub sabotage: Option<Sabotage>,
}

impl Default for SimulationConfig {
    fn default() -> SimulationConfig {
        SimulationConfig {
            machines: 20,
            tasks: 200,
            stormy: Millis::minutes(95),
            quiet: Millis::minutes(25),
            faults: 40,
            requests: 40,
            sabotage: None,
        }
    }
}

/// A bug at the edges of the decisions. Every one must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// People get their answer before it is durable.
    ReplyBeforeDurable,
    /// Agents see rows before they are durable.
    PublishBeforeDurable,
    /// The store says yes and forgets one commit in a hundred.
    LostCommit,
    /// Agents go on when they are told that their epoch is over.
    IgnoreFence,
    /// Agents keep tasks that are not assigned to them any more.
    KeepStale,
    /// Agents that start again forget what they run.
    ForgetTasks,
    /// The portions of a decision are committed last to first.
    ReversedPortions,
    /// A controller whose commit was refused goes on with what it had applied.
    KeepRefused,
    /// A placement that is tried again makes a second task of the same index.
    DoublePlacement,
    /// What a job requires of machines is forgotten when a task starts again.
    ForgetRequires,
    /// Tasks that must not share a machine do so when one starts again.
    ForgetApart,
    /// Every task goes to the first machine, whether there is room or not.
    Overcommit,
    /// Jobs that wait for time to pass are not looked at again.
    ForgetUnsettled,
    /// Tasks that take too long are not asked to end.
    ForgetTimeout,
    /// Tasks run before it is their turn.
    OutOfTurn,
    /// A daemon's task goes to a machine that has one.
    TwoDaemons,
    /// After its second run a job waits for a moment that has passed.
    ForgetNextRun,
    /// A failover task is replaced as soon as its machine is lost.
    ForgetTerm,
    /// A broker reads heartbeats after it has looked whether it may still grant.
    GrantAfterCheck,
    /// Agents forget tasks that never started.
    LostTombstone,
    /// Agents are given rows of an older epoch of their machine.
    OldEpochRow,
    /// Helpers end their tasks a minute too late.
    LateKill,
    /// The limiter lets one more stop of a job through at once.
    RateLimitOffByOne,
    /// The limiter lets one more stop of all jobs together through at once.
    TotalLimitOffByOne,
    /// The limiter's bucket of a job fills too fast.
    RefillTooFast,
    /// The limiter's bucket of all jobs fills too fast.
    TotalRefillTooFast,
    /// Tasks make room for those of no higher priority.
    EvictAnyone,
    /// Tasks of low priority are placed where room was promised to others.
    TakePromisedRoom,
    /// Machines that are lost are fenced although nobody looked at them.
    HastyFence,
    /// A drain asks every task of its machine to leave at once.
    SkipBudgetInDrain,
    /// Nobody leaves a machine that is drained.
    ForgetDrain,
    /// A paused update goes on.
    IgnorePause,
    /// All tasks of a rack that is lost are replaced at once.
    Stampede,
    /// It is forgotten which machines keep going away.
    ForgetFlaps,
    /// An update leaves the part of the fleet that its stage is.
    LeavePart,
    /// Old tasks end before the new ones serve that run beside them.
    EvictBeforeSurge,
    /// What an agent said when it registered is believed however late it comes.
    LateRegistration,
    /// A plan is applied although something has moved since it was reviewed.
    ApplyStale,
    /// An update replaces a task that its plan leaves alone.
    ReplaceUnplanned,
}

impl Sabotage {
    pub const ALL: [Sabotage; 39] = [
        Sabotage::ReplyBeforeDurable,
        Sabotage::PublishBeforeDurable,
        Sabotage::LostCommit,
        Sabotage::IgnoreFence,
        Sabotage::KeepStale,
        Sabotage::ForgetTasks,
        Sabotage::ReversedPortions,
        Sabotage::KeepRefused,
        Sabotage::DoublePlacement,
        Sabotage::ForgetRequires,
        Sabotage::ForgetApart,
        Sabotage::Overcommit,
        Sabotage::ForgetUnsettled,
        Sabotage::ForgetTimeout,
        Sabotage::OutOfTurn,
        Sabotage::TwoDaemons,
        Sabotage::ForgetNextRun,
        Sabotage::ForgetTerm,
        Sabotage::GrantAfterCheck,
        Sabotage::LostTombstone,
        Sabotage::OldEpochRow,
        Sabotage::LateKill,
        Sabotage::RateLimitOffByOne,
        Sabotage::TotalLimitOffByOne,
        Sabotage::RefillTooFast,
        Sabotage::TotalRefillTooFast,
        Sabotage::EvictAnyone,
        Sabotage::TakePromisedRoom,
        Sabotage::HastyFence,
        Sabotage::SkipBudgetInDrain,
        Sabotage::ForgetDrain,
        Sabotage::IgnorePause,
        Sabotage::Stampede,
        Sabotage::ForgetFlaps,
        Sabotage::LeavePart,
        Sabotage::EvictBeforeSurge,
        Sabotage::LateRegistration,
        Sabotage::ApplyStale,
        Sabotage::ReplaceUnplanned,
    ];
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, after {at}: {what}")]
pub struct Violation {
    pub seed: u64,
    pub at: Millis,
    pub what: String,
}
