//! Who gets how much of the machines: what teams may ask for, and who makes room for whom.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::probe::{is_alive, wait_for, wait_until};

/// A service that asks for a quarter of a core a task.
fn web(replicas: u32) -> String {
    format!(
        r#"
from tw import Job, MiB, Resources, export
export(Job(
    name="web", command=["sleep", "1000"], replicas={replicas}, allowance="shop",
    resources=Resources(cpu=0.01, memory=16 * MiB),
))
"#
    )
}

fn allowance(cluster: &Cluster) -> Value {
    let found = cluster.tw(&["allowance", "--json"]).exits(0).json();
    found["allowances"][0].clone()
}

#[test]
fn a_team_gets_what_it_is_allowed_and_what_runs_is_left_alone() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", &web(2));
    let unknown = cluster.tw(&["apply", "--auto-approve", "."]).exits(1);
    assert!(
        unknown
            .stderr
            .contains("web is charged to shop, and there is no such allowance"),
        "{}",
        unknown.stderr
    );
    let memory = ["--memory-gib", "1"];
    cluster
        .tw(&[&["allowance", "set", "shop", "--cpu", "0.02"][..], &memory].concat())
        .exits(0);
    cluster.apply();
    cluster.wait_settled("web");
    let before = cluster.status("web")["tasks"].clone();

    cluster.repository.write("config.tw", &web(4));
    let plan = cluster.tw(&["plan", "."]).exits(3);
    let line = "allowance shop: 0.04 of 0.02 cores, 64 MiB of 1 GiB of memory; over by 0.02 cores; with 2 tasks of web it would fit";
    assert!(plan.stdout.contains(line), "{}", plan.stdout);
    let refused = cluster.tw(&["apply", "--auto-approve", "."]).exits(1);
    assert!(
        refused.stderr.contains("the allowance is not large enough")
            && refused.stderr.contains(line),
        "{}",
        refused.stderr
    );

    // Below what runs: it runs on, over the loss of the controller too, and only growth is refused.
    cluster
        .tw(&[&["allowance", "set", "shop", "--cpu", "0.01"][..], &memory].concat())
        .exits(0);
    cluster.kill_and_await("controller");
    cluster.wait_settled("web");
    let ids = |tasks: &Value| -> Vec<Value> {
        let tasks = tasks.as_array().unwrap().iter();
        tasks.map(|task| task["id"].clone()).collect()
    };
    assert_eq!(ids(&cluster.status("web")["tasks"]), ids(&before));
    let used = allowance(&cluster);
    assert_eq!(
        (
            &used["after"]["cpu_millicores"],
            &used["band"]["cpu_millicores"]
        ),
        (&json!(20), &json!(10))
    );
    cluster.tw(&["allowance", "remove", "shop"]).exits(1);
    cluster.repository.write("config.tw", &web(1));
    cluster.apply();
    wait_until("one is gone", || {
        cluster.status("web")["job"]["replicas"] == 1 && cluster.is_settled("web")
    });
}

/// A job whose tasks each ask for a share of the machine's cores, in thousandths.
fn job(name: &str, kind: &str, replicas: u32, cores: f64, priority: u32) -> String {
    format!(
        r#"
export(Job(
    name="{name}", kind="{kind}", command=["sleep", "1000"], replicas={replicas}, priority={priority},
    resources=Resources(cpu={cores:.3}, memory=16 * MiB), rollout=Rollout(healthy_for=0.2 * SECOND),
    stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
))
"#
    )
}

fn running(cluster: &Cluster, name: &str) -> usize {
    let Some(status) = cluster.try_status(name) else {
        return 0;
    };
    let tasks = status["tasks"].as_array().unwrap().iter();
    tasks.filter(|task| task["state"] == "running").count()
}

#[test]
fn batch_makes_room_for_a_service_and_comes_back_and_a_budget_is_kept() {
    let cluster = Cluster::start(1);
    let cores = cluster.machines()[0]["capacity"]["cpu_millicores"]
        .as_f64()
        .unwrap()
        / 1000.0;
    let head = "from tw import Job, MiB, Resources, Rollout, SECOND, Stop, export\n".to_owned();
    let api = job("api", "service", 2, cores * 0.2, 20);
    let sort = job("sort", "batch", 2, cores * 0.2, 10);
    let web = job("web", "service", 1, cores * 0.55, 80);
    let big = job("big", "service", 1, cores * 0.3, 70);
    cluster
        .repository
        .write("config.tw", &(head.clone() + &api + &sort));
    cluster.apply();
    wait_until("the free room is used", || {
        running(&cluster, "sort") == 2 && running(&cluster, "api") == 2
    });
    cluster.wait_settled("api");
    let apis: Vec<i32> = (0..2)
        .map(|index| cluster.pid_of(&cluster.task("api", index), "task"))
        .collect();
    let sorts: Vec<i32> = (0..2)
        .map(|index| cluster.pid_of(&cluster.task("sort", index), "task"))
        .collect();

    // The batch of lower priority is enough: the service of lower priority is left alone.
    cluster
        .repository
        .write("config.tw", &(head.clone() + &api + &sort + &web));
    let plan = cluster.tw(&["plan", "."]).exits(2).stdout;
    assert!(
        plan.contains("takes the room of 2 tasks of sort (0, 1)"),
        "{plan}"
    );
    cluster.apply();
    cluster.wait_settled("web");
    assert!(sorts.iter().all(|pid| !is_alive(*pid)), "the batch is gone");
    assert!(apis.iter().all(|pid| is_alive(*pid)), "the service is not");
    wait_for("the events say why", || {
        let events = cluster.events("sort");
        let said = events.iter().filter(|event| {
            event["message"].as_str() == Some("makes room for web.0#1, of priority 80")
        });
        (said.count() >= 2).then_some(())
    });
    let why = cluster.tw(&["why", "sort"]).exits(0).stdout;
    assert!(why.contains("makes room for web.0#1"), "{why}");

    // One task of the service may be down, and one alone gives not enough: it keeps both.
    cluster
        .repository
        .write("config.tw", &(head + &api + &sort + &web + &big));
    cluster.tw(&["apply", "--auto-approve", "."]).exits(0);
    wait_until("it waits", || {
        cluster.task("big", 0)["state"] == "pending"
            && cluster.tw(&["why", "big"]).stdout.contains("cpu short")
    });
    assert!(apis.iter().all(|pid| is_alive(*pid)), "its budget is kept");

    // With room again all come back, the highest priority first.
    cluster.tw(&["stop", "web"]).exits(0);
    cluster.wait_settled("big");
    wait_until("one of the batch is back", || {
        running(&cluster, "sort") == 1
    });
    cluster.tw(&["stop", "big"]).exits(0);
    wait_until("all of the batch is back", || {
        running(&cluster, "sort") == 2
    });
    let restarts = |task: &Value| task["restarts"].as_u64().unwrap_or(0);
    assert_eq!(
        restarts(&cluster.task("sort", 0)) + restarts(&cluster.task("sort", 1)),
        0,
        "it did nothing wrong"
    );
    assert!(
        apis.iter().all(|pid| is_alive(*pid)),
        "the service never noticed"
    );
}
