//! Agents that begin anew: upgraded in place, after a reboot, beside helpers of another release.

use std::process::Command;

use serde_json::json;
use tw_agent::helper::protocol::{Hello, Reply, Request};
use tw_agent::helper::record::{
    self, EXIT_FILE, ExitRecord, LaunchRecord, Outcome, STARTED_FILE, StartedRecord,
};

use crate::common::PATIENCE;
use crate::machine::{Machine, assignment, code, shell};

#[tokio::test]
async fn an_agent_is_upgraded_in_place_and_its_tasks_go_on() {
    let machine = Machine::new();
    let task = shell("lasting", "while :; do sleep 0.1; done");
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&task.task.id).await;
    let before = machine.started(&task.task.id);
    machine.controller.forget_stream();
    let upgraded = Command::new(env!("CARGO_BIN_EXE_tw-agent"))
        .args(["upgrade", "--state"])
        .arg(machine.state())
        .output()
        .unwrap();
    assert!(
        upgraded.status.success(),
        "{}",
        String::from_utf8_lossy(&upgraded.stderr)
    );
    let reports = machine.controller.registration(2).await.reports;
    assert_eq!(reports.len(), 1, "{reports:?}");
    machine.snapshot(std::slice::from_ref(&task)).await;
    assert!(before.task.is_alive().unwrap() && before.helper.is_alive().unwrap());
    let nobody = tempfile::tempdir().unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_tw-agent"))
        .args(["upgrade", "--state"])
        .arg(nobody.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("no agent has run in"),
        "{said}"
    );
}

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

/// Words of protocol 1, as the release that spoke it wrote them.
#[test]
fn the_words_of_protocol_1_are_understood() {
    let hello: Hello =
        serde_json::from_str(r#"{"proto":1,"proto_oldest":1,"task":"web.0#1"}"#).unwrap();
    assert_eq!(hello.proto, 1);
    for said in [
        r#"{"reply":"status","started_at_us":5,"is_stopping":false,"log":{"frames":1,"bytes":2,"bytes_dropped":0,"segments_dropped":0}}"#,
        r#"{"reply":"done"}"#,
        r#"{"reply":"refused","message":"no"}"#,
    ] {
        serde_json::from_str::<Reply>(said).unwrap();
    }
    let ended = r#"{"reply":"ended","record":{"proto":1,"outcome":{"ended":{"how":{"code":3},"was_asked":true,"was_killed":false}},"ended_at_us":7,"is_oom":false,"usage":{"cpu_usage_us":1,"cpu_throttled_us":0,"memory_bytes":0,"memory_working_set_bytes":0,"memory_peak_bytes":9,"oom_kills":0,"pids":0},"log":{"frames":0,"bytes":0,"bytes_dropped":0,"segments_dropped":0}}}"#;
    let Reply::Ended { record } = serde_json::from_str(ended).unwrap() else {
        panic!("another word")
    };
    assert!(matches!(
        record.outcome,
        Outcome::Ended {
            was_asked: true,
            ..
        }
    ));
    assert_eq!((record.oom, record.hooks.len()), (None, 0));
    // What this release asks of a helper of protocol 1 is what that one knew.
    let asked = |request: &Request| serde_json::to_string(request).unwrap();
    assert_eq!(asked(&Request::Status), r#"{"request":"status"}"#);
    assert_eq!(asked(&Request::Kill), r#"{"request":"kill"}"#);
    let stop = Request::Stop {
        signal: 15,
        after_ms: 0,
        grace_ms: 10,
    };
    assert_eq!(
        asked(&stop),
        r#"{"request":"stop","signal":15,"after_ms":0,"grace_ms":10}"#
    );
    // A word of a later release is no reason to lose a task.
    assert_eq!(
        serde_json::from_str::<Reply>(r#"{"reply":"sang","song":"low"}"#).unwrap(),
        Reply::Unknown
    );
}

/// The records that an agent and a helper of protocol 1 left in a task's folder.
#[test]
fn the_records_of_protocol_1_are_read() {
    let launch = r#"{"proto":1,"task":"web.0#1","tree":{"root":"/sys/fs/cgroup","subtree":"twill"},"leaf":"default.web.0.1","helpers_leaf":"helpers","limits":{"cpu_millicores":100,"cpu_quota_millicores":null,"memory_bytes_max":67108864,"pids_max":64},"sandbox":{"hostname":"web-0","command":{"argv":["true"],"env":{},"user":"nobody","workdir":"/tmp"},"base":"/b","folder":"/f","binds":[],"shm_bytes_max":1024},"log":{"bytes_max":16777216}}"#;
    let launch: LaunchRecord = serde_json::from_str(launch).unwrap();
    assert!(launch.sidecars.is_empty() && launch.hooks.pre_start.is_none());
    assert_eq!((launch.stop.signal, launch.log.bytes_max), (15, 16 << 20));
    let folder = tempfile::tempdir().unwrap();
    let exit = r#"{"proto":1,"outcome":"helper_lost","ended_at_us":7,"is_oom":false,"usage":{"cpu_usage_us":1,"cpu_throttled_us":0,"memory_bytes":0,"memory_working_set_bytes":0,"memory_peak_bytes":9,"oom_kills":0,"pids":0},"log":{"frames":0,"bytes":0,"bytes_dropped":0,"segments_dropped":0}}"#;
    std::fs::write(folder.path().join(EXIT_FILE), exit).unwrap();
    let exit: ExitRecord = record::read(folder.path(), EXIT_FILE).unwrap().unwrap();
    assert_eq!(exit.outcome, Outcome::HelperLost);
}
