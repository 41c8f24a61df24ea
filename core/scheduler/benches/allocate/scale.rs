//! The search alone, on made-up machines and tasks of a region's size; a tenth of the jobs keep their tasks apart.

use std::time::Instant;

use tw_scheduler::simulate::{Apart, TraceMachines, TraceTasks, place_trace};

use crate::chance::Chance;
use crate::print;

const MACHINES_PER_RACK: u32 = 40;

/// Twine's average.
const TASKS_PER_JOB: u32 = 36;

pub(crate) fn run() {
    for (machines, tasks) in [(10_000, 100_000), (100_000, 1_000_000)] {
        let fleet: Vec<TraceMachines> = (0..machines).map(machine).collect();
        let jobs = jobs(tasks);
        let begun = Instant::now();
        let found = place_trace(&fleet, &jobs, &|| begun.elapsed());
        let micros = |percent| found.percentile(percent).as_nanos() as f64 / 1000.0;
        print(&format!(
            r#"{{"bench":"allocate.scale","machines":{machines},"tasks":{tasks},"placed":{},"placements_per_second":{:.0},"decision_us":{{"p50":{:.2},"p99":{:.2}}},"cpu_share":{:.3},"memory_share":{:.3}}}"#,
            found.placed,
            found.placements_per_second(),
            micros(50),
            micros(99),
            found.last.cpu,
            found.last.memory,
        ));
    }
}

/// Three sizes, as fleets have them.
fn machine(number: u32) -> TraceMachines {
    let (cpu, memory) = match number % 4 {
        0 => (16.0, 64.0),
        3 => (64.0, 256.0),
        _ => (32.0, 128.0),
    };
    TraceMachines {
        cpu,
        memory,
        rack: format!("rack-{}", number / MACHINES_PER_RACK),
        count: 1,
    }
}

fn jobs(tasks: u32) -> Vec<TraceTasks> {
    let mut chance = Chance(7);
    let jobs = (0..tasks.div_ceil(TASKS_PER_JOB)).map(|job| TraceTasks {
        job,
        cpu: chance.range(1, 33) as f64 / 8.0,
        memory: chance.range(1, 33) as f64 / 2.0,
        count: TASKS_PER_JOB.min(tasks - job * TASKS_PER_JOB),
        apart: match job % 20 {
            0 => Apart::Machine,
            1 => Apart::Rack,
            _ => Apart::No,
        },
        priority: 0,
    });
    jobs.collect()
}
