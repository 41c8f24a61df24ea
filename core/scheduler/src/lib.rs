//! Twill's decisions: what runs where, and what happens next.
//!
//! Pure: the state, the time and the seed are arguments. No files, no database, no clock, no chance of its own.
//! A caller keeps a [`State`], asks [`step`] what an [`Event`] means, applies the answer at once, commits it, and
//! lets nothing leave before it is durable.

pub mod ailment;
mod alarms;
mod allocate;
mod allowance;
mod assignments;
mod broker;
mod budget;
mod caveat;
mod control;
mod daemon;
mod departure;
mod dependency;
mod domains;
mod draft;
mod drain;
mod drift;
mod dry_run;
mod endpoints;
mod escalate;
mod fleet;
mod forecast;
mod identity;
mod index;
pub mod lease;
pub mod lending;
pub mod lifecycle;
mod limiter;
pub mod limits;
mod maintenance;
mod neighbours;
pub mod outage;
mod overlay;
mod plan;
mod preempt;
mod ranked;
mod reach;
pub mod recommend;
mod reconcile;
mod remedy;
pub mod replay;
mod requires;
mod review;
mod rollout;
mod runs;
pub mod scale;
mod seed;
pub mod simulate;
mod state;
pub mod steadiness;
mod step;
mod txn;
mod unsettled;
mod why;

pub use allowance::{AllowanceOrder, allowances};
pub use assignments::{assignment, assignments};
pub use broker::{Broker, Receipt, TickMs};
pub use caveat::Caveat;
pub use control::{Consultation, PendingOperation, consultations};
pub use drain::DrainOrder;
pub use drift::{Drift, DriftKind};
pub use endpoints::{Service, endpoints, job_endpoints, serves};
pub use fleet::Request;
pub use limiter::{ConfirmRule, Confirmation, StopLimiter, StopLimits, StopRate};
pub use plan::{
    CapacityDelta, Destruction, ExpectedPlan, JobPlan, Plan, PlanBasis, Submission, SubmittedJob,
    TaskCounts, TaskPlan, Verdict, moved_between, plan,
};
pub use review::{Review, continues, from_nowhere};
pub use rollout::RolloutOrder;
pub use state::{JobState, State};
pub use step::{Decision, Event, Refusal, Reply, ReportRefusal, SchedulerConfig, step};
pub use txn::{Op, TXN_BYTES_MAX, TXN_OPS_MAX, Txn};
pub use why::{Closest, NoRoom, PendingWhy, Resource, RuledOut, Shortage, why_pending};
