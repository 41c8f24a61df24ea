//! A helper keeps its task with or without an agent, and loses nothing of its end.

use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Task, ended};
use tw_agent::helper::protocol::{Reply, Request};
use tw_agent::helper::record::{EXIT_FILE, ExitRecord, LOG_FOLDER, Outcome, read};
use tw_agent::log::{LogReader, tail};
use tw_agent::sandbox::Ended;

#[test]
fn a_stopped_task_gets_its_signal_and_ends_by_itself() {
    let mut task =
        Task::shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    task.start();
    task.wait_for_stdout("ready");
    assert_eq!(
        task.ask(&Request::Stop {
            signal: 15,
            after_ms: 0,
            grace_ms: 10_000
        }),
        Reply::Done
    );
    let exit = task.exit();
    assert_eq!(
        exit.outcome,
        Outcome::Ended {
            how: Ended::Code(3),
            was_asked: true,
            was_killed: false,
            term_over: false,
        }
    );
    assert_eq!(task.stdout(), "ready\nbye\n");
}

#[test]
fn a_task_without_a_handler_ends_at_once() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    task.ask(&Request::Stop {
        signal: 15,
        after_ms: 0,
        grace_ms: 10_000,
    });
    assert_eq!(ended(&task.exit()), Ended::Signal(15));
}

#[test]
fn a_task_that_ignores_its_signal_is_killed_after_the_grace() {
    let mut task =
        Task::shell("trap '' TERM; (trap '' TERM; sleep 60) & echo ready; wait; sleep 60");
    task.start();
    task.wait_for_stdout("ready");
    let asked = Instant::now();
    task.ask(&Request::Stop {
        signal: 15,
        after_ms: 100,
        grace_ms: 300,
    });
    let exit = task.exit();
    assert!(asked.elapsed() >= Duration::from_millis(400));
    assert_eq!(
        exit.outcome,
        Outcome::Ended {
            how: Ended::Signal(9),
            was_asked: true,
            was_killed: true,
            term_over: false,
        }
    );
}

#[test]
fn a_task_is_killed_on_request() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    task.ask(&Request::Kill);
    assert_eq!(ended(&task.exit()), Ended::Signal(9));
    assert_eq!(task.subtree.open().leaves().unwrap(), ["helpers"]);
}

#[test]
fn a_killed_helper_takes_its_task_with_it() {
    let mut task = Task::shell("setsid sleep 60 & sleep 60");
    let started = task.start();
    let pid = rustix::process::Pid::from_raw(task.helper_pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    task.wait_for(|_| (!started.task.is_alive().unwrap()).then_some(()));
    let tree = task.subtree.open();
    task.wait_for(|_| tree.is_empty("task").unwrap().then_some(()));
    assert_eq!(read::<ExitRecord>(&task.folder, EXIT_FILE).unwrap(), None);
}

#[test]
fn a_task_cannot_have_more_processes_than_its_limit() {
    let mut task = Task::shell("for i in $(seq 40); do sleep 5 & done; echo all");
    task.launch.limits.pids_max = 10;
    task.run();
    assert!(
        !task.stdout().contains("all"),
        "40 processes under a limit of 10"
    );
}

#[test]
fn output_can_be_followed_while_it_comes() {
    let mut task = Task::shell("echo one; sleep 0.5; echo two; sleep 60");
    task.start();
    let mut reader = LogReader::open(&task.folder.join(LOG_FOLDER));
    let mut seen = Vec::new();
    for expected in ["one\n", "two\n"] {
        let frame = task.wait_for(|_| reader.next_frame().unwrap());
        assert_eq!(String::from_utf8_lossy(&frame.data), expected);
        seen.push(frame.sequence);
    }
    assert_eq!(seen, [0, 1]);
    let Reply::Status(status) = task.ask(&Request::Status) else {
        panic!("no status")
    };
    assert_eq!((status.log.frames, status.is_stopping), (2, false));
}

#[test]
fn a_busy_log_is_bounded_and_its_end_is_kept() {
    let mut task = Task::shell("seq 1 400000");
    task.launch.log.bytes_max = 128 << 10;
    let exit = task.run();
    let expected: u64 = (1..=400_000_u64)
        .map(|n| n.to_string().len() as u64 + 1)
        .sum();
    assert_eq!((exit.log.bytes, exit.log.bytes_dropped), (expected, 0));
    assert!(exit.log.segments_dropped > 0, "{:?}", exit.log);
    let size: u64 = std::fs::read_dir(task.folder.join(LOG_FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= 128 << 10, "{size}");
    let (frames, _) = tail(&task.folder.join(LOG_FOLDER), 2, None).unwrap();
    let text: Vec<u8> = frames.into_iter().flat_map(|frame| frame.data).collect();
    assert_eq!(String::from_utf8_lossy(&text), "399999\n400000\n");
}

#[test]
fn whoever_waits_is_told_the_end() {
    let mut task = Task::shell("sleep 0.3; exit 5");
    task.start();
    let mut client = task.connect();
    assert_eq!(client.hello.task, "web.0#1");
    let Reply::Ended { record } = client.wait_ended().unwrap() else {
        panic!("no end")
    };
    assert_eq!(ended(&record), Ended::Code(5));
    assert_eq!(*record, task.exit());
}

#[test]
fn a_request_that_cannot_be_read_is_refused_and_the_task_runs_on() {
    use std::io::{BufRead, BufReader, Write};
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let stream = task.wait_for(|task| {
        std::os::unix::net::UnixStream::connect(task.folder.join("helper.sock")).ok()
    });
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (&stream).write_all(b"{\"request\":\"fly\"}\n").unwrap();
    let lines: Vec<String> = BufReader::new(&stream)
        .lines()
        .take(2)
        .map(Result::unwrap)
        .collect();
    assert!(
        lines[1].contains("refused") && lines[1].contains("fly"),
        "{lines:?}"
    );
    assert!(matches!(task.ask(&Request::Status), Reply::Status(_)));
}

#[test]
fn a_grandchild_that_holds_the_output_does_not_delay_the_end() {
    let mut task = Task::shell("(trap '' HUP TERM; setsid sleep 60) & echo done; exit 2");
    let began = Instant::now();
    assert_eq!(ended(&task.run()), Ended::Code(2));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(task.stdout(), "done\n");
}

#[test]
fn a_helper_is_never_charged_to_its_task() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let helper = format!("/proc/{}/cgroup", task.helper_pid());
    let cgroups = || std::fs::read_to_string(&helper).unwrap();
    let own = format!("/{}/helpers", task.subtree.path.subtree);
    task.wait_for(|_| {
        cgroups()
            .lines()
            .any(|line| line.ends_with(&own))
            .then_some(())
    });
    assert!(!cgroups().contains("/task"), "{}", cgroups());
    // The init and the command.
    assert_eq!(task.subtree.open().usage("task").unwrap().pids, 2);
}

#[test]
fn a_helper_does_not_begin_behind_an_agent_that_gave_its_start_up() {
    let mut task = Task::shell("echo started");
    tw_agent::helper::prepare_folder(&task.folder, &task.launch).unwrap();
    let lost = ExitRecord {
        proto: 1,
        outcome: Outcome::HelperLost,
        ended_at_us: 0,
        is_oom: false,
        oom: None,
        hooks: Vec::new(),
        usage: Default::default(),
        log: Default::default(),
    };
    tw_agent::helper::record::write_durably(&task.folder, EXIT_FILE, &lost).unwrap();
    assert_eq!(task.run().outcome, Outcome::HelperLost);
    assert_eq!(task.stdout(), "");
}
