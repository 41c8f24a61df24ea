//! Machines that are emptied: one by its name, those of a domain, and all of them one after the other.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, TW};
use crate::probe::{wait_for, wait_until};

/// A service that is healthy while a file is there, and jobs that never have what they want.
const JOBS: &str = r#"
from tw import SECOND, CommandCheck, GiB, Job, Resources, Restart, Schedule, Stop, export
export(Job(
    name="web", command=["sh", "-c", "touch /tmp/ok; sleep 1000"], replicas=3,
    health=[CommandCheck(command="test -e /tmp/ok", every=0.2 * SECOND, timeout=2 * SECOND, failures=1)],
    stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
))
export(Job(name="failed", kind="batch", command="false", restart=Restart(attempts=0)))
export(Job(name="huge", command="sleep 1000", resources=Resources(memory=1000 * GiB)))
export(Job(name="yearly", kind="batch", schedule=Schedule(cron="0 0 1 1 *"), command="true"))
"#;

fn with_jobs() -> Cluster {
    let cluster = Cluster::start(3);
    cluster.repository.write("config.tw", JOBS);
    cluster.apply();
    cluster.wait_settled("web");
    wait_until("the batch job has failed", || {
        cluster.task("failed", 0)["state"] == "failed"
    });
    cluster
}

fn drained(cluster: &Cluster) -> Vec<String> {
    let machines = cluster.machines();
    let drained = machines.iter().filter(|row| !row["drain"].is_null());
    drained
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect()
}

/// A command under way, and what it prints.
fn begin(cluster: &Cluster, words: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = cluster.command(words).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
}

#[test]
fn all_machines_are_upgraded_one_after_the_other() {
    let cluster = with_jobs();
    let log = cluster.state().join("upgraded");
    // Two machines are always there for the others' tasks.
    let command = format!(
        "{TW} machines --json | grep -c '\"drain\": null' >> {0}; echo $TW_MACHINE >> {0}",
        log.display()
    );
    let all = cluster.tw(&["drain", "--all", "--each", &command]).exits(0);
    assert!(all.stdout.contains("agent-3 is done"), "{all:?}");
    let seen = std::fs::read_to_string(&log).unwrap();
    assert_eq!(seen, "2\nagent-1\n2\nagent-2\n2\nagent-3\n");
    assert_eq!(drained(&cluster), [""; 0]);

    // The command makes a task unhealthy that has nothing to do with the machine.
    let breaks = format!("{TW} exec web.0 -- rm /tmp/ok && sleep 2");
    let words = ["drain", "--all", "--wait", "2s", "--each"];
    let unwell = cluster.tw(&[&words[..], &[&breaks]].concat()).exits(1);
    for expected in [
        "agent-1 takes tasks again, but within 2s web lacks 1 more than before (web.0#",
        "--from agent-2 goes on",
    ] {
        assert!(unwell.stderr.contains(expected), "{}", unwell.stderr);
    }
    for other in ["huge", "failed", "yearly"] {
        assert!(!unwell.stderr.contains(other), "{}", unwell.stderr);
    }
    assert_eq!(drained(&cluster), [""; 0]);

    // As long as one is missing, no other may leave its machine.
    cluster
        .tw(&["exec", "web.0", "--", "touch", "/tmp/ok"])
        .exits(0);
    cluster.wait_settled("web");
    let failing = cluster
        .tw(&["drain", "--all", "--from", "agent-2", "--each", "exit 7"])
        .exits(1);
    assert!(
        failing.stdout.starts_with("agent-2, 2 of 3\n"),
        "{failing:?}"
    );
    assert!(
        failing
            .stderr
            .contains("exit status: 7; agent-2 stays drained"),
        "{failing:?}"
    );
    assert_eq!(drained(&cluster), ["agent-2"]);
}

#[test]
fn an_interrupted_upgrade_says_how_to_go_on() {
    let cluster = with_jobs();
    let mark = cluster.state().join("begun");
    let command = format!("touch {}; sleep 3; echo over", mark.display());
    let (child, _lines) = begin(&cluster, &["drain", "--all", "--each", &command]);
    wait_until("the command runs", || mark.exists());
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    for expected in [
        "the command for agent-1 is waited for",
        "interrupted; agent-1 stays drained",
        "--from agent-1 goes on",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(drained(&cluster), ["agent-1"]);
    cluster
        .tw(&["drain", "--all", "--from", "agent-1", "--each", "true"])
        .exits(0);
    assert_eq!(drained(&cluster), [""; 0]);
    let unknown = cluster
        .tw(&["drain", "--all", "--from", "agent-9", "--each", "true"])
        .exits(1);
    assert!(
        unknown.stderr.contains("agent-1, agent-2, agent-3"),
        "{unknown:?}"
    );
}

#[test]
fn a_rack_is_emptied_for_a_while_and_what_stays_is_named() {
    let cluster = Cluster::start(2);
    cluster.repository.write(
        "config.tw",
        r#"
from tw import MINUTE, SECOND, Job, Maintenance, Stop, export
for index in range(4):
    export(Job(
        name=f"patient-{index}", command="sleep 1000", maintenance=Maintenance(endure=10 * MINUTE),
        stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
    ))
export(Job(name="report", kind="batch", command="sleep 1000", replicas=4))
"#,
    );
    cluster.apply();
    let patient = |index: usize| cluster.task(&format!("patient-{index}"), 0);
    let on = |machine: &str| -> Vec<usize> {
        let there = (0..4).filter(|index| patient(*index)["machine"] == machine);
        there.collect()
    };
    for index in 0..4 {
        cluster.wait_settled(&format!("patient-{index}"));
    }
    wait_until("the batch job runs", || {
        (0..4).all(|index| cluster.task("report", index)["state"] == "running")
    });
    let report = cluster.task("report", 0)["machine"]
        .as_str()
        .unwrap()
        .to_owned();
    let rack = report.replace("agent", "rack");
    let (before, beside) = (
        on(&report),
        on(if report == "agent-1" {
            "agent-2"
        } else {
            "agent-1"
        }),
    );

    let (mut child, mut lines) = begin(&cluster, &["drain", "--rack", &rack, "--for", "5m"]);
    let named = wait_for("what stays is named", || {
        let line = lines.next().unwrap().unwrap();
        line.contains("left to end by itself").then_some(line)
    });
    assert!(named.starts_with("  report."), "{named}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(drained(&cluster), [report.as_str()]);

    cluster.tw(&["stop", "report"]).exits(0);
    cluster
        .tw(&["drain", "--rack", &rack, "--for", "5m"])
        .exits(0);
    // They wait for their machine, and are nowhere else.
    for index in &before {
        assert_ne!(patient(*index)["state"], "running", "{}", patient(*index));
    }
    assert_eq!(
        on(if report == "agent-1" {
            "agent-2"
        } else {
            "agent-1"
        }),
        beside
    );
    cluster.tw(&["drain", "--rack", &rack, "--cancel"]).exits(0);
    for index in &before {
        cluster.wait_settled(&format!("patient-{index}"));
    }
    assert_eq!(on(&report), before);

    let unknown = cluster.tw(&["drain", "--rack", "rack-9"]).exits(1);
    assert!(
        unknown.stderr.contains("there is rack-1, rack-2"),
        "{unknown:?}"
    );
    let unknown = cluster.tw(&["drain", "--region", "mars"]).exits(1);
    assert!(
        unknown.stderr.contains("the machines name no region"),
        "{unknown:?}"
    );
}

#[test]
fn a_drain_is_ordered_ahead_and_may_be_taken_back() {
    let cluster = Cluster::start(2);
    let names: Vec<String> = cluster
        .machines()
        .iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    let [first, second] = [&names[0], &names[1]];
    let said = cluster.tw(&["drain", first, "--starts-in", "1h"]).exits(0);
    assert!(
        said.stdout.contains("the drain begins in 1h"),
        "{}",
        said.stdout
    );
    let shown = cluster.tw(&["machines"]).exits(0).stdout;
    assert!(shown.contains("up, drain at 2"), "{shown}");
    assert_eq!(drained(&cluster), [""; 0]);
    cluster.tw(&["drain", first, "--cancel"]).exits(0);
    let shown = cluster.tw(&["machines"]).exits(0).stdout;
    assert!(!shown.contains("drain at"), "{shown}");
    cluster
        .tw(&["drain", second, "--at", "2026-01-01T00:00:00Z"])
        .exits(0);
    wait_until("a moment that has passed is now", || {
        drained(&cluster) == [second.clone()]
    });
}
