//! What tools rely on: the shapes of the JSON, and exit codes.

use serde_json::{Value, json};

use crate::cluster::{Cluster, tw_in};
use crate::repository::Repository;

const WEB: &str = r#"
from tw import HttpCheck, Job, MiB, Resources, export
export(Job(
    name="web", command=["sleep", "1000"], replicas=2, ports=["http"],
    env={"MODE": "one"}, resources=Resources(cpu=0.25, memory=48 * MiB),
))
"#;

#[test]
fn eval_and_check() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.tw"), WEB).unwrap();
    std::fs::write(
        folder.path().join("bad.tw"),
        "from tw import Job\nJob(nam=1)\n",
    )
    .unwrap();

    let good = tw_in(folder.path(), &["eval", "config.tw", "--json"])
        .exits(0)
        .json();
    assert_eq!((&good["version"], &good["errors"]), (&json!(1), &json!([])));
    let job = &good["jobs"][0];
    assert_eq!((&job["name"], &job["replicas"]), (&json!("web"), &json!(2)));
    assert_eq!(job["command"], json!(["sleep", "1000"]));
    assert_eq!(job["resources"]["cpu_millicores"], 250);
    assert_eq!(job["resources"]["memory_bytes"], 48 << 20);
    assert!(
        job["resources"]["disk_bytes"].is_u64(),
        "defaults are written out: {job}"
    );
    assert_eq!(job["source"], json!({"file": "config.tw", "line": 3}));

    // A good job stands beside the error of another file, and the exit code says that there is one.
    let both = tw_in(folder.path(), &["eval", ".", "--json"])
        .exits(1)
        .json();
    assert_eq!(both["jobs"].as_array().unwrap().len(), 1);
    let error = &both["errors"][0];
    assert_eq!(
        (&error["code"], &error["file"], &error["line"]),
        (&json!("spec.unknown_field"), &json!("bad.tw"), &json!(2))
    );
    assert!(
        error["column"].is_u64() && error["message"].is_string() && error["hint"].is_string(),
        "{error}"
    );

    let checked = tw_in(folder.path(), &["check", ".", "--json"])
        .exits(1)
        .json();
    assert_eq!(
        (&checked["version"], &checked["specs"], &checked["jobs"]),
        (&json!(1), &json!(2), &json!(1))
    );
    assert_eq!(checked["errors"][0]["code"], "spec.unknown_field");
    tw_in(folder.path(), &["check", "config.tw"]).exits(0);
}

#[test]
fn diff_between_revisions() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path().to_owned());
    let diff = |base: &str, head: &str, code: i32| -> Value {
        tw_in(folder.path(), &["diff", base, head, "--json"])
            .exits(code)
            .json()
    };
    repository.write("config.tw", WEB);
    repository.commit("web");
    repository.write("README", "nothing to do with it\n");
    repository.commit("a file");
    let same = diff("HEAD~1", "HEAD", 0);
    assert_eq!(
        (&same["version"], &same["jobs"], &same["errors"]),
        (&json!(1), &json!([]), &json!([]))
    );

    repository.replace("config.tw", "\"one\"", "\"two\"");
    repository.replace("config.tw", "48 * MiB", "64 * MiB");
    repository.commit("another mode");
    let changed = diff("HEAD~1", "HEAD", 2);
    let job = &changed["jobs"][0];
    assert_eq!(
        (&job["name"], &job["change"]),
        (&json!("web"), &json!("modified"))
    );
    let change = |path: &str| {
        let all = job["changes"].as_array().unwrap();
        all.iter()
            .find(|change| change["path"] == path)
            .unwrap_or_else(|| panic!("no {path}: {job}"))
            .clone()
    };
    let mode = change("env.MODE");
    assert_eq!(
        (&mode["old"], &mode["new"], &mode["effect"]),
        (&json!("one"), &json!("two"), &json!("restart"))
    );
    assert_eq!(mode["cause"]["file"], "config.tw");
    assert_eq!(
        mode["cause"]["commit"].as_str().map(str::len),
        Some(40),
        "{mode}"
    );
    let memory = change("resources.memory_bytes");
    assert_eq!(
        (&memory["old"], &memory["new"], &memory["effect"]),
        (&json!(48 << 20), &json!(64 << 20), &json!("in_place"))
    );
    assert!(
        changed["summary"].is_object() && changed["modules"].is_array(),
        "{changed}"
    );

    repository.write(
        "config.tw",
        "from tw import Job, export\nexport(Job(name=\"other\", command=\"sleep 1\"))\n",
    );
    repository.commit("another job");
    let removed = diff("HEAD~1", "HEAD", 3);
    let kinds: Vec<(&Value, &Value)> = removed["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (&job["name"], &job["change"]))
        .collect();
    assert!(
        kinds.contains(&(&json!("web"), &json!("removed"))),
        "{kinds:?}"
    );
    assert!(
        kinds.contains(&(&json!("other"), &json!("added"))),
        "{kinds:?}"
    );

    tw_in(folder.path(), &["diff", "no-such-revision", "HEAD"]).exits(1);
    repository.write("config.tw", "import nothing_of_this_name\n");
    repository.commit("a mistake");
    let broken = diff("HEAD~1", "HEAD", 1);
    assert_eq!(broken["errors"][0]["code"], "spec.import");
}

#[test]
fn a_command_whose_output_nobody_reads_ends_without_a_word() {
    let cluster = Cluster::start(1);
    cluster.repository.write(
        "config.tw",
        "from tw import Job, export\nexport(Job(name=\"chatty\", command=[\"sh\", \"-c\", \"while echo word; do sleep 0.1; done\"]))\n",
    );
    cluster.apply();
    cluster.wait_settled("chatty");
    for (words, code) in [
        (&["completions", "bash"][..], 0),
        (&["logs", "-f", "chatty"], 0),
        (&["events", "-f", "chatty"], 0),
        (&["exec", "chatty", "--", "yes"], 141),
    ] {
        let mut child = cluster.command(words).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{words:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{words:?}");
    }
}

#[test]
fn plan_and_status() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", WEB);
    let plan = cluster.tw(&["plan", ".", "--json"]).exits(2).json();
    assert!(
        plan["digest"].is_string() && plan["capacity"].is_object(),
        "{plan}"
    );
    assert_eq!(plan["jobs"][0]["job"], "web");
    assert_eq!(plan["jobs"][0]["counts"]["started"], 2);
    let digest = plan["digest"].as_str().unwrap();

    // What was planned is what is applied; a plan of something else is refused.
    let refused = cluster
        .tw(&["apply", "--plan", &"0".repeat(digest.len()), "."])
        .exits(1);
    assert!(refused.stderr.contains("plan"), "{}", refused.stderr);
    cluster.tw(&["apply", "--plan", digest, "."]).exits(0);
    cluster.wait_settled("web");
    cluster.tw(&["plan", "."]).exits(0);

    let status = cluster.status("web");
    assert_eq!(
        (&status["version"], &status["job"]["name"]),
        (&json!(1), &json!("web"))
    );
    for (index, task) in status["tasks"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            (&task["index"], &task["state"], &task["restarts"]),
            (&json!(index), &json!("running"), &json!(0))
        );
        assert!(
            task["id"]
                .as_str()
                .unwrap()
                .starts_with(&format!("web.{index}#")),
            "{task}"
        );
        assert!(
            task["ports"]["http"].is_u64() && task["address"].is_string(),
            "{task}"
        );
        assert!(
            task["started_at"].as_str().unwrap().ends_with('Z') && task["machine"] == "agent-1",
            "{task}"
        );
        assert!(task["healthy"].is_null(), "there are no checks: {task}");
    }

    cluster
        .repository
        .replace("config.tw", "replicas=2", "replicas=0");
    let plan = cluster.tw(&["plan", ".", "--json"]).exits(3).json();
    assert!(
        !plan["destructive"].as_array().unwrap().is_empty(),
        "{plan}"
    );
    cluster
        .repository
        .write("config.tw", "import nothing_of_this_name\n");
    cluster.tw(&["plan", "."]).exits(1);
    cluster.tw(&["status", "nobody"]).exits(1);
    let nobody = cluster.tw(&["apply", "."]).exits(1);
    assert!(!nobody.stderr.is_empty());
}
