//! Room that a task was promised and has been found not to need is lent to others.
//!
//! A task is placed with its request. Once its limits follow its use ([`crate::limits`]), it holds on its machine what they
//! are, so that placement sees the rest as free. More is held at once, less only where it is worth a row. A machine that
//! is short of memory lends nothing: its tasks hold their requests, so nothing more comes there.

use tw_model::{Bytes, Cores, FittedRecord, JobSpec, LimitMode};

use crate::limits::LimitSet;

/// Less is held only where it is less by more than this.
const WORTH: f64 = 0.1;

/// What a running task should hold on its machine; none stands for its request.
///
/// `limits` are those in its cgroup, `has` is what it holds now.
pub fn fitted(
    spec: &JobSpec,
    limits: LimitSet,
    has: Option<FittedRecord>,
    machine_is_strained: bool,
) -> Option<FittedRecord> {
    if spec.limits.mode != LimitMode::Auto || machine_is_strained {
        return None;
    }
    let request = FittedRecord {
        cpu: spec.resources.cpu,
        memory: spec.resources.memory,
    };
    let holds = has.unwrap_or(request);
    let found = FittedRecord {
        cpu: Cores(settled(holds.cpu.0, limits.cpu.0)),
        memory: Bytes(settled(holds.memory.0, limits.memory.0)),
    };
    (found != request).then_some(found)
}

fn settled(holds: u64, limit: u64) -> u64 {
    match limit > holds || (limit as f64) < holds as f64 * (1.0 - WORTH) {
        true => limit,
        false => holds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mode: &str) -> JobSpec {
        serde_json::from_value(serde_json::json!({
            "name": "web", "command": ["web"], "limits": {"mode": mode},
            "resources": {"cpu_millicores": 1000, "memory_bytes": 1_u64 << 30},
        }))
        .expect("the spec is right")
    }

    fn record(cpu: u64, mib: u64) -> FittedRecord {
        FittedRecord {
            cpu: Cores(cpu),
            memory: Bytes::mib(mib),
        }
    }

    fn set(cpu: u64, mib: u64) -> LimitSet {
        LimitSet {
            cpu: Cores(cpu),
            memory: Bytes::mib(mib),
        }
    }

    #[test]
    fn more_is_held_at_once_and_less_where_it_is_worth_it() {
        let spec = spec("auto");
        let fit = |limits, has| fitted(&spec, limits, has, false);
        assert_eq!(fit(set(200, 256), None), Some(record(200, 256)));
        let has = Some(record(200, 256));
        assert_eq!(fit(set(190, 250), has), has);
        assert_eq!(fit(set(150, 257), has), Some(record(150, 257)));
        assert_eq!(fit(set(1000, 1024), has), None);
        assert_eq!(fit(set(1000, 1200), has), Some(record(1000, 1200)));
    }

    #[test]
    fn nothing_is_lent_where_memory_is_short_or_nobody_asked_for_it() {
        let has = Some(record(200, 256));
        assert_eq!(fitted(&spec("auto"), set(200, 256), has, true), None);
        assert_eq!(fitted(&spec("observe"), set(200, 256), has, false), None);
    }
}
