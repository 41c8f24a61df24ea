//! A task that needs more memory than it may have: it is asked to end, with its reasons on record, and
//! nobody else notices.

use std::time::{Duration, Instant};

use crate::common::{Task, ended};
use tw_agent::helper::protocol::{PROTO, Reply, Request};
use tw_agent::sandbox::Ended;

const LIMIT_BYTES: u64 = 48 << 20;

/// A Python program that takes memory piece by piece; `setup` runs before.
fn hog(setup: &str) -> Task {
    let program = format!(
        "import os, signal, sys, time\nheld = []\n{setup}\nprint('ready', flush=True)\n\
         while True:\n    held.append(bytearray(1 << 20))\n"
    );
    let mut task = Task::new(&["/usr/bin/python3", "-c", &program]);
    task.launch.limits.memory_bytes_max = LIMIT_BYTES;
    task
}

#[test]
fn a_hog_without_a_handler_is_ended_by_its_signal_and_diagnosed() {
    let mut task = hog("");
    task.start();
    let mut client = task.connect();
    client.ask(&Request::Agent { proto: PROTO }).unwrap();
    let told = loop {
        match client.wait_ended().unwrap() {
            Reply::OutOfMemory { record } => break record,
            Reply::Ready => {}
            other => panic!("nobody said that memory is short but {other:?}"),
        }
    };
    let exit = task.exit();
    assert_eq!(ended(&exit), Ended::Signal(15));
    let record = exit.oom.as_deref().expect("a diagnosis");
    assert_eq!(*record, *told);
    assert_eq!(record.limit_bytes, LIMIT_BYTES);
    assert!(
        record.memory.anon_bytes > LIMIT_BYTES * 3 / 4,
        "{:?}",
        record.memory
    );
    let holder = &record.holders[0];
    assert!(
        holder.command.starts_with("/usr/bin/python3 -c"),
        "{record}"
    );
    assert!(
        holder.anon_bytes > LIMIT_BYTES / 2 && holder.task_pid == 2,
        "{holder:?}"
    );
    assert!(!exit.is_oom, "the kernel had to kill: {exit:?}");
}

#[test]
fn a_hog_with_a_handler_ends_in_order() {
    let setup = "def stop(*_):\n    held.clear(); print('saved', flush=True); sys.exit(7)\n\
                 signal.signal(signal.SIGTERM, stop)";
    let mut task = hog(setup);
    let exit = task.run();
    assert_eq!(ended(&exit), Ended::Code(7));
    assert_eq!(task.stdout(), "ready\nsaved\n");
    assert!(exit.oom.is_some() && !exit.is_oom, "{exit:?}");
}

#[test]
fn a_hog_that_ignores_its_signal_is_killed_as_a_whole() {
    let setup =
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif os.fork() == 0:\n    time.sleep(600)\n";
    let mut task = hog(setup);
    let began = Instant::now();
    let exit = task.run();
    assert_eq!(ended(&exit), Ended::Signal(9));
    assert!(exit.oom.is_some(), "{exit:?}");
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "killed only after its grace"
    );
    assert_eq!(task.subtree.open().leaves().unwrap(), ["helpers"]);
}

#[test]
fn memory_taken_at_once_and_by_many_processes_is_the_tasks_too() {
    let program = "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        x = bytearray(20 << 20); time.sleep(600)\n\
                   time.sleep(600)\n";
    let mut task = Task::new(&["/usr/bin/python3", "-c", program]);
    task.launch.limits.memory_bytes_max = LIMIT_BYTES;
    let exit = task.run();
    let record = exit.oom.expect("a diagnosis");
    assert!(record.holders.len() >= 4, "{record}");
    assert_eq!(task.subtree.open().leaves().unwrap(), ["helpers"]);
}

#[test]
fn siblings_and_helpers_are_never_victims() {
    let mut sibling = Task::shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done");
    let before = sibling.start();
    let mut task = hog("");
    task.launch.tree = sibling.subtree.path.clone();
    task.launch.leaf = "hog".to_owned();
    task.start();
    let helper = task.helper_pid();
    assert!(task.exit().oom.is_some());
    assert!(before.task.is_alive().unwrap() && before.helper.is_alive().unwrap());
    let lines = sibling.stdout().lines().count();
    sibling.wait_for(|sibling| (sibling.stdout().lines().count() > lines + 2).then_some(()));
    assert_ne!(helper, sibling.helper_pid());
    assert_eq!(sibling.subtree.open().usage("task").unwrap().oom_kills, 0);
}

#[test]
fn where_the_machine_is_out_of_memory_tasks_go_before_helpers() {
    let rank = "/proc/self/oom_score_adj";
    let mut task = Task::shell(&format!("cat {rank} /proc/1/oom_score_adj; sleep 60"));
    task.start();
    task.wait_for_stdout("200\n200\n");
    let helper = format!("/proc/{}/oom_score_adj", task.helper_pid());
    let own = std::fs::read_to_string(rank).unwrap();
    assert_eq!(std::fs::read_to_string(helper).unwrap(), own);
    task.ask(&Request::Kill);
    task.exit();
}

#[test]
fn cache_that_can_be_dropped_is_no_lack_of_memory() {
    let mut task = Task::shell(
        "dd if=/dev/zero of=/tmp/large bs=1M count=200 2>/dev/null && cat /tmp/large | wc -c",
    );
    task.launch.limits.memory_bytes_max = LIMIT_BYTES;
    let exit = task.run();
    assert_eq!((ended(&exit), exit.oom), (Ended::Code(0), None));
    assert_eq!(task.stdout(), "209715200\n");
}
