//! One task's keeper: a small process that is the task's parent, drains its output, and records its end.
//!
//! It outlives the agent. Its folder is its contract: `launch.json` says what to run, `started.json` who
//! runs, `exit.json` how it ended, `log/` what was printed, and `helper.sock` takes requests.

pub mod client;
mod diagnostics;
mod folder;
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

pub use diagnostics::say;
pub use folder::{lock, make_tasks_folder, prepare_folder, remove_scratch};
pub use keeper::{HelperError, keep};
pub use memory::{MemoryHolder, OomRecord};
pub use session::{DebugRequest, ExecRequest, serve as serve_session};

use crate::sandbox::UserMode;

/// The word with which the helper first makes a user namespace of its own, and then does what the other words say.
pub const ALONE: &str = "alone";

/// The exit code of a probe that found nothing out: the disk may be full.
pub const UNDECIDED: u8 = 75;

/// [`ALONE`], where the agent is no root.
pub(crate) fn alone_word(users: UserMode) -> Option<&'static str> {
    (users == UserMode::Single).then_some(ALONE)
}
