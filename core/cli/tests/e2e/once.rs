//! Tasks of which there must never be two: they wait for their machine, or end in time by themselves.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::probe::{is_alive, kill_9, wait_for, wait_until};

const SPEC: &str = r#"
from tw import SECOND, Failover, Job, Restart, Stop, export
plain = Job(
    name="plain", command=["sleep", "1000"],
    restart=Restart(delay=0.2 * SECOND), stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
)
export(
    plain,
    plain.replace(name="waits", at_most_one=True),
    plain.replace(name="fails-over", at_most_one=True, failover=Failover(within=7 * SECOND)),
)
"#;

const JOBS: [&str; 3] = ["plain", "waits", "fails-over"];

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Stops a process for as long as this lives.
struct Stopped(i32);

impl Stopped {
    fn new(pid: i32) -> Stopped {
        send(pid, Signal::SIGSTOP);
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _gone = kill(Pid::from_raw(self.0), Signal::SIGCONT);
    }
}

/// All three jobs on the one machine that there is; a second machine has come since.
fn all_on_one() -> (Cluster, String) {
    let cluster = Cluster::start(2);
    cluster.tw(&["drain", "agent-2", "--detach"]).exits(0);
    cluster.repository.write("config.tw", SPEC);
    cluster.apply();
    JOBS.iter().for_each(|job| cluster.wait_settled(job));
    cluster.tw(&["drain", "agent-2", "--cancel"]).exits(0);
    (cluster, "agent-1".to_owned())
}

fn replaced(cluster: &Cluster, job: &str, old: &Value) -> Option<Value> {
    let status = cluster.try_status(job)?;
    let now = status["tasks"][0].clone();
    (now["id"] != old["id"] && now["state"] == "running").then_some(now)
}

#[test]
fn a_task_that_is_cut_off_ends_before_another_starts_or_is_waited_for() {
    let (cluster, machine) = all_on_one();
    let before: Vec<Value> = JOBS.iter().map(|job| cluster.task(job, 0)).collect();
    let pids: Vec<i32> = before
        .iter()
        .map(|task| cluster.pid_of(task, "task"))
        .collect();
    let agent = Stopped::new(cluster.process(&machine).unwrap());

    let began = Instant::now();
    wait_until("the plain task is replaced at once", || {
        replaced(&cluster, "plain", &before[0]).is_some()
    });
    let died_after = wait_for("the task that fails over ends by itself", || {
        (!is_alive(pids[2])).then(|| began.elapsed())
    });
    assert!(
        replaced(&cluster, "fails-over", &before[2]).is_none(),
        "it ended after {died_after:?}, and another ran by then"
    );
    wait_until("and then another starts", || {
        replaced(&cluster, "fails-over", &before[2]).is_some()
    });
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );

    let waiting = cluster.task("waits", 0);
    assert_eq!(waiting["id"], before[1]["id"]);
    assert!(is_alive(pids[1]), "nobody ended the task that waits");
    let reason = waiting["reason"].as_str().unwrap();
    assert!(reason.contains("out of reach"), "{reason}");

    drop(agent);
    wait_until("the task that waited goes on as it was", || {
        cluster.is_settled("waits")
    });
    assert_eq!(cluster.task("waits", 0)["id"], before[1]["id"]);
    assert!(is_alive(pids[1]));
    wait_until("the plain task that was replaced ends", || {
        !is_alive(pids[0])
    });
}

#[test]
fn a_helper_that_stands_still_does_not_keep_its_task_alive() {
    let (cluster, machine) = all_on_one();
    let before = cluster.task("fails-over", 0);
    let (helper, task) = (
        cluster.pid_of(&before, "helper"),
        cluster.pid_of(&before, "task"),
    );
    let _agent = Stopped::new(cluster.process(&machine).unwrap());
    let _helper = Stopped::new(helper);
    wait_until("the kernel ends both", || {
        !is_alive(task) && !is_alive(helper)
    });
    assert!(replaced(&cluster, "fails-over", &before).is_none());
    wait_until("and then another starts", || {
        replaced(&cluster, "fails-over", &before).is_some()
    });
}

#[test]
fn a_lost_machine_is_fenced_by_hand_and_no_other() {
    let (cluster, machine) = all_on_one();
    let before = cluster.task("waits", 0);
    let refused = cluster
        .tw(&["machines", "fence", &machine, "--yes"])
        .exits(1);
    assert!(refused.stderr.contains("is within reach"), "{refused:?}");

    cluster.tw(&["dev", "--take", &machine]).exits(0);
    wait_until("the machine is lost", || {
        let machines = cluster.machines();
        machines
            .iter()
            .any(|row| row["id"] == machine.as_str() && row["state"] == "lost")
    });
    wait_until("the plain task is replaced", || cluster.is_settled("plain"));
    assert_eq!(cluster.task("waits", 0)["id"], before["id"]);

    let unsure = cluster.tw(&["machines", "fence", &machine]).exits(1);
    assert!(unsure.stderr.contains("--yes"), "{unsure:?}");
    let fenced = cluster
        .tw(&["machines", "fence", &machine, "--yes", "--json"])
        .exits(0)
        .json();
    // That of the job that fails over may have been replaced by then.
    assert!(fenced["tasks"].as_u64().unwrap() >= 1, "{fenced}");
    wait_until("it starts elsewhere", || {
        replaced(&cluster, "waits", &before).is_some()
    });

    cluster.tw(&["dev", "--give-back", &machine]).exits(0);
    wait_until("the machine is back", || cluster.connected() == 2);
    JOBS.iter().for_each(|job| cluster.wait_settled(job));
}

#[test]
fn a_second_agent_under_a_name_in_use_is_refused() {
    let cluster = Cluster::start(1);
    let socket = cluster.state().join("tw.sock");
    let second = cluster.state().join("second");
    let program = std::path::Path::new(crate::cluster::TW).with_file_name("tw-agent");
    let mut agent = std::process::Command::new(program)
        .args(["run", "--name", "agent-1", "--cgroup"])
        .arg(format!("{}-second", cluster.cgroup()))
        .arg("--state")
        .arg(&second)
        .arg("--controller")
        .arg(format!("unix:{}", socket.display()))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = std::io::BufReader::new(agent.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(log).map_while(Result::ok);
    let refusal = lines.find(|line| line.contains("is of another state folder"));
    let pid = agent.id().cast_signed();
    kill_9(pid);
    agent.wait().unwrap();
    let clean = std::process::Command::new(
        std::path::Path::new(crate::cluster::TW).with_file_name("tw-agent"),
    )
    .args(["clean", "--cgroup"])
    .arg(format!("{}-second", cluster.cgroup()))
    .arg("--state")
    .arg(&second)
    .status()
    .unwrap();
    assert!(clean.success());
    let refusal = refusal.expect("it says why it was refused");
    assert!(
        refusal.contains("the agent of machine agent-1 runs"),
        "{refusal}"
    );
    assert_eq!(cluster.connected(), 1);
}
