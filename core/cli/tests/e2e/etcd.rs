//! The shipped example of an application with a say: three members of etcd through an update and the loss of a machine,
//! with every acknowledged write looked for afterwards.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::probe::{http_get, wait_for, wait_until};

/// The longest time without an acknowledged write, in seconds; it is 0.2 where all goes well. An election takes a second
/// or two (`--election-timeout`), and a writer waits three for a leader that has just gone. A quorum that goes with a
/// machine is back once the member is replaced, and `Failover` waits 15 seconds before that.
const SILENCE_MAX: f64 = 5.0;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/etcd");

/// Writes all the while, and looks for its writes in the end.
const CHECK: &str = r#"
export(Job(
    name="check", kind="batch", packages=[app], depends_on=["etcd"],
    command=["python3", "check.py", "600"], restart=Restart(attempts=0),
))
"#;

/// Where `TW_ALL_PROGRAMS` is set, every program that `.ci/deps tests` installs has to be there.
fn has_etcd() -> bool {
    let is_there = finds_etcd();
    let must_be = std::env::var_os("TW_ALL_PROGRAMS").is_some();
    assert!(
        is_there || !must_be,
        "there is no etcd: run `.ci/deps tests`"
    );
    is_there
}

fn finds_etcd() -> bool {
    Command::new("etcd")
        .arg("--version")
        .output()
        .is_ok_and(|ran| ran.status.success())
}

fn logs(cluster: &Cluster, job: &str) -> String {
    cluster.tw(&["logs", job]).exits(0).stdout
}

/// How many writes of the check were acknowledged so far.
fn acknowledged(cluster: &Cluster) -> u64 {
    let said = logs(cluster, "check");
    let mut lines = said.lines().rev();
    let newest = lines.find_map(|line| line.strip_suffix(" acknowledged"));
    newest.map_or(0, |count| count.parse().unwrap())
}

fn wait_for_more_writes(cluster: &Cluster) {
    let before = acknowledged(cluster);
    wait_until("another write is acknowledged", || {
        acknowledged(cluster) > before
    });
}

/// How many members answer those who ask them.
fn members_up(cluster: &Cluster) -> Option<usize> {
    let status = cluster.try_status("etcd")?;
    let addresses = status["tasks"].as_array()?.iter().filter_map(|task| {
        let port = task["ports"]["client"].as_u64()?;
        Some(format!("{}:{port}", task["address"].as_str()?))
    });
    let answer = |address: &String| http_get(address, "/version").is_ok();
    Some(addresses.filter(answer).count())
}

/// The fewest members that were up at once until `over`.
fn fewest_up(cluster: &Cluster, over: &AtomicBool) -> usize {
    let mut fewest = usize::MAX;
    while !over.load(Relaxed) {
        let up = || members_up(cluster).unwrap_or(usize::MAX);
        // One may have got another port between the question where it is and the question to it.
        let seen = match up() {
            few @ ..2 => few.max(up()),
            enough => enough,
        };
        fewest = fewest.min(seen);
        std::thread::sleep(Duration::from_millis(200));
    }
    fewest
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
        // Past the harness, which keeps to itself what a test prints that passes.
        let said =
            b"\nNOT RUN: the test of examples/etcd; there is no etcd here (Debian's etcd-server)\n";
        std::io::stderr().write_all(said).unwrap();
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
    cluster
        .repository
        .write("config.tw", &format!("{spec}{CHECK}"));
    cluster.apply();
    wait_until("the check runs", || {
        cluster.task("check", 0)["state"] == "running"
    });
    wait_for_more_writes(&cluster);

    let over = AtomicBool::new(false);
    let fewest = std::thread::scope(|scope| {
        let watch = scope.spawn(|| fewest_up(&cluster, &over));
        // Also when it panics: the watch would go on for ever.
        let end_of_watch = OnDrop(&over);
        update_and_lose_a_machine(&cluster);
        drop(end_of_watch);
        watch.join().unwrap()
    });
    assert_eq!(fewest, 2, "never fewer than a quorum, and one at a time");

    let enough = ["exec", "check.0", "--", "touch", "/tmp/enough"];
    cluster.tw(&enough).exits(0);
    let check = wait_for("the check is done", || {
        let task = cluster.task("check", 0);
        matches!(task["state"].as_str(), Some("done" | "failed")).then_some(task)
    });
    let said = logs(&cluster, "check");
    assert_eq!(check["state"], "done", "{said}");
    assert!(said.contains(" lost 0, "), "{said}");
    let last = said.lines().last().unwrap_or_default();
    anstream::eprintln!("{last}");
    let silence = last.split("longest silence ").nth(1).unwrap();
    let silence: f64 = silence.trim_end_matches(" s").parse().unwrap();
    assert!(silence < SILENCE_MAX, "{last}");
}

/// Says that something is over when it goes out of scope.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn update_and_lose_a_machine(cluster: &Cluster) {
    cluster
        .repository
        .replace("config.tw", "\"RELEASE\": \"1\"", "\"RELEASE\": \"2\"");
    cluster.apply();
    wait_until("every member has the new release", || {
        cluster.is_settled("etcd")
    });
    let order = approvals(cluster);
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
    wait_for_more_writes(cluster);
    cluster.tw(&["dev", "--take", victim]).exits(0);
    wait_until("the member is replaced elsewhere", || {
        let members = (0..3).map(|index| cluster.task("etcd", index));
        cluster.is_settled("etcd") && members.into_iter().all(|task| task["machine"] != victim)
    });
    wait_for_more_writes(cluster);
}
