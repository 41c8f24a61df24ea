//! What an agent says of its tasks.

use serde::{Deserialize, Serialize};

use crate::{Bytes, Code, Cores, JobId, Name, Number, Remedy, TaskId, Timestamp};

/// How a task ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; none when a signal ended the task.
    pub code: Option<i32>,
    /// The number of the signal that ended the task.
    pub signal: Option<i32>,
    /// Whether the task had run out of memory.
    pub oom: bool,
}

impl Exit {
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.oom
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.oom {
            return f.write_str("ran out of memory");
        }
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => write!(f, "ended in an unknown way"),
        }
    }
}

/// What became of a task. Reports may arrive twice and out of order; an ended task stays ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The agent has the assignment and prepares the sandbox.
    Starting,
    /// The program runs.
    Running { started_at: Timestamp },
    /// The health checks changed their mind. Sent only while running.
    Health {
        healthy: bool,
        detail: String,
        /// What the checks that failed ask for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remedy: Option<Remedy>,
    },
    /// The stop signal was sent, or its drain time runs.
    Stopping,
    /// The task ended after it had run.
    Exited {
        exit: Exit,
        at: Timestamp,
        detail: String,
    },
    /// The task never ran and never will.
    NeverStarted {
        code: Code,
        message: String,
        at: Timestamp,
    },
}

/// One report of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Counts the reports of one agent since it began; higher is newer.
    pub seq: u64,
    pub task: TaskId,
    #[serde(flatten)]
    pub phase: Phase,
}

/// Where a healthy task of a service listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub job: JobId,
    pub port: Name,
    pub task: TaskId,
    /// `HOST:PORT`.
    pub address: String,
}

/// What a task uses now, and the limits that hold now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskUsage {
    pub task: TaskId,
    /// Average over the last sampling interval.
    pub cpu: Cores,
    pub memory: Bytes,
    pub memory_peak: Bytes,
    /// The limits in the task's cgroup.
    pub cpu_limit: Cores,
    pub memory_limit: Bytes,
    /// What the learned policy would set; none until there is enough history.
    pub cpu_recommended: Option<Cores>,
    pub memory_recommended: Option<Bytes>,
    /// How much history the recommendation rests on.
    pub history_ms: u64,
    pub samples: u64,
    pub ooms: u64,
    /// The number that the job's number of tasks follows, as a check read it last, in millionths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<Number>,
}
