//! `tw dev` of a user without root.

use std::os::unix::fs::MetadataExt;

use crate::cluster::Cluster;
use crate::probe::wait_until;

/// A user that nobody on the machine is.
const USER: u32 = 54_321;

const JOBS: &str = r#"
from tw import Hooks, Hook, Job, Volume, export
export(Job(
    name="counter", user="daemon",
    command=["sh", "-c", "id -un; echo one more >> /data/starts; wc -l < /data/starts; exec sleep 600"],
    volumes=[Volume(name="data", path="/data", size=MiB)],
    hooks=Hooks(pre_stop=Hook(command=["sh", "-c", "echo told"])),
))
"#;

#[test]
fn a_user_without_root_runs_jobs_and_is_told_what_they_lack() {
    let (cluster, said) = Cluster::start_as(USER);
    for words in [
        "Without root, tasks have a sandbox that lacks:",
        "limits: processor and memory are measured and not limited",
        "users: every task is your own user",
        "disk: ",
    ] {
        assert!(said.contains(words), "{said}");
    }
    cluster.repository.write(
        "config.tw",
        &JOBS.replace("import Hooks", "import MiB, Hooks"),
    );
    let plan = cluster.tw(&["plan", "."]);
    let text = plan.stdout.clone() + &plan.stderr;
    assert!(
        text.contains("processor and memory are measured and not limited on agent-1"),
        "{text}"
    );
    cluster.apply();
    cluster.wait_settled("counter");
    let task = cluster.task("counter", 0);
    let helper = cluster.pid_of(&task, "helper");
    let on_host = std::fs::metadata(format!("/proc/{helper}")).unwrap();
    assert_eq!(on_host.uid(), USER);
    let run = |words: &[&str]| cluster.tw(&[&["exec", "counter.0", "--"], words].concat());
    assert_eq!(run(&["id", "-un"]).exits(0).stdout, "daemon\n");
    let shut = run(&["ls", "/home", "/root"]);
    assert!(shut.code != 0 && shut.stdout.is_empty(), "{shut:?}");
    // The init is of the same user here, and keeps its program and memory to itself all the same.
    let shielded = run(&["cat", "/proc/1/environ", "/proc/1/maps"]);
    assert!(
        shielded.code != 0 && shielded.stdout.is_empty(),
        "{shielded:?}"
    );

    cluster.tw(&["restart", "counter"]).exits(0);
    wait_until("the second start", || {
        let logs = cluster.tw(&["logs", "counter.0"]).stdout;
        logs.contains("daemon") && logs.contains("2")
    });
    cluster.kill_and_await("agent-1");
    cluster.wait_settled("counter");
    cluster.stop();
    assert!(
        !cluster
            .state()
            .join("agents/agent-1/leaves")
            .read_dir()
            .unwrap()
            .flatten()
            .any(|entry| entry.path().is_dir())
    );
    cluster.dev().exits(0);
    cluster.wait_settled("counter");
}
