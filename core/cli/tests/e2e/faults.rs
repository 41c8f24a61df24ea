//! What breaks, and what must hold then.

use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::probe::{is_alive, kill_9, wait_for, wait_until};

/// A service of two tasks that only waits.
const SLEEPER: &str = r#"
from tw import SECOND, Job, Restart, Stop, export
export(Job(
    name="sleeper", command=["sleep", "1000"], replicas=2,
    restart=Restart(delay=0.2 * SECOND), stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
))
"#;

fn sleeping(agents: u32) -> Cluster {
    let cluster = Cluster::start(agents);
    cluster.repository.write("config.tw", SLEEPER);
    cluster.apply();
    cluster.wait_settled("sleeper");
    cluster
}

/// Id and start time of each task, which change with every start.
fn lives(cluster: &Cluster, job: &str) -> Vec<(Value, Value)> {
    let status = cluster.status(job);
    let tasks = status["tasks"].as_array().unwrap();
    tasks
        .iter()
        .map(|task| (task["id"].clone(), task["started_at"].clone()))
        .collect()
}

fn restarted(cluster: &Cluster, before: &Value) -> Value {
    wait_for(&format!("{} is replaced", before["id"]), || {
        let status = cluster.try_status("sleeper")?;
        let now = status["tasks"][before["index"].as_u64().unwrap() as usize].clone();
        (now["id"] != before["id"] && now["state"] == "running").then_some(now)
    })
}

#[test]
fn a_killed_task_or_helper_is_followed_by_another_task() {
    let cluster = sleeping(1);
    let other = cluster.task("sleeper", 1);

    let victim = cluster.task("sleeper", 0);
    kill_9(cluster.pid_of(&victim, "task"));
    let again = restarted(&cluster, &victim);
    assert_eq!(again["restarts"], 1);

    let (helper, task) = (
        cluster.pid_of(&again, "helper"),
        cluster.pid_of(&again, "task"),
    );
    kill_9(helper);
    let third = restarted(&cluster, &again);
    assert_eq!(third["restarts"], 2);
    assert!(!is_alive(task), "no task lives without its helper");
    let lost = cluster.events("sleeper");
    assert!(
        lost.iter()
            .any(|event| event["message"].as_str().unwrap().contains("helper")),
        "the events say that it was the helper: {lost:#?}"
    );
    assert_eq!(
        cluster.task("sleeper", 1)["id"],
        other["id"],
        "the other task noticed nothing"
    );
}

#[test]
fn a_killed_agent_or_controller_restarts_no_task() {
    let cluster = sleeping(2);
    let before = lives(&cluster, "sleeper");
    for name in ["agent-1", "agent-2", "controller"] {
        cluster.kill_and_await(name);
        assert_eq!(
            lives(&cluster, "sleeper"),
            before,
            "after kill -9 of {name}"
        );
    }
    // And what runs is still under control: stopping ends it.
    let pids: Vec<i32> = (0..2)
        .map(|index| cluster.pid_of(&cluster.task("sleeper", index), "task"))
        .collect();
    cluster.tw(&["stop", "sleeper"]).exits(0);
    wait_until("the tasks end", || pids.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn an_exit_code_is_not_lost_while_the_agent_is_away() {
    let cluster = Cluster::start(1);
    cluster.repository.write(
        "config.tw",
        r#"
from tw import Job, Restart, export
export(Job(name="seven", kind="batch", command=["sh", "-c", "sleep 1.5; exit 7"], restart=Restart(attempts=0)))
"#,
    );
    cluster.apply();
    let task = wait_for("it runs", || {
        let task = cluster.task("seven", 0);
        (task["state"] == "running").then_some(task)
    });
    let exit = cluster.task_folder(&task).join("exit.json");
    // The supervisor starts another at once, which is killed as well, until the task has ended meanwhile.
    while !exit.exists() {
        if let Some(agent) = cluster.process("agent-1") {
            kill_9(agent);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let ended = wait_for("it has failed", || {
        let task = cluster.try_status("seven")?["tasks"][0].clone();
        (task["state"] == "failed").then_some(task)
    });
    assert_eq!(ended["id"], task["id"]);
    assert_eq!(ended["exit"]["code"], 7, "{ended}");
}

#[test]
fn a_machine_that_is_taken_away_loses_its_tasks_to_others_and_comes_back_empty() {
    let cluster = sleeping(2);
    let before = cluster.status("sleeper");
    let on_two = |status: &Value| {
        let tasks = status["tasks"].as_array().unwrap();
        tasks
            .iter()
            .filter(|task| task["machine"] == "agent-2")
            .cloned()
            .collect::<Vec<_>>()
    };
    let [lost] = &on_two(&before)[..] else {
        panic!("one task a machine: {before}")
    };
    let pid = cluster.pid_of(lost, "task");
    cluster.tw(&["dev", "--take", "agent-2"]).exits(0);
    wait_until("the task elsewhere", || {
        cluster
            .try_status("sleeper")
            .is_some_and(|status| on_two(&status).is_empty())
            && cluster.is_settled("sleeper")
    });
    assert!(!is_alive(pid));
    let machine = || {
        cluster
            .machines()
            .into_iter()
            .find(|machine| machine["id"] == "agent-2")
            .unwrap()
    };
    assert_eq!(
        (&machine()["state"], &machine()["connected"]),
        (&json!("lost"), &json!(false))
    );

    let settled = lives(&cluster, "sleeper");
    cluster.tw(&["dev", "--give-back", "agent-2"]).exits(0);
    wait_until("the machine is up", || {
        machine()["state"] == "up" && machine()["connected"] == true
    });
    assert_eq!(machine()["tasks"], 0, "it runs nothing of before");
    assert_eq!(lives(&cluster, "sleeper"), settled);
    let unknown = cluster.tw(&["dev", "--take", "agent-9"]).exits(1);
    assert!(
        unknown.stderr.contains("agent-9") && unknown.stderr.contains("tw machines"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn an_end_of_tw_dev_asks_tasks_to_end_and_is_no_failure() {
    let cluster = Cluster::start(1);
    cluster.repository.write(
        "config.tw",
        r#"
from tw import Job, export
polite = "trap 'sleep 2; echo goodbye; exit 3' TERM; while true; do sleep 0.1; done"
export(Job(name="sleeper", command=["sh", "-c", polite]))
export(Job(name="crunch", kind="batch", command=["sleep", "1000"]))
"#,
    );
    cluster.apply();
    cluster.wait_settled("sleeper");
    wait_until("the batch task runs", || {
        cluster.task("crunch", 0)["state"] == "running"
    });
    let ended = cluster.tw(&["dev", "--stop"]).exits(0);
    assert!(
        ended.stderr.contains("Waiting for 1 task") && ended.stderr.contains("sleeper.0#1"),
        "{}",
        ended.stderr
    );
    cluster.dev().exits(0);
    for job in ["sleeper", "crunch"] {
        wait_until(&format!("{job} runs again"), || {
            let status = cluster.try_status(job);
            status.is_some_and(|status| status["tasks"][0]["state"] == "running")
        });
        assert_eq!(cluster.task(job, 0)["restarts"], 0, "{job}");
        let events = cluster.events(job);
        let kinds: Vec<&str> = events
            .iter()
            .filter_map(|one| one["kind"].as_str())
            .collect();
        assert!(kinds.contains(&"task.stopped"), "{kinds:?}");
        assert!(!kinds.contains(&"task.failed"), "{kinds:?}");
    }
    let said = cluster.tw(&["logs", "sleeper.0#1"]).exits(0).stdout;
    assert!(said.contains("goodbye"), "{said}");
}

#[test]
fn a_damaged_store_is_named_and_left_as_it_is() {
    let cluster = sleeping(1);
    cluster.stop();
    let path = cluster.state().join("controller.db");
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[0xA5; 64]).unwrap();
    drop(file);
    let damaged = std::fs::read(&path).unwrap();

    let begun = Instant::now();
    let refused = cluster.dev().exits(1);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it is not tried without end"
    );
    assert!(
        refused.stderr.contains("controller.db"),
        "names the file: {}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("backup"),
        "says what helps: {}",
        refused.stderr
    );
    assert_eq!(
        std::fs::read(&path).unwrap(),
        damaged,
        "nothing was made anew in its place"
    );
}
