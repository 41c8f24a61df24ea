//! Daemons: one task on each machine.

use serde_json::json;
use tw_model::{JobSpec, MachineFacts, Millis, TaskState};
use tw_scheduler::{DrainOrder, Event, why_pending};

use crate::cluster::{Cluster, id, service, spec};

fn daemon(command: &str, requires: serde_json::Value) -> JobSpec {
    spec(json!({
        "name": "agent", "kind": "daemon", "command": [command], "requires": requires,
        "resources": {"cpu_millicores": 500, "memory_bytes": 128 << 20},
        "rollout": {"stages": [1, "50%", "100%"], "healthy_for_ms": 2000, "max_unavailable": 2},
        "restart": {"delay_ms": 1000, "delay_max_ms": 16_000},
    }))
}

/// The machines that have a running task, sorted.
fn served(cluster: &Cluster) -> Vec<String> {
    let tasks = cluster.job("agent").tasks();
    let running = tasks.filter(|row| row.state == TaskState::Running);
    let mut machines: Vec<String> = running
        .filter_map(|row| Some(row.machine.as_ref()?.to_string()))
        .collect();
    machines.sort();
    machines
}

fn drain(cluster: &mut Cluster, machine: &str, order: DrainOrder) {
    let by = "ann".to_owned();
    let machines = vec![machine.parse().unwrap()];
    cluster.decide(Event::Drain {
        machines,
        order,
        by,
    });
}

fn begin() -> DrainOrder {
    DrainOrder::Begin {
        reason: String::new(),
        within: None,
        lasts: None,
    }
}

#[test]
fn each_machine_has_one_and_a_new_one_gets_its_own() {
    let mut cluster = Cluster::new(&[(4, 4096), (4, 4096), (4, 4096)]);
    let plan = cluster.submit(&[daemon("agent", json!({}))]);
    assert_eq!(plan.counts.to_string(), "3 started");
    assert_eq!(plan.capacity.cpu_millicores, 1500);
    cluster.settle("agent");
    assert_eq!(served(&cluster), ["m0", "m1", "m2"]);
    cluster.register("m3", "boot-1", (4, 4096), Vec::new());
    cluster.pass(Millis::seconds(5));
    assert_eq!(served(&cluster), ["m0", "m1", "m2", "m3"]);
    assert!(cluster.plan(&[daemon("agent", json!({}))]).jobs.is_empty());
}

#[test]
fn a_machine_that_comes_back_has_its_own_again_under_the_same_index() {
    let mut cluster = Cluster::new(&[(4, 4096), (4, 4096)]);
    cluster.submit(&[daemon("agent", json!({}))]);
    cluster.settle("agent");
    let index = cluster.job("agent").tasks().find(|row| {
        row.machine
            .as_ref()
            .is_some_and(|machine| machine.as_str() == "m1")
    });
    let index = index.unwrap().id.index;
    cluster.decide(Event::MachineLost {
        machine: "m1".parse().unwrap(),
        silent: 1,
    });
    cluster.pass(Millis::seconds(20));
    assert_eq!(served(&cluster), ["m0"]);
    assert_eq!(
        cluster.job("agent").indexes().count(),
        1,
        "a lost machine wants none"
    );
    cluster.register("m1", "boot-2", (4, 4096), Vec::new());
    cluster.pass(Millis::seconds(5));
    assert_eq!(served(&cluster), ["m0", "m1"]);
    assert_eq!(cluster.machine_of("agent", index), "m1");
}

#[test]
fn it_leaves_a_drained_machine_after_the_tasks_that_it_serves() {
    let mut cluster = Cluster::new(&[(4, 4096), (4, 4096)]);
    cluster.submit(&[daemon("agent", json!({})), service("web", 2, "web")]);
    cluster.settle("web");
    cluster.settle("agent");
    cluster.silent = vec!["m0".to_owned(), "m1".to_owned()];
    drain(&mut cluster, "m0", begin());
    cluster.pass(Millis::seconds(2));
    assert_eq!(served(&cluster), ["m0", "m1"], "web is still there");
    cluster.silent.clear();
    cluster.pass(Millis::seconds(10));
    assert_eq!(served(&cluster), ["m1"]);
    drain(&mut cluster, "m0", DrainOrder::End);
    cluster.pass(Millis::seconds(5));
    assert_eq!(served(&cluster), ["m0", "m1"]);
}

#[test]
fn only_machines_that_it_requires_have_one() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    let labelled = |kind: &str| MachineFacts {
        labels: [("kind".to_owned(), kind.to_owned())].into(),
        ..MachineFacts::default()
    };
    cluster.register_as("m1", "boot-1", (4, 4096), Vec::new(), labelled("gpu"));
    let gpu = json!({"labels": {"kind": "gpu"}});
    cluster.submit(&[daemon("agent", gpu.clone())]);
    cluster.settle("agent");
    assert_eq!(served(&cluster), ["m1"]);
    let plan = cluster.submit(&[daemon("agent", json!({}))]);
    assert_eq!(plan.counts.started, 1);
    cluster.settle("agent");
    assert_eq!(served(&cluster), ["m0", "m1"]);
    let plan = cluster.submit(&[daemon("agent", gpu)]);
    assert_eq!(plan.counts.stopped, 1);
    cluster.pass(Millis::seconds(5));
    assert_eq!(served(&cluster), ["m1"]);
    cluster.settle("agent");
    // The machine itself changes.
    cluster.register_as("m1", "boot-2", (4, 4096), Vec::new(), labelled("plain"));
    cluster.pass(Millis::seconds(5));
    assert_eq!(served(&cluster), [] as [&str; 0]);
}

#[test]
fn an_update_keeps_to_its_budget_and_each_task_to_its_machine() {
    let mut cluster = Cluster::new(&[(4, 4096); 6]);
    cluster.submit(&[daemon("agent", json!({}))]);
    cluster.settle("agent");
    cluster.decide(Event::MachineLost {
        machine: "m5".parse().unwrap(),
        silent: 1,
    });
    let places = |cluster: &Cluster| -> Vec<String> {
        (0..6)
            .map(|index| cluster.machine_of("agent", index))
            .collect()
    };
    let before = places(&cluster);
    let plan = cluster.submit(&[daemon("other", json!({}))]);
    assert_eq!(
        (plan.counts.restarted, &plan.jobs[0].stages),
        (5, &vec![1, 3, 5])
    );
    let mut least = 5;
    for _ in 0..200 {
        cluster.pass(Millis(500));
        least = least.min(cluster.serving("agent"));
    }
    assert!(cluster.settled("agent"), "{}", cluster.show());
    assert!(least >= 3, "only {least} of 5 served");
    assert_eq!(places(&cluster), before);
}

#[test]
fn a_machine_without_room_says_so() {
    let mut cluster = Cluster::new(&[(4, 4096), (4, 100)]);
    let plan = cluster.submit(&[daemon("agent", json!({}))]);
    assert!(
        plan.jobs[0].verdict.to_string().contains("does not fit"),
        "{plan:?}"
    );
    cluster.pass(Millis::seconds(5));
    assert_eq!(served(&cluster), ["m0"]);
    let waiting = cluster
        .job("agent")
        .tasks()
        .find(|row| row.state == TaskState::Pending);
    let waiting = waiting.unwrap();
    assert!(
        waiting
            .reason
            .starts_with("m1 has no room for its task of agent"),
        "{}",
        waiting.reason
    );
    let why = why_pending(&cluster.state, &waiting.id, cluster.now)
        .unwrap()
        .to_string();
    assert!(why.contains("memory short on 1 of 1"), "{why}");
}

#[test]
fn a_service_that_becomes_a_daemon_begins_anew_and_the_other_way_round() {
    let mut cluster = Cluster::new(&[(4, 4096), (4, 4096)]);
    let mut job = service("agent", 3, "agent");
    job.health.clear();
    cluster.submit(&[job.clone()]);
    cluster.settle("agent");
    cluster.submit(&[daemon("agent", json!({}))]);
    cluster.pass(Millis::seconds(20));
    assert_eq!(served(&cluster), ["m0", "m1"], "{}", cluster.show());
    cluster.submit(&[job]);
    cluster.pass(Millis::seconds(20));
    assert_eq!(served(&cluster).len(), 3, "{}", cluster.show());
    assert_eq!(cluster.job("agent").row().id, id("agent"));
}

#[test]
fn a_plan_does_not_end_the_task_of_a_machine_that_keeps_it() {
    let mut cluster = Cluster::new(&[(4, 4096), (4, 4096)]);
    cluster.submit(&[daemon("agent", json!({})), service("web", 2, "web")]);
    cluster.settle("web");
    cluster.settle("agent");
    cluster.silent = vec!["m0".to_owned(), "m1".to_owned()];
    drain(&mut cluster, "m0", begin());
    cluster.pass(Millis::seconds(2));
    assert_eq!(served(&cluster), ["m0", "m1"], "web is still there");
    let plan = cluster.plan(&[daemon("newer", json!({}))]);
    assert_eq!(plan.counts.to_string(), "2 restarted", "{plan:?}");
    assert!(
        matches!(plan.jobs[0].verdict, tw_scheduler::Verdict::Fits),
        "{plan:?}"
    );
}
