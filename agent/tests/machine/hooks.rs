//! Hooks and sidecars: in the task's sandbox and limits, in time, and on record.

use std::time::{Duration, Instant};

use tw_agent::helper::hook::{HookEnd, HookPoint, HookSpec};
use tw_agent::helper::protocol::{Reply, Request};
use tw_agent::helper::record::{ExitRecord, LOG_FOLDER, Outcome, SIDECARS_FOLDER};
use tw_agent::helper::sidecar::SidecarSpec;
use tw_agent::log::{LogLimits, LogReader};
use tw_agent::sandbox::{Ended, Stage};

use crate::common::{Task, ended};

fn hook(script: &str, timeout_ms: u64) -> Option<HookSpec> {
    Some(HookSpec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout_ms,
    })
}

fn ends(exit: &ExitRecord) -> Vec<(HookPoint, HookEnd)> {
    let hooks = exit.hooks.iter();
    hooks.map(|hook| (hook.point, hook.end.clone())).collect()
}

const WELL: HookEnd = HookEnd::Ended(Ended::Code(0));

fn stop(grace_ms: u64) -> Request {
    Request::Stop {
        signal: 15,
        after_ms: 0,
        grace_ms,
    }
}

#[test]
fn hooks_run_around_the_command_in_its_sandbox() {
    let mut task = Task::shell(
        "cat /tmp/prepared; trap 'echo term; exit 4' TERM; echo up; while :; do sleep 0.02; done",
    );
    let hooks = &mut task.launch.hooks;
    hooks.pre_start = hook(
        "echo by-$TW_HOOK > /tmp/prepared; id -u; grep -c NoNewPrivs:.1 /proc/self/status",
        5000,
    );
    hooks.post_start = hook("cat /tmp/prepared; hostname", 5000);
    hooks.pre_stop = hook("echo leaving; sleep 0.2; echo left", 5000);
    hooks.post_stop = hook("cat /tmp/prepared; echo code $TW_EXIT_CODE", 5000);
    task.start();
    task.wait_for_stdout("web-0");
    task.wait_for_stdout("up\n");
    task.ask(&stop(10_000));
    let exit = task.exit();
    assert_eq!(ended(&exit), Ended::Code(4));
    let points = [
        HookPoint::PreStart,
        HookPoint::PostStart,
        HookPoint::PreStop,
        HookPoint::PostStop,
    ];
    assert_eq!(ends(&exit), points.map(|point| (point, WELL)));
    let printed = task.stdout();
    assert!(printed.starts_with("65534\n1\n"), "{printed}");
    let at = |words: &str| {
        printed
            .find(words)
            .unwrap_or_else(|| panic!("no '{words}' in {printed}"))
    };
    // The signal waits for the hook before it.
    assert!(
        at("left") < at("term") && at("term") < at("code 4"),
        "{printed}"
    );
    assert_eq!(printed.matches("by-pre_start").count(), 3, "{printed}");
}

#[test]
fn a_failed_or_endless_pre_start_hook_is_a_failed_start() {
    for (script, timeout_ms, words) in [
        ("exit 3", 20_000, "ended with exit code 3"),
        ("sleep 600", 300, "its time limit"),
    ] {
        let mut task = Task::shell("echo never");
        task.launch.hooks.pre_start = hook(script, timeout_ms);
        let began = Instant::now();
        let exit = task.run();
        let Outcome::NeverStarted(error) = &exit.outcome else {
            panic!("{exit:?}")
        };
        assert_eq!(error.stage, Stage::Hook);
        assert!(error.message.contains(words), "{}", error.message);
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(task.stdout(), "");
        assert_eq!(task.subtree.open().leaves().unwrap(), ["helpers"; 0]);
    }
}

#[test]
fn a_missing_hook_program_is_named() {
    let mut task = Task::shell("echo never");
    task.launch.hooks.pre_start = Some(HookSpec {
        argv: vec!["no-such-hook".to_owned()],
        timeout_ms: 1000,
    });
    let Outcome::NeverStarted(error) = task.run().outcome else {
        panic!("it ran")
    };
    assert!(
        error.message.contains("'no-such-hook' not found"),
        "{}",
        error.message
    );
}

#[test]
fn a_task_is_ready_only_after_its_post_start_hook() {
    let mut task = Task::new(&["sleep", "60"]);
    task.launch.hooks.post_start = hook("sleep 600", 60_000);
    task.start();
    let is_starting = |task: &Task| match task.ask(&Request::Status) {
        Reply::Status(status) => status.is_starting,
        other => panic!("{other:?}"),
    };
    assert!(is_starting(&task));
    task.ask(&Request::Kill);
    let exit = task.exit();
    let [(HookPoint::PostStart, end)] = &ends(&exit)[..] else {
        panic!("{exit:?}")
    };
    // Killed with all of the task, whoever notices first.
    let killed = HookEnd::Ended(Ended::Signal(9));
    assert!(*end == HookEnd::CutShort || *end == killed, "{end:?}");
}

#[test]
fn a_post_start_hook_that_fails_or_never_ends_ends_its_task() {
    for (script, timeout_ms, end) in [
        ("exit 9", 20_000, HookEnd::Ended(Ended::Code(9))),
        ("sleep 600", 300, HookEnd::TimedOut),
    ] {
        let mut task = Task::new(&["sleep", "60"]);
        task.launch.hooks.post_start = hook(script, timeout_ms);
        let exit = task.run();
        assert_eq!(ended(&exit), Ended::Signal(15));
        assert_eq!(ends(&exit), [(HookPoint::PostStart, end)]);
    }
}

#[test]
fn hooks_around_the_end_that_never_end_do_not_hold_it_up() {
    let mut task = Task::new(&["sleep", "60"]);
    task.launch.hooks.pre_stop = hook("sleep 600", 400);
    task.launch.hooks.post_stop = hook("echo cleaning; sleep 600", 1500);
    task.start();
    let began = Instant::now();
    task.ask(&stop(5000));
    let exit = task.exit();
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(ended(&exit), Ended::Signal(15));
    assert_eq!(
        ends(&exit),
        [
            (HookPoint::PreStop, HookEnd::TimedOut),
            (HookPoint::PostStop, HookEnd::TimedOut)
        ]
    );
    assert_eq!(task.stdout(), "cleaning\n");
}

#[test]
fn sidecars_run_beside_the_command_and_come_back_when_they_end() {
    let script =
        "while [ ! -e /shared/word ]; do sleep 0.02; done; cat /shared/word; sleep 1.2; exit 6";
    let mut task = Task::shell(script);
    let shared = task.folder.parent().unwrap().join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    std::os::unix::fs::chown(&shared, Some(65534), Some(65534)).unwrap();
    task = task.bind_writable(&shared, "/shared");
    let mut sandbox = task.launch.sandbox.clone();
    sandbox.folder = task.folder.join(SIDECARS_FOLDER).join("proxy");
    sandbox.command.argv = ["sh", "-c", "echo once; echo spoken > /shared/word"]
        .map(str::to_owned)
        .to_vec();
    task.launch.sidecars = vec![SidecarSpec {
        name: "proxy".to_owned(),
        sandbox,
        log: LogLimits::default(),
    }];
    let exit = task.run();
    assert_eq!(ended(&exit), Ended::Code(6));
    assert_eq!(task.stdout(), "spoken\n");
    let log = task
        .folder
        .join(SIDECARS_FOLDER)
        .join("proxy")
        .join(LOG_FOLDER);
    let mut reader = LogReader::open(&log);
    let mut printed = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        printed.extend(frame.data);
    }
    // It was started again after half a second, its own output apart from the command's.
    assert!(
        printed.starts_with(b"once\nonce\n"),
        "{}",
        String::from_utf8_lossy(&printed)
    );
    assert_eq!(task.subtree.open().leaves().unwrap(), ["helpers"]);
}

#[test]
fn a_sidecar_that_runs_ends_with_its_task() {
    let mut task = Task::shell("sleep 0.3; exit 2");
    let mut sandbox = task.launch.sandbox.clone();
    sandbox.folder = task.folder.join(SIDECARS_FOLDER).join("stubborn");
    sandbox.command.argv = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
        .map(str::to_owned)
        .to_vec();
    task.launch.sidecars = vec![SidecarSpec {
        name: "stubborn".to_owned(),
        sandbox,
        log: LogLimits::default(),
    }];
    assert_eq!(ended(&task.run()), Ended::Code(2));
    assert_eq!(task.subtree.open().leaves().unwrap(), ["helpers"]);
}
