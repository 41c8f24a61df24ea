//! The agent itself: how long it takes from an assignment to the command, and what it takes while its tasks do nothing.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tw_api::{AgentEvent, Assignment};
use tw_model::Phase;

use crate::controller::{Controller, assignment};
use crate::tasks::now_us;
use crate::{PAUSE, print, profile, quantile};

/// Long enough for the hundredths of a second that a process's time is counted in.
const MEASURED: Duration = Duration::from_secs(30);

/// From the moment in which a controller says an assignment to behind `exec` of its command: over the stream, through
/// the agent, its records and a spare helper.
pub(crate) fn assigned(starts: usize) -> io::Result<()> {
    let runtime = runtime()?;
    let folder = tempfile::tempdir()?;
    let cgroup = format!("twill-bench-assigned-{}", std::process::id());
    let (mut agent, mut ms) = runtime.block_on(async {
        let (agent, controller) = start(folder.path(), &cgroup, 0, free_address()?).await?;
        let mut ms = Vec::new();
        for number in 0..starts {
            tokio::time::sleep(PAUSE).await;
            ms.push(assigned_ms(&controller, number).await);
        }
        io::Result::Ok((agent, ms))
    })?;
    agent.kill()?;
    agent.wait()?;
    tw_agent::manager::clean(&folder.path().join("state"), &cgroup).map_err(io::Error::other)?;
    print(json!({
        "bench": "agent.assigned",
        "starts": starts,
        "p50_ms": quantile(&mut ms, 0.5),
        "p99_ms": quantile(&mut ms, 0.99),
        "profile": profile(),
    }))
}

async fn assigned_ms(controller: &Controller, number: usize) -> f64 {
    // Long enough for its start to be reported before its end: only the newest report of a task is sent.
    let command = json!({"command": ["sleep", "0.05"]});
    let assignment = assignment(&format!("start-{number}"), command);
    let task = assignment.task.id.clone();
    let began_us = now_us();
    controller
        .say(AgentEvent::Assign {
            assignment: Box::new(assignment),
        })
        .await;
    let started_at = controller
        .report(&task, |report| match report.phase {
            Phase::Running { started_at } => Some(started_at),
            _ => None,
        })
        .await;
    controller
        .report(&task, |report| {
            matches!(report.phase, Phase::Exited { .. }).then_some(())
        })
        .await;
    controller.drop_reports_of(&task);
    controller.say(AgentEvent::Forget { task }).await;
    (started_at.0 - began_us) as f64 / 1000.0
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

/// Starts an agent with `tasks` idle tasks, lets it rest, and measures it.
pub(crate) fn idle_cost(tasks: usize) -> io::Result<()> {
    let runtime = runtime()?;
    let folder = tempfile::tempdir()?;
    let cgroup = format!("twill-bench-agent-{}", std::process::id());
    // It answers heartbeats until it is dropped.
    let metrics = free_address()?;
    let starting = start(folder.path(), &cgroup, tasks, metrics);
    let (mut agent, _controller) = runtime.block_on(starting)?;
    std::thread::sleep(Duration::from_secs(2));
    let (before, sampled_before, began) = (
        cpu_seconds(agent.id())?,
        sampling_seconds(metrics)?,
        Instant::now(),
    );
    std::thread::sleep(MEASURED);
    let used = cpu_seconds(agent.id())? - before;
    let sampled = sampling_seconds(metrics)? - sampled_before;
    let percent = |seconds: f64| seconds / began.elapsed().as_secs_f64() * 100.0;
    let line = json!({
        "bench": "agent.idle",
        "tasks": tasks,
        "core_percent": percent(used),
        "sampling_core_percent": percent(sampled),
        "resident_mib": resident_mib(agent.id())?,
        "profile": profile(),
    });
    agent.kill()?;
    agent.wait()?;
    tw_agent::manager::clean(&folder.path().join("state"), &cgroup).map_err(io::Error::other)?;
    print(line)
}

async fn start(
    folder: &Path,
    cgroup: &str,
    tasks: usize,
    metrics: SocketAddr,
) -> io::Result<(Child, Controller)> {
    // As often as a real one.
    let controller = Controller::start_hearing(folder, Duration::from_secs(1));
    let program = crate::program("bin/tw-agent", env!("CARGO_BIN_EXE_tw-agent"));
    let agent = Command::new(program)
        .args(["run", "--name", "bench", "--cgroup", cgroup, "--state"])
        .arg(folder.join("state"))
        .arg("--controller")
        .arg(format!("unix:{}", controller.socket.display()))
        .arg("--metrics")
        .arg(metrics.to_string())
        .stderr(Stdio::null())
        .spawn()?;
    let idle = |number| {
        assignment(
            &format!("idle-{number}"),
            json!({"command": ["sleep", "600"]}),
        )
    };
    let assignments: Vec<Assignment> = (0..tasks).map(idle).collect();
    controller
        .say(AgentEvent::Snapshot {
            assignments: assignments.clone(),
            endpoints: Vec::new(),
        })
        .await;
    for assignment in &assignments {
        controller
            .report(&assignment.task.id, |report| {
                matches!(report.phase, Phase::Running { .. }).then_some(())
            })
            .await;
    }
    Ok((agent, controller))
}

/// Time that a process has had on a core, in seconds.
fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    // utime and stime, in hundredths of a second on every Linux.
    let ticks = [11, 12].map(|index| fields.get(index)?.parse::<f64>().ok());
    match ticks {
        [Some(user), Some(system)] => Ok((user + system) / 100.0),
        _ => Err(io::Error::other(format!("/proc/{pid}/stat cannot be read"))),
    }
}

/// What the agent says that sampling took, in seconds on a core.
fn sampling_seconds(metrics: SocketAddr) -> io::Result<f64> {
    let mut stream = TcpStream::connect(metrics)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let line = |line: &str| {
        line.strip_prefix("twill_agent_sampling_cpu_seconds_total ")?
            .trim()
            .parse()
            .ok()
    };
    let found = page.lines().find_map(line);
    found.ok_or_else(|| io::Error::other("the agent's metrics name no time of sampling"))
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn resident_mib(pid: u32) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .trim_end_matches(" kB")
            .parse::<f64>()
            .ok()
    });
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no VmRSS")))
}
