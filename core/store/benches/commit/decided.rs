//! Placements as the controller commits them: decided, applied, encoded, and acknowledged after the sync.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tw_model::{Record, SourceRef, Timestamp};
use tw_scheduler::{Event, Op, State, Submission, SubmittedJob, step};
use tw_store::{Pipeline, Txn};

use super::{MEASURED, Opened, print};

const MACHINES: u32 = 10_000;
const TASKS_PER_JOB: u32 = 36;
const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

struct Request {
    event: Event,
    done: oneshot::Sender<()>,
}

/// Callers each submit one job after another; one task decides, as the driver of a controller does.
pub(crate) async fn run(opened: Opened, callers: u32) {
    let (requests, mut inbox) = mpsc::channel::<Request>(1024);
    let pipeline = Pipeline::new(Arc::clone(&opened.store));
    let mut state = fleet();
    let driver = tokio::spawn(async move {
        let mut seed = 0;
        while let Some(request) = inbox.recv().await {
            seed += 1;
            let decision = step(&state, &request.event, NOW, seed);
            let mut last = None;
            for txn in &decision.txns {
                state.apply(txn);
                last = Some(pipeline.submit(encode(txn)));
            }
            tokio::spawn(async move {
                if let Some(commit) = last {
                    commit.await.expect("committed");
                }
                let _ = request.done.send(());
            });
        }
    });
    let started = Instant::now();
    let callers: Vec<_> = (0..callers)
        .map(|caller| tokio::spawn(call(requests.clone(), caller, started)))
        .collect();
    drop(requests);
    let mut jobs = 0;
    for caller in callers {
        jobs += caller.await.expect("a caller ends");
    }
    let took = started.elapsed();
    driver.await.expect("the driver ends");
    print(&format!(
        r#"{{"bench":"store.decided_placements","backend":"sqlite","machines":{MACHINES},"callers":100,"tasks_per_job":{TASKS_PER_JOB},"placements_per_second":{:.0}}}"#,
        f64::from(jobs * TASKS_PER_JOB) / took.as_secs_f64(),
    ));
}

async fn call(requests: mpsc::Sender<Request>, caller: u32, started: Instant) -> u32 {
    let mut jobs = 0;
    while started.elapsed() < MEASURED {
        let (done, answered) = oneshot::channel();
        let event = submit(caller, jobs);
        requests
            .send(Request { event, done })
            .await
            .unwrap_or_else(|_| unreachable!("the driver outlives its callers"));
        answered.await.expect("answered");
        jobs += 1;
    }
    jobs
}

fn submit(caller: u32, number: u32) -> Event {
    let spec = json!({
        "name": format!("job-{caller}-{number}"), "command": ["work"], "replicas": TASKS_PER_JOB,
        "resources": {"cpu_millicores": 100 + (number % 8) * 50, "memory_bytes": 128 << 20},
    });
    let job = SubmittedJob {
        spec: serde_json::from_value(spec).expect("the spec is right"),
        source: SourceRef::default(),
    };
    Event::Submit {
        submission: Submission {
            jobs: vec![job],
            by: "bench".to_owned(),
            ..Submission::default()
        },
        expected: None,
    }
}

fn fleet() -> State {
    let machines = (0..MACHINES).map(|number| {
        let row = json!({
            "id": format!("machine-{number}"), "epoch": 1, "boot_id": "boot", "state": "up",
            "capacity": {
                "cpu_millicores": 64_000, "memory_bytes": 256u64 << 30, "disk_bytes": 4u64 << 40,
                "port_first": 20_000, "port_last": 29_999,
            },
            "facts": {
                "address": "", "os": "", "kernel": "", "rack": "", "labels": {}, "enforces": [],
            },
            "registered_at": NOW, "changed_at": NOW,
        });
        Record::Machine(serde_json::from_value(row).expect("the row is right"))
    });
    State::from_records(machines)
}

fn encode(txn: &tw_scheduler::Txn) -> Txn {
    txn.ops.iter().fold(Txn::new(), |encoded, op| match op {
        Op::Put(record) => encoded.put(record.key().text(), record.encode()),
        Op::Delete(key) => encoded.delete(key.text()),
    })
}
