//! The nouns and units of Twill: ids, the job spec and its field effects, task states, stored records, error codes.
//!
//! No I/O, no clock, no randomness. Every other crate of the workspace may depend on this one.

// First: its macros declare the types of the others.
#[macro_use]
mod schema;

mod allowance;
mod author;
mod change;
mod code;
mod companion;
mod cpu_counts;
mod cron;
mod duration;
mod effect;
mod id;
mod job;
mod mask;
mod meant;
mod metric;
mod path;
mod policy;
mod price;
mod python;
mod record;
mod reference;
mod report;
mod review;
mod stage;
mod template;
mod units;
mod usage;
mod values;
mod version;

pub use allowance::{AllowanceBand, AllowanceRecord, AllowanceUse, Charge};
pub use author::{Decoder, Location, Problem, nearest};
pub use change::{Cause, Change, ChangeKind, ChangedModule, JobChange, diff_jobs};
pub use code::{Code, CodeInfo};
pub use companion::{LIBEXEC, companion_places};
pub use cpu_counts::{CPU_BUCKETS, CpuCounts, cpu_bucket, cpu_bucket_reach};
pub use cron::{Cron, CronError, time_zone};
pub use duration::DurationError;
pub use effect::Effect;
pub use id::{DEFAULT_NAMESPACE, IdError, Incarnation, JobId, MachineId, Name, TaskId, Version};
pub use job::*;
pub use mask::{MASK, masked};
pub use metric::{METRIC_PAGE_TYPE, MetricKind, MetricPage, MetricSelector};
pub use path::FieldPath;
pub use policy::{PolicyBasis, PolicyFinding, PolicyLevel, PolicyReport, PolicyRule};
pub use price::{PriceHole, Prices};
pub use python::{UNITS, module as python_module};
pub use record::*;
pub use reference::spec_reference;
pub use report::{Endpoint, Exit, Phase, TaskReport, TaskUsage};
pub use review::{
    CommitRef, DECIDED_PLANS_KEPT, FollowMode, PlanDecision, PlanRecord, PlanState,
    REPOSITORY_EVENTS_KEPT, RepositoryEvent, RepositoryRecord, Trouble,
};
pub use schema::{FieldInfo, Keyed, Rule, SpecType, StructInfo};
pub use stage::Stage;
pub use template::{Template, TemplateError, TemplateValue};
pub use units::{Bytes, Cores, Millis, Number, Timestamp};
pub use usage::{USAGE_SAMPLE_EVERY, UsageSum};
pub use values::{AbsolutePath, CommandLine, CronLine, Digest, EnvName, PortName, RepoPath};
pub use version::VersionRange;
