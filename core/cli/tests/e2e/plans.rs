//! Plans on real agents: what they say is what is then seen, and nothing else can be applied.

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// A service whose version, size and number of tasks are given.
fn web(version: &str, memory_mib: u32, replicas: u32) -> String {
    format!(
        r#"
from tw import MiB, SECOND, Job, Resources, Rollout, Stop, export
export(Job(
    name="web", command=["sleep", "1000"], replicas={replicas}, env={{"VERSION": "{version}"}},
    resources=Resources(memory={memory_mib} * MiB), owner="web-team",
    rollout=Rollout(stages=[1, "100%"], healthy_for=0.2 * SECOND), stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
))
"#
    )
}

fn plain(name: &str, label: &str) -> String {
    format!(
        "from tw import Job, export\nexport(Job(name=\"{name}\", command=[\"sleep\", \"1000\"], labels={{\"n\": \"{label}\"}}))\n"
    )
}

/// What is seen of a task from outside: its incarnation, its machine, its process.
fn seen(cluster: &Cluster) -> Vec<(Value, Value, i32)> {
    let status = cluster.status("web");
    let tasks = status["tasks"].as_array().unwrap();
    let running = tasks.iter().filter(|task| task["state"] == "running");
    let seen = running.map(|task| {
        let pid = cluster.pid_of(task, "task");
        (task["id"].clone(), task["machine"].clone(), pid)
    });
    seen.collect()
}

#[test]
fn a_plan_in_a_file_is_applied_as_it_was_reviewed_or_not_at_all() {
    let cluster = Cluster::start(2);
    let repository = &cluster.repository;
    repository.write("web/config.tw", &web("one", 32, 2));
    repository.write("other/config.tw", &plain("other", "1"));
    repository.commit("begin");
    let applied = cluster.apply();
    assert!(
        applied.stdout.contains("Applied: 2 jobs"),
        "{}",
        applied.stdout
    );
    cluster.wait_settled("web");
    cluster.wait_settled("other");
    let events = cluster.tw(&["events", "web"]).exits(0).stdout;
    assert!(events.contains("auto-approved"), "{events}");

    // Reviewed; then something changes that does not matter to it.
    repository.write("web/config.tw", &web("two", 32, 3));
    repository.write(
        "web.toml",
        "[prices]\ncpu_core_month = 20.0\nmemory_gib_month = 4.0\n",
    );
    let hole = cluster
        .tw(&["plan", "web", "--prices", "web.toml"])
        .exits(1);
    assert!(hole.stderr.contains("disk_gib_month"), "{}", hole.stderr);
    repository.write(
        "web.toml",
        "[prices]\ncpu_core_month = 20.0\nmemory_gib_month = 4.0\ndisk_gib_month = 0.1\n",
    );
    let plan = cluster
        .tw(&["plan", "web", "--prices", "web.toml", "--out", "plan.json"])
        .exits(2)
        .stdout;
    assert!(
        plan.contains("1 job: tasks 1 started, 2 restarted"),
        "{plan}"
    );
    assert!(
        plan.contains("capacity: +0.1 cores, +32 MiB of memory, +1 GiB of disk; +2.23 a month"),
        "{plan}"
    );
    assert!(plan.contains("stages: 1, then 3 tasks; about"), "{plan}");
    repository.write("other/config.tw", &plain("other", "2"));
    cluster.tw(&["apply", "other", "--auto-approve"]).exits(0);

    // An edited file is refused, and so is nothing else.
    let text = std::fs::read_to_string(repository.root().join("plan.json")).unwrap();
    assert!(text.contains("\"replicas\": 3"), "{text}");
    repository.write(
        "edited.json",
        &text.replace("\"replicas\": 3", "\"replicas\": 9"),
    );
    let refused = cluster.tw(&["apply", "edited.json"]).exits(1);
    assert!(
        refused.stderr.contains("someone edited it"),
        "{}",
        refused.stderr
    );
    cluster.tw(&["apply", "plan.json"]).exits(0);
    cluster.wait_settled("web");
    assert_eq!(cluster.status("web")["job"]["replicas"], json!(3));

    // The same again is stale: it was reviewed on top of another version.
    let stale = cluster.tw(&["apply", "plan.json"]).exits(1);
    assert!(
        stale
            .stderr
            .contains("what was planned is not what would happen now"),
        "{}",
        stale.stderr
    );
    assert!(
        stale.stderr.contains("web no longer changes"),
        "{}",
        stale.stderr
    );
}

#[test]
fn what_runs_is_compared_and_what_is_gone_is_pruned() {
    let cluster = Cluster::start(1);
    let repository = &cluster.repository;
    repository.write("web/config.tw", &web("one", 32, 1));
    let both = plain("other", "1") + "export(Job(name=\"third\", command=[\"sleep\", \"1000\"]))\n";
    repository.write("other/config.tw", &both);
    repository.commit("begin");
    cluster
        .tw(&["apply", "--rev", "HEAD", "--auto-approve"])
        .exits(0);
    cluster.wait_settled("web");
    cluster.wait_settled("third");
    let same = cluster.tw(&["diff", "--running"]).exits(0);
    assert!(same.stdout.contains("No job changes"), "{}", same.stdout);

    repository.write("web/config.tw", &web("two", 32, 1));
    repository.write("other/config.tw", &plain("other", "1"));
    let diff = cluster.tw(&["diff", "--running"]).exits(3).stdout;
    assert!(diff.contains("- third"), "{diff}");
    assert!(
        diff.contains("env.VERSION  \"one\" → \"two\"  restart  web/config.tw:4"),
        "{diff}"
    );

    let plan = cluster.tw(&["plan"]).exits(2).stdout;
    assert!(
        plan.contains("third: runs, and other/config.tw does not export it any more"),
        "{plan}"
    );
    let plan = cluster.tw(&["plan", "--prune"]).exits(3).stdout;
    assert!(
        plan.contains("third is removed, and 1 task with it"),
        "{plan}"
    );
    cluster.tw(&["apply", "--prune", "--auto-approve"]).exits(0);
    cluster.wait_settled("web");
    assert_eq!(cluster.status("third")["job"]["stopped"], json!(true));
}

#[test]
fn what_the_plan_says_of_each_task_is_what_is_seen_of_it() {
    let cluster = Cluster::start(2);
    cluster.repository.write("config.tw", &web("one", 32, 2));
    cluster.apply();
    cluster.wait_settled("web");
    // In place; restarted; more; fewer.
    for (version, memory, replicas) in [
        ("one", 48, 2),
        ("two", 48, 2),
        ("two", 48, 4),
        ("two", 48, 3),
    ] {
        let before = seen(&cluster);
        cluster
            .repository
            .write("config.tw", &web(version, memory, replicas));
        let plan = cluster.tw(&["plan", "--json"]).exits(2).json();
        let digest = plan["digest"].as_str().unwrap();
        cluster.tw(&["apply", "--plan", digest]).exits(0);
        cluster.wait_settled("web");
        let after = seen(&cluster);
        assert_eq!(after.len() as u32, replicas);
        let tasks = plan["jobs"][0]["tasks"].as_array().unwrap();
        let planned = |index: usize| tasks.iter().find(|task| task["index"] == json!(index));
        for (index, old) in before.iter().enumerate() {
            let effect = planned(index).map_or("none", |task| task["effect"].as_str().unwrap());
            let new = after.get(index);
            match effect {
                "none" | "in_place" => assert_eq!(new, Some(old), "{plan}"),
                "scale" => assert_eq!(new, None, "{plan}"),
                "restart" => {
                    let (id, machine, pid) = new.unwrap();
                    assert_eq!(
                        (id == &old.0, machine, pid == &old.2),
                        (false, &old.1, false),
                        "{plan}"
                    );
                }
                other => panic!("{other} was not asked for: {plan}"),
            }
        }
        for index in before.len()..after.len() {
            assert_eq!(planned(index).unwrap()["effect"], json!("scale"));
        }
    }
}

#[test]
fn a_plan_after_a_clean_work_tree_names_the_module_that_changed() {
    let cluster = Cluster::start(1);
    let repository = &cluster.repository;
    repository.write("shared.py", "LEVEL = \"one\"\n");
    repository.write(
        "config.tw",
        "from tw import Job, export\nfrom shared import LEVEL\nexport(Job(name=\"web\", command=[\"sleep\", \"1000\"], labels={\"level\": LEVEL}))\n",
    );
    repository.commit("begin");
    cluster.apply();
    let applied = cluster.tw(&["history", "web", "--applied"]).exits(0).stdout;
    assert!(applied.contains(&repository.head()[..10]), "{applied}");

    repository.write("shared.py", "LEVEL = \"two\"\n");
    let plan = cluster.tw(&["plan", "."]).exits(2).stdout;
    assert!(plan.contains("shared.py"), "{plan}");
    // A change that is not committed is no commit's.
    cluster.apply();
    let applied = cluster.tw(&["history", "web", "--applied"]).exits(0).stdout;
    assert!(applied.contains("not committed"), "{applied}");
}
