//! Between people's tools and the controller. The shapes that commands print as JSON are these.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tw_model::{
    AilmentRecord, AllowanceUse, Approval, Bytes, Capacity, Cores, DrainRecord, Endpoint,
    EventRecord, Exit, JobId, JobSpec, MachineFacts, MachineId, MachineState, Name, PolicyReport,
    RolloutState, RunRecord, SourceRef, TaskId, TaskState, TaskUsage, Timestamp, Version,
};

/// A job as it was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubmittedJob {
    pub spec: JobSpec,
    pub source: SourceRef,
}

/// `POST /v1/plan`: what would these specs do?
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PlanRequest {
    pub jobs: Vec<SubmittedJob>,
    /// Jobs that are wanted no more.
    #[serde(default)]
    pub remove: Vec<JobId>,
    /// What the policies beside the specs say of these jobs.
    #[serde(default)]
    pub policy: PolicyReport,
}

/// `POST /v1/apply`: do exactly what the plan of this digest said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ApplyRequest {
    pub jobs: Vec<SubmittedJob>,
    /// The beginning of the digest once more, from someone who has seen that the plan ends many tasks.
    #[serde(default)]
    pub confirm_destructive: Option<String>,
    /// Jobs that are wanted no more.
    #[serde(default)]
    pub remove: Vec<JobId>,
    /// What the policies say; the plan's digest covers it.
    #[serde(default)]
    pub policy: PolicyReport,
    pub digest: String,
    #[serde(default)]
    pub approval: Approval,
}

/// `POST /v1/stop`: end all of these jobs, or none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    pub jobs: Vec<JobId>,
    /// The beginning of the digest that a refusal named, from someone who has seen how many tasks end.
    #[serde(default)]
    pub confirm_destructive: Option<String>,
}

/// The answer to [`StopRequest`], once it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopReply {
    pub version: u32,
    /// How many tasks are asked to end.
    pub tasks: u32,
}

/// `POST /v1/jobs/{namespace}/{name}/rollout`: what is to become of the update of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum RolloutRequest {
    Pause,
    Resume,
    Abort,
    /// To the version named, or else to the last good one.
    Rollback {
        #[serde(default)]
        to: Option<Version>,
    },
}

/// The answer to [`RolloutRequest`], once it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutReply {
    pub version: u32,
    pub job: JobId,
    /// The version that is wanted now.
    pub job_version: Version,
}

/// Why tasks of a job wait, computed when it was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhyReply {
    pub version: u32,
    pub job: JobId,
    /// Tasks that wait for the same reason are together; empty where none waits.
    pub waiting: Vec<WaitingTasks>,
}

/// Tasks that wait for one reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitingTasks {
    pub indexes: Vec<u32>,
    /// The reason in words.
    pub message: String,
    /// The same as data: counts for each obstacle, and the smallest change that would fit.
    pub why: serde_json::Value,
}

/// The answer to [`ApplyRequest`], once it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyReply {
    pub jobs: Vec<AppliedJob>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AppliedJob {
    pub job: JobId,
    pub version: Version,
    /// Whether this job differs from what was wanted before.
    pub changed: bool,
}

/// `GET /v1/jobs/{namespace}/{name}`, and `tw status JOB --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobStatus {
    /// The version of this shape.
    pub version: u32,
    pub job: JobSummary,
    /// One an index: the task that holds it now, or held it last.
    pub tasks: Vec<TaskStatus>,
    /// The newest runs of a job with a schedule, oldest first.
    #[serde(default)]
    pub runs: Vec<RunRecord>,
    /// What should be known of the limits of its tasks, in words: one that a task is too large for, a leak, a trial that was
    /// taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobSummary {
    pub name: Name,
    pub namespace: Name,
    pub kind: String,
    pub version: Version,
    pub stable_version: Version,
    pub stopped: bool,
    /// How many tasks are wanted; of a daemon one a machine, of a job with a schedule those of a run.
    pub replicas: u32,
    /// Tasks that run and pass their checks, if any.
    pub healthy: u32,
    /// Tasks that have ended as they should; a batch job is over when this reaches `replicas`.
    #[serde(default)]
    pub done: u32,
    pub rollout: Option<RolloutStatus>,
    /// What a job with a schedule waits for, and how its newest run is.
    #[serde(default)]
    pub schedule: Option<ScheduleStatus>,
    /// What the load makes of the number of tasks, where it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleStatus>,
    pub owner: String,
    pub source: SourceRef,
    pub updated_at: Timestamp,
}

/// What the load makes of a job's number of tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScaleStatus {
    pub min: u32,
    pub max: u32,
    /// Why there are as many as there are; empty before the first change.
    pub reason: String,
    pub since: Option<Timestamp>,
}

/// Where a job with a schedule stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScheduleStatus {
    pub cron: String,
    pub time_zone: String,
    pub next_at: Option<Timestamp>,
    /// The newest run; none before the first.
    pub run: Option<RunRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutStatus {
    pub from: Version,
    pub to: Version,
    pub state: RolloutState,
    /// The stage that runs now, from 1.
    pub stage: u32,
    pub stages: u32,
    /// Tasks that run the new version.
    pub updated: u32,
    pub reason: String,
    /// Whether it takes back an update that was under way.
    #[serde(default)]
    pub rollback: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskStatus {
    pub id: TaskId,
    /// The task of the same index that was on a machine last, where this one has none yet: its logs are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<TaskId>,
    pub index: u32,
    pub version: Version,
    pub state: TaskState,
    pub machine: Option<MachineId>,
    pub address: Option<String>,
    pub ports: BTreeMap<Name, u16>,
    pub started_at: Option<Timestamp>,
    pub restarts: u32,
    pub healthy: Option<bool>,
    /// Why it is in its state; empty where nothing needs saying.
    pub reason: String,
    pub exit: Option<Exit>,
    /// What it uses now, as far as its agent has said.
    pub usage: Option<TaskUsage>,
}

/// `GET /v1/jobs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobsReply {
    pub version: u32,
    pub jobs: Vec<JobSummary>,
    /// Set while a large part of the fleet is lost at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<OutageStatus>,
}

/// Machines that were lost together with a large part of the fleet, and whose tasks are replaced one machine after the
/// other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutageStatus {
    /// How many machines are still waited for.
    pub machines: u32,
    /// When the tasks of the next of them are replaced, unless it is back by then.
    pub next_at: Timestamp,
    /// When those of the last one are.
    pub last_at: Timestamp,
}

/// `GET /v1/machines`, and `tw machines --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachinesReply {
    pub version: u32,
    pub machines: Vec<MachineStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineStatus {
    pub id: MachineId,
    pub state: MachineState,
    pub epoch: u64,
    pub capacity: Capacity,
    /// What the tasks placed there have asked for.
    pub reserved: Reserved,
    pub facts: MachineFacts,
    pub tasks: u32,
    /// Whether its agent holds a stream now.
    pub connected: bool,
    pub changed_at: Timestamp,
    /// Set while it is to be emptied, and kept empty.
    #[serde(default)]
    pub drain: Option<DrainRecord>,
    /// The drain that begins at its `since`.
    #[serde(default)]
    pub next_drain: Option<DrainRecord>,
    /// How often it went away without notice, in thousandths of a time; fades by half every 15 minutes.
    #[serde(default)]
    pub flaps_milli: u32,
    /// Whether it is taken last because of that.
    #[serde(default)]
    pub unsteady: bool,
    /// What ails it by its agent's word, and what did until lately: it is taken last because of that, too.
    #[serde(default)]
    pub ailments: Vec<AilmentRecord>,
    /// Until when its tasks are kept although it is lost, because a large part of the fleet is.
    #[serde(default)]
    pub spared_until: Option<Timestamp>,
}

/// `POST /v1/drain`: machines are to be emptied, or to take tasks again; all of them, or none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum DrainRequest {
    Begin {
        machines: Vec<MachineId>,
        /// In words for people.
        #[serde(default)]
        reason: String,
        /// After so long they are empty, whatever it takes.
        #[serde(default)]
        within_ms: Option<u64>,
        /// How long the maintenance lasts; tasks that endure it come back to the machines.
        #[serde(default)]
        lasts_ms: Option<u64>,
        /// When it begins, from where `within_ms` counts; none for now, and then not sent: controllers that know no
        /// later start take the rest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        starts: Option<DrainStart>,
    },
    End {
        machines: Vec<MachineId>,
    },
}

/// When machines begin to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainStart {
    /// At this moment, by the controller's clock.
    At(Timestamp),
    /// So many milliseconds from when the controller has read this.
    InMs(u64),
}

/// The answer to [`DrainRequest`], once it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainReply {
    pub version: u32,
    pub machines: Vec<MachineId>,
    /// How many tasks were there.
    pub tasks: u32,
}

/// The answer to `POST /v1/machines/{machine}/fence`, once it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FenceReply {
    pub version: u32,
    pub machine: MachineId,
    /// How many tasks counted as alive there.
    pub tasks: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reserved {
    pub cpu_millicores: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// `GET /v1/jobs/{namespace}/{name}/events?after=SEQ`, and `tw events JOB --json`. Oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventsReply {
    pub version: u32,
    pub events: Vec<EventRecord>,
}

/// `GET /v1/services/{namespace}/{job}/{port}`: where healthy tasks listen now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServicesReply {
    pub version: u32,
    pub endpoints: Vec<Endpoint>,
}

/// `GET /v1/jobs/{namespace}/{name}/usage`, and `tw recommend JOB --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UsageReply {
    pub version: u32,
    pub job: JobId,
    /// The request in the spec.
    pub cpu_request_millicores: u64,
    pub memory_request_bytes: u64,
    /// How much history a recommendation needs.
    pub history_min_ms: u64,
    /// The job's replicas.
    #[serde(default)]
    pub replicas: u32,
    pub tasks: Vec<TaskUsage>,
    /// The same as [`JobStatus::notes`].
    #[serde(default)]
    pub notes: Vec<String>,
    /// What all machines reported of the job; none before the first report.
    #[serde(default)]
    pub history: Option<JobHistory>,
}

/// What a job's history says of its requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobHistory {
    /// From the first sample that counts until now.
    pub span_ms: u64,
    /// Samples of five minutes.
    pub samples: u64,
    /// `low`, `medium` or `high`.
    pub confidence: String,
    /// What would fit; none while there is too little history.
    pub cpu_recommended: Option<Cores>,
    pub memory_recommended: Option<Bytes>,
    /// Why, in words.
    pub cpu_reason: String,
    pub memory_reason: String,
    /// Samples in which memory would have gone above what is recommended, or else requested.
    pub memory_exceeded: u64,
    /// Samples of CPU that would have, of all.
    pub cpu_exceeded: u64,
    pub cpu_samples: u64,
    /// How often tasks ran out of memory.
    pub ooms: u64,
    /// The versions and machine classes that it was measured with, as `v7 on 4c-16g`.
    pub measured: Vec<String>,
    /// Use over time, oldest first.
    pub points: Vec<UsagePoint>,
}

/// What was used in one stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsagePoint {
    pub start: Timestamp,
    pub span_ms: u64,
    pub cpu_p95: Cores,
    pub cpu_peak: Cores,
    pub memory_peak: Bytes,
}

/// `GET /v1/jobs/{namespace}/{name}/spec?version=N`: what a job is, and what it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpecReply {
    pub version: u32,
    /// The version of the spec in `job`: the one that was asked for, else the one that is wanted.
    pub current: Version,
    pub job: SubmittedJob,
    pub stopped: bool,
    /// All versions that are kept, oldest first.
    pub versions: Vec<VersionSummary>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionSummary {
    pub version: Version,
    pub source: SourceRef,
    /// The digest of the plan that was applied.
    pub plan: String,
    /// Who applied it.
    pub by: String,
    #[serde(default)]
    pub approval: Approval,
    pub at: Timestamp,
}

/// `GET /v1/health`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthReply {
    pub version: u32,
    /// Whether the state is recovered and decisions are made.
    pub ready: bool,
}

/// `PUT /v1/packages/{digest}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackageReply {
    pub version: u32,
    pub digest: String,
    pub size_bytes: u64,
}

/// `GET /v1/secrets`. Values are never told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretsReply {
    pub version: u32,
    pub secrets: Vec<SecretStatus>,
}

/// One secret, but for its value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretStatus {
    pub namespace: Name,
    pub name: Name,
    /// When its value was set.
    pub set_at: Timestamp,
    /// The jobs that read it.
    pub jobs: Vec<JobId>,
}

/// `PUT` and `DELETE /v1/secrets/{namespace}/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretReply {
    pub version: u32,
    pub namespace: Name,
    pub name: Name,
    /// The jobs that read it; their tasks read a new value when they start again.
    pub jobs: Vec<JobId>,
}

/// `POST /v1/allowances`: what a team may ask for, for jobs of a priority and above.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum AllowanceRequest {
    Set {
        name: Name,
        #[serde(default)]
        from_priority: u32,
        #[serde(rename = "cpu_millicores")]
        cpu: Cores,
        #[serde(rename = "memory_bytes")]
        memory: Bytes,
    },
    Remove {
        name: Name,
    },
}

/// `GET /v1/allowances`, and the answer to [`AllowanceRequest`] once it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AllowancesReply {
    pub version: u32,
    /// One entry a band; `before` and `after` are what is charged now.
    pub allowances: Vec<AllowanceUse>,
}
