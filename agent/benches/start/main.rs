//! How long a task takes from its assignment to its program's first instruction in the full sandbox, beside the
//! container runtimes of this machine, how many of them one machine starts and holds, and how fast one may print.
//!
//! One JSON line a figure. Needs root. Environment: `BENCH_STARTS` (starts measured one by one), `BENCH_BURST`
//! (starts of the sustained rate), `BENCH_TASKS` (tasks held at once), `BENCH_ONLY` (parts to run, with commas
//! between: start, assigned, peers, sustained, held, logs, idle), `BENCH_PROGRAMS` (a folder that `make release` filled, for its
//! programs instead of those that cargo built for this); peers that are not installed are named.

mod agent;
mod logs;
mod peers;
mod tasks;

#[expect(
    dead_code,
    reason = "written for the tests of the agent, which ask it for more"
)]
#[path = "../../tests/machine/controller.rs"]
mod controller;

/// What the scripted controller takes from its tests.
mod common {
    pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
}

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use tasks::Bench;

/// A pause between two starts that are measured one by one: tasks do not come back to back.
const PAUSE: Duration = Duration::from_millis(25);

/// Starts that are under way at once in the sustained rate: enough to keep two cores busy.
const IN_FLIGHT: usize = 16;

fn main() -> io::Result<()> {
    let starts = setting("BENCH_STARTS", 200);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wants = |part: &str| only.is_empty() || only.split(',').any(|name| name == part);
    let bench = Bench::new()?;
    if wants("start") {
        one_by_one(&bench, starts)?;
    }
    if wants("assigned") {
        agent::assigned(starts)?;
    }
    if wants("peers") {
        peers::compare(&bench, starts)?;
    }
    if wants("sustained") {
        sustained(&bench, setting("BENCH_BURST", 2000))?;
    }
    if wants("held") {
        held(&bench, setting("BENCH_TASKS", 500))?;
    }
    if wants("logs") {
        logs::throughput(&bench)?;
    }
    bench.close()?;
    match wants("idle") {
        true => agent::idle_cost(100),
        false => Ok(()),
    }
}

/// The file of the folder `BENCH_PROGRAMS`, or what cargo has built.
fn program(installed: &str, built: &str) -> PathBuf {
    let folder = std::env::var_os("BENCH_PROGRAMS");
    folder.map_or(built.into(), |folder| Path::new(&folder).join(installed))
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// From before the task's folder is made to behind `exec` of its command, spares at hand.
fn one_by_one(bench: &Bench, starts: usize) -> io::Result<()> {
    let mut ms = Vec::new();
    for _ in 0..starts {
        bench.refill()?;
        std::thread::sleep(PAUSE);
        ms.push(bench.run(&["true"])?.exec_ms);
    }
    print(json!({
        "bench": "agent.start",
        "starts": starts,
        "p50_ms": quantile(&mut ms, 0.5),
        "p99_ms": quantile(&mut ms, 0.99),
        "cgroups": bench.cgroups(),
        "profile": profile(),
    }))
}

/// Starts to the end of `true`, records durable, cgroups and folders removed, and every spare refilled in the time
/// that is measured.
fn sustained(bench: &Bench, starts: usize) -> io::Result<()> {
    bench.refill()?;
    let (cpu_before, machine_before) = (bench.cpu_seconds()?, machine_cpu_seconds()?);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let work = || -> io::Result<()> {
            while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < starts {
                bench.run(&["true"])?;
                bench.refill()?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
        })
    })?;
    let elapsed = began.elapsed().as_secs_f64();
    print(json!({
        "bench": "agent.sustained",
        "starts": starts,
        "in_flight": IN_FLIGHT,
        "starts_per_second": starts as f64 / elapsed,
        // What the machine would reach if nothing else ran on it.
        "cpu_ms_a_start": (bench.cpu_seconds()? - cpu_before) * 1000.0 / starts as f64,
        // With the kernel's own threads, which tear cgroups and mounts down, and whatever else ran meanwhile.
        "machine_cpu_ms_a_start": (machine_cpu_seconds()? - machine_before) * 1000.0 / starts as f64,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "profile": profile(),
    }))
}

/// Time that the machine's cores were not idle so far.
fn machine_cpu_seconds() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let total = stat.lines().next().unwrap_or_default();
    let ticks = total.split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks.filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    Ok(busy as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Tasks that run side by side, and what the helpers of idle ones hold for themselves.
fn held(bench: &Bench, tasks: usize) -> io::Result<()> {
    let began = Instant::now();
    let running = (0..tasks)
        .map(|_| {
            let task = bench.begin(&["sleep", "600"])?;
            bench.refill()?;
            Ok(task)
        })
        .collect::<io::Result<Vec<_>>>()?;
    let records = running.iter().map(|task| bench.wait_started(task));
    records.collect::<io::Result<Vec<_>>>()?;
    let elapsed = began.elapsed().as_secs_f64();
    let mut private_kib: Vec<f64> = running
        .iter()
        .map(|task| tasks::private_kib(task.helper.pid))
        .collect::<io::Result<_>>()?;
    let line = json!({
        "bench": "agent.held",
        "tasks": tasks,
        "all_running_after_s": elapsed,
        "helper_private_kib_p50": quantile(&mut private_kib, 0.5),
        "helper_private_kib_max": quantile(&mut private_kib, 1.0),
        "profile": profile(),
    });
    running.into_iter().try_for_each(|task| bench.kill(task))?;
    print(line)
}

pub(crate) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len().saturating_sub(1) as f64 * q).round() as usize;
    (values.get(index).copied().unwrap_or(f64::NAN) * 1000.0).round() / 1000.0
}

pub(crate) fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    }
}

pub(crate) fn print(line: Value) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
