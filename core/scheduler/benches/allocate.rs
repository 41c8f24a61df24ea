//! How fast tasks are placed, and how full the machines get, one JSON line a figure.
//!
//! Jobs of 36 tasks (Twine's average) are submitted to a fleet until it holds its share of tasks: every figure is of
//! whole decisions, rows and all, applied to the state. The full scan places the same jobs on the same machines by
//! looking at every machine for every task; it is what the fill is held against.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;
use tw_model::{
    Bytes, Capacity, Cores, JobSpec, MachineFacts, MachineRecord, MachineState, Record, SourceRef,
    TaskState, Timestamp,
};
use tw_scheduler::{Event, Op, Reply, State, Submission, SubmittedJob, TXN_OPS_MAX, Txn, step};

const TASKS_PER_JOB: u32 = 36;

/// How long each figure is measured at most.
const MEASURED: Duration = Duration::from_secs(2);

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn main() {
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
    let machines = 500;
    let ours = fill(machines);
    let scanned = fill_by_scan(machines);
    print(&format!(
        r#"{{"bench":"scheduler.fill","machines":{machines},"cpu_share":{ours:.4},"cpu_share_full_scan":{scanned:.4}}}"#,
    ));
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
        let event = submit(&job(number, &mut chance));
        let begun = Instant::now();
        let decision = step(&state, &event, NOW, number);
        decision.txns.iter().for_each(|txn| state.apply(txn));
        let took = begun.elapsed();
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

/// The share of all cores in use when the first task finds no room.
fn fill(machines: u32) -> f64 {
    let mut state = fleet(machines);
    let mut chance = Chance(7);
    for number in 0.. {
        let spec = job(number, &mut chance);
        let decision = step(&state, &submit(&spec), NOW, number);
        assert!(
            matches!(decision.reply, Reply::Submitted(_)),
            "{:?}",
            decision.reply
        );
        decision.txns.iter().for_each(|txn| state.apply(txn));
        let job = state.job(&spec.id()).expect("it was submitted");
        if job.tasks().any(|row| row.state == TaskState::Pending) {
            break;
        }
    }
    let used: u64 = state
        .machines()
        .map(|row| state.reserved_on(&row.id).cpu.0)
        .sum();
    let whole: u64 = state.machines().map(|row| row.capacity.cpu.0).sum();
    used as f64 / whole as f64
}

/// The same by a plain full scan for every task: fewest of the same job first, then best fit.
fn fill_by_scan(machines: u32) -> f64 {
    let mut chance = Chance(7);
    let whole: Vec<(f32, f32)> = sizes(machines)
        .map(|(cpu, memory)| (cpu as f32, memory as f32))
        .collect();
    let mut free: Vec<(i64, i64)> = sizes(machines)
        .map(|(cpu, memory)| (cpu as i64, memory as i64))
        .collect();
    'jobs: for number in 0.. {
        let spec = job(number, &mut chance);
        let (cpu, memory) = (spec.resources.cpu.0 as i64, spec.resources.memory.0 as i64);
        let mut of_job = vec![0u32; free.len()];
        for _ in 0..TASKS_PER_JOB {
            let fitting = (0..free.len()).filter(|at| free[*at].0 >= cpu && free[*at].1 >= memory);
            let best = fitting.min_by_key(|at| {
                let left_cpu = (free[*at].0 - cpu) as f32 / whole[*at].0;
                let left_memory = (free[*at].1 - memory) as f32 / whole[*at].1;
                let waste = left_cpu + left_memory + (left_cpu - left_memory).abs();
                (of_job[*at], (waste * 1000.0) as i32, *at)
            });
            let Some(best) = best else {
                break 'jobs;
            };
            of_job[best] += 1;
            free[best] = (free[best].0 - cpu, free[best].1 - memory);
        }
    }
    let left: i64 = free.iter().map(|(cpu, _)| cpu).sum();
    let all: u64 = sizes(machines).map(|(cpu, _)| cpu).sum();
    1.0 - left as f64 / all as f64
}

/// Millicores and bytes of each machine: three sizes, as fleets have them.
fn sizes(machines: u32) -> impl Iterator<Item = (u64, u64)> {
    (0..machines).map(|number| match number % 4 {
        0 => (16_000, 64 << 30),
        3 => (64_000, 128 << 30),
        _ => (32_000, 128 << 30),
    })
}

fn fleet(machines: u32) -> State {
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
                port_first: 20_000,
                port_last: 29_999,
            },
            facts: MachineFacts::default(),
            registered_at: NOW,
            changed_at: NOW,
        }))
    });
    let rows: Vec<Op> = rows.collect();
    let mut state = State::default();
    for part in rows.chunks(TXN_OPS_MAX) {
        state.apply(&Txn { ops: part.to_vec() });
    }
    state
}

fn job(number: u64, chance: &mut Chance) -> JobSpec {
    let cpu = chance.range(1, 33) * 125;
    let memory = chance.range(1, 33) * (256 << 20);
    let spec = json!({
        "name": format!("job-{number}"), "command": ["work"], "replicas": TASKS_PER_JOB,
        "resources": {"cpu_millicores": cpu, "memory_bytes": memory, "disk_bytes": 1 << 30},
    });
    serde_json::from_value(spec).expect("the spec is right")
}

fn submit(spec: &JobSpec) -> Event {
    let job = SubmittedJob {
        spec: spec.clone(),
        source: SourceRef::default(),
    };
    Event::Submit {
        submission: Submission {
            jobs: vec![job],
            remove: Vec::new(),
            policy: tw_model::PolicyReport::default(),
            by: "bench".to_owned(),
        },
        expected: None,
    }
}

/// A small generator, the same in every run.
struct Chance(u64);

impl Chance {
    fn range(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + self.0 % (high - low)
    }
}

fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("someone reads");
}
