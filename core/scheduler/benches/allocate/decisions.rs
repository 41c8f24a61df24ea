//! Whole decisions: jobs of 36 tasks (Twine's average) are planned, placed and applied to the state, rows and all. A tenth
//! of the jobs ask for more than room.

use std::time::{Duration, Instant};

use serde_json::json;
use tw_model::{
    Bytes, Capacity, Cores, JobSpec, MachineFacts, MachineRecord, MachineState, Record, SourceRef,
    Timestamp,
};
use tw_scheduler::{
    Event, Op, Reply, State, Submission, SubmittedJob, TXN_OPS_MAX, Txn, Verdict, step,
};

use crate::chance::Chance;
use crate::print;

pub(crate) const TASKS_PER_JOB: u32 = 36;

/// How long each figure is measured at most.
const MEASURED: Duration = Duration::from_secs(2);

pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

const MACHINES_PER_RACK: usize = 40;

/// One job in so many requires a label that half of the machines have, is spread over racks, and wants a machine for each
/// task.
const CHOOSY: u64 = 10;

pub(crate) fn run() {
    for machines in [1_000, 10_000] {
        let placed = place(machines);
        print(&format!(
            r#"{{"bench":"scheduler.placements","machines":{machines},"tasks":{},"placements_per_second":{:.0},"decision_p50_us":{},"decision_p99_us":{}}}"#,
            placed.tasks,
            f64::from(placed.tasks) / placed.took.as_secs_f64(),
            placed.percentile_us(50),
            placed.percentile_us(99),
        ));
    }
}

struct Placed {
    tasks: u32,
    took: Duration,
    /// One a job, sorted.
    decisions: Vec<Duration>,
}

impl Placed {
    fn percentile_us(&self, percent: usize) -> u128 {
        let last = self.decisions.len().saturating_sub(1);
        self.decisions
            .get(last * percent / 100)
            .map_or(0, Duration::as_micros)
    }
}

fn place(machines: u32) -> Placed {
    let mut state = fleet(machines);
    let mut chance = Chance(1);
    let mut placed = Placed {
        tasks: 0,
        took: Duration::ZERO,
        decisions: Vec::new(),
    };
    for number in 0.. {
        let mut spec = job(number, &mut chance);
        if number % CHOOSY == 0 {
            constrain(&mut spec);
        }
        let event = submit(&spec);
        let begun = Instant::now();
        let decision = step(&state, &event, NOW, number);
        decision.txns.iter().for_each(|txn| state.apply(txn));
        let took = begun.elapsed();
        assert!(fits(&decision.reply), "{:?}", decision.reply);
        placed.tasks += TASKS_PER_JOB;
        placed.took += took;
        placed.decisions.push(took);
        // A tenth of the machines' cores on average: nothing is turned away.
        let enough = placed.tasks >= machines * 5;
        if enough || placed.took > MEASURED {
            break;
        }
    }
    placed.decisions.sort_unstable();
    placed
}

/// Whether every task of what was submitted found a machine: only these are counted.
fn fits(reply: &Reply) -> bool {
    match reply {
        Reply::Submitted(plan) => plan.jobs.iter().all(|job| job.verdict == Verdict::Fits),
        _ => false,
    }
}

/// Millicores and bytes of each machine: three sizes, as fleets have them.
fn sizes(machines: u32) -> impl Iterator<Item = (u64, u64)> {
    (0..machines).map(|number| match number % 4 {
        0 => (16_000, 64 << 30),
        3 => (64_000, 128 << 30),
        _ => (32_000, 128 << 30),
    })
}

pub(crate) fn fleet(machines: u32) -> State {
    let rows = sizes(machines).enumerate().map(|(number, (cpu, memory))| {
        Op::Put(Record::Machine(MachineRecord {
            id: format!("machine-{number}").parse().expect("it is a name"),
            epoch: 1,
            boot_id: "boot".to_owned(),
            state: MachineState::Up,
            capacity: Capacity {
                cpu: Cores(cpu),
                memory: Bytes(memory),
                disk: Bytes::gib(4000),
                bandwidth: Bytes(0),
                port_first: 20_000,
                port_last: 29_999,
            },
            facts: MachineFacts {
                rack: format!("rack-{}", number / MACHINES_PER_RACK),
                labels: [("disk".to_owned(), ["ssd", "hdd"][number / 2 % 2].to_owned())].into(),
                ..MachineFacts::default()
            },
            registered_at: NOW,
            changed_at: NOW,
            drain: None,
            next_drain: None,
            flaps: None,
            ailments: Vec::new(),
            spared_until: None,
            identity: Box::default(),
        }))
    });
    let rows: Vec<Op> = rows.collect();
    let mut state = State::default();
    for part in rows.chunks(TXN_OPS_MAX) {
        state.apply(&Txn { ops: part.to_vec() });
    }
    state
}

pub(crate) fn job(number: u64, chance: &mut Chance) -> JobSpec {
    let cpu = chance.range(1, 33) * 125;
    let memory = chance.range(1, 33) * (256 << 20);
    let spec = json!({
        "name": format!("job-{number}"), "command": ["work"], "replicas": TASKS_PER_JOB,
        "resources": {"cpu_millicores": cpu, "memory_bytes": memory, "disk_bytes": 1 << 30},
    });
    serde_json::from_value(spec).expect("the spec is right")
}

fn constrain(spec: &mut JobSpec) {
    let read = "the field is right";
    let apart = json!([{"job": spec.name, "within": "machine"}]);
    spec.requires = serde_json::from_value(json!({"labels": {"disk": "ssd"}})).expect(read);
    spec.spread = serde_json::from_value(json!([{"over": "rack", "at_least": 3}])).expect(read);
    spec.anti_affinity = serde_json::from_value(apart).expect(read);
}

pub(crate) fn submit(spec: &JobSpec) -> Event {
    let job = SubmittedJob {
        spec: spec.clone(),
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
