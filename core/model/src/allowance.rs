//! What the jobs of a team may ask for together, as the cluster's operators have set it.

use serde::{Deserialize, Serialize};

use crate::{Bytes, Cores, Name, Timestamp};

/// An allowance. Jobs are charged to it by what their specs ask for, not by what they use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowanceRecord {
    pub name: Name,
    /// The highest priority first; each counts the jobs of its priority and above.
    pub bands: Vec<AllowanceBand>,
    /// Who set it last.
    pub by: String,
    pub at: Timestamp,
}

/// How much the jobs of a priority and above may ask for together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowanceBand {
    /// The lowest priority that counts; 0 for all jobs.
    pub from_priority: u32,
    #[serde(rename = "cpu_millicores")]
    pub cpu: Cores,
    #[serde(rename = "memory_bytes")]
    pub memory: Bytes,
}
