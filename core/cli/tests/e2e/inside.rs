//! Looking into what runs: exec, logs, events, machines.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::probe::{wait_for, wait_until};

/// Its `tar` sends more than it was asked for, and a program that would run as its owner.
const LIAR: &str = r#"
from tw import Job, export
export(Job(
    name="liar", env={"PATH": "/tmp/bin:/usr/bin:/bin"},
    command=["sh", "-c", """
        mkdir -p /tmp/bin /tmp/evil/state /tmp/evil/.ssh
        cp /bin/true /tmp/evil/state/run && chmod 6755 /tmp/evil/state/run
        echo key > /tmp/evil/.ssh/authorized_keys
        printf '#!/bin/sh\\nexec /usr/bin/tar -c -f - -C /tmp/evil state .ssh' > /tmp/bin/tar
        chmod +x /tmp/bin/tar
        sleep 1000"""],
))
"#;

/// Exchanges a folder and a link again and again.
const RACER: &str = r#"
from tw import Job, export
export(Job(
    name="racer",
    command=["python3", "-c", """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs('/tmp/data/place')
open('/tmp/data/place/note', 'w').write('mine')
os.symlink(sys.argv[1], '/tmp/data/link')
while libc.renameat2(-100, b'/tmp/data/place', -100, b'/tmp/data/link', 2) == 0: pass
""", "OUTSIDE"],
))
"#;

const TICKER: &str = r#"
from tw import Job, export
export(Job(
    name="ticker", replicas=2,
    command=["sh", "-c", "n=0; while true; do n=$((n + 1)); echo tick $n; sleep 0.2; done"],
))
"#;

#[test]
fn tasks_can_be_entered_read_and_listed() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", TICKER);
    cluster.apply();
    cluster.wait_settled("ticker");
    exec(&cluster);
    copies(&cluster);
    logs(&cluster);
    events_and_machines(&cluster);
}

fn exec(cluster: &Cluster) {
    let run = |words: &[&str]| cluster.tw(&[&["exec", "ticker.0", "--"], words].concat());
    assert_eq!(run(&["id", "-un"]).exits(0).stdout, "nobody\n");
    let processes = run(&["sh", "-c", "ls -d /proc/[0-9]* | wc -l"])
        .exits(0)
        .stdout;
    assert!(
        processes.trim().parse::<u32>().unwrap() < 10,
        "its own processes only: {processes}"
    );
    assert_eq!(
        run(&["sh", "-c", "echo $TW_JOB.$TW_INDEX"]).exits(0).stdout,
        "ticker.0\n"
    );
    let apart = run(&["sh", "-c", "echo out; echo err >&2; exit 42"]).exits(42);
    assert_eq!(
        (apart.stdout.as_str(), apart.stderr.as_str()),
        ("out\n", "err\n")
    );
    let absent = run(&["no-such-program"]).exits(127).stderr;
    assert!(
        absent.contains("'no-such-program' not found; looked for"),
        "{absent}"
    );
    let refused = run(&["/etc/passwd"]).exits(126).stderr;
    assert!(refused.contains("it is not executable"), "{refused}");
    let folder = std::fs::File::open("/").unwrap();
    let words = ["exec", "ticker.0", "--", "timeout", "20", "cat"];
    let read = cluster.command(&words).stdin(folder).output().unwrap();
    assert!(read.status.success(), "input that cannot be read has ended");
    let audit = cluster.tw(&["events", "ticker"]).exits(0).stdout;
    for words in [
        "task.exec ticker.0",
        "root ran `id -un`",
        "root ran `sh -c 'echo out; echo err >&2; exit 42'`: exit code 42",
        "root ran `no-such-program`: command 'no-such-program' not found; looked for",
        "root ran `/etc/passwd`: cannot run /etc/passwd: it is not executable",
    ] {
        assert!(audit.contains(words), "{audit}");
    }
    let debug = ["exec", "--debug", "ticker.0", "--", "sh", "-c"];
    let looks = cluster.tw(&[&debug[..], &["ls /task; strace -V | head -1; exit 9"]].concat());
    let seen = looks.exits(9).stdout;
    assert!(
        seen.contains("packages") && seen.contains("strace"),
        "{seen}"
    );
    let audit = cluster.tw(&["events", "ticker"]).exits(0).stdout;
    assert!(audit.contains("root as a debugger ran `sh -c"), "{audit}");
    let several = cluster.tw(&["exec", "ticker", "--", "true"]).exits(1);
    assert!(several.stderr.contains("ticker.0"), "{}", several.stderr);
    let nobody = cluster.tw(&["exec", "ticker.7", "--", "true"]).exits(1);
    assert!(
        nobody.stderr.contains("tw status ticker"),
        "{}",
        nobody.stderr
    );
}

fn copies(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(here("sent/deep")).unwrap();
    std::fs::write(here("sent/deep/note"), "from here").unwrap();
    let sent = here("sent").display().to_string();
    cluster.tw(&["cp", &sent, "ticker.0:/tmp"]).exits(0);
    let read = cluster.tw(&["exec", "ticker.0", "--", "cat", "/tmp/sent/deep/note"]);
    assert_eq!(read.exits(0).stdout, "from here");
    std::fs::create_dir(here("back")).unwrap();
    let back = here("back").display().to_string();
    cluster.tw(&["cp", "ticker.0:/tmp/sent", &back]).exits(0);
    let note = std::fs::read_to_string(here("back/sent/deep/note")).unwrap();
    assert_eq!(note, "from here");
    // The end of a command is written down behind the answer.
    for words in [
        "root ran `tar -x --no-same-owner -f - -C /tmp`",
        "root ran `tar -c -f - -C /tmp -- sent`",
        "root ran `tar -c -f - -C /tmp -- sent`: exit code 0",
    ] {
        wait_until(words, || {
            let audit = cluster.tw(&["events", "ticker"]).exits(0).stdout;
            audit.contains(words)
        });
    }
    let root = cluster.tw(&["cp", "ticker.0:/tmp/..", &back]).exits(1);
    assert!(root.stderr.contains("by its own name"), "{}", root.stderr);
    let missing = cluster.tw(&["cp", "ticker.0:/tmp/none", &back]).exits(1);
    assert!(
        missing.stderr.contains("No such file"),
        "{}",
        missing.stderr
    );
    let denied = cluster.tw(&["cp", &sent, "ticker.0:/usr"]).exits(1);
    assert!(denied.stderr.contains("in the task"), "{}", denied.stderr);
}

#[test]
fn a_copy_out_of_a_task_takes_what_was_asked_for_and_no_more() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", LIAR);
    cluster.apply();
    wait_until("its tar is there", || {
        cluster
            .tw(&["exec", "liar.0", "--", "test", "-x", "/tmp/bin/tar"])
            .code
            == 0
    });
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().display().to_string();
    let refused = cluster.tw(&["cp", "liar.0:/tmp/state", &dest]).exits(1);
    assert!(
        refused.stderr.contains("'.ssh/' was not asked for"),
        "{refused:?}"
    );
    assert!(!folder.path().join(".ssh").exists());
    let program = std::fs::metadata(folder.path().join("state/run")).unwrap();
    assert_eq!(program.permissions().mode() & 0o7777, 0o755);
}

#[test]
fn copies_stay_where_they_belong_while_the_links_on_their_way_change() {
    let (outside, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("key"), "of the caller").unwrap();
    std::fs::create_dir(here.path().join("sent")).unwrap();
    std::fs::write(here.path().join("sent/new"), "from here").unwrap();
    let cluster = Cluster::start(1);
    let racer = RACER.replace("OUTSIDE", outside.path().to_str().unwrap());
    cluster.repository.write("config.tw", &racer);
    cluster.apply();
    let looks = ["exec", "racer.0", "--", "ls", "/tmp/data/link"];
    wait_until("it exchanges them", || cluster.tw(&looks).code == 0);
    let sent = here.path().join("sent").display().to_string();
    let mut given = 0;
    for round in 0..15 {
        let dest = here.path().join(format!("taken-{round}"));
        std::fs::create_dir(&dest).unwrap();
        let took = cluster.tw(&["cp", "racer.0:/tmp/data", dest.to_str().unwrap()]);
        let gave = cluster.tw(&["cp", &sent, "racer.0:/tmp/data/place"]);
        given += i32::from(gave.code == 0);
        let names: Vec<_> = std::fs::read_dir(outside.path())
            .unwrap()
            .flatten()
            .collect();
        assert_eq!(names.len(), 1, "{names:?} {took:?}");
        let key = std::fs::read_to_string(outside.path().join("key")).unwrap();
        assert_eq!(key, "of the caller");
        let others = std::fs::read_dir(&dest).unwrap().flatten();
        assert!(
            others.into_iter().all(|entry| entry.file_name() == "data"),
            "{took:?}"
        );
    }
    assert!(given > 0, "no copy ever met the folder");
}

fn logs(cluster: &Cluster) {
    wait_until("the first lines", || {
        let begun = cluster.tw(&["logs", "ticker.0"]).exits(0).stdout;
        begun.starts_with("tick 1\ntick 2\ntick 3\n")
    });
    assert_eq!(
        cluster
            .tw(&["logs", "-n", "2", "ticker.0"])
            .exits(0)
            .stdout
            .lines()
            .count(),
        2
    );
    let none = cluster.tw(&["logs", "--since", "2999-01-01T00:00:00Z", "ticker.0"]);
    assert_eq!(none.exits(0).stdout, "");
    let first = cluster.tw(&["logs", "--since", "1h", "--until", "0s", "ticker.0"]);
    assert!(first.exits(0).stdout.starts_with("tick 1\n"));
    let both = cluster.tw(&["logs", "ticker"]).exits(0).stdout;
    assert!(
        both.contains("ticker.0#") && both.contains("ticker.1#"),
        "{both}"
    );
    let line: Value = serde_json::from_str(
        cluster
            .tw(&["logs", "--json", "-n", "1", "ticker.0"])
            .exits(0)
            .stdout
            .lines()
            .next()
            .unwrap(),
    )
    .unwrap();
    assert_eq!(line["stream"], "stdout");

    let mut following = cluster
        .command(&["logs", "-f", "-n", "1", "ticker.0"])
        .spawn()
        .unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let seen: Vec<u32> = lines
        .take(6)
        .map(|line| {
            line.unwrap()
                .strip_prefix("tick ")
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(
        seen.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "each line once, in order: {seen:?}"
    );
}

fn events_and_machines(cluster: &Cluster) {
    let kinds: Vec<Value> = cluster
        .events("ticker")
        .iter()
        .map(|event| event["kind"].clone())
        .collect();
    assert_eq!(kinds[0], "job.submitted");
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "task.started").count(),
        2,
        "{kinds:?}"
    );
    let text = cluster.tw(&["events", "ticker"]).exits(0).stdout;
    assert_eq!(text.lines().count(), kinds.len());

    let reply = cluster.tw(&["machines", "--json"]).exits(0).json();
    assert_eq!(reply["version"], 1);
    let machine = &reply["machines"][0];
    assert_eq!(
        (&machine["id"], &machine["state"]),
        (&json!("agent-1"), &json!("up"))
    );
    assert_eq!(
        (&machine["connected"], &machine["tasks"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(machine["reserved"]["cpu_millicores"], 200);
    let usage = wait_for("the use of a task", || {
        let task = cluster.task("ticker", 0);
        task["usage"].is_object().then(|| task["usage"].clone())
    });
    assert!(usage["memory"].as_u64().unwrap() > 0, "{usage}");
}

const CRASHING: &str = r#"
from tw import MINUTE, Job, Restart, export
export(Job(
    name="crashing", command=["sh", "-c", "echo this is the cause; exit 1"],
    restart=Restart(delay=10 * MINUTE, delay_max=10 * MINUTE),
))
"#;

#[test]
fn a_task_that_waits_to_begin_again_shows_what_the_one_before_it_said() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", CRASHING);
    cluster.apply();
    let waits = || {
        let found = cluster.tw(&["status", "crashing.0", "--json"]).json();
        (found["tasks"][0]["state"] == "pending" && found["tasks"][0]["earlier"] == "crashing.0#1")
            .then_some(())
    };
    wait_for("it waits", waits);
    for name in ["crashing", "crashing.0"] {
        let said = cluster.tw(&["logs", name]).exits(0).stdout;
        assert_eq!(said, "this is the cause\n", "{name}");
    }
    let named = cluster.tw(&["logs", "crashing.0#2"]).exits(1);
    assert!(
        named.stderr.contains("has no machine yet"),
        "{}",
        named.stderr
    );
    let unknown = cluster.tw(&["status", "crashing.7"]).exits(1);
    assert!(
        unknown.stderr.contains("has no such task"),
        "{}",
        unknown.stderr
    );
    let cured = CRASHING.replace("exit 1", "sleep 600");
    cluster.repository.write("config.tw", &cured);
    let said = cluster.tw(&["run", "--auto-approve", "."]).exits(0).stdout;
    let is_of = |version| said.contains(&format!("version {version} by "));
    assert!(is_of(2) && !is_of(1), "what came before is history: {said}");
}
