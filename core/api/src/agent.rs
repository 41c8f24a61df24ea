//! Between an agent and the controller.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tw_model::{
    Ailment, Capacity, Endpoint, JobId, JobSpec, MachineFacts, MachineId, Millis, TaskId,
    TaskRecord, TaskReport, TaskUsage, Timestamp, UsageSum, Version,
};

use crate::SessionRequest;

/// The version of these messages.
pub const PROTO: u32 = 1;
/// The oldest version that is still understood.
pub const PROTO_OLDEST: u32 = 1;

/// `POST /v1/agents/register`: who the machine is, and all that its agent knows of its tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Register {
    pub proto: u32,
    pub machine: MachineId,
    pub boot_id: String,
    /// The mark of the agent's state folder: tells two agents that go by one name.
    #[serde(default)]
    pub agent: String,
    pub capacity: Capacity,
    pub facts: MachineFacts,
    /// How long the machine has been up, its sleep included: later registrations of a boot say more. 0 from an agent
    /// that does not say.
    #[serde(rename = "uptime_ms", default)]
    pub uptime: Millis,
    /// The newest report of every task that the agent holds.
    pub reports: Vec<TaskReport>,
}

/// The answer to [`Register`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    pub proto: u32,
    /// Goes with every later message of this agent.
    pub epoch: u64,
    /// Goes with every heartbeat: what was sent before a newer registration is not listened to. 0 from a controller
    /// that counts none.
    #[serde(default)]
    pub session: u64,
    pub heartbeat_every_ms: u64,
}

/// `POST /v1/agents/{machine}/heartbeat`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub epoch: u64,
    /// As in [`Registered`]; 0 from an agent that was given none.
    #[serde(default)]
    pub session: u64,
    /// Every report that is not acknowledged yet, oldest first.
    pub reports: Vec<TaskReport>,
    /// None between two samples, however often something is reported.
    #[serde(default)]
    pub sample: Option<MachineSample>,
    /// The oldest that jobs used here and that is not acknowledged yet.
    #[serde(default)]
    pub history: UsageReports,
}

/// What a machine's tasks use now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineSample {
    pub tasks: Vec<TaskUsage>,
    /// All that holds of jobs here, also of those whose tasks are between an end and a start.
    pub notes: Vec<LimitNote>,
    /// Whether the machine is short of memory.
    pub strained: bool,
    /// What ails the machine as a whole; empty also from an agent that does not say.
    #[serde(default)]
    pub ailments: BTreeSet<Ailment>,
}

/// What should be known of a job's limits on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitNote {
    pub job: JobId,
    /// That it seems to leak, or that lower limits were taken back.
    pub text: String,
}

/// What jobs used on one machine, in stretches that are over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UsageReports {
    /// The name of the machine's history: the scope of the numbers.
    pub origin: String,
    /// Each with its number, rising.
    pub reports: Vec<(u64, UsageReport)>,
}

/// What the tasks of a version of a job used on one machine in one stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    pub job: JobId,
    pub version: Version,
    pub start: Timestamp,
    pub width_ms: u64,
    pub usage: UsageSum,
}

/// The answer to [`Heartbeat`]. A stale epoch is refused with `agent.fenced` instead.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// What these reports changed is durable up to and including this number.
    pub acknowledged_seq: u64,
    /// The history is kept up to and including this number.
    #[serde(default)]
    pub acknowledged_history: u64,
    /// Failover tasks may run for their terms, counted from before the heartbeat was sent.
    #[serde(default)]
    pub granted: bool,
}

/// A task that the agent is to run, keep running, or stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    pub task: TaskRecord,
    /// The spec of the row's version.
    pub spec: Arc<JobSpec>,
    /// The digest of the plan that asked for it: the name of the change in the logs of all processes.
    #[serde(default)]
    pub plan: String,
    /// The commit that the row's version was applied from; empty for a work tree.
    #[serde(default)]
    pub revision: String,
}

/// `GET /v1/agents/{machine}/stream?epoch=E`: one of these per server-sent event, `data:` only.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// Always first: everything that is assigned, and where the services are that these tasks name.
    /// Rows of ended tasks are among it while they are kept: nothing of such a task may run, and its logs
    /// stay. What is not here is to be forgotten.
    Snapshot {
        assignments: Vec<Assignment>,
        endpoints: Vec<Endpoint>,
    },
    /// A row is new or has changed.
    Assign { assignment: Box<Assignment> },
    /// A row is gone; so should be what is left of its task.
    Forget { task: TaskId },
    /// All endpoints of the services that this machine's tasks name.
    Endpoints { endpoints: Vec<Endpoint> },
    /// Open `POST /v1/agents/{machine}/sessions/{session}` and serve the request there.
    Dial(Dial),
}

/// A session that someone waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dial {
    pub session: String,
    pub request: SessionRequest,
}
