//! The living examples, run as a person runs them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::probe::{http_get, wait_for};

#[test]
fn hello_runs_once_and_is_done() {
    let cluster = Cluster::start(1);
    cluster.repository.copy_example("hello");
    let run = cluster.tw(&["run", "--auto-approve", "."]).exits(0);
    assert!(run.stdout.contains("settled hello"), "{}", run.stdout);
    let status = cluster.status("hello");
    assert_eq!(status["version"], 1);
    assert_eq!(status["job"]["done"], 1);
    assert_eq!(status["tasks"][0]["state"], "done");
    assert_eq!(status["tasks"][0]["restarts"], 0);
    assert!(
        status["tasks"][0]["healthy"].is_null(),
        "there are no checks: {status}"
    );
    assert_eq!(cluster.tw(&["logs", "hello"]).exits(0).stdout, "hello\n");
    // Applying the same again changes nothing, and does not run it again.
    assert!(
        cluster
            .tw(&["run", "--auto-approve", "."])
            .exits(0)
            .stdout
            .starts_with("Nothing to do")
    );
    assert_eq!(cluster.task("hello", 0)["id"], status["tasks"][0]["id"]);
}

#[test]
fn nightly_succeeds_at_the_third_attempt_and_keeps_the_logs_of_each() {
    let cluster = Cluster::start(1);
    cluster.repository.copy_example("nightly");
    cluster.tw(&["run", "--auto-approve", "."]).exits(0);
    let task = cluster.task("nightly", 0);
    assert_eq!(
        (&task["id"], &task["state"], &task["restarts"]),
        (&json!("nightly.0#3"), &json!("done"), &json!(2))
    );
    for attempt in 1..=2 {
        let logs = cluster
            .tw(&["logs", &format!("nightly.0#{attempt}")])
            .exits(0);
        assert_eq!(
            logs.stderr,
            format!("attempt {attempt}: the figures are not in yet\n")
        );
    }
    assert_eq!(
        cluster.tw(&["logs", "nightly"]).exits(0).stdout,
        "attempt 3: the report is written\n"
    );
    let kinds: Vec<Value> = cluster
        .events("nightly")
        .iter()
        .map(|event| event["kind"].clone())
        .collect();
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "task.failed").count(),
        2,
        "{kinds:?}"
    );
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "job.done").count(),
        1,
        "{kinds:?}"
    );
}

#[test]
fn sweep_runs_by_the_clock_and_its_watcher_is_on_each_machine() {
    let cluster = Cluster::start(3);
    cluster.repository.copy_example("sweep");
    let run = cluster.tw(&["run", "--auto-approve", "."]).exits(0);
    assert!(run.stdout.contains("settled sweep"), "{}", run.stdout);
    let watchers = cluster.status("watcher");
    let machines: std::collections::BTreeSet<&str> = watchers["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|task| task["machine"].as_str())
        .collect();
    assert_eq!(
        (machines.len(), &watchers["job"]["healthy"]),
        (3, &json!(3))
    );

    let next = cluster.status("sweep")["job"]["schedule"]["next_at"].clone();
    assert!(
        next.is_number() || next.is_string(),
        "the next run is known: {next}"
    );
    assert_eq!(cluster.status("sweep")["tasks"], json!([]));
    // Nobody waits for the night.
    cluster.tw(&["restart", "sweep"]).exits(0);
    wait_for("the run is done", || {
        (cluster.status("sweep")["runs"][0]["outcome"] == "done").then_some(())
    });
    let logs = cluster.tw(&["logs", "sweep.3"]).exits(0);
    assert_eq!(logs.stdout, "swept part 3\n");
    let shown = cluster.tw(&["status", "sweep"]).exits(0).stdout;
    assert!(shown.contains("next run at"), "{shown}");

    // The clock itself: every minute, and the first run comes by itself.
    cluster
        .repository
        .replace("config.tw", "30 2 * * *", "* * * * *");
    cluster.apply();
    wait_for("a run that the clock began", || {
        let runs = cluster.status("sweep")["runs"].as_array()?.clone();
        let run = runs.get(1)?;
        (run["outcome"] == "done" && run["reason"] == "").then_some(())
    });
    let events = cluster.events("sweep");
    let done = events
        .iter()
        .filter(|event| event["kind"] == "run.done")
        .count();
    assert!(done >= 2, "{events:?}");
}

#[test]
fn web_is_updated_in_stages_and_no_request_fails() {
    let cluster = Cluster::start(2);
    cluster.repository.copy_example("web");
    cluster.repository.commit("web");
    cluster.tw(&["run", "--auto-approve", "."]).exits(0);
    cluster.wait_settled("web");
    let status = cluster.status("web");
    assert_eq!(status["tasks"].as_array().unwrap().len(), 3);
    assert_eq!(status["job"]["rollout"], Value::Null);
    let (code, body) = http_get(&cluster.endpoints("web", "http").unwrap()[0], "/").unwrap();
    assert_eq!(code, 200);
    assert!(body.contains("run by Twill"), "{body}");

    cluster
        .repository
        .replace("site/index.html", "run by Twill", "updated by Twill");
    cluster.repository.commit("another page");
    let diff = cluster
        .tw(&["diff", "HEAD~1", "HEAD", "--json"])
        .exits(2)
        .json();
    assert_eq!(diff["version"], 1);
    assert_eq!(diff["jobs"].as_array().unwrap().len(), 1, "{diff}");
    let change = &diff["jobs"][0]["changes"][0];
    assert_eq!(
        (&diff["jobs"][0]["name"], &diff["jobs"][0]["change"]),
        (&json!("web"), &json!("modified"))
    );
    assert_eq!(change["effect"], "restart", "{diff}");
    assert!(
        change["path"].as_str().unwrap().starts_with("packages"),
        "{diff}"
    );
    assert!(
        change["cause"]["commit"]
            .as_str()
            .is_some_and(|commit| commit.len() == 40),
        "{diff}"
    );

    let ended = AtomicBool::new(false);
    let (pages, failures) = std::thread::scope(|scope| {
        let load = scope.spawn(|| request_until(&cluster, &ended));
        // What fails here must not leave the load running.
        let update = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.tw(&["run", "--auto-approve", "."]).exits(0);
            cluster.wait_settled("web");
            std::thread::sleep(Duration::from_millis(300));
        }));
        ended.store(true, Ordering::Relaxed);
        let seen = load.join().unwrap();
        update.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        seen
    });
    assert!(
        failures.is_empty(),
        "of {} requests failed: {failures:?}",
        pages.len()
    );
    let updated = pages
        .iter()
        .filter(|page| page.contains("updated by Twill"))
        .count();
    assert!(
        updated > 0 && updated < pages.len(),
        "both pages were served: {updated} of {}",
        pages.len()
    );
    let stages: Vec<Value> = cluster
        .events("web")
        .into_iter()
        .filter(|event| event["kind"] == "rollout.stage")
        .collect();
    assert_eq!(stages.len(), 1, "one task, then all: {stages:?}");
    assert!(
        stages[0]["message"]
            .as_str()
            .unwrap()
            .contains("stage 2 of 2"),
        "{stages:?}"
    );
}

/// Looks the service up and asks it, time and again: pages and failures.
fn request_until(cluster: &Cluster, ended: &AtomicBool) -> (Vec<String>, Vec<String>) {
    let (mut pages, mut failures) = (Vec::new(), Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = cluster.client();
    while !ended.load(Ordering::Relaxed) {
        let looked_up =
            runtime.block_on(client.get::<tw_api::ServicesReply>("/v1/services/default/web/http"));
        match looked_up {
            Ok(reply) => {
                let endpoint = &reply.endpoints[pages.len() % reply.endpoints.len()];
                match http_get(&endpoint.address, "/") {
                    Ok((200, body)) => pages.push(body),
                    other => failures.push(format!("{}: {other:?}", endpoint.task)),
                }
            }
            Err(failure) => failures.push(format!("{failure:?}")),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    (pages, failures)
}

#[test]
fn shop_takes_an_order_through_three_services() {
    let cluster = Cluster::start(3);
    cluster.repository.copy_example("shop");
    cluster.repository.commit("the shop");
    cluster
        .tw(&["run", "--auto-approve", "--rev", "HEAD", "."])
        .exits(0);
    for job in ["redis", "front", "worker"] {
        cluster.wait_settled(job);
    }
    let front = &cluster.endpoints("front", "http").unwrap()[0];
    let ask = |path: &str| -> Value {
        let (code, body) = http_get(front, path).unwrap();
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    };
    assert_eq!(ask("/order")["order"], 1);
    wait_for("the worker packs it", || {
        (ask("/packed")["packed"] == 1).then_some(())
    });
    let machines: std::collections::BTreeSet<String> = cluster.status("front")["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["machine"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        machines.len(),
        3,
        "three replicas are spread over three machines"
    );
}
