//! Many tasks, one after the other and at once: every exit code is right, and nothing piles up.
//!
//! `TW_QUICK_EXITS` and `TW_SOAK_STARTS` set the volumes; `make test-long` uses large ones.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tw_agent::sandbox::Ended;
use tw_api::AgentEvent;
use tw_model::TaskId;

use crate::common::{Task, ended};
use crate::machine::{Machine, assignment, code};

fn volume(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn quick_exits_in_a_row_all_have_the_right_code() {
    let wanted = volume("TW_QUICK_EXITS", 150);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= wanted {
                        return;
                    }
                    let wanted = (number % 256) as u8;
                    let exit = Task::shell(&format!("exit {wanted}")).run();
                    assert_eq!(ended(&exit), Ended::Code(wanted), "exit number {number}");
                }
            });
        }
    });
}

#[test]
fn a_fork_bomb_stays_in_its_task_and_ends_with_it() {
    let bomb = "import os, time\nprint('lit', flush=True)\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.01)\n";
    let mut task = Task::new(&["/usr/bin/python3", "-c", bomb]);
    task.launch.limits.pids_max = 40;
    task.launch.limits.memory_bytes_max = 512 << 20;
    task.start();
    let tree = task.subtree.open();
    task.wait_for(|_| (tree.usage("task").unwrap().pids >= 40).then_some(()));
    task.ask(&tw_agent::helper::protocol::Request::Kill);
    assert_eq!(ended(&task.exit()), Ended::Signal(9));
    assert_eq!(tree.leaves().unwrap(), ["helpers"]);
}

/// How many tasks run at the same time.
const AT_ONCE: usize = 20;

/// No more helpers than this wait for tasks, each with a launcher.
const SPARES: usize = 16;

/// What may not grow.
#[derive(Debug)]
struct Held {
    agent_bytes: u64,
    agent_descriptors: usize,
    nursery_bytes: u64,
    nursery_descriptors: usize,
    leaves: usize,
    /// Of the state folder, in the namespace of the agent, the nursery or the spare that has most.
    mounts: usize,
    files: usize,
    helpers: usize,
}

/// Memory of a process in bytes, and how many descriptors it has open.
fn held_by(pid: i32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = rss.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    (kib.unwrap_or(0) * 1024, descriptors.count())
}

impl Held {
    fn of(machine: &Machine) -> Held {
        let agent = machine.agent.as_ref().expect("an agent").id().cast_signed();
        let state = machine.state();
        let helpers = machine.tree().processes("helpers").unwrap();
        // A spare may end while it is looked at.
        let mounts = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok();
        let of_state = |text: String| {
            let lines = text.lines();
            lines
                .filter(|line| line.contains(&*state.to_string_lossy()))
                .count()
        };
        let all = helpers.iter().chain([&agent]);
        let (agent_bytes, agent_descriptors) = held_by(agent);
        let (nursery_bytes, nursery_descriptors) = held_by(machine.nursery().expect("a nursery"));
        Held {
            agent_bytes,
            agent_descriptors,
            nursery_bytes,
            nursery_descriptors,
            leaves: machine.leaves_of_nobody().len(),
            mounts: all.filter_map(mounts).map(of_state).max().unwrap_or(0),
            files: count_files(&state),
            helpers: helpers.len(),
        }
    }
}

fn count_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(
            |entry| match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => 1 + count_files(&entry.path()),
                false => 1,
            },
        )
        .sum()
}

#[tokio::test]
async fn nothing_piles_up_over_many_starts() {
    let wanted = volume("TW_SOAK_STARTS", 160);
    let machine = Machine::new();
    let mut started = 0;
    // The first waves fill caches that are meant to stay.
    let warm = (wanted / 4).clamp(2 * AT_ONCE, 1000);
    let mut before = None;
    let began = Instant::now();
    while started < wanted {
        wave(&machine, started, AT_ONCE).await;
        started += AT_ONCE;
        if started >= warm && before.is_none() {
            before = Some(settled(&machine).await);
        }
    }
    let (before, after) = (before.unwrap(), settled(&machine).await);
    let seconds = began.elapsed().as_secs_f64();
    show(&format!(
        "{started} starts in {seconds:.1} s; after {warm}: {before:?}; at the end: {after:?}\n"
    ));
    assert!(
        after.agent_bytes < before.agent_bytes + (6 << 20),
        "{before:?} {after:?}"
    );
    assert!(
        after.agent_descriptors <= before.agent_descriptors + SPARES / 2 + 2,
        "{before:?} {after:?}"
    );
    assert!(
        after.nursery_bytes < before.nursery_bytes + (1 << 20)
            && after.nursery_descriptors == before.nursery_descriptors,
        "{before:?} {after:?}"
    );
    assert_eq!((after.leaves, after.mounts), (before.leaves, before.mounts));
    // A spare has a file more while it is made ready.
    assert!(after.files <= before.files + SPARES, "{before:?} {after:?}");
}

/// Starts a number of tasks, waits for their ends, and has them forgotten.
async fn wave(machine: &Machine, first: usize, count: usize) {
    let mut tasks: Vec<TaskId> = Vec::new();
    for number in first..first + count {
        let script = format!("echo {number}; exit {}", number % 200);
        let mut task = assignment("soak", json!({"command": ["sh", "-c", script]}));
        task.task.id.incarnation = number as u64 + 1;
        tasks.push(task.task.id.clone());
        machine.assign(&task).await;
    }
    for (task, number) in tasks.iter().zip(first..) {
        assert_eq!(machine.exited(task).await.0, code((number % 200) as i32));
    }
    for task in tasks {
        machine
            .controller
            .say(AgentEvent::Forget { task: task.clone() })
            .await;
        machine.controller.drop_reports_of(&task);
    }
}

/// What is held once all that was forgotten has gone.
async fn settled(machine: &Machine) -> Held {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let held = Held::of(machine);
        if held.leaves == 0
            && held.helpers <= SPARES
            && count_files(&machine.state().join("tasks")) == 0
        {
            return held;
        }
        assert!(Instant::now() < deadline, "{held:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn show(text: &str) {
    use std::io::Write;
    // Figures for people; a closed standard error is no failure.
    let _written = std::io::stderr().write_all(text.as_bytes());
}
