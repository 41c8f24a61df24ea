//! The rows that the store holds. Their keys and the meaning of each are in `docs/design/loop.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::write_number;
use crate::{
    AllowanceRecord, Bytes, Cores, Exit, Incarnation, JobId, JobSpec, MachineId, Millis, Name,
    PlanRecord, Remedy, RepositoryRecord, TaskId, Timestamp, Version,
};

/// The format number of stored records; a cluster with a higher one is refused.
pub const RECORD_FORMAT: u64 = 1;

/// How many events of a job are kept.
pub const EVENTS_KEPT: u64 = 200;

/// How many ended tasks of an index are kept, for their logs.
pub const ENDED_TASKS_KEPT: usize = 3;

/// A job and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRecord {
    pub id: JobId,
    /// The version that is wanted.
    pub version: Version,
    /// The newest version that all tasks have run healthily; 0 before the first.
    pub stable_version: Version,
    /// The incarnation that the next placement gets.
    pub next_incarnation: Incarnation,
    /// The number of the next event.
    pub next_event: u64,
    /// Whether someone stopped the job.
    pub stopped: bool,
    /// The update under way, or the last one where it halted.
    pub rollout: Option<RolloutRecord>,
    /// The runs of a job with a schedule; none of one that never had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<RunsRecord>,
    /// The number of tasks where it follows the load; none before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleRecord>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What the load has made of the number of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRecord {
    pub tasks: u32,
    /// Why, in words for people.
    pub reason: String,
    pub at: Timestamp,
}

impl JobRecord {
    /// What the load has made of the number of tasks.
    pub fn scaled(&self) -> Option<u32> {
        self.scale.as_ref().map(|scale| scale.tasks)
    }
}

/// How many runs of a job are kept.
pub const RUNS_KEPT: usize = 20;

/// The runs of a job with a schedule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunsRecord {
    /// The version whose schedule says when the next one is due.
    pub version: Version,
    /// When that is; none where it is never, or nobody wants it.
    pub next_at: Option<Timestamp>,
    /// When a run was due that waits for the one before it to end.
    pub queued: Option<Timestamp>,
    /// The newest runs, oldest first; only the last one may be under way.
    pub newest: Vec<RunRecord>,
}

impl RunsRecord {
    /// The run that is under way.
    pub fn open(&self) -> Option<&RunRecord> {
        let last = self.newest.last();
        last.filter(|run| run.outcome == RunOutcome::Running)
    }
}

/// One run of a job with a schedule: all of its tasks once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// They count from 1.
    pub number: u64,
    /// The version that its tasks run.
    pub version: Version,
    pub due_at: Timestamp,
    pub began_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub outcome: RunOutcome,
    /// Who asked for it, or why it ended as it did; empty where nothing needs saying.
    pub reason: String,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    Running,
    /// Every task has succeeded.
    Done,
    /// A task has used up its attempts.
    Failed,
    /// The next run took its place.
    Replaced,
    /// Someone stopped the job, or took its schedule away.
    Stopped,
}

impl std::fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            RunOutcome::Running => "running",
            RunOutcome::Done => "done",
            RunOutcome::Failed => "failed",
            RunOutcome::Replaced => "replaced",
            RunOutcome::Stopped => "stopped",
        })
    }
}

/// How far an update is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRecord {
    pub from: Version,
    pub to: Version,
    /// Index into the stages of the new version.
    pub stage: u32,
    pub state: RolloutState,
    /// Why it halted, was paused, or takes back a version; empty otherwise.
    pub reason: String,
    /// Whether every task starts again, also where the spec asks for less.
    pub restart: bool,
    /// Indexes that go to another machine, as the plan said.
    pub moves: Vec<u32>,
    pub started_at: Timestamp,
    /// When the stage that runs now began.
    pub stage_started_at: Timestamp,
    /// When the update last gave a task its new version; its deadline counts from here.
    pub progress_at: Timestamp,
    /// Since when the stage that runs now is good; none while it is not.
    #[serde(default)]
    pub good_since: Option<Timestamp>,
    /// Whether it takes back an update that was under way. It then knows no stages, and is not itself taken back.
    #[serde(default)]
    pub rollback: bool,
    /// Where it began, once it has: stages that are parts of the fleet are those around this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<MachineId>,
    /// How many tasks beyond the wanted number are to run now. Their indexes follow those that are wanted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub surge: u32,
    /// Whether they were in the way of others, and there are to be no more of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub crowded: bool,
    /// What it waits for before it replaces tasks, in words for people; empty where it does not wait.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub awaits: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    Running,
    /// Someone wants it to wait.
    Paused,
    /// A new task did not become healthy; what runs stays as it is.
    Halted,
}

impl std::fmt::Display for RolloutState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            RolloutState::Running => "running",
            RolloutState::Paused => "paused",
            RolloutState::Halted => "halted",
        })
    }
}

/// A spec that a job has had. Never changed once written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRecord {
    pub job: JobId,
    pub version: Version,
    pub spec: Arc<JobSpec>,
    pub source: SourceRef,
    /// The digest of the plan that was applied.
    pub plan: String,
    /// Who applied it.
    pub by: String,
    /// How its plan was let through.
    #[serde(default, skip_serializing_if = "Approval::is_seen")]
    pub approval: Approval,
    pub at: Timestamp,
}

/// How a plan was let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case", deny_unknown_fields)]
pub enum Approval {
    /// Whoever applied it had seen it.
    #[default]
    Seen,
    /// Nobody had to see it: `--auto-approve`.
    Auto,
    /// Someone approved the plan that the controller had made of a commit of this repository.
    Reviewed { repository: Name },
    /// The mode of this repository and its policies let the plan of a commit through.
    Followed { repository: Name },
}

impl Approval {
    fn is_seen(&self) -> bool {
        *self == Approval::Seen
    }
}

impl std::fmt::Display for Approval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Approval::Seen => f.pad("seen"),
            Approval::Auto => f.pad("auto-approved"),
            Approval::Reviewed { repository } => write!(f, "approved, from {repository}"),
            Approval::Followed { repository } => write!(f, "by itself, from {repository}"),
        }
    }
}

/// Where a spec came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRef {
    /// Relative to the repository's root.
    pub file: String,
    pub line: u32,
    /// The commit; empty for a work tree.
    pub revision: String,
}

/// What is wanted of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    Run,
    Stop,
}

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a machine, for its dependencies, or for the end of its backoff.
    Pending,
    /// Has a machine and does not run yet.
    Starting,
    Running,
    /// Asked to end.
    Stopping,
    /// Ended as it should: on request, or a batch task with exit code 0.
    Done,
    /// Ended as it should not.
    Failed,
    /// Its machine was lost.
    Lost,
}

impl TaskState {
    pub const ALL: [TaskState; 7] = [
        TaskState::Pending,
        TaskState::Starting,
        TaskState::Running,
        TaskState::Stopping,
        TaskState::Done,
        TaskState::Failed,
        TaskState::Lost,
    ];

    /// Whether nothing of the task runs any more, nor ever will.
    pub fn is_terminal(self) -> bool {
        matches!(self, TaskState::Done | TaskState::Failed | TaskState::Lost)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Pending => "pending",
            TaskState::Starting => "starting",
            TaskState::Running => "running",
            TaskState::Stopping => "stopping",
            TaskState::Done => "done",
            TaskState::Failed => "failed",
            TaskState::Lost => "lost",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One placement of one index of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRecord {
    pub id: TaskId,
    /// The spec that it runs, or will run.
    pub version: Version,
    pub state: TaskState,
    pub desired: Desired,
    /// None while pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// The machine's epoch when it was placed there.
    pub machine_epoch: u64,
    /// The number of each port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<Name, u16>,
    /// Null without checks, or before the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// What its checks ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// Since when it has been as healthy as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_since: Option<Timestamp>,
    /// The newest report that changed this row; older ones say nothing new about its health.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub report_seq: u64,
    /// Why it is in its state, in words for people; empty where nothing needs saying.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// No start before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Asked to end here only to run elsewhere: the next task of the index is as this one was, also in an update.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub comes_back: bool,
    /// The run of a job with a schedule that it is part of; 0 for all others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub run: u64,
    /// Asked to end because it took longer than it may: its end counts as a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,
    /// The machine that it is meant for, before it has it: where a daemon lacks its task, or where others were asked
    /// to make room. Of one that was asked to leave its machine, where there was room for the next task of its index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meant_for: Option<MachineId>,
    /// A daemon's task whose machine is to have none any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// What its application is asked about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<OfferRecord>,
    /// What the task holds on its machine instead of its request, where its limits follow its use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted: Option<FittedRecord>,
    /// Starts of this index that were not asked for: failures and lost machines, not updates.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// Failures in a row, for the backoff.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was asked to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_asked_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// The limits that a running task has by what it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedRecord {
    pub cpu: Cores,
    pub memory: Bytes,
}

impl TaskRecord {
    /// A task that waits for its machine.
    pub fn pending(id: TaskId, version: Version, at: Timestamp) -> TaskRecord {
        TaskRecord {
            id,
            version,
            state: TaskState::Pending,
            desired: Desired::Run,
            machine: None,
            machine_epoch: 0,
            ports: BTreeMap::new(),
            healthy: None,
            remedy: Default::default(),
            healthy_since: None,
            report_seq: 0,
            reason: String::new(),
            not_before: None,
            comes_back: false,
            offer: None,
            fitted: None,
            run: 0,
            overdue: false,
            meant_for: None,
            retired: false,
            restarts: 0,
            failures: 0,
            created_at: at,
            started_at: None,
            stop_asked_at: None,
            ended_at: None,
            exit: None,
        }
    }
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// What may be done to a task of which its application has a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Someone wants all tasks of the job to start again.
    Restart,
    /// It makes way for a new version.
    Update,
    /// It goes to another machine.
    Move,
    /// Its machine is taken out of service.
    Maintenance,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Operation::Restart => "restart",
            Operation::Update => "update",
            Operation::Move => "move",
            Operation::Maintenance => "maintenance",
        })
    }
}

/// An operation that waits for the word of the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferRecord {
    pub operation: Operation,
    /// Its deadline counts from here.
    pub since: Timestamp,
    /// Its place among those that the application approved last; none where it did not.
    pub approved: Option<u32>,
}

/// What a machine can give to tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    #[serde(rename = "cpu_millicores")]
    pub cpu: Cores,
    #[serde(rename = "memory_bytes")]
    pub memory: Bytes,
    #[serde(rename = "disk_bytes")]
    pub disk: Bytes,
    /// Network bandwidth that may be kept free for tasks; 0 where it is not known.
    #[serde(rename = "bandwidth_bytes_per_second", default)]
    pub bandwidth: Bytes,
    /// The first port that may be given out.
    pub port_first: u16,
    /// The last one.
    pub port_last: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    Up,
    /// No word from it for longer than it may be silent.
    Lost,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineRecord {
    pub id: MachineId,
    /// Raised whenever everything that ran there is known or declared to have ended.
    pub epoch: u64,
    /// Changes when the machine restarts.
    pub boot_id: String,
    pub state: MachineState,
    pub capacity: Capacity,
    pub facts: MachineFacts,
    pub registered_at: Timestamp,
    /// When `state` last changed.
    pub changed_at: Timestamp,
    /// Set while it is to be emptied, and kept empty.
    #[serde(default)]
    pub drain: Option<DrainRecord>,
    /// The drain that begins at its `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_drain: Option<Box<DrainRecord>>,
    /// How often it went away without notice; none where it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flaps: Option<FlapRecord>,
    /// What ails it by the word of its agent, and what did until lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ailments: Vec<AilmentRecord>,
    /// Set while it is lost together with a large part of the fleet: until then its tasks count as out of reach, and
    /// live on should it come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spared_until: Option<Timestamp>,
    /// Which boot and which agent go by its name.
    #[serde(default)]
    pub identity: Box<MachineIdentity>,
}

/// A count of the times that a machine went away without notice, which fades as time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlapRecord {
    /// Thousandths of a time, as of `at`.
    pub score_milli: u32,
    /// When it last went away.
    pub at: Timestamp,
}

/// What can ail a machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ailment {
    /// Nothing can be written where its tasks are kept.
    DiskReadOnly,
    /// Next to nothing is free there.
    DiskFull,
    /// It has been short of memory for some time.
    MemoryShort,
    /// What an agent of a newer release has a word for.
    #[serde(other)]
    Other,
}

impl std::fmt::Display for Ailment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Ailment::DiskReadOnly => "disk read-only",
            Ailment::DiskFull => "disk full",
            Ailment::MemoryShort => "short of memory",
            Ailment::Other => "ailing",
        })
    }
}

/// Something that ails a machine, or did until lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AilmentRecord {
    pub what: Ailment,
    pub since: Timestamp,
    /// When its agent took it back; none while it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How many earlier boots of a machine are remembered.
pub const FORMER_BOOTS_KEPT: usize = 16;

/// Who goes by a machine's name, and what is known to have ended there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineIdentity {
    /// The mark of the agent's state folder; empty where the agent named none.
    pub agent: String,
    /// Boots that are over, the newest last. Whoever names one of them is not this machine, or is late.
    pub former_boots: Vec<String>,
    /// Nothing that was placed there in an epoch below this one runs: the machine restarted since, or someone
    /// vouched for its end.
    pub ended_below: u64,
    /// The first epoch of this agent's state folder. Of what was placed before, this agent knows nothing.
    pub agent_since: u64,
    /// How long its boot had lasted when the agent registered last. What it sent before that is late; 0 from an agent
    /// that does not say.
    #[serde(rename = "registered_uptime_ms", default)]
    pub uptime: Millis,
}

impl MachineRecord {
    /// Whether tasks may be placed there.
    pub fn takes_tasks(&self) -> bool {
        self.state == MachineState::Up && self.drain.is_none()
    }

    /// Whether the tasks that run there are kept although it is lost.
    pub fn spares_tasks(&self) -> bool {
        self.state == MachineState::Lost && self.spared_until.is_some()
    }
}

/// Why and until when a machine is emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRecord {
    /// In words for people; may be empty.
    pub reason: String,
    pub by: String,
    /// When it began, or is to begin.
    pub since: Timestamp,
    /// When it is empty, whatever it takes.
    pub deadline: Option<Timestamp>,
    /// How long the maintenance lasts, as it was announced; none where the machine is not to come back.
    #[serde(default)]
    pub lasts: Option<Millis>,
}

/// What a machine says of itself beside its capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineFacts {
    /// Where its tasks are reached.
    pub address: String,
    /// As `debian-12`: `ID` and `VERSION_ID` of its os-release.
    pub os: String,
    pub kernel: String,
    pub rack: String,
    /// The cluster, data centre and region that the rack is in; empty where nobody said.
    #[serde(default)]
    pub cluster: String,
    #[serde(default)]
    pub datacenter: String,
    #[serde(default)]
    pub region: String,
    /// The host profile that the machine is in; empty where it is in none.
    #[serde(default)]
    pub profile: String,
    pub labels: BTreeMap<String, String>,
    /// Limits and isolation that it can enforce, such as `cgroup-v1`.
    pub enforces: Vec<String>,
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRecord {
    pub job: JobId,
    pub seq: u64,
    pub at: Timestamp,
    /// A stable word such as `task.started`.
    pub kind: String,
    pub task: Option<TaskId>,
    pub machine: Option<MachineId>,
    pub message: String,
}

/// A row of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Job(JobRecord),
    Version(Arc<VersionRecord>),
    Task(Arc<TaskRecord>),
    Machine(MachineRecord),
    Event(Arc<EventRecord>),
    Repository(Arc<RepositoryRecord>),
    Plan(Arc<PlanRecord>),
    Allowance(Arc<AllowanceRecord>),
}

/// The key of a row of any kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    Job(JobId),
    Version(JobId, Version),
    Task(TaskId),
    Machine(MachineId),
    Event(JobId, u64),
    Repository(Name),
    /// By its digest.
    Plan(String),
    Allowance(Name),
}

/// A row that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the store holds a row '{key}' of a kind that this version of Twill does not know")]
    UnknownKey { key: String },
    #[error("the row '{key}' cannot be read")]
    Unreadable {
        key: String,
        source: serde_json::Error,
    },
}

impl Record {
    pub fn key(&self) -> RecordKey {
        match self {
            Record::Job(row) => RecordKey::Job(row.id.clone()),
            Record::Version(row) => RecordKey::Version(row.job.clone(), row.version),
            Record::Task(row) => RecordKey::Task(row.id.clone()),
            Record::Machine(row) => RecordKey::Machine(row.id.clone()),
            Record::Event(row) => RecordKey::Event(row.job.clone(), row.seq),
            Record::Repository(row) => RecordKey::Repository(row.name.clone()),
            Record::Plan(row) => RecordKey::Plan(row.digest.clone()),
            Record::Allowance(row) => RecordKey::Allowance(row.name.clone()),
        }
    }

    /// The stored bytes: JSON.
    pub fn encode(&self) -> Vec<u8> {
        // Most rows are of tasks, and those are about so long.
        let mut bytes = Vec::with_capacity(384);
        let written = match self {
            Record::Job(row) => serde_json::to_writer(&mut bytes, row),
            Record::Version(row) => serde_json::to_writer(&mut bytes, row),
            Record::Task(row) => serde_json::to_writer(&mut bytes, row),
            Record::Machine(row) => serde_json::to_writer(&mut bytes, row),
            Record::Event(row) => serde_json::to_writer(&mut bytes, row),
            Record::Repository(row) => serde_json::to_writer(&mut bytes, row),
            Record::Plan(row) => serde_json::to_writer(&mut bytes, row),
            Record::Allowance(row) => serde_json::to_writer(&mut bytes, row),
        };
        written.expect("records hold nothing that JSON cannot");
        bytes
    }

    pub fn decode(key: &str, bytes: &[u8]) -> Result<Record, RecordError> {
        let kind = key.split('/').next().unwrap_or_default();
        let row = match kind {
            "job" => serde_json::from_slice(bytes).map(Record::Job),
            "version" => serde_json::from_slice(bytes).map(Record::Version),
            "task" => serde_json::from_slice(bytes).map(Record::Task),
            "machine" => serde_json::from_slice(bytes).map(Record::Machine),
            "event" => serde_json::from_slice(bytes).map(Record::Event),
            "repository" => serde_json::from_slice(bytes).map(Record::Repository),
            "plan" => serde_json::from_slice(bytes).map(Record::Plan),
            "allowance" => serde_json::from_slice(bytes).map(Record::Allowance),
            _ => {
                return Err(RecordError::UnknownKey {
                    key: key.to_owned(),
                });
            }
        };
        row.map_err(|source| RecordError::Unreadable {
            key: key.to_owned(),
            source,
        })
    }
}

impl RecordKey {
    /// The key in the store. Numbers are padded so that key order is number order.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(96);
        match self {
            RecordKey::Job(job) => write_place(&mut text, "job", job, &[]),
            RecordKey::Version(job, version) => {
                write_place(&mut text, "version", job, &[*version]);
            }
            RecordKey::Task(task) => {
                let numbers = [u64::from(task.index), task.incarnation];
                write_place(&mut text, "task", &task.job, &numbers);
            }
            RecordKey::Event(job, seq) => write_place(&mut text, "event", job, &[*seq]),
            RecordKey::Machine(machine) => write_named(&mut text, "machine", machine.as_str()),
            RecordKey::Repository(name) => write_named(&mut text, "repository", name.as_str()),
            RecordKey::Plan(digest) => write_named(&mut text, "plan", digest),
            RecordKey::Allowance(name) => write_named(&mut text, "allowance", name.as_str()),
        }
        text
    }
}

fn write_named(text: &mut String, kind: &str, name: &str) {
    text.push_str(kind);
    text.push('/');
    text.push_str(name);
}

fn write_place(text: &mut String, kind: &str, job: &JobId, numbers: &[u64]) {
    write_named(text, kind, job.namespace.as_str());
    text.push('/');
    text.push_str(job.name.as_str());
    for number in numbers {
        text.push('/');
        write_number(text, *number, 10);
    }
}

impl std::fmt::Display for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}
