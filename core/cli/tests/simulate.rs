//! `tw simulate` as a person calls it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/ran.rs"]
mod ran;

use ran::Ran;

const MACHINES: &str = "cpu,memory,rack,count\n1,1,a,2\n0.5,0.5,b,1\n";
const TASKS: &str = "job,cpu,memory,count,anti_affinity\nweb,0.5,0.25,3,machine\nbig,1,1,3,false\n";
const BROKEN: &str =
    "job,cpu,memory,count\nweb,0.5,0.25,3\nbad,lots,0.1,1\nweb,0.5,-1,1\nbig,1,1,3\n";

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("machines.csv", MACHINES),
        ("tasks.csv", TASKS),
        ("broken.csv", BROKEN),
        ("columns.csv", "job,memory\nweb,1\n"),
        ("empty.csv", "job,cpu,memory\n"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn simulate(folder: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tw"));
    command.arg("simulate").args(words).current_dir(folder);
    Ran::of(command.env("TW_STATE", folder).output().unwrap())
}

/// What must not change from one run to the next.
fn result(ran: &Ran) -> Value {
    let mut reply = ran.json();
    let fields = reply.as_object_mut().unwrap();
    let rate = fields.shift_remove("placements_per_second").unwrap();
    let decision = fields.shift_remove("decision_us").unwrap();
    assert!(rate.as_f64().unwrap() > 0.0, "{rate}");
    let (median, slow) = (decision["p50"].as_f64(), decision["p99"].as_f64());
    assert!(median.unwrap() <= slow.unwrap(), "{decision}");
    reply
}

#[test]
fn tasks_are_placed_and_the_json_keeps_its_shape() {
    let folder = folder();
    let files = ["--machines", "machines.csv", "--tasks", "tasks.csv"];
    let ran = simulate(folder.path(), &[&files[..], &["--json"]].concat()).exits(0);
    assert_eq!(ran.stderr, "");
    assert_eq!(
        result(&ran),
        json!({
            "version": 1,
            "placed": 3,
            "unplaced": [{"reason": "cpu and memory short on every machine", "tasks": 3}],
            "first_failure": {"cpu": 0.6, "memory": 0.3, "tasks": 3},
            "filled": {"cpu": 0.6, "memory": 0.3, "tasks": 3},
            "bad_rows": [],
        })
    );
    let text = simulate(folder.path(), &files).exits(0).stdout;
    assert!(
        text.starts_with("3 of 6 tasks placed: 60.0% of all CPU"),
        "{text}"
    );
}

#[test]
fn files_may_be_compressed() {
    let folder = folder();
    let plain = [
        "--machines",
        "machines.csv",
        "--tasks",
        "tasks.csv",
        "--json",
    ];
    let expected = result(&simulate(folder.path(), &plain).exits(0));
    for name in ["machines.csv", "tasks.csv"] {
        let zipped = Command::new("gzip").arg(folder.path().join(name)).status();
        assert!(zipped.unwrap().success());
    }
    let zipped = [
        "--machines",
        "machines.csv.gz",
        "--tasks",
        "tasks.csv.gz",
        "--json",
    ];
    assert_eq!(result(&simulate(folder.path(), &zipped).exits(0)), expected);
}

#[test]
fn broken_rows_are_left_out_or_refused_as_asked() {
    let folder = folder();
    let files = ["--machines", "machines.csv", "--tasks", "broken.csv"];
    let ran = simulate(folder.path(), &[&files[..], &["--json"]].concat()).exits(0);
    let reply = result(&ran);
    assert_eq!(reply["placed"], 3, "{reply}");
    let lines: Vec<&Value> = reply["bad_rows"].as_array().unwrap().iter().collect();
    assert_eq!(
        *lines[0],
        json!({"file": "broken.csv", "line": 3, "message": "cpu is 'lots', which is not a number"})
    );
    assert_eq!((lines.len(), &lines[1]["line"]), (2, &json!(4)));

    let strict = simulate(folder.path(), &[&files[..], &["--strict"]].concat()).exits(1);
    assert_eq!(strict.stdout, "");
    for expected in [
        "broken.csv:3: cpu is 'lots'",
        "broken.csv:4: ",
        "2 rows cannot be read",
    ] {
        assert!(strict.stderr.contains(expected), "{strict:?}");
    }
    let whole = [
        "--machines",
        "machines.csv",
        "--tasks",
        "tasks.csv",
        "--strict",
    ];
    simulate(folder.path(), &whole).exits(0);
}

#[test]
fn a_seed_shuffles_the_machines_in_the_same_way_each_time() {
    let folder = folder();
    let rows =
        |from: f64, step: f64, kinds: usize, index: usize| from + step * (index % kinds) as f64;
    let machines = (0..40).map(|index| {
        format!(
            "{:.1},{:.1}\n",
            rows(0.3, 0.1, 5, index),
            rows(0.3, 0.1, 4, index)
        )
    });
    let tasks = (0..300).map(|index| {
        format!(
            "j{index},{:.2},{:.2}\n",
            rows(0.05, 0.03, 7, index),
            rows(0.05, 0.02, 9, index)
        )
    });
    let machines = format!("cpu,memory\n{}", machines.collect::<String>());
    let tasks = format!("job,cpu,memory\n{}", tasks.collect::<String>());
    std::fs::write(folder.path().join("many.csv"), machines).unwrap();
    std::fs::write(folder.path().join("more.csv"), tasks).unwrap();
    let seeded = |seed: &str| {
        let words = [
            "--machines",
            "many.csv",
            "--tasks",
            "more.csv",
            "--json",
            "--seed",
            seed,
        ];
        result(&simulate(folder.path(), &words).exits(0))
    };
    assert_eq!(seeded("1"), seeded("1"));
    let first = seeded("1");
    assert!(
        ["2", "3", "4", "5"]
            .iter()
            .any(|seed| seeded(seed) != first)
    );
}

#[test]
fn what_cannot_be_used_is_refused() {
    let folder = folder();
    let with = |tasks: &str| {
        simulate(
            folder.path(),
            &["--machines", "machines.csv", "--tasks", tasks],
        )
        .exits(1)
    };
    for (tasks, expected) in [
        ("nothing.csv", "nothing.csv cannot be read"),
        ("columns.csv", "names no column 'cpu'"),
        ("empty.csv", "has no row that can be used"),
    ] {
        let said = with(tasks).stderr;
        assert!(said.contains(expected), "{tasks}: {said}");
    }
    let alone = simulate(folder.path(), &["--machines", "machines.csv"]).exits(1);
    assert!(alone.stderr.contains("--tasks"), "{alone:?}");
}
