//! The Google 2011 trace: our search beside others, fill and speed from one run each.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use tw_scheduler::simulate::{Fill, place_trace, read_machines, read_tasks};

use crate::peers::{self, Peer};
use crate::print;

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
    let begun = Instant::now();
    let ours = place_trace(&machines, &tasks, &|| begun.elapsed());
    let fill = ours.first_failure.unwrap_or(ours.last);
    tell(
        "index",
        ours.placed,
        &fill,
        ours.took,
        &ours.decisions,
        false,
    );
    for peer in Peer::ALL {
        let found = peers::place(peer, &machines, &tasks, PEER_TIME);
        tell(
            peer.name(),
            found.placed,
            &found.fill,
            found.took,
            &found.decisions,
            found.cut_off,
        );
    }
}

fn tell(
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
        r#"{{"bench":"allocate.trace","search":"{search}","placed":{placed},"placements_per_second":{:.0},"decision_us":{{"p50":{:.2},"p99":{:.2}}},"first_failure":{{"tasks":{},"cpu_share":{:.4},"memory_share":{:.4}}},"cut_off":{cut_off}}}"#,
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
