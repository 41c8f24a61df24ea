//! The Google 2011 trace: our search beside others, fill and speed from one run each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use tw_scheduler::simulate::{
    Apart, Fill, TraceMachines, TraceTasks, place_trace, read_machines, read_tasks,
};

use crate::peers::{self, Peer};
use crate::{choosy, print};

/// The most tasks of a job that has constraints and keeps its tasks apart.
const APART_MAX: u32 = 36;

/// The longest that a peer may take.
const PEER_TIME: Duration = Duration::from_secs(30);

pub(crate) fn run() {
    let Some(folder) = std::env::var_os("TW_TRACES") else {
        return print(
            r#"{"bench":"allocate.trace","skipped":"TW_TRACES names no folder with the trace"}"#,
        );
    };
    let folder = Path::new(&folder);
    let machines = read_machines(lines(&folder.join("google-2011-machine-shapes.csv")));
    let machines = machines.expect("the machines are readable").rows;
    let tasks = read_tasks(lines(
        &folder.join("google-2011-task-events-part-00000.csv.gz"),
    ));
    let tasks = tasks.expect("the tasks are readable").rows;
    compare("allocate.trace", &machines, &tasks);
    let (machines, tasks) = (with_facts(machines), with_constraints(tasks));
    compare("allocate.trace.choosy", &machines, &tasks);
}

/// Places the tasks by each search.
fn compare(bench: &str, machines: &[TraceMachines], tasks: &[TraceTasks]) {
    let begun = Instant::now();
    let ours = place_trace(machines, tasks, &|| begun.elapsed());
    if tasks.iter().any(|tasks| tasks.requires.is_some()) {
        choosy::assert_as_asked(machines, tasks, &ours.machines);
    }
    let fill = ours.first_failure.unwrap_or(ours.last);
    tell(
        bench,
        "index",
        ours.placed,
        &fill,
        ours.took,
        &ours.decisions,
        false,
    );
    for peer in Peer::ALL {
        let found = peers::place(peer, machines, tasks, PEER_TIME);
        tell(
            bench,
            peer.name(),
            found.placed,
            &found.fill,
            found.took,
            &found.decisions,
            found.cut_off,
        );
    }
}

/// Each machine with what it says of itself.
fn with_facts(machines: Vec<TraceMachines>) -> Vec<TraceMachines> {
    let each = machines.into_iter().flat_map(|machines| {
        let count = machines.count as usize;
        std::iter::repeat_n(machines, count)
    });
    (0..)
        .zip(each)
        .map(|(number, machine)| TraceMachines {
            facts: choosy::facts(number),
            count: 1,
            ..machine
        })
        .collect()
}

/// The same tasks, those of a tenth of the jobs with constraints. Jobs that have too many tasks are not kept apart.
fn with_constraints(mut tasks: Vec<TraceTasks>) -> Vec<TraceTasks> {
    let mut sizes: BTreeMap<u32, u32> = BTreeMap::new();
    for row in &tasks {
        *sizes.entry(row.job).or_default() += row.count;
    }
    for row in &mut tasks {
        choosy::constrain(row);
        if choosy::is_choosy(row.job) && sizes[&row.job] > APART_MAX {
            row.apart = Apart::No;
        }
    }
    tasks
}

fn tell(
    bench: &str,
    search: &str,
    placed: u64,
    fill: &Fill,
    took: Duration,
    decisions: &[Duration],
    cut_off: bool,
) {
    let percentile = |percent: usize| {
        let at = decisions.len().saturating_sub(1) * percent / 100;
        decisions
            .get(at)
            .map_or(0.0, |took| took.as_nanos() as f64 / 1000.0)
    };
    print(&format!(
        r#"{{"bench":"{bench}","search":"{search}","placed":{placed},"placements_per_second":{:.0},"decision_us":{{"p50":{:.2},"p99":{:.2}}},"first_failure":{{"tasks":{},"cpu_share":{:.4},"memory_share":{:.4}}},"cut_off":{cut_off}}}"#,
        placed as f64 / took.as_secs_f64(),
        percentile(50),
        percentile(99),
        fill.tasks,
        fill.cpu,
        fill.memory,
    ));
}

fn lines(path: &Path) -> impl Iterator<Item = String> {
    let file = std::fs::File::open(path).expect("the trace is there");
    let text: Box<dyn std::io::Read> = match path.extension().is_some_and(|end| end == "gz") {
        true => Box::new(flate2::read::GzDecoder::new(file)),
        false => Box::new(file),
    };
    BufReader::new(text)
        .lines()
        .map(|line| line.expect("the trace is text"))
}
