//! What was measured over a span of time, and how two spans add up.

use serde::{Deserialize, Serialize};

use crate::{Cores, CpuCounts, Millis};

/// The time between two samples of a task.
pub const USAGE_SAMPLE_EVERY: Millis = Millis::seconds(1);

/// What was measured. All but the peaks are sums; two of them add up in any order to the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageSum {
    /// How many samples of CPU and memory it holds.
    pub samples: u64,
    /// The samples of CPU by size.
    pub cpu: CpuCounts,
    pub cpu_sum_millicores: u64,
    pub cpu_max_millicores: u64,
    pub memory_max_bytes: u64,
    /// How often a task ran out of memory.
    pub oom_kills: u64,
    /// For how long the CPU limit stopped it.
    pub throttled_us: u64,
    /// For how long all of a task waited for CPU, memory or disk.
    pub stalled_us: u64,
    /// Read from and written to disks.
    pub disk_bytes: u64,
    /// Received and sent.
    pub network_bytes: u64,
    /// Tasks that were started.
    pub starts: u64,
    /// Tasks that ended, and how long they had run together.
    pub ends: u64,
    pub ran_ms: u64,
}

/// No measured value is larger; what is comes from a broken meter and is refused.
const VALUE_MAX: u64 = 1 << 53;

impl UsageSum {
    /// One sample.
    pub fn sample(cpu_millicores: u64, memory_bytes: u64) -> UsageSum {
        let mut cpu = CpuCounts::default();
        cpu.add(Cores(cpu_millicores));
        UsageSum {
            samples: 1,
            cpu,
            cpu_sum_millicores: cpu_millicores,
            cpu_max_millicores: cpu_millicores,
            memory_max_bytes: memory_bytes,
            ..UsageSum::default()
        }
    }

    /// Adds what was measured elsewhere, or at another time. Sums stop at the largest number that a file holds.
    pub fn merge(&mut self, other: &UsageSum) {
        let add = |one: &mut u64, other: u64| {
            *one = one.saturating_add(other).min(i64::MAX as u64);
        };
        add(&mut self.samples, other.samples);
        self.cpu.merge(&other.cpu);
        add(&mut self.cpu_sum_millicores, other.cpu_sum_millicores);
        self.cpu_max_millicores = self.cpu_max_millicores.max(other.cpu_max_millicores);
        self.memory_max_bytes = self.memory_max_bytes.max(other.memory_max_bytes);
        add(&mut self.oom_kills, other.oom_kills);
        add(&mut self.throttled_us, other.throttled_us);
        add(&mut self.stalled_us, other.stalled_us);
        add(&mut self.disk_bytes, other.disk_bytes);
        add(&mut self.network_bytes, other.network_bytes);
        add(&mut self.starts, other.starts);
        add(&mut self.ends, other.ends);
        add(&mut self.ran_ms, other.ran_ms);
    }

    /// Whether the values can have been measured: none is absurd, and there are as many counts as samples.
    pub fn is_plausible(&self) -> bool {
        let values = [
            self.samples,
            self.cpu_sum_millicores,
            self.cpu_max_millicores,
            self.memory_max_bytes,
            self.oom_kills,
            self.throttled_us,
            self.stalled_us,
            self.disk_bytes,
            self.network_bytes,
            self.starts,
            self.ends,
            self.ran_ms,
        ];
        values.iter().all(|value| *value <= VALUE_MAX) && self.cpu.samples() == self.samples
    }
}
