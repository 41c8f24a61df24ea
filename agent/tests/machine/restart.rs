//! Agents that begin anew: after a reboot, and on what is not theirs.

use std::process::Command;

use serde_json::json;
use tw_agent::helper::record::{self, STARTED_FILE, StartedRecord};

use crate::common::PATIENCE;
use crate::machine::{Machine, assignment, code, shell};

#[tokio::test]
async fn after_a_reboot_nothing_is_believed_to_run_and_no_stranger_is_touched() {
    found_dead(Some("11111111-2222-4333-8444-555555555555")).await;
}

#[tokio::test]
async fn a_number_that_is_another_process_by_now_is_not_taken_for_the_task() {
    found_dead(None).await;
}

/// A task and its helper die while no agent is there, and a stranger gets their numbers: before the next agent
/// begins, in the same boot or in another one.
async fn found_dead(boot: Option<&str>) {
    let mut machine = Machine::new();
    let running = assignment("running", json!({"command": ["sleep", "600"]}));
    let ended = shell("ended", "exit 8");
    let all = [running.clone(), ended.clone()];
    machine.snapshot(&all).await;
    machine.running(&running.task.id).await;
    machine.exited(&ended.task.id).await;
    let started = machine.started(&running.task.id);
    machine.kill();
    machine.controller.drop_reports_of(&running.task.id);
    machine.controller.drop_reports_of(&ended.task.id);
    let helper = started.helper.open().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&helper, rustix::process::Signal::KILL).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while started.task.is_alive().unwrap() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let reused = StartedRecord {
        helper: tw_agent::process::ProcessIdentity {
            pid: stranger.id().cast_signed(),
            ..started.helper.clone()
        },
        task: tw_agent::process::ProcessIdentity {
            pid: stranger.id().cast_signed(),
            ..started.task.clone()
        },
        ..started
    };
    record::write(
        &machine.task_folder(&running.task.id),
        STARTED_FILE,
        &reused,
    )
    .unwrap();
    match boot {
        None => machine.start(),
        Some(boot) => {
            machine.start_in_boot(boot);
            assert_eq!(machine.controller.registration(2).await.boot_id, boot);
        }
    }
    machine.snapshot(&all).await;
    let (_, detail) = machine.exited(&running.task.id).await;
    assert!(detail.contains("task.helper_lost"), "{detail}");
    assert_eq!(machine.exited(&ended.task.id).await.0, code(8));
    assert!(
        stranger.try_wait().unwrap().is_none(),
        "a process that is not ours was killed"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
