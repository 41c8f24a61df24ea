//! What people get wrong: what they are told, and with which exit code.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::cluster::{Cluster, tw_in};
use crate::probe::{http_get, wait_for};
use crate::ran::Ran;

/// `tw check` of one spec and the modules beside it, in a folder outside git.
fn check(files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        std::fs::write(folder.path().join(path), text).unwrap();
    }
    shown(&tw_in(folder.path(), &["check", "."]))
}

/// Exit code and standard error, as a golden.
fn shown(ran: &Ran) -> String {
    format!("exit code {}\n{}", ran.code, ran.stderr.trim_end())
}

#[test]
fn syntax() {
    assert_snapshot!(check(&[("config.tw", "from tw import Job, export\nexport(Job(name=\"web\", command=\"sleep 1\")\n")]), @r#"
    exit code 1
    error[spec.syntax]: '(' was never closed
     --> config.tw:2:7
      |
    2 | export(Job(name="web", command="sleep 1")
      |       ^
    "#);
}

#[test]
fn wrong_type() {
    assert_snapshot!(check(&[("config.tw", "from tw import Job, export\nexport(\n    Job(\n        name=\"web\",\n        command=\"sleep 1\",\n        replicas=\"three\",\n    )\n)\n")]), @r#"
    exit code 1
    error[spec.wrong_type]: replicas: expected a whole number, found the text "three"
     --> config.tw:6:18
      |
    6 |         replicas="three",
      |                  ^^^^^^^
    "#);
}

#[test]
fn unknown_field_names_the_nearest() {
    assert_snapshot!(check(&[("config.tw", "from tw import Job, export\nexport(Job(name=\"web\", command=\"sleep 1\", replica=3))\n")]), @r#"
    exit code 1
    error[spec.unknown_field]: `Job` has no field `replica`
     --> config.tw:2:43
      |
    2 | export(Job(name="web", command="sleep 1", replica=3))
      |                                           ^^^^^^^^^
      = help: did you mean `replicas`?
    "#);
}

#[test]
fn unknown_import() {
    assert_snapshot!(check(&[("config.tw", "from tw import Job, export\nimport requests\nexport(Job(name=\"web\", command=\"sleep 1\"))\n")]), @r#"
    exit code 1
    error[spec.import]: there is no module `requests`
     --> config.tw:2:1
      |
    2 | import requests
      | ^^^^^^^^^^^^^^^
      = help: looked for `requests.py` and the folder `requests` in the repository's root; packages from PyPI cannot be imported
    "#);
}

#[test]
fn exception_in_a_shared_module() {
    assert_snapshot!(check(&[
        ("config.tw", "from tw import export\nfrom shared import service\nexport(service(\"web\", {}))\n"),
        ("shared.py", "from tw import Job\n\ndef service(name, sizes):\n    return Job(name=name, command=\"sleep 1\", replicas=sizes[name])\n"),
    ]), @r#"
    exit code 1
    error[spec.exception]: KeyError: 'web'
     --> shared.py:4:55
      |
    4 |     return Job(name=name, command="sleep 1", replicas=sizes[name])
      |                                                       ^^^^^^^^^^^
      = called from config.tw:3:8 in <module>
            export(service("web", {}))
      = help: no such key; use .get(key, default) where it may be missing
    "#);
}

#[test]
fn two_jobs_of_one_name() {
    let spec = "from tw import Job, export\nexport(Job(name=\"web\", command=\"sleep 1\"))\n";
    assert_snapshot!(check(&[("a.tw", spec), ("b.tw", spec)]), @r#"
    exit code 1
    error[spec.duplicate_job]: there are two jobs 'web': here, and at a.tw:2:8
     --> b.tw:2:8
      |
    2 | export(Job(name="web", command="sleep 1"))
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: rename one, or give them different namespaces
    "#);
}

#[test]
fn no_spec_no_controller_and_bad_usage() {
    let folder = tempfile::tempdir().unwrap();
    let absent = tw_in(folder.path(), &["check", "absent.tw"]).exits(1);
    assert!(absent.stderr.contains("absent.tw"), "{}", absent.stderr);
    let nobody = tw_in(folder.path(), &["status"]).exits(1);
    assert!(
        nobody.stderr.contains("no controller answers") && nobody.stderr.contains("tw dev"),
        "{}",
        nobody.stderr
    );
    for words in [
        &["frobnicate"][..],
        &["eval", "--no-such-flag"],
        &["status", "Not A Name"],
        &[],
    ] {
        let refused = tw_in(folder.path(), words).exits(1);
        assert!(refused.stdout.is_empty(), "{refused:?}");
    }
}

#[test]
fn what_no_machine_can_hold_is_planned_as_waiting_and_waits() {
    let cluster = Cluster::start(1);
    cluster.repository.write(
        "config.tw",
        "from tw import GiB, Job, Resources, export\n\
         export(Job(name=\"vast\", command=\"sleep 1000\", resources=Resources(cpu=0.1, memory=900 * GiB)))\n",
    );
    let plan = cluster.tw(&["plan", "."]).exits(2);
    let verdict = plan
        .stdout
        .lines()
        .find(|line| line.contains("does not fit"))
        .unwrap_or_else(|| panic!("{plan:?}"));
    assert!(
        verdict.contains("memory") && verdict.contains("GiB"),
        "what lacks, and how much: {verdict}"
    );
    let json = cluster.tw(&["plan", ".", "--json"]).exits(2).json();
    assert!(
        json["jobs"][0]["verdict"]
            .to_string()
            .contains("does_not_fit"),
        "{json}"
    );

    cluster.apply();
    let task = cluster.task("vast", 0);
    assert_eq!(task["state"], "pending");
    assert!(
        task["reason"].as_str().unwrap().contains("memory"),
        "{task}"
    );
    assert!(task["machine"].is_null(), "{task}");
}

#[test]
fn a_command_that_is_not_there_is_named_with_where_it_was_looked_for() {
    let cluster = Cluster::start(1);
    cluster.repository.write(
        "config.tw",
        "from tw import Job, Restart, export\n\
         export(Job(name=\"typo\", kind=\"batch\", command=\"no-such-program --flag\", restart=Restart(attempts=0)))\n",
    );
    cluster.tw(&["run", "--auto-approve", "."]).exits(1);
    let task = cluster.task("typo", 0);
    assert_eq!(task["state"], "failed");
    let reason = task["reason"].as_str().unwrap();
    assert!(
        reason.contains("task.command_not_found") && reason.contains("no-such-program"),
        "{reason}"
    );
    let told = cluster.events("typo").into_iter().any(|event| {
        event["kind"] == "task.failed"
            && event["message"]
                .as_str()
                .unwrap()
                .contains("task.command_not_found")
    });
    assert!(told, "the events say it as well");
}

#[test]
fn an_update_that_never_gets_healthy_halts_and_the_old_version_serves_on() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", &page("/", 1));
    cluster.tw(&["run", "--auto-approve", "."]).exits(0);
    let before = cluster.status("page");

    cluster
        .repository
        .write("config.tw", &page("/no-such-page", 2));
    let run = cluster.tw(&["run", "--auto-approve", "."]).exits(1);
    assert!(run.stdout.contains("failed page"), "{}", run.stdout);
    let status = cluster.status("page");
    assert_eq!(status["job"]["rollout"]["state"], "halted", "{status}");
    assert!(
        !status["job"]["rollout"]["reason"]
            .as_str()
            .unwrap()
            .is_empty(),
        "{status}"
    );
    let kept: Vec<&Value> = before["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|task| {
            status["tasks"]
                .as_array()
                .unwrap()
                .iter()
                .any(|now| now["id"] == task["id"])
        })
        .collect();
    assert_eq!(
        kept.len(),
        2,
        "all but the first stage run as before: {status}"
    );
    let endpoints = cluster.endpoints("page", "http").unwrap();
    assert!(endpoints.len() >= 2, "{endpoints:?}");
    for endpoint in &endpoints {
        assert_eq!(http_get(endpoint, "/").unwrap().0, 200);
    }

    // A spec that works again ends it.
    cluster.repository.write("config.tw", &page("/", 3));
    cluster.tw(&["run", "--auto-approve", "."]).exits(0);
    wait_for("settled at the third version", || {
        (cluster.is_settled("page") && cluster.status("page")["job"]["version"] == json!(3))
            .then_some(())
    });
}

/// A web server of three tasks whose check asks for a page.
fn page(checked: &str, revision: u32) -> String {
    format!(
        r#"
from tw import SECOND, HttpCheck, Job, MiB, Resources, Rollout, Stop, export
export(Job(
    name="page", replicas=3, ports=["http"], env={{"REVISION": "{revision}"}},
    command=["python3", "-m", "http.server", "--bind", "127.0.0.1", "{{port:http}}"],
    resources=Resources(cpu=0.1, memory=96 * MiB),
    health=[HttpCheck(port="http", path="{checked}", every=0.3 * SECOND)],
    rollout=Rollout(stages=[1, "100%"], healthy_for=0.5 * SECOND, deadline=5 * SECOND),
    stop=Stop(drain=0.2 * SECOND, grace=2 * SECOND),
))
"#
    )
}
