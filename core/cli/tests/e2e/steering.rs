//! What people steer: updates that pause, go back or take themselves back, and machines that are emptied.

use serde_json::json;

use crate::cluster::Cluster;
use crate::probe::wait_for;

/// A service of three tasks whose health is what its environment says.
fn web(version: &str, healthy: bool) -> String {
    let check = if healthy { "true" } else { "false" };
    format!(
        r#"
from tw import SECOND, CommandCheck, Job, Restart, Rollout, Stop, export
export(Job(
    name="web", command=["sleep", "1000"], replicas=3, env={{"VERSION": "{version}"}},
    health=[CommandCheck(command="{check}", every=0.2 * SECOND, timeout=1 * SECOND, failures=1)],
    rollout=Rollout(stages=[1, "100%"], healthy_for=0.5 * SECOND, deadline=3 * SECOND, on_failure="rollback"),
    restart=Restart(delay=0.2 * SECOND), stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
))
"#
    )
}

fn serving(version: &str) -> Cluster {
    let cluster = Cluster::start(2);
    cluster.repository.write("config.tw", &web(version, true));
    cluster.apply();
    cluster.wait_settled("web");
    // Only a version that was healthy for long enough is one to go back to.
    wait_for("it counts as healthy", || {
        let events = cluster.tw(&["events", "web"]).exits(0).stdout;
        events.contains("job.healthy").then_some(())
    });
    cluster
}

/// The version of the spec that each task runs.
fn versions(cluster: &Cluster) -> Vec<u64> {
    let status = cluster.status("web");
    let tasks = status["tasks"].as_array().unwrap();
    tasks
        .iter()
        .map(|task| task["version"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_version_that_is_not_healthy_takes_itself_back_and_the_command_says_so() {
    let cluster = serving("one");
    let kept = [
        cluster.task("web", 1)["id"].clone(),
        cluster.task("web", 2)["id"].clone(),
    ];
    cluster.repository.write("config.tw", &web("two", false));
    let run = cluster.tw(&["run", "--auto-approve", "."]).exits(1);
    assert!(run.stdout.contains("rollout.rolled_back"), "{}", run.stdout);
    cluster.wait_settled("web");
    assert_eq!(versions(&cluster), [3; 3], "version 3 is as version 1 was");
    let now = [
        cluster.task("web", 1)["id"].clone(),
        cluster.task("web", 2)["id"].clone(),
    ];
    assert_eq!(kept, now, "what the update had not reached was left alone");
}

#[test]
fn an_update_is_paused_resumed_and_rolled_back() {
    let cluster = serving("one");
    cluster.repository.write("config.tw", &web("two", true));
    cluster.apply();
    cluster.tw(&["rollout", "pause", "web"]).exits(0);
    let paused = cluster.status("web");
    assert_eq!(paused["job"]["rollout"]["state"], "paused");
    let shown = cluster.tw(&["status"]).exits(0).stdout;
    assert!(shown.contains("update paused"), "{shown}");
    let again = cluster.tw(&["rollout", "pause", "web"]).exits(1);
    assert!(
        again.stderr.contains("the update of web is paused already"),
        "{again:?}"
    );
    cluster.tw(&["rollout", "resume", "web"]).exits(0);
    cluster.wait_settled("web");
    assert_eq!(versions(&cluster), [2; 3]);

    let reply = cluster
        .tw(&["rollout", "rollback", "web", "--to", "1", "--json"])
        .exits(0);
    assert_eq!(
        reply.json(),
        json!({"version": 1, "job": "web", "job_version": 3})
    );
    cluster.wait_settled("web");
    assert_eq!(versions(&cluster), [3; 3]);
    let nothing = cluster.tw(&["rollout", "abort", "web"]).exits(1);
    assert!(
        nothing.stderr.contains("no update of web is under way"),
        "{nothing:?}"
    );
}

#[test]
fn a_machine_is_emptied_and_filled_again() {
    let cluster = serving("one");
    let machine = cluster.task("web", 0)["machine"]
        .as_str()
        .unwrap()
        .to_owned();
    let drained = cluster
        .tw(&[
            "drain",
            &machine,
            "--reason",
            "new memory",
            "--deadline",
            "1m",
        ])
        .exits(0);
    assert!(drained.stdout.contains("empty; "), "{drained:?}");
    let shown = cluster.tw(&["machines"]).exits(0).stdout;
    let line = shown
        .lines()
        .find(|line| line.starts_with(&machine))
        .unwrap();
    assert!(line.contains("drained"), "{shown}");
    cluster.wait_settled("web");
    let tasks = cluster.status("web")["tasks"].clone();
    for task in tasks.as_array().unwrap() {
        assert_ne!(task["machine"], machine.as_str());
        assert_eq!(task["restarts"], 0);
    }
    cluster.tw(&["drain", "--cancel", &machine]).exits(0);
    cluster.repository.write(
        "config.tw",
        &web("one", true).replace("replicas=3", "replicas=6"),
    );
    cluster.apply();
    wait_for("tasks are placed there again", || {
        let status = cluster.try_status("web")?;
        let mut tasks = status["tasks"].as_array()?.iter();
        tasks
            .any(|task| task["machine"] == machine.as_str())
            .then_some(())
    });
    let unknown = cluster.tw(&["drain", "nowhere"]).exits(1);
    assert!(
        unknown.stderr.contains("there is no machine nowhere"),
        "{unknown:?}"
    );
    let neither = cluster.tw(&["drain"]).exits(1);
    assert!(neither.stderr.contains("MACHINE"), "{neither:?}");
}

/// Twelve tasks that are all there are, so that to end them has to be confirmed.
const MANY: &str = r#"
from tw import MiB, Job, Resources, Stop, export
few = Resources(cpu=0.01, memory=16 * MiB, disk=16 * MiB)
for name in ("api", "web"):
    export(Job(name=name, command="sleep 1000", replicas=6, resources=few, stop=Stop(drain=0, grace=1)))
"#;

#[test]
fn what_ends_many_tasks_is_confirmed_by_its_digest_whether_applied_or_stopped() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", MANY);
    cluster.apply();
    cluster.wait_settled("api");
    cluster.wait_settled("web");
    let digest = |said: &str| {
        let (_, rest) = said.split_once("--confirm-destructive ").expect("a digest");
        rest[..8].to_owned()
    };
    for command in [
        &["stop", "api", "web"][..],
        &[
            "apply",
            "--auto-approve",
            "--remove",
            "api",
            "--remove",
            "web",
            ".",
        ],
    ] {
        if command[0] == "apply" {
            cluster.repository.write("config.tw", MANY);
            cluster.apply();
            cluster.wait_settled("api");
            cluster.wait_settled("web");
            cluster.repository.write("config.tw", "");
        }
        let confirmed = |digest: &str| {
            let confirm = ["--confirm-destructive", digest];
            cluster.tw(&[command, &confirm].concat())
        };
        let refused = cluster.tw(command).exits(1).stderr;
        let ends = "this ends 12 of 12 tasks, 100%: 6 of api; 6 of web";
        assert!(refused.contains(ends), "{refused}");
        let wrong = confirmed("00000000").exits(1).stderr;
        assert!(
            wrong.contains("'00000000' confirms another plan"),
            "{wrong}"
        );
        assert!(!cluster.status("web")["job"]["stopped"].as_bool().unwrap());
        confirmed(&digest(&refused)).exits(0);
        for job in ["api", "web"] {
            assert!(cluster.status(job)["job"]["stopped"].as_bool().unwrap());
        }
    }
}
