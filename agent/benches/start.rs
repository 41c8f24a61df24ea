//! How long a task takes from the agent's decision to its program's first instruction, in the full sandbox.
//!
//! Prints one JSON line. The endpoints: before the task's folder is made, and after `exec` of the command.
//! Needs root; `BENCH_STARTS` sets how many starts are measured.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tw_agent::cgroup::{CGROUP_ROOT, Limits, TreePath};
use tw_agent::helper::protocol::PROTO;
use tw_agent::helper::record::{
    self, EXIT_FILE, ExitRecord, LaunchRecord, Outcome, STARTED_FILE, StartedRecord, StopRule,
};
use tw_agent::helper::{prepare_folder, remove_scratch};
use tw_agent::log::LogLimits;
use tw_agent::sandbox::{CommandSpec, DEFAULT_PATH, Ended, SandboxSpec, UserMode, base};

const STARTS: usize = 100;
const WARM_UP: usize = 5;

fn main() -> io::Result<()> {
    let starts = std::env::var("BENCH_STARTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(STARTS);
    let state = tempfile::tempdir()?;
    let tree = TreePath::new(CGROUP_ROOT, format!("twill-bench-{}", std::process::id()));
    let skeleton = base::prepare(&state.path().join("base")).map_err(io::Error::other)?;
    let mut latencies_ms = Vec::new();
    let mut began = Instant::now();
    for number in 0..WARM_UP + starts {
        if number == WARM_UP {
            began = Instant::now();
        }
        let folder = state.path().join(format!("tasks/{number}"));
        latencies_ms.push(start(&folder, &tree, &skeleton, number)?);
    }
    let elapsed = began.elapsed();
    let groups = tree.open().map_err(io::Error::other)?;
    groups
        .remove("helpers", Duration::from_secs(5))
        .map_err(io::Error::other)?;
    groups.remove_tree().map_err(io::Error::other)?;
    let mut measured = latencies_ms.split_off(WARM_UP);
    measured.sort_by(f64::total_cmp);
    let quantile = |q: f64| measured[((measured.len() - 1) as f64 * q).round() as usize];
    let line = json!({
        "bench": "agent.start",
        "starts": starts,
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "starts_per_second_one_at_a_time": starts as f64 / elapsed.as_secs_f64(),
        "cgroups": format!("{:?}", groups.kind()).to_lowercase(),
        "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
    });
    writeln!(io::stdout(), "{line}")
}

/// Runs `true` once and answers the milliseconds until it ran.
fn start(folder: &Path, tree: &TreePath, skeleton: &Path, number: usize) -> io::Result<f64> {
    let before_us = now_us();
    prepare_folder(folder, &launch(folder, tree, skeleton, number)).map_err(io::Error::other)?;
    let mut helper = Command::new(env!("CARGO_BIN_EXE_tw-helper"))
        .arg("keep")
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    helper.wait()?;
    let exit: Option<ExitRecord> = record::read(folder, EXIT_FILE).map_err(io::Error::other)?;
    let started: Option<StartedRecord> =
        record::read(folder, STARTED_FILE).map_err(io::Error::other)?;
    remove_scratch(folder)?;
    match (started, exit.map(|exit| exit.outcome)) {
        (
            Some(started),
            Some(Outcome::Ended {
                how: Ended::Code(0),
                ..
            }),
        ) => Ok((started.started_at_us - before_us) as f64 / 1000.0),
        (_, outcome) => Err(io::Error::other(format!(
            "the task did not run: {outcome:?}"
        ))),
    }
}

fn launch(folder: &Path, tree: &TreePath, skeleton: &Path, number: usize) -> LaunchRecord {
    LaunchRecord {
        proto: PROTO,
        task: format!("bench.0#{number}"),
        tree: tree.clone(),
        leaf: format!("task-{number}"),
        helpers_leaf: "helpers".to_owned(),
        limits: Limits {
            cpu_millicores: 100,
            cpu_quota_millicores: None,
            memory_bytes_max: 64 << 20,
            pids_max: 64,
        },
        sandbox: SandboxSpec {
            hostname: "bench-0".to_owned(),
            command: CommandSpec {
                argv: vec!["true".to_owned()],
                env: BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]),
                user: "nobody".to_owned(),
                workdir: "/tmp".into(),
            },
            base: skeleton.to_owned(),
            folder: folder.to_owned(),
            binds: base::host_binds(),
            shm_bytes_max: 16 << 20,
            is_root_writable: false,
            users: UserMode::Mapped,
        },
        log: LogLimits::default(),
        stop: StopRule::default(),
        hooks: Default::default(),
        sidecars: Vec::new(),
    }
}

fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}
