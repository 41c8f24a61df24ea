//! The published methods that Twill is held against.

mod autopilot;
mod krr;
mod oracle;
mod vpa;

pub use autopilot::Autopilot;
pub use krr::Krr;
pub(super) use krr::memory_limit as krr_memory_limit;
pub use oracle::Oracle;
pub use vpa::Vpa;
