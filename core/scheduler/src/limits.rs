//! Learns the limits of a task from what it has used. The agent applies them, the controller shows them, and
//! `tw replay` runs the same code over recorded use.
//!
//! Stages, each a file: what is remembered ([`cpu::CpuUse`], [`memory::MemoryUse`],
//! [`batch::BatchUse`]) gives a
//! target at any moment; [`Hysteresis`] decides whether a target is worth a change; the spec's bounds come
//! last. [`oom::OomResponse`], [`boost`] and [`canary::Canary`] stand beside them and never touch what is remembered.
//! [`LimitPolicy`] puts the stages together for a running job.
//!
//! Running short of CPU slows a task, running short of memory ends it. So CPU follows percentiles and memory follows
//! peaks; both are raised at once and lowered late. Every constant has its reason beside it, and in `docs/limits.md`
//! what it does on recorded traces.

pub mod batch;
pub mod boost;
pub mod canary;
mod confidence;
pub mod cpu;
pub(crate) mod histogram;
mod horizon;
mod hysteresis;
mod learner;
mod margin;
pub mod memory;
pub mod oom;
mod peaks;
mod policy;
mod weekly;

pub use confidence::Confidence;
pub use horizon::Horizon;
pub use hysteresis::{CPU_RULE, ChangeRule, Choice, Hysteresis, MEMORY_RULE};
pub use learner::Learner;
pub use policy::{Learned, LimitAnswer, LimitPolicy, LimitSet, UsageBucket};
