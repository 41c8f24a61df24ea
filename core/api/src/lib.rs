//! What Twill's processes say to each other over HTTP, and the one client that says it.
//!
//! Messages are JSON. Every list of messages here is the whole contract: a controller and an agent of
//! neighbouring releases understand each other because fields are only added.

mod agent;
mod client;
mod error;
mod input;
mod jobs;
mod review;
mod session;
mod sse;

pub use agent::{
    AgentEvent, Assignment, Dial, Heartbeat, HeartbeatReply, LimitNote, MachineSample, PROTO,
    PROTO_OLDEST, Register, Registered, UsageReport, UsageReports,
};
pub use client::{Client, ClientError, Connection, Endpoint as ApiEndpoint, EventStream};
pub use error::ErrorBody;
pub use input::{InputCredit, InputGrants, input_credit};
pub use jobs::{
    AllowanceRequest, AllowancesReply, AppliedJob, ApplyReply, ApplyRequest, DrainReply,
    DrainRequest, DrainStart, EventsReply, FenceReply, HealthReply, JobHistory, JobStatus,
    JobSummary, JobsReply, MachineStatus, MachinesReply, OutageStatus, PackageReply, PlanRequest,
    Reserved, RolloutReply, RolloutRequest, RolloutStatus, ScaleStatus, ScheduleStatus,
    SecretReply, SecretStatus, SecretsReply, ServicesReply, SpecReply, StopReply, StopRequest,
    SubmittedJob, TaskStatus, UsagePoint, UsageReply, VersionSummary, WaitingTasks, WhyReply,
};
pub use review::{
    ApproveReply, DecideRequest, PageReply, PageRequest, PlanReply, PlansReply, RepositoriesReply,
    RepositoryStatus, RollbackRequest,
};
pub use session::{
    ExecRequest, Frame, FrameError, FrameKind, LogLine, LogsRequest, SESSION_PROTOCOL,
    SessionRequest, Stream, discard, read_frame, write_frame,
};
pub use sse::SseDecoder;
