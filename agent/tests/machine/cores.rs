//! Tasks with cores of their own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tw_model::{Desired, TaskId};

use crate::common::PATIENCE;
use crate::machine::{Machine, assignment, code};

/// The cores that a process of the host's may run on.
fn cores_of(pid: i32) -> BTreeSet<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let parts = line.unwrap().trim().split(',');
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    };
    parts.flat_map(range).collect()
}

async fn wait_for_cores(machine: &Machine, task: &TaskId, wanted: &BTreeSet<u32>) {
    let deadline = Instant::now() + PATIENCE;
    let pid = machine.started(task).task.pid;
    while cores_of(pid) != *wanted {
        assert!(Instant::now() < deadline, "{task} has {:?}", cores_of(pid));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn whole_cores_are_a_tasks_own_from_its_first_instruction_to_its_end() {
    let mut machine = Machine::new();
    if !machine.can_give_cores().await {
        let why = "this machine has one core, or no cpuset controller: not tested\n";
        std::io::Write::write_all(&mut std::io::stderr(), why.as_bytes()).unwrap();
        return;
    }
    give_cores(&mut machine).await;
}

impl Machine {
    /// Whether a task can have a core of its own beside others.
    pub(crate) async fn can_give_cores(&self) -> bool {
        // The tree is there once the agent is.
        self.controller.registration(1).await;
        let cores = self.tree().cores().unwrap();
        cores.is_some_and(|cores| cores.len() >= 2)
    }
}

/// Runs a task with a core of its own beside others, through an agent that is killed on the way.
pub(crate) async fn give_cores(machine: &mut Machine) {
    let all = cores_of(std::process::id().cast_signed());
    let sharing = assignment("sharing", json!({"command": ["sleep", "60"]}));
    machine.snapshot(std::slice::from_ref(&sharing)).await;
    machine.running(&sharing.task.id).await;
    wait_for_cores(machine, &sharing.task.id, &all).await;

    let wants = |whole: bool| {
        json!({
            "command": ["sh", "-c", "nproc; trap 'exit 7' TERM; while :; do sleep 0.05; done"],
            "resources": {"cpu_millicores": 1000, "whole_cores": whole},
        })
    };
    let mut alone = assignment("alone", wants(true));
    let id = alone.task.id.clone();
    machine.assign(&alone).await;
    machine.running(&id).await;
    let own = cores_of(machine.started(&id).task.pid);
    assert_eq!(own.len(), 1);
    let rest: BTreeSet<u32> = all.difference(&own).copied().collect();
    wait_for_cores(machine, &sharing.task.id, &rest).await;

    // The next agent knows whose they are, and what starts later keeps off them.
    machine.kill();
    machine.start();
    machine.snapshot(&[sharing.clone(), alone.clone()]).await;
    let later = assignment("later", json!({"command": ["sleep", "60"]}));
    machine.assign(&later).await;
    machine.running(&later.task.id).await;
    wait_for_cores(machine, &later.task.id, &rest).await;

    // In place: back among the others, and out again.
    for (version, whole) in [(2, false), (3, true)] {
        let mut changed = assignment("alone", wants(whole));
        changed.task.version = version;
        machine.assign(&changed).await;
        let expected = if whole { &own } else { &all };
        wait_for_cores(machine, &id, expected).await;
        alone = changed;
    }
    wait_for_cores(machine, &sharing.task.id, &rest).await;

    alone.task.desired = Desired::Stop;
    machine.assign(&alone).await;
    assert_eq!(machine.exited(&id).await.0, code(7));
    let lines = machine.logs("alone", &id, false).await;
    assert_eq!(lines, ["1"], "it counts its own cores only");
    wait_for_cores(machine, &sharing.task.id, &all).await;
}
