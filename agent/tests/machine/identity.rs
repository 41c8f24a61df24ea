//! What an agent takes for its own when it begins, and what it leaves alone.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::json;
use tw_agent::helper::record::{self, EXIT_FILE, ExitRecord, LAUNCH_FILE, Outcome, STARTED_FILE};
use tw_agent::process::ProcessIdentity;
use tw_agent::sandbox::Ended;
use tw_api::{AgentEvent, Assignment};
use tw_model::{Desired, TaskId};

use crate::common::{PATIENCE, Subtree};
use crate::machine::{Machine, assignment, code, shell};

/// A process of the test's own in a leaf.
struct Sleeper(Child);

impl Sleeper {
    /// Makes the leaf and begins in there.
    fn in_leaf(subtree: &Subtree, leaf: &str) -> Sleeper {
        let tree = subtree.open();
        tree.create(leaf).unwrap();
        let inside = format!("{}/{leaf}/cgroup.procs", subtree.path.subtree);
        let script = "for file in /sys/fs/cgroup/\"$0\" /sys/fs/cgroup/*/\"$0\"; do \
                      [ ! -e \"$file\" ] || echo $$ > \"$file\"; done; exec sleep 600";
        let child = Command::new("sh")
            .args(["-c", script, &inside])
            .spawn()
            .unwrap();
        let sleeper = Sleeper(child);
        let deadline = Instant::now() + PATIENCE;
        while std::fs::read_to_string(format!("/proc/{}/comm", sleeper.0.id())).unwrap()
            != "sleep\n"
        {
            assert!(Instant::now() < deadline, "it does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            tree.processes(leaf).unwrap(),
            [sleeper.0.id().cast_signed()]
        );
        sleeper
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _has_ended = self.0.kill();
        self.0.wait().unwrap();
    }
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn kill(process: &ProcessIdentity) {
    let handle = process.open().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL).unwrap();
    wait_until("it has gone", || !process.is_alive().unwrap()).await;
}

#[tokio::test]
async fn a_cgroup_of_a_tasks_name_that_is_not_its_own_is_left_alone() {
    let mut machine = Machine::new();
    let task = shell("web", "sleep 600");
    let (id, leaf) = (task.task.id.clone(), task.task.id.folder_name());
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&id).await;
    let started = machine.started(&id);
    machine.kill();
    machine.controller.drop_reports_of(&id);
    kill(&started.helper).await;
    wait_until("the task has gone", || !started.task.is_alive().unwrap()).await;
    let tree = machine.tree();
    tree.remove(&leaf, PATIENCE).unwrap();
    let mut other = Sleeper::in_leaf(&machine.subtree, &leaf);
    assert_ne!(tree.id(&leaf).unwrap(), started.cgroup_id);
    machine.start();
    machine.snapshot(std::slice::from_ref(&task)).await;
    let (_, detail) = machine.exited(&id).await;
    assert!(detail.contains("task.helper_lost"), "{detail}");
    let folder = machine.task_folder(&id);
    machine
        .controller
        .say(AgentEvent::Forget { task: id })
        .await;
    wait_until("it is forgotten", || !folder.exists()).await;
    assert!(other.lives());
}

#[tokio::test]
async fn what_runs_in_a_cgroup_of_no_task_is_ended_and_a_neighbours_is_left_alone() {
    let mut machine = Machine::without_agent();
    let neighbours = Subtree::new();
    let mut stray = Sleeper::in_leaf(&machine.subtree, "default.web.0.9");
    let mut neighbour = Sleeper::in_leaf(&neighbours, "default.web.0.9");
    machine.start();
    machine.controller.registration(1).await;
    wait_until("the stray has gone", || !stray.lives()).await;
    let tree = machine.tree();
    wait_until("its cgroup has gone", || {
        tree.id("default.web.0.9").is_err()
    })
    .await;
    assert!(neighbour.lives());
    assert_eq!(neighbours.open().leaves().unwrap(), ["default.web.0.9"]);
    drop(neighbour);
}

/// Cuts a file in half, as a disk may after a crash.
fn halve(path: &Path) {
    let text = std::fs::read(path).unwrap();
    std::fs::write(path, &text[..text.len() / 2]).unwrap();
}

#[tokio::test]
async fn a_task_whose_records_are_cut_off_is_kept_by_the_next_agent() {
    for file in ["assignment.json", LAUNCH_FILE, STARTED_FILE, "cores.json"] {
        let mut machine = Machine::new();
        let mut task = shell("web", "trap 'exit 6' TERM; while :; do sleep 0.02; done");
        let id = task.task.id.clone();
        machine.snapshot(std::slice::from_ref(&task)).await;
        machine.running(&id).await;
        let started = machine.started(&id);
        machine.kill();
        machine.controller.drop_reports_of(&id);
        let path = machine.task_folder(&id).join(file);
        match path.exists() {
            true => halve(&path),
            false => std::fs::write(&path, "[1, ").unwrap(),
        }
        machine.start();
        let said = machine.controller.registration(2).await.reports;
        assert_eq!(
            said.iter().map(|report| &report.task).collect::<Vec<_>>(),
            [&id],
            "{file}"
        );
        machine.snapshot(std::slice::from_ref(&task)).await;
        machine.running(&id).await;
        assert!(started.task.is_alive().unwrap(), "{file}");
        task.task.desired = Desired::Stop;
        task.task.version += 1;
        machine.assign(&task).await;
        assert_eq!(machine.exited(&id).await.0, code(6), "{file}");
    }
}

#[tokio::test]
async fn half_a_record_of_an_end_is_an_end_without_a_code() {
    let mut machine = Machine::new();
    let task = shell("web", "exit 6");
    let id = task.task.id.clone();
    machine.snapshot(std::slice::from_ref(&task)).await;
    assert_eq!(machine.exited(&id).await.0, code(6));
    machine.kill();
    machine.controller.drop_reports_of(&id);
    halve(&machine.task_folder(&id).join(EXIT_FILE));
    machine.start();
    machine.snapshot(std::slice::from_ref(&task)).await;
    let (exit, detail) = machine.exited(&id).await;
    assert!(
        exit.code.is_none() && detail.contains("task.helper_lost"),
        "{exit:?} {detail}"
    );
}

#[tokio::test]
async fn a_volume_with_half_a_record_is_refused_in_words() {
    let machine = Machine::new();
    let writer = |incarnation: u64| {
        let volumes = json!([{"name": "data", "path": "/data"}]);
        let mut task = assignment("db", json!({"command": ["true"], "volumes": volumes}));
        task.task.id.incarnation = incarnation;
        task
    };
    let first = writer(1);
    machine.assign(&first).await;
    assert_eq!(machine.exited(&first.task.id).await.0, code(0));
    let volume = machine.state().join("volumes/default.db.0.data");
    halve(&volume.join("volume.json"));
    let second = writer(2);
    machine.assign(&second).await;
    let (_, message) = machine.never_started(&second.task.id).await;
    assert!(message.contains("volume.json is not a record"), "{message}");
    assert!(volume.join("data").is_dir());
}

async fn has_memory(machine: &Machine, task: &TaskId, mib: u64) {
    let leaf = task.folder_name();
    let limit = || machine.tree().memory_limit_bytes(&leaf).unwrap();
    wait_until("the limit is set", || limit() == mib << 20).await;
}

/// A rollout that is undone gives a task its earlier version again.
#[tokio::test]
async fn an_assignment_that_goes_back_is_what_the_next_agent_reads() {
    let mut machine = Machine::new();
    let of_version = |version: u64, mib: u64| -> Assignment {
        let resources = json!({"memory_bytes": mib << 20});
        let mut task = assignment(
            "web",
            json!({"command": ["sleep", "600"], "resources": resources}),
        );
        task.task.version = version;
        task
    };
    let id = of_version(1, 64).task.id;
    machine.snapshot(&[of_version(1, 64)]).await;
    machine.running(&id).await;
    machine.assign(&of_version(2, 96)).await;
    has_memory(&machine, &id, 96).await;
    machine.assign(&of_version(1, 64)).await;
    has_memory(&machine, &id, 64).await;
    machine.kill();
    let record = std::fs::read(machine.task_folder(&id).join("assignment.json")).unwrap();
    let record: Assignment = serde_json::from_slice(&record).unwrap();
    assert_eq!(
        (record.task.version, record.spec.resources.memory.0),
        (1, 64 << 20)
    );
    machine
        .tree()
        .raise_memory(&id.folder_name(), 128 << 20)
        .unwrap();
    machine.start();
    // Nothing has been assigned to this agent: it knows what it does from the folder.
    has_memory(&machine, &id, 64).await;
}

/// A helper whose record is cut off is known by its cgroup alone.
#[tokio::test]
async fn clean_ends_a_task_whose_record_is_cut_off_and_says_so() {
    let mut machine = Machine::new();
    let (whole, half) = (shell("whole", "sleep 600"), shell("half", "sleep 600"));
    machine.snapshot(&[whole.clone(), half.clone()]).await;
    let ids = [&whole.task.id, &half.task.id];
    for id in ids {
        machine.running(id).await;
    }
    let started = ids.map(|id| machine.started(id));
    machine.kill();
    halve(&machine.task_folder(ids[1]).join(STARTED_FILE));
    let cleaned = Command::new(env!("CARGO_BIN_EXE_tw-agent"))
        .args([
            "clean",
            "--cgroup",
            &machine.subtree.path.subtree,
            "--state",
        ])
        .arg(machine.state())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&cleaned.stderr).into_owned();
    assert!(cleaned.status.success(), "{said}");
    assert!(
        said.contains("half.0#1") && said.contains("its helper is not known"),
        "{said}"
    );
    assert!(!said.contains("whole.0#1"), "{said}");
    for (id, started) in ids.into_iter().zip(started) {
        assert!(!started.task.is_alive().unwrap() && !started.helper.is_alive().unwrap());
        let end = record::read::<ExitRecord>(&machine.task_folder(id), EXIT_FILE).unwrap();
        // A helper that sees the kill of its task says so before it is killed itself.
        let outcome = end.unwrap().outcome;
        let is_true = match &outcome {
            Outcome::HelperLost => true,
            Outcome::Ended { how, .. } => *how == Ended::Signal(9),
            Outcome::NeverStarted(_) => false,
        };
        assert!(is_true, "{id}: {outcome:?}");
    }
}
