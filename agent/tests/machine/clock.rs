//! Clocks that jump under an agent and its helpers.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tw_model::{Desired, Phase};

use crate::machine::{Machine, assignment, code, shell};

/// Moves the wall clock of a program that it is loaded into by as many seconds as a file says.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int answer = syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("TW_TEST_CLOCK");
    if (answer == 0 && clock == CLOCK_REALTIME && path) {
        char text[32] = {0};
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) time->tv_sec += atoll(text);
            close(file);
        }
    }
    return answer;
}
"#;

fn shim(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    fs::write(&source, SHIM).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(made.success());
    library
}

#[tokio::test]
async fn a_clock_that_jumps_neither_ends_nor_holds_up_a_task_and_loses_no_words() {
    const YEARS: i64 = 10 * 365 * 86_400;
    let mut machine = Machine::without_agent();
    let library = shim(machine.folder.path());
    let clock = machine.folder.path().join("clock");
    fs::write(&clock, "0").unwrap();
    let env: [(&str, &OsStr); 2] = [
        ("LD_PRELOAD", library.as_os_str()),
        ("TW_TEST_CLOCK", clock.as_os_str()),
    ];
    machine.start_with(&env);
    let script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done";
    let mut stubborn = assignment(
        "stubborn",
        json!({"command": ["sh", "-c", script], "stop": {"drain_ms": 0, "grace_ms": 300}}),
    );
    machine.snapshot(std::slice::from_ref(&stubborn)).await;
    let id = stubborn.task.id.clone();
    let before = machine.running(&id).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (number, offset) in [YEARS, -YEARS].into_iter().enumerate() {
        fs::write(&clock, offset.to_string()).unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let quick = shell(&format!("quick-{number}"), "echo words; exit 4");
        machine.assign(&quick).await;
        assert_eq!(machine.exited(&quick.task.id).await.0, code(4));
        // That it ran may be said together with its end, and then only the end is.
        let said = machine.controller.reports_of(&quick.task.id);
        let ended = said.iter().find_map(|phase| match phase {
            Phase::Exited { at, .. } => Some(at),
            _ => None,
        });
        let ended = ended.expect("it exited");
        assert_eq!(
            (ended.0 - before.0) / 1_000_000 / (YEARS - 3600),
            offset.signum()
        );
        assert_eq!(
            machine
                .logs(&format!("quick-{number}"), &quick.task.id, false)
                .await,
            ["words"]
        );
        assert!(machine.started(&id).task.is_alive().unwrap());
    }
    stubborn.task.desired = Desired::Stop;
    let asked = Instant::now();
    machine.assign(&stubborn).await;
    let (exit, detail) = machine.exited(&id).await;
    assert_eq!(
        (exit.signal, detail.as_str()),
        (Some(9), "killed after its grace")
    );
    let took = asked.elapsed();
    assert!(
        took > Duration::from_millis(250) && took < Duration::from_secs(10),
        "{took:?}"
    );
    assert_eq!(
        machine.logs("stubborn", &id, false).await,
        ["ready", "asked"]
    );
}
