//! What a job costs whose tasks find no room: its plan, the decision that takes it in, and every later look at it.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tw_model::{JobSpec, MachineId, Record, TaskRecord, Timestamp};
use tw_scheduler::{Event, Op, Reply, State, TXN_OPS_MAX, Txn, plan, step};

use crate::decisions::{self, NOW};
use crate::{print, rest};

const MACHINES: u32 = 1_000;

/// Cores and GiB of memory of each task that fills the machines.
const FILLER: (u64, u64) = (16, 32);

pub(crate) fn run() {
    // Nobody has less priority; all have, and they give way; all have, and no machine would have room without them.
    let higher = |cores: u64| json!({"priority": 500, "cores": cores});
    measure(
        "nobody gives way",
        1_000,
        &json!({"priority": 0, "cores": 2}),
    );
    measure("all give way", 1_000, &higher(2));
    measure("too large", 1_000, &higher(80));
    let choosy = json!({"priority": 500, "cores": 80, "choosy": true});
    measure("too large, spread and kept apart", 10_000, &choosy);
}

fn measure(what: &str, tasks: u32, asks: &Value) {
    let mut state = full();
    let event = decisions::submit(&spec(tasks, asks));
    let Event::Submit { submission, .. } = &event else {
        return;
    };
    let timed = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64() * 1000.0
    };
    let plan_ms = timed(&mut || drop(plan(&state, submission, NOW, 1).expect("it may be applied")));
    let mut decided = None;
    let decision_ms = timed(&mut || decided = Some(step(&state, &event, NOW, 1)));
    let decided = decided.expect("it was timed");
    assert!(
        matches!(decided.reply, Reply::Submitted(_)),
        "{:?}",
        decided.reply
    );
    decided.txns.iter().for_each(|txn| state.apply(txn));
    let tick_ms = timed(&mut || drop(step(&state, &Event::Tick, NOW, 2)));
    print(&format!(
        r#"{{"bench":"scheduler.waiting","why":"{what}","machines":{MACHINES},"tasks":{tasks},"plan_ms":{plan_ms:.1},"decision_ms":{decision_ms:.1},"tick_ms":{tick_ms:.1}}}"#
    ));
}

/// Machines whose cores all belong to one job.
fn full() -> State {
    let mut state = decisions::fleet(MACHINES);
    let (cores, memory) = FILLER;
    let places = state.machines().flat_map(|machine| {
        let fit = machine.capacity.cpu.0 / (cores * 1000);
        (0..fit).map(|_| machine.id.clone())
    });
    let places: Vec<MachineId> = places.collect();
    let filler = json!({
        "name": "filler", "command": ["work"], "replicas": places.len(), "priority": 100,
        "rollout": {"max_unavailable": places.len()},
        "resources": {"cpu_millicores": cores * 1000, "memory_bytes": memory << 30, "disk_bytes": 1 << 30},
    });
    let filler: Arc<JobSpec> = Arc::new(serde_json::from_value(filler).expect("the spec is right"));
    let mut ops = rest::header(&filler);
    let tasks = (0..).zip(&places);
    ops.extend(tasks.map(|(index, machine)| {
        // It has served for long enough to be counted on.
        let row = TaskRecord {
            healthy_since: Some(Timestamp(0)),
            ..rest::task(&filler, index, machine)
        };
        Op::Put(Record::Task(Arc::new(row)))
    }));
    for part in ops.chunks(TXN_OPS_MAX) {
        state.apply(&Txn { ops: part.to_vec() });
    }
    state
}

fn spec(tasks: u32, asks: &Value) -> JobSpec {
    let cores = asks["cores"].as_u64().expect("it asks for cores");
    let mut spec = json!({
        "name": "waits", "command": ["work"], "replicas": tasks, "priority": asks["priority"],
        "resources": {"cpu_millicores": cores * 1000, "memory_bytes": 1 << 30, "disk_bytes": 1 << 30},
    });
    if asks["choosy"] == true {
        spec["spread"] = json!([{"over": "rack", "at_least": 3}]);
        spec["anti_affinity"] = json!([{"job": "waits", "within": "machine"}]);
    }
    serde_json::from_value(spec).expect("the spec is right")
}
