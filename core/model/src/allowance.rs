//! What the jobs of a team may ask for together, as the cluster's operators have set it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bytes, Cores, Name, Resources, Timestamp};

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

/// How one band of an allowance is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllowanceUse {
    pub allowance: Name,
    pub band: AllowanceBand,
    /// What is charged before the plan.
    pub before: Charge,
    /// What is charged once it is applied; the same without a plan.
    pub after: Charge,
    /// Whether the plan raises it above what is allowed.
    pub over: bool,
    /// The smallest change with which it would fit; empty where it does, or nothing in the plan would help.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// What jobs ask for together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    #[serde(rename = "cpu_millicores")]
    pub cpu: Cores,
    #[serde(rename = "memory_bytes")]
    pub memory: Bytes,
}

impl Charge {
    /// What so many tasks that each ask for this are charged.
    pub fn of_tasks(each: &Resources, tasks: u32) -> Charge {
        let tasks = u64::from(tasks);
        Charge {
            cpu: Cores(each.cpu.0.saturating_mul(tasks)),
            memory: Bytes(each.memory.0.saturating_mul(tasks)),
        }
    }

    /// Adds what others are charged.
    pub fn add(&mut self, other: Charge) {
        self.cpu = Cores(self.cpu.0.saturating_add(other.cpu.0));
        self.memory = Bytes(self.memory.0.saturating_add(other.memory.0));
    }
}

impl fmt::Display for AllowanceUse {
    /// `allowance shop: 12 of 10 cores, 3 GiB of 64 GiB of memory; over by 2 cores; with 8 tasks of web it would fit`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allowance {}", self.allowance)?;
        if self.band.from_priority > 0 {
            write!(f, " from priority {}", self.band.from_priority)?;
        }
        write!(
            f,
            ": {} of {} cores, {} of {} of memory",
            self.after.cpu, self.band.cpu, self.after.memory, self.band.memory
        )?;
        let mut over = Vec::new();
        if self.after.cpu > self.band.cpu {
            over.push(format!("{} cores", self.after.cpu - self.band.cpu));
        }
        if self.after.memory > self.band.memory {
            over.push(format!(
                "{} of memory",
                self.after.memory - self.band.memory
            ));
        }
        if !over.is_empty() {
            write!(f, "; over by {}", over.join(" and "))?;
        }
        match (self.over, self.advice.is_empty()) {
            (true, false) => write!(f, "; {}", self.advice),
            (false, _) if !over.is_empty() => f.write_str(", and no more than before"),
            _ => Ok(()),
        }
    }
}
