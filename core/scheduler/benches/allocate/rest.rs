//! What a large cluster costs at rest: memory, and looking at it while nothing happens.

use std::sync::Arc;
use std::time::Instant;

use tw_model::{
    JobRecord, JobSpec, MachineId, Record, SourceRef, TaskId, TaskRecord, TaskState, VersionRecord,
};
use tw_scheduler::{Event, Op, TXN_OPS_MAX, Txn, step};

use crate::chance::Chance;
use crate::decisions::{self, NOW};
use crate::print;

const MACHINES: u32 = 100_000;
const TASKS: u32 = 1_000_000;

pub(crate) fn run() {
    let before = resident_bytes();
    let mut state = decisions::fleet(MACHINES);
    let names: Vec<MachineId> = state.machines().map(|row| row.id.clone()).collect();
    let mut chance = Chance(1);
    let jobs = TASKS / decisions::TASKS_PER_JOB;
    for number in 0..jobs {
        let spec = Arc::new(decisions::job(u64::from(number), &mut chance));
        let first = number * decisions::TASKS_PER_JOB;
        let mut ops = header(&spec);
        ops.extend((0..decisions::TASKS_PER_JOB).map(|index| {
            let machine = &names[((first + index) % MACHINES) as usize];
            Op::Put(Record::Task(Arc::new(task(&spec, index, machine))))
        }));
        for part in ops.chunks(TXN_OPS_MAX) {
            state.apply(&Txn { ops: part.to_vec() });
        }
    }
    let resident = resident_bytes().saturating_sub(before);
    let time = |event: Event| {
        let begun = Instant::now();
        let decision = step(&state, &event, NOW, 1);
        assert!(decision.txns.is_empty(), "nothing is to be done");
        begun.elapsed().as_secs_f64() * 1000.0
    };
    print(&format!(
        r#"{{"bench":"scheduler.rest","machines":{MACHINES},"tasks":{},"resident_mib":{},"tick_ms":{:.3},"audit_ms":{:.0}}}"#,
        jobs * decisions::TASKS_PER_JOB,
        resident >> 20,
        time(Event::Tick),
        time(Event::Audit),
    ));
}

/// The rows of a job without those of its tasks.
pub(crate) fn header(spec: &Arc<JobSpec>) -> Vec<Op> {
    vec![
        Op::Put(Record::Version(version(spec))),
        Op::Put(Record::Job(job(spec))),
    ]
}

fn job(spec: &JobSpec) -> JobRecord {
    let value = serde_json::json!({
        "id": spec.id(), "version": 1, "stable_version": 1, "next_incarnation": 100, "next_event": 1,
        "stopped": false, "rollout": null, "created_at": NOW, "updated_at": NOW,
    });
    serde_json::from_value(value).expect("the row is right")
}

fn version(spec: &Arc<JobSpec>) -> Arc<VersionRecord> {
    let value = serde_json::json!({
        "job": spec.id(), "version": 1, "spec": spec, "source": SourceRef::default(),
        "plan": "", "by": "bench", "at": NOW,
    });
    Arc::new(serde_json::from_value(value).expect("the row is right"))
}

pub(crate) fn task(spec: &JobSpec, index: u32, machine: &MachineId) -> TaskRecord {
    TaskRecord {
        state: TaskState::Running,
        machine: Some(machine.clone()),
        machine_epoch: 1,
        healthy_since: Some(NOW),
        report_seq: 1,
        started_at: Some(NOW),
        ..TaskRecord::pending(TaskId::new(spec.id(), index, u64::from(index) + 1), 1, NOW)
    }
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0u64) * 4096
}
