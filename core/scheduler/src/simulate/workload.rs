//! The jobs of a history, and how their programs behave.

use serde_json::json;
use tw_model::{JobSpec, Kind, SourceRef};

use super::rng::Rng;
use crate::SubmittedJob;

/// How the program of a task behaves. Named in its command, so that a version carries its behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Runs, and passes its checks after a moment.
    Good,
    /// Ends with exit code 1 soon after its start.
    Crashes,
    /// Runs and never passes a check.
    Sick,
    /// Its command does not exist.
    Missing,
    /// A batch task: fails often, succeeds in the end.
    Tries,
    /// A batch task that always fails.
    Fails,
}

impl Behaviour {
    pub(super) fn of(spec: &JobSpec) -> Behaviour {
        match spec.command.0.first().map(String::as_str) {
            Some("crashes") => Behaviour::Crashes,
            Some("sick") => Behaviour::Sick,
            Some("missing") => Behaviour::Missing,
            Some("tries") => Behaviour::Tries,
            Some("fails") => Behaviour::Fails,
            _ => Behaviour::Good,
        }
    }
}

/// The jobs that a history begins with.
pub(super) fn jobs(rng: &mut Rng, tasks: u32) -> Vec<JobSpec> {
    let mut specs: Vec<JobSpec> = Vec::new();
    let mut left = tasks;
    while left > 0 {
        let replicas = (rng.range(1, 20) as u32).min(left);
        left -= replicas;
        let depends = match specs.len() {
            0 => None,
            count => rng.chance(0.3).then(|| rng.range(0, count as u64)),
        };
        specs.push(job(rng, specs.len(), replicas, depends));
    }
    specs.push(filler());
    specs.push(wide());
    specs
}

/// More than a machine has where the filler is.
const WIDE: tw_model::Cores = tw_model::Cores(10_000);

/// A service of high priority whose tasks find room only where batch makes it.
fn wide() -> JobSpec {
    let value = json!({
        "name": "wide",
        "command": ["good"],
        "replicas": 8,
        "priority": 80,
        "resources": {"cpu_millicores": WIDE, "memory_bytes": 1u64 << 30, "disk_bytes": 1 << 30},
        "rollout": {"stages": [1, "100%"], "max_unavailable": 2, "healthy_for_ms": 3000, "deadline_ms": 120_000},
        "restart": {"delay_ms": 1000, "delay_max_ms": 30_000, "reset_after_ms": 300_000},
    });
    serde_json::from_value(value).expect("the wide job is a right spec")
}

/// Batch of the lowest priority whose run never ends, and that takes the room which the others leave, but for the little
/// that daemons need on every machine.
fn filler() -> JobSpec {
    let value = json!({
        "name": "filler",
        "kind": "batch",
        "command": ["good"],
        "replicas": 40,
        "priority": 5,
        "resources": {"cpu_millicores": 8700, "memory_bytes": 1u64 << 30, "disk_bytes": 1 << 30},
        "schedule": {"cron": "*/4 * * * *", "overlap": "skip"},
        "restart": {"attempts": 1, "delay_ms": 1000, "delay_max_ms": 30_000},
    });
    serde_json::from_value(value).expect("the filler is a right spec")
}

fn job(rng: &mut Rng, number: usize, replicas: u32, depends: Option<u64>) -> JobSpec {
    let batch = rng.chance(0.15);
    let checked = !batch && rng.chance(0.6);
    let health = match checked {
        true => {
            json!([{"type": "http", "port": "http", "every_ms": 2000, "timeout_ms": 1000, "failures": 2}])
        }
        false => json!([]),
    };
    let unavailable = rng.range(1, 4);
    let value = json!({
        "name": format!("job-{number}"),
        "kind": if batch { "batch" } else { "service" },
        "command": [if batch { "tries" } else { "good" }],
        "replicas": replicas,
        "priority": rng.pick(&[20, 50, 50, 80]),
        "resources": {
            "cpu_millicores": rng.range(1, 10) * 100,
            "memory_bytes": rng.range(1, 16) * (64 << 20),
            "disk_bytes": rng.range(1, 4) << 30,
        },
        "ports": if checked || rng.chance(0.3) { json!(["http"]) } else { json!([]) },
        "health": health,
        "depends_on": depends.map(|on| vec![format!("job-{on}")]).unwrap_or_default(),
        "rollout": {
            "stages": rng.pick(&[json!([1, "30%", "100%"]), json!([1, "machine", "rack", "100%"])]),
            "max_unavailable": unavailable,
            "failures_max": rng.range(0, unavailable),
            "healthy_for_ms": rng.range(2, 10) * 1000,
            "deadline_ms": 120_000,
            "max_surge": rng.range(0, 3),
            "on_failure": rng.pick(&["halt", "halt", "rollback"]),
        },
        "restart": {"attempts": 6, "delay_ms": 1000, "delay_max_ms": 30_000, "reset_after_ms": 300_000},
        "stop": {"drain_ms": 1000, "grace_ms": 5000},
    });
    let mut value = value;
    constrain(rng, &mut value);
    if batch {
        time(rng, &mut value);
    } else if rng.chance(0.1) {
        value["kind"] = json!("daemon");
        value["replicas"] = json!(1);
        value["rollout"]["max_surge"] = json!(0);
        value["spread"] = json!([]);
        value["anti_affinity"] = json!([]);
        // It is to find room on every machine, whatever the others take.
        value["priority"] = json!(90);
        value["resources"] =
            json!({"cpu_millicores": 10, "memory_bytes": 4 << 20, "disk_bytes": 1 << 20});
        value["ports"] = json!([]);
        value["health"] = json!([]);
    }
    let daemon = value["kind"] == "daemon";
    if checked && !daemon && rng.chance(0.3) {
        value["task_control"] = json!({"port": "http", "deadline_ms": rng.range(5, 60) * 1000});
    }
    if rng.chance(0.3) {
        value["maintenance"] = json!({"endure_ms": rng.range(30, 300) * 1000});
    }
    if !batch && !daemon && rng.chance(0.3) {
        value["at_most_one"] = json!(true);
        if rng.chance(0.6) {
            value["failover"] = json!({"within_ms": rng.range(15, 120) * 1000});
        }
    }
    serde_json::from_value(value).expect("the workload is made of right specs")
}

/// How many tasks a job may have that are never to share a machine: fewer than there are machines.
const APART_MAX: u32 = 12;

/// Lets some jobs be particular about where they run, in ways that the machines can satisfy once all are back.
fn constrain(rng: &mut Rng, spec: &mut serde_json::Value) {
    spec["resources"]["bandwidth_bytes_per_second"] = json!(rng.range(0, 20) << 20);
    if rng.chance(0.25) {
        spec["spread"] = json!([{"over": "rack", "at_least": rng.range(2, 4)}]);
    }
    match rng.range(0, 10) {
        0 | 1 => spec["requires"] = json!({"labels": {"kind": rng.range(0, 3).to_string()}}),
        2 => {
            let few = spec["replicas"]
                .as_u64()
                .map_or(1, |count| count.min(u64::from(APART_MAX)));
            spec["replicas"] = json!(few);
            spec["anti_affinity"] =
                json!([{"job": spec["name"], "within": "machine", "required": true}]);
        }
        _ => {}
    }
}

/// Lets some batch jobs run by the clock, a few tasks at a time, or with little patience.
fn time(rng: &mut Rng, spec: &mut serde_json::Value) {
    if rng.chance(0.4) {
        let overlap = *rng.pick(&["skip", "queue", "replace"]);
        let missed = *rng.pick(&["skip", "run_once"]);
        spec["schedule"] = json!({"cron": "*/7 * * * *", "overlap": overlap, "missed": missed});
    }
    if rng.chance(0.4) {
        spec["parallelism"] = json!(rng.range(1, 5));
    }
    if rng.chance(0.5) {
        spec["timeout_ms"] = json!(50_000);
    }
}

/// A change that someone makes to a job.
pub(super) fn change(rng: &mut Rng, spec: &JobSpec) -> JobSpec {
    let mut changed = spec.clone();
    let batch = spec.kind == Kind::Batch;
    let what = match spec.kind {
        Kind::Daemon => *rng.pick(&[0, 5, 9]),
        Kind::Service | Kind::Batch => rng.range(0, 10),
    };
    match what {
        0 => changed.owner = format!("team-{}", rng.range(0, 100)),
        1 | 2 => {
            let memory = rng.range(1, 20) * (64 << 20);
            changed.resources.memory = tw_model::Bytes(memory);
        }
        3 if !spec.requires.labels.is_empty() => {
            let kind = rng.range(0, 3).to_string();
            changed
                .requires
                .labels
                .values_mut()
                .for_each(|value| value.clone_from(&kind));
        }
        3 | 4 => {
            let large = spec.resources.cpu >= WIDE;
            let most = match spec.anti_affinity.is_empty() {
                true if large => 12,
                true => 24,
                false => APART_MAX,
            };
            changed.replicas = rng.range(0, u64::from(most)) as u32;
        }
        5 | 6 => set_env(&mut changed, rng.next()),
        7 => changed.resources.cpu = tw_model::Cores(rng.range(1, 12) * 100),
        _ if batch => changed.command.0 = vec![(*rng.pick(&["fails", "tries"])).to_owned()],
        8 if !spec.health.is_empty() => changed.command.0 = vec!["sick".to_owned()],
        _ => changed.command.0 = vec![(*rng.pick(&["crashes", "missing"])).to_owned()],
    }
    changed
}

/// What a job is to be in the end: something that can work.
pub(super) fn good(spec: &JobSpec) -> JobSpec {
    let mut good = spec.clone();
    let command = if spec.kind == Kind::Batch {
        "tries"
    } else {
        "good"
    };
    good.command.0 = vec![command.to_owned()];
    // Others may wait for it.
    good.replicas = good.replicas.max(1);
    good
}

fn set_env(spec: &mut JobSpec, value: u64) {
    let key = tw_model::EnvName("BUILD".to_owned());
    spec.env.insert(key, value.to_string());
}

pub(super) fn submitted(spec: &JobSpec) -> SubmittedJob {
    SubmittedJob {
        spec: spec.clone(),
        source: SourceRef::default(),
    }
}
