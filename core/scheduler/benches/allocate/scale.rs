//! The search alone, on made-up machines and tasks of a region's size; a tenth of the jobs ask for more than room.

use std::time::Instant;

use tw_scheduler::simulate::{Apart, TraceMachines, TraceTasks, place_trace};

use crate::chance::Chance;
use crate::choosy;
use crate::print;

/// Twine's average.
const TASKS_PER_JOB: u32 = 36;

pub(crate) fn run() {
    for (machines, tasks) in [(10_000, 100_000), (100_000, 1_000_000)] {
        let fleet: Vec<TraceMachines> = (0..machines).map(machine).collect();
        let jobs = jobs(tasks);
        let begun = Instant::now();
        let found = place_trace(&fleet, &jobs, &|| begun.elapsed());
        assert!(found.unplaced.is_empty(), "{:?}", found.unplaced);
        let choosy = choosy::assert_as_asked(&fleet, &jobs, &found.machines);
        assert!(choosy * 11 > found.placed, "a tenth of the tasks");
        let micros = |percent| found.percentile(percent).as_nanos() as f64 / 1000.0;
        print(&format!(
            r#"{{"bench":"allocate.scale","machines":{machines},"tasks":{tasks},"placed":{},"choosy":{choosy},"placements_per_second":{:.0},"decision_us":{{"p50":{:.2},"p99":{:.2}}},"cpu_share":{:.3},"memory_share":{:.3}}}"#,
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
        facts: choosy::facts(number),
        count: 1,
    }
}

fn jobs(tasks: u32) -> Vec<TraceTasks> {
    let mut chance = Chance(7);
    let jobs = (0..tasks.div_ceil(TASKS_PER_JOB)).map(|job| {
        let mut tasks = TraceTasks {
            job,
            cpu: chance.range(1, 33) as f64 / 8.0,
            memory: chance.range(1, 33) as f64 / 2.0,
            count: TASKS_PER_JOB.min(tasks - job * TASKS_PER_JOB),
            apart: Apart::No,
            requires: None,
            spread: None,
            priority: 0,
        };
        choosy::constrain(&mut tasks);
        tasks
    });
    jobs.collect()
}
