//! The shipped example of an application with a say: three members of etcd through an update and the loss of a machine,
//! with every acknowledged write looked for afterwards.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::probe::{wait_for, wait_until};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/etcd");

/// Writes all the while, and looks for its writes in the end.
const CHECK: &str = r#"
export(Job(
    name="check", kind="batch", packages=[app], depends_on=["etcd"],
    command=["python3", "check.py", "SECONDS"], restart=Restart(attempts=0),
))
"#;

fn has_etcd() -> bool {
    Command::new("etcd")
        .arg("--version")
        .output()
        .is_ok_and(|ran| ran.status.success())
}

fn logs(cluster: &Cluster, job: &str) -> String {
    cluster.tw(&["logs", job]).exits(0).stdout
}

/// The indexes of the members in the order in which the controller approved them, and which of these led.
fn approvals(cluster: &Cluster) -> Vec<(u64, bool)> {
    let said = logs(cluster, "etcd-control");
    let lines = said
        .lines()
        .filter_map(|line| line.strip_prefix("approves etcd."));
    let mut all: Vec<(u64, bool)> = lines
        .filter_map(|line| {
            let index = line.split('#').next()?.parse().ok()?;
            Some((index, line.ends_with("the leader")))
        })
        .collect();
    // It is asked until the operation has begun.
    all.dedup();
    all
}

#[test]
fn etcd_keeps_its_quorum_and_every_write_through_an_update_and_the_loss_of_a_machine() {
    if !has_etcd() {
        anstream::eprintln!("not run: there is no etcd on this machine (Debian's etcd-server)");
        return;
    }
    let cluster = Cluster::start(4);
    let copied = Command::new("cp")
        .arg("-r")
        .arg(Path::new(EXAMPLE).join("."))
        .arg(cluster.repository.root())
        .status();
    assert!(copied.unwrap().success());
    cluster.apply();
    cluster.wait_settled("etcd");

    let spec = std::fs::read_to_string(cluster.repository.root().join("config.tw")).unwrap();
    cluster.repository.write(
        "config.tw",
        &format!("{spec}{}", CHECK.replace("SECONDS", "60")),
    );
    cluster.apply();
    wait_until("the check runs", || {
        cluster.task("check", 0)["state"] == "running"
    });

    cluster
        .repository
        .replace("config.tw", "\"RELEASE\": \"1\"", "\"RELEASE\": \"2\"");
    cluster.apply();
    wait_until("every member has the new release", || {
        cluster.is_settled("etcd")
    });
    let order = approvals(&cluster);
    assert_eq!(order.len(), 3, "one approval a member: {order:?}");
    assert_eq!(
        order.iter().map(|(_, leads)| *leads).collect::<Vec<_>>(),
        [false, false, true],
        "the leader is last: {order:?}"
    );

    // A machine with a member and nothing else goes.
    let spared: Vec<Value> = ["etcd-control", "check"]
        .map(|job| cluster.task(job, 0)["machine"].clone())
        .into();
    let victim = wait_for("a machine with a member alone", || {
        let members = (0..3).map(|index| cluster.task("etcd", index));
        members
            .map(|task| task["machine"].clone())
            .find(|machine| !spared.contains(machine))
    });
    let victim = victim.as_str().unwrap();
    cluster.tw(&["dev", "--take", victim]).exits(0);
    wait_until("the member is replaced elsewhere", || {
        let members = (0..3).map(|index| cluster.task("etcd", index));
        cluster.is_settled("etcd") && members.into_iter().all(|task| task["machine"] != victim)
    });
    let check = wait_for("the check is done", || {
        let task = cluster.task("check", 0);
        matches!(task["state"].as_str(), Some("done" | "failed")).then_some(task)
    });
    let said = logs(&cluster, "check");
    assert_eq!(check["state"], "done", "{said}");
    assert!(said.contains(" lost 0, "), "{said}");
    anstream::eprintln!("{}", said.lines().last().unwrap_or_default());
}
