//! One task's keeper: a small process that is the task's parent, drains its output, and records its end.
//!
//! It outlives the agent. Its folder is its contract: `launch.json` says what to run, `started.json` who
//! runs, `exit.json` how it ended, `log/` what was printed, and `helper.sock` takes requests.

pub mod client;
pub mod hook;
mod keeper;
mod memory;
mod output;
pub mod protocol;
pub mod record;
mod session;
pub mod sidecar;
mod socket;
pub mod spare;
mod term;

pub use keeper::{HelperError, keep, lock, prepare_folder, remove_scratch};
pub use memory::{MemoryHolder, OomRecord};
pub use session::{DebugRequest, ExecRequest, serve as serve_session};
