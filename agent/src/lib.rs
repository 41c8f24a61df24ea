//! What runs on every machine: the agent, and a helper for each of its tasks.
//!
//! The lower half touches the machine and knows nothing of the controller: [`cgroup`], [`sandbox`],
//! [`log`] and [`helper`]. It is single-threaded and used by `tw-helper`. [`manager`] is the agent itself.

pub mod cgroup;
pub mod error;
pub mod failpoint;
pub mod helper;
mod kernel_file;
pub mod log;
pub mod manager;
pub mod process;
pub mod removal;
pub mod sandbox;
