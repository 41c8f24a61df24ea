//! Secrets: set by people, read by tasks, seen by nobody else.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::cluster::Cluster;
use crate::probe::wait_until;
use crate::ran::Ran;

const FIRST: &str = "qx7-hush-first-4b1d";
const SECOND: &str = "qx7-hush-second-9c";

/// What both values have, and nothing else does.
const MARK: &str = "qx7-hush-";

const READER: &str = r#"
from tw import Job, Secret, export
export(Job(
    name="reader", secrets=[Secret(name="card-key")],
    command=["sh", "-c", "echo read $(wc -c < /secrets/card-key); exec sleep 600"],
))
"#;

fn set(cluster: &Cluster, value: &str) -> Ran {
    let mut setting = cluster
        .command(&["secret", "set", "card-key"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    setting
        .stdin
        .take()
        .unwrap()
        .write_all(value.as_bytes())
        .unwrap();
    Ran::of(setting.wait_with_output().unwrap())
}

#[test]
fn a_secret_is_read_by_its_job_and_seen_nowhere_else() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", READER);
    for words in [&["plan", "."][..], &["apply", "--auto-approve", "."]] {
        let refused = cluster.tw(words).exits(1);
        for part in [
            "job reader reads secret 'card-key', which has no value",
            "tw secret set --namespace default card-key < FILE",
        ] {
            assert!(refused.stderr.contains(part), "{refused:?}");
        }
    }
    assert_eq!(set(&cluster, "").exits(1).stdout, "");
    assert_eq!(
        set(&cluster, FIRST).exits(0).stdout,
        "secret 'card-key' is set\n"
    );
    cluster.apply();
    cluster.wait_settled("reader");
    wait_until("the first value", || {
        printed(&cluster).contains("read 19\n")
    });
    let read = |words: &str| cluster.tw(&["exec", "reader.0", "--", "sh", "-c", words]);
    assert_eq!(read("cat /secrets/card-key").exits(0).stdout, FIRST);

    let replaced = set(&cluster, SECOND).exits(0).stdout;
    assert!(
        replaced.contains("at the next start of reader; `tw restart`"),
        "{replaced}"
    );
    assert_eq!(read("cat /secrets/card-key").exits(0).stdout, FIRST);
    cluster.tw(&["restart", "reader"]).exits(0);
    wait_until("the second value", || {
        printed(&cluster).contains("read 18\n")
    });
    cluster.wait_settled("reader");
    seen_nowhere(&cluster);
    told_to_machines_alone(&cluster);

    let used = cluster.tw(&["secret", "remove", "card-key"]).exits(1);
    assert!(used.stderr.contains("is read by job reader"), "{used:?}");
    cluster.tw(&["stop", "reader"]).exits(0);
    cluster.tw(&["secret", "remove", "card-key"]).exits(0);
    let none = cluster.tw(&["secret", "list"]).exits(0).stdout;
    assert!(none.starts_with("No secret is set"), "{none}");
}

fn printed(cluster: &Cluster) -> String {
    cluster.tw(&["logs", "reader.0"]).stdout
}

fn seen_nowhere(cluster: &Cluster) {
    let listed = cluster.tw(&["secret", "list"]).exits(0).stdout;
    assert!(
        listed.contains("card-key") && listed.contains("reader"),
        "{listed}"
    );
    for words in [
        &["status"][..],
        &["status", "reader"],
        &["status", "reader", "--json"],
        &["plan", "."],
        &["plan", ".", "--json"],
        &["diff", "."],
        &["eval", ".", "--json"],
        &["history", "reader"],
        &["logs", "reader"],
        &["events", "reader"],
        &["events", "reader", "--json"],
        &["why", "reader"],
        &["machines", "--json"],
        &["plans"],
        &["secret", "list"],
        &["secret", "list", "--json"],
        &["exec", "reader.0", "--", "env"],
    ] {
        let ran = cluster.tw(words);
        assert!(
            !ran.stdout.contains(MARK) && !ran.stderr.contains(MARK),
            "{ran:?}"
        );
    }
    let kept = cluster.state().join("secrets");
    assert!(kept.join("default/card-key").is_file());
    search(&cluster.state(), &kept);
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for name in ["cmdline", "environ", "cgroup"] {
            // A process may end in this moment.
            let found = std::fs::read(process.path().join(name)).unwrap_or_default();
            assert!(!has_mark(&found), "{}/{name}", process.path().display());
        }
    }
}

/// No file of the state, the store, the task's folder and all logs included, has a value, but for those of the secrets.
fn search(folder: &Path, but: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && path != but {
            search(&path, but);
        } else if kind.is_file() {
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(!has_mark(&found), "{}", path.display());
        }
    }
}

fn has_mark(bytes: &[u8]) -> bool {
    bytes
        .windows(MARK.len())
        .any(|part| part == MARK.as_bytes())
}

fn told_to_machines_alone(cluster: &Cluster) {
    for path in [
        "/v1/agents/agent-1/secrets/default/other/card-key",
        "/v1/agents/agent-2/secrets/default/reader/card-key",
        "/v1/agents/agent-1/secrets/default/reader/other-key",
    ] {
        let refused = cluster.get(path).unwrap_err();
        assert_eq!(
            refused.refusal().unwrap().code.as_str(),
            "auth.denied",
            "{path}"
        );
    }
    assert!(cluster.get("/v1/secrets/default/card-key").is_err());
}
