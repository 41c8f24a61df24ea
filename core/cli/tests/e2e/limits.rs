//! Limits and numbers of tasks that follow what tasks really do, learned in seconds by a short window.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::probe::{http_get, kill_9, processes, wait_for, wait_until};

/// A service whose CPU and memory follow its requests: each is worked on for 10 ms, and its answer stays in a
/// cache for four seconds.
const SERVER: &str = r#"
import http.server, sys, threading, time

cache = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/work":
            until = time.thread_time() + 0.01
            while time.thread_time() < until:
                pass
            cache.append((time.monotonic(), b"x" * (1 << 20)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words):
        pass

def expire():
    while True:
        time.sleep(0.2)
        while cache and cache[0][0] < time.monotonic() - 4:
            cache.pop(0)

threading.Thread(target=expire, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

const SERVICE: &str = r#"
from tw import SECOND, HttpCheck, Job, Limits, MiB, Package, Resources, export
export(Job(
    name="web", packages=[Package.folder("app")], ports=["http"],
    command=["/usr/bin/python3", "server.py", "{port:http}"],
    health=[HttpCheck(port="http", path="/", every=1 * SECOND)],
    resources=Resources(cpu=1, memory=512 * MiB),
    limits=Limits(mode="auto", history_min=6 * SECOND, window=56 * SECOND),
))
"#;

/// Asks so often, in hundredths of a request a second, until it is dropped.
struct Load {
    rate: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    asker: Option<JoinHandle<()>>,
}

impl Load {
    fn on(address: &str) -> Load {
        let (rate, over) = (
            Arc::new(AtomicU64::new(1)),
            Arc::new(AtomicBool::new(false)),
        );
        let asker = std::thread::spawn({
            let (address, rate, over) = (address.to_owned(), Arc::clone(&rate), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    // It may be restarting.
                    let _ = http_get(&address, "/work");
                    let pause = Duration::from_secs(1) / rate.load(Ordering::Relaxed) as u32;
                    std::thread::sleep(pause.saturating_sub(begun.elapsed()));
                }
            }
        });
        Load {
            rate,
            over,
            asker: Some(asker),
        }
    }

    fn set(&self, per_second: u64) {
        self.rate.store(per_second, Ordering::Relaxed);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(asker) = self.asker.take() {
            let _ = asker.join();
        }
    }
}

/// What the cgroup files of a task say.
#[derive(Clone, Copy, Debug)]
struct Held {
    cpu_millicores: u64,
    memory_limit_mib: u64,
    memory_used_mib: u64,
}

/// Reads the cgroup of a task, in either version's files.
fn held(cluster: &Cluster, task: &Value) -> Option<Held> {
    let leaf = cluster.task_folder(task);
    let leaf = leaf.file_name()?;
    let mut folders = Vec::new();
    find(Path::new("/sys/fs/cgroup"), leaf.as_ref(), &mut folders);
    // Other clusters of this machine may have tasks of that name.
    let own = cluster.cgroup();
    folders.retain(|folder| folder.to_string_lossy().contains(&own));
    let number = |file: &str| -> Option<u64> {
        let texts = folders
            .iter()
            .filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok());
        texts.filter_map(|text| text.trim().parse().ok()).max()
    };
    let shares = number("cpu.shares").map(|shares| shares * 1000 / 1024);
    Some(Held {
        cpu_millicores: shares.or_else(|| number("cpu.weight").map(|weight| weight * 10))?,
        memory_limit_mib: number("memory.limit_in_bytes").or_else(|| number("memory.max"))? >> 20,
        memory_used_mib: number("memory.usage_in_bytes").or_else(|| number("memory.current"))?
            >> 20,
    })
}

fn find(folder: &Path, name: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match entry.file_name().as_os_str() == name.as_os_str() {
                true => found.push(entry.path()),
                false => find(&entry.path(), name, found),
            }
        }
    }
}

fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("its name is in parentheses");
    let parent = rest.split_whitespace().nth(1).expect("its parent follows");
    parent.parse().expect("a number")
}

/// Takes the controller away until this is dropped: killed, and what would start another one held.
struct NoController {
    supervisor: i32,
}

impl NoController {
    fn of(cluster: &Cluster) -> NoController {
        let controller = cluster.process("controller").expect("it runs");
        let supervisor = parent_of(controller);
        let is_ours = |process: &crate::probe::Process| {
            process.pid == supervisor && process.words.iter().any(|word| word == "dev")
        };
        assert!(processes().iter().any(is_ours), "{supervisor} is `tw dev`");
        kill(Pid::from_raw(supervisor), Signal::SIGSTOP).expect("it runs");
        kill_9(controller);
        NoController { supervisor }
    }
}

impl Drop for NoController {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.supervisor), Signal::SIGCONT);
    }
}

/// How long the controller is away in the peak: as long as the peak takes, or as a longer run asks.
fn away() -> Duration {
    let seconds = std::env::var("TW_CONTROLLER_AWAY").ok();
    Duration::from_secs(seconds.map_or(4, |text| text.parse().expect("seconds")))
}

#[test]
fn limits_rise_before_they_are_reached_without_a_controller_and_fall_after_the_peak() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", SERVICE);
    cluster.repository.write("app/server.py", SERVER);
    cluster.apply();
    cluster.wait_settled("web");
    let task = cluster.task("web", 0);
    let address = cluster
        .endpoints("web", "http")
        .expect("it serves")
        .remove(0);
    let load = Load::on(&address);
    let now = || held(&cluster, &task).expect("it has its cgroup");
    let calm = wait_for("calm limits", || {
        let held = now();
        (held.cpu_millicores < 500 && held.memory_limit_mib < 200).then_some(held)
    });

    let gone = NoController::of(&cluster);
    let begun = Instant::now();
    let mut peak = now();
    while begun.elapsed() < Duration::from_secs(30) + away() {
        let held = now();
        assert!(
            held.memory_used_mib < held.memory_limit_mib,
            "reached: {held:?}"
        );
        peak = Held {
            cpu_millicores: peak.cpu_millicores.max(held.cpu_millicores),
            memory_limit_mib: peak.memory_limit_mib.max(held.memory_limit_mib),
            memory_used_mib: peak.memory_used_mib.max(held.memory_used_mib),
        };
        // Limits are decided on every five seconds: load that doubles in less is met by restarts.
        let rate = begun.elapsed().as_millis() as u64 * 2 / 3000 + 1;
        load.set(rate.min(20));
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(cluster.try_status("web").is_none(), "no controller answers");
    assert!(
        peak.cpu_millicores > calm.cpu_millicores * 3 / 2,
        "{calm:?} {peak:?}"
    );
    assert!(
        peak.memory_limit_mib > calm.memory_limit_mib,
        "{calm:?} {peak:?}"
    );

    load.set(1);
    wait_until("lower again", || {
        now().cpu_millicores * 3 / 2 < peak.cpu_millicores
    });
    drop(gone);
    wait_until("the controller is back", || cluster.connected() == 1);
    assert_eq!(
        cluster.task("web", 0)["id"],
        task["id"],
        "nothing restarted"
    );

    // What it missed has been told: the peak is in the history and on the charts.
    wait_until("the peak in the history", || {
        let found = cluster.tw(&["recommend", "web", "--json"]).json();
        let points = found[0]["history"]["points"].as_array().cloned();
        let peaks = points.into_iter().flatten();
        let peaks = peaks.filter_map(|point| point["memory_peak"].as_u64());
        peaks.max().unwrap_or(0) >> 20 > peak.memory_used_mib / 2
    });
    let drawn = cluster.repository.root().join("web.svg");
    let said = cluster.tw(&["recommend", "web", "--svg", drawn.to_str().expect("a path")]);
    let said = said.exits(0).stdout;
    assert!(said.contains("memory: 512 MiB → "), "{said}");
    assert!(said.contains("would have been exceeded"), "{said}");
    let drawing = std::fs::read_to_string(drawn).expect("it is drawn");
    assert!(
        drawing.starts_with("<svg") && drawing.contains("memory"),
        "{drawing}"
    );
}

const LARGE: &str = r#"
from tw import Job, MiB, Resources, export
PROGRAM = "import time; held = bytearray(120 << 20); time.sleep(600)"
export(Job(
    name="large", command=["/usr/bin/python3", "-c", PROGRAM], resources=Resources(cpu=0.2, memory=256 * MiB),
))
"#;

#[test]
fn a_smaller_limit_that_a_task_does_not_fit_in_is_said_and_harms_nobody() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", LARGE);
    cluster.apply();
    wait_for("it holds its memory", || {
        let found = cluster.tw(&["status", "large", "--json"]).json();
        let used = found["tasks"][0]["usage"]["memory"].as_u64()?;
        (used > 110 << 20).then_some(())
    });
    cluster
        .repository
        .write("config.tw", &LARGE.replace("256", "64"));
    cluster.apply();
    let said = wait_for("it is said", || {
        let said = cluster.tw(&["status", "large"]).exits(0).stdout;
        said.contains("note: ").then_some(said)
    });
    assert!(
        said.contains(
            "large.0#1 keeps its memory limit of 256 MiB: 64 MiB cannot be had while it holds 1"
        ),
        "{said}"
    );
    let found = cluster.tw(&["status", "large", "--json"]).json();
    assert_eq!(found["tasks"][0]["state"], "running");
    assert_eq!(found["tasks"][0]["restarts"], 0);
}

const LEAK: &str = r#"
from tw import SECOND, Job, Limits, MiB, Resources, Restart, export
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("ended cleanly", flush=True), sys.exit(0)))
held = []
while True:
    held.append(b"x" * (4 << 20))
    time.sleep(0.05)
"""
export(Job(
    name="leak", command=["/usr/bin/python3", "-c", PROGRAM],
    resources=Resources(cpu=0.2, memory=64 * MiB), restart=Restart(delay=0.2 * SECOND, delay_max=1 * SECOND),
    limits=Limits(mode="auto", history_min=6 * SECOND, window=7 * 24 * 3600 * SECOND, memory_max=200 * MiB),
))
"#;

#[test]
fn a_leak_is_restarted_cleanly_and_reported_and_gets_no_more() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", LEAK);
    cluster.apply();
    let note = wait_for("it is reported", || {
        let found = cluster.tw(&["recommend", "leak", "--json"]);
        let note = found.json()[0]["notes"][0].as_str()?.to_owned();
        note.contains("leak").then_some(note)
    });
    assert_eq!(
        note,
        "looks like a leak: it ran out of memory after 2 raises, and gets no more"
    );
    for command in ["recommend", "status"] {
        let said = cluster.tw(&[command, "leak"]).exits(0).stdout;
        assert!(said.contains(&note), "{said}");
    }
    let failed = |event: &&Value| event["kind"] == "task.failed";
    let events = cluster.events("leak");
    let ends: Vec<&Value> = events.iter().filter(failed).collect();
    assert!(ends.len() >= 3, "{events:#?}");
    for end in &ends {
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains("ran out of memory"), "{message}");
    }
    // Logs of the last few are kept; on a busy machine one may need longer than its grace.
    let ended_cleanly = |end: &&Value| {
        let logs = cluster.tw(&["logs", end["task"].as_str().expect("its id")]);
        logs.stdout.contains("ended cleanly")
    };
    assert!(ends.iter().rev().any(ended_cleanly), "{events:#?}");
    // Whatever it asks for: no more than its author allows.
    for _ in 0..20 {
        let task = cluster.task("leak", 0);
        if task["machine"].is_string()
            && let Some(held) = held(&cluster, &task)
        {
            assert!(held.memory_limit_mib <= 200, "{held:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

const REPLICAS: &str = r#"
from tw import SECOND, Autoscale, Job, MetricCheck, MiB, Resources, Rollout, Stop, export
export(
    Job(
        name="queue",
        command=["sh", "-c", "echo jobs_waiting 1 > /tmp/load; exec sleep 1000"],
        replicas=2, stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
        resources=Resources(cpu=0.05, memory=32 * MiB), rollout=Rollout(healthy_for=0.5 * SECOND),
        health=[MetricCheck(metric="jobs_waiting", file="/tmp/load", above=1e6, every=0.3 * SECOND)],
        autoscale=Autoscale(max=5, metric="jobs_waiting", each=10, down_after=4 * SECOND),
    ),
    Job(
        name="busy",
        command=["/usr/bin/python3", "-c", "import time\nwhile True:\n u = time.process_time() + .03\n while time.process_time() < u: pass\n time.sleep(.17)"],
        resources=Resources(cpu=0.1, memory=32 * MiB), stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
        autoscale=Autoscale(max=3, cpu_percent=50, down_after=4 * SECOND),
    ),
)
"#;

#[test]
fn the_number_of_tasks_follows_a_counter_or_cpu() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", REPLICAS);
    let plan = cluster.tw(&["plan", "."]).exits(2).stdout;
    assert!(
        plan.contains("queue: its load moves the number of tasks between 1 and 5"),
        "{plan}"
    );
    cluster.apply();
    let tasks = |job: &str, number: u64| {
        wait_until(&format!("{number} of {job}"), || {
            cluster.is_settled(job) && cluster.status(job)["job"]["replicas"] == number
        });
    };
    tasks("queue", 1);
    let put = |waiting: u32| {
        let write = format!("echo jobs_waiting {waiting} > /tmp/load");
        cluster
            .tw(&["exec", "queue.0", "--", "sh", "-c", &write])
            .exits(0);
    };
    put(33);
    tasks("queue", 4);
    let said = cluster.tw(&["status", "queue"]).exits(0).stdout;
    assert!(
        said.contains("scales from 1 to 5, now 4 tasks: jobs_waiting 3"),
        "{said}"
    );
    assert!(said.contains("borne now, 10 for each task"), "{said}");
    tasks("busy", 3);
    let why = cluster.status("busy")["job"]["scale"]["reason"].clone();
    assert!(
        why.as_str()
            .unwrap_or_default()
            .contains("0.05 for each task"),
        "{why}"
    );
    put(1);
    tasks("queue", 1);
    let scaled = cluster.events("queue");
    let scaled = scaled.iter().filter(|event| event["kind"] == "job.scaled");
    assert!(scaled.count() >= 4, "one at a time");
}
