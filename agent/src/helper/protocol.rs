//! What is said over `helper.sock`: JSON, one message a line, the helper's [`Hello`] first.

use serde::{Deserialize, Serialize};

use super::memory::OomRecord;
use super::record::{ExitRecord, TermEnd};
use crate::log::LogCounts;

/// The version this build speaks, and the oldest it understands.
pub const PROTO: u32 = 4;
pub const PROTO_OLDEST: u32 = 1;

/// The helper's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub proto: u32,
    pub proto_oldest: u32,
    pub task: String,
}

/// What an agent asks. Every request is answered by one [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// What the agent speaks; a helper says nothing that an older one would not understand. Since 2.
    Agent {
        proto: u32,
    },
    Status,
    /// After `after_ms` send `signal`, and kill what is left `grace_ms` later. Asked again, the earlier
    /// deadlines stand.
    Stop {
        signal: i32,
        after_ms: u64,
        grace_ms: u64,
    },
    Kill,
    /// The task may run until then; a later end counts (since 3).
    Prolong {
        term: TermEnd,
    },
    /// The end is known (since 2): a helper that cannot write it down need not wait any more.
    Acknowledge,
}

/// What a helper says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum Reply {
    Status(Status),
    /// Done, or arranged.
    Done,
    Refused {
        message: String,
    },
    /// The task has started in full, its post-start hook included. Said unasked. Since 2.
    Ready,
    /// The task has run out of memory and is asked to end; said unasked. Since 2.
    OutOfMemory {
        record: Box<OomRecord>,
    },
    /// The task has ended and its record is on disk; said once, unasked, as the last line.
    Ended {
        record: Box<ExitRecord>,
    },
    /// A word of a newer release.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub started_at_us: i64,
    pub is_stopping: bool,
    /// Whether its post-start hook still runs.
    #[serde(default)]
    pub is_starting: bool,
    pub log: LogCounts,
}
