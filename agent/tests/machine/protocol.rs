//! Agents and helpers of different releases. `tests/protocol/N` keeps the words and records of protocol N, as the release
//! that spoke it wrote them; a new protocol gets a folder of its own, and none is changed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tw_agent::helper::protocol::{Hello, PROTO, PROTO_OLDEST, Reply, Request};
use tw_agent::helper::record::{
    EXIT_FILE, ExitRecord, LAUNCH_FILE, LaunchRecord, Outcome, STARTED_FILE, StartedRecord,
};
use tw_agent::sandbox::Ended;
use tw_api::Assignment;
use tw_model::{Desired, Phase};

use crate::common::{PATIENCE, Task};
use crate::machine::{Machine, assignment, code};

fn kept(proto: u32, name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protocol");
    let path = folder.join(proto.to_string()).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// Reads what an earlier release wrote, and sees that this one writes all of it again: the earlier one reads that.
fn understood<T: DeserializeOwned + Serialize>(text: &str) -> T {
    let read: T = serde_json::from_str(text).unwrap_or_else(|cause| panic!("{cause}: {text}"));
    let written = serde_json::to_value(&read).unwrap();
    assert_contains(&written, &serde_json::from_str(text).unwrap(), text);
    read
}

/// Everything that is in `old` is in `new`, which may have more fields.
fn assert_contains(new: &Value, old: &Value, text: &str) {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for (name, value) in old {
                let found = new
                    .get(name)
                    .unwrap_or_else(|| panic!("no {name} any more: {text}"));
                assert_contains(found, value, text);
            }
        }
        (Value::Array(new), Value::Array(old)) => {
            assert_eq!(new.len(), old.len(), "{text}");
            for (new, old) in new.iter().zip(old) {
                assert_contains(new, old, text);
            }
        }
        _ => assert_eq!(new, old, "{text}"),
    }
}

#[test]
fn the_words_and_records_of_every_protocol_are_understood_in_both_directions() {
    for proto in PROTO_OLDEST..=PROTO {
        let launch: LaunchRecord = understood(&kept(proto, LAUNCH_FILE));
        let started: StartedRecord = understood(&kept(proto, STARTED_FILE));
        let exit: ExitRecord = understood(&kept(proto, EXIT_FILE));
        assert_eq!([launch.proto, started.proto, exit.proto], [proto; 3]);
        assert!(matches!(
            &exit.outcome,
            Outcome::Ended {
                how: Ended::Code(3),
                was_asked: true,
                ..
            }
        ));
        let words = kept(proto, "helper.jsonl");
        let mut words = words.lines();
        assert_eq!(understood::<Hello>(words.next().unwrap()).proto, proto);
        for word in words {
            assert_ne!(understood::<Reply>(word), Reply::Unknown, "{word}");
        }
        // A helper of an earlier release is asked with its own words, to the letter.
        for word in kept(proto, "agent.jsonl").lines() {
            let asked: Request = serde_json::from_str(word).unwrap();
            let same: Value = serde_json::from_str(word).unwrap();
            assert_eq!(serde_json::to_value(&asked).unwrap(), same);
        }
    }
    // A word of a later release is no reason to lose a task.
    let later: Reply = serde_json::from_str(r#"{"reply":"sang","song":"low"}"#).unwrap();
    assert_eq!(later, Reply::Unknown);
}

/// A helper refuses a record of a protocol that it does not speak, so that it does nothing by half.
#[test]
fn a_record_asks_for_no_later_protocol_than_it_needs() {
    for (proto, needed) in [(1, 2), (2, 2), (3, 3), (4, 4)] {
        let launch: LaunchRecord = serde_json::from_str(&kept(proto, LAUNCH_FILE)).unwrap();
        assert_eq!(launch.lowest_proto(), needed, "{proto}");
    }
    let mut task = Task::shell("exit 5");
    task.launch.proto = PROTO + 1;
    tw_agent::helper::prepare_folder(&task.folder, &task.launch).unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_tw-helper"))
        .arg("keep")
        .arg(&task.folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&format!("this helper {PROTO}")), "{said}");
    let mut task = Task::shell("exit 5");
    task.launch.proto = task.launch.lowest_proto();
    assert_eq!(crate::common::ended(&task.run()), Ended::Code(5));
}

/// A helper of an earlier release, played by a thread, that keeps a task whose agent has gone.
struct OldHelper {
    heard: mpsc::Receiver<Request>,
    _lock: std::os::fd::OwnedFd,
}

impl OldHelper {
    /// Takes the place of the real helper in `folder`. It answers one agent: says hello and that it is ready as its protocol
    /// does, and tells the task's end when it is asked to stop.
    fn begin(folder: PathBuf, proto: u32) -> OldHelper {
        let lock = tw_agent::helper::lock(&folder).unwrap();
        let socket = folder.join("helper.sock");
        std::fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let (hear, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let words = kept(proto, "helper.jsonl");
            let word = |part: &str| {
                words
                    .lines()
                    .find(|line| line.contains(part))
                    .map(|line| format!("{line}\n"))
            };
            stream
                .write_all(word("proto_oldest").unwrap().as_bytes())
                .unwrap();
            if let Some(ready) = word(r#""reply":"ready""#) {
                stream.write_all(ready.as_bytes()).unwrap();
            }
            let asked = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in asked.map_while(Result::ok) {
                let request: Request = serde_json::from_str(&line).unwrap();
                let is_stop = matches!(request, Request::Stop { .. });
                hear.send(request).unwrap();
                stream
                    .write_all(word(r#""reply":"done""#).unwrap().as_bytes())
                    .unwrap();
                if is_stop {
                    std::fs::write(folder.join(EXIT_FILE), kept(proto, EXIT_FILE)).unwrap();
                    stream
                        .write_all(word(r#""reply":"ended""#).unwrap().as_bytes())
                        .unwrap();
                    return;
                }
            }
        });
        OldHelper { heard, _lock: lock }
    }

    /// Everything that it was asked up to the stop.
    fn heard(&self) -> Vec<Request> {
        let mut heard = Vec::new();
        while !matches!(heard.last(), Some(Request::Stop { .. })) {
            heard.push(self.heard.recv_timeout(PATIENCE).unwrap());
        }
        heard
    }
}

/// A task whose agent and helper are gone, and a helper of an earlier release in their place.
async fn kept_by(proto: u32) -> (Machine, Assignment, OldHelper) {
    let mut machine = Machine::new();
    machine.controller.grant();
    let task = assignment(
        "old",
        json!({"command": ["sleep", "600"], "at_most_one": true, "failover": {"within_ms": 60_000}}),
    );
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&task.task.id).await;
    let started = machine.started(&task.task.id);
    machine.kill();
    let helper = started.helper.open().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&helper, rustix::process::Signal::KILL).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while started.helper.is_alive().unwrap() || started.task.is_alive().unwrap() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    machine.controller.drop_reports_of(&task.task.id);
    let helper = OldHelper::begin(machine.task_folder(&task.task.id), proto);
    machine.start();
    (machine, task, helper)
}

/// Ends a task that an old helper keeps, once the agent has taken it over; answers what that one was asked.
async fn stop(machine: &Machine, mut task: Assignment, helper: OldHelper) -> Vec<Request> {
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&task.task.id).await;
    // Grants come with the answers to heartbeats, ten a second.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    task.task.desired = Desired::Stop;
    task.task.version += 1;
    machine.assign(&task).await;
    let (exit, detail) = machine.exited(&task.task.id).await;
    assert_eq!(exit.code, code(3).code, "{detail}");
    let ends = machine.controller.reports_of(&task.task.id);
    let ends = ends
        .iter()
        .filter(|phase| matches!(phase, Phase::Exited { .. }));
    assert_eq!(ends.count(), 1);
    helper.heard()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_of_protocol_1_is_adopted_and_asked_nothing_that_it_does_not_know() {
    let (machine, task, helper) = kept_by(1).await;
    let heard = stop(&machine, task, helper).await;
    assert!(matches!(heard[..], [Request::Stop { .. }]), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_of_protocol_2_is_told_who_asks_and_no_term() {
    let (machine, task, helper) = kept_by(2).await;
    let heard = stop(&machine, task, helper).await;
    assert!(
        matches!(
            heard[..],
            [Request::Agent { proto: PROTO }, Request::Stop { .. }]
        ),
        "{heard:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_of_protocol_3_has_its_term_prolonged() {
    let (machine, task, helper) = kept_by(3).await;
    let heard = stop(&machine, task, helper).await;
    assert!(
        matches!(
            heard[..2],
            [Request::Agent { proto: PROTO }, Request::Prolong { .. }]
        ),
        "{heard:?}"
    );
}
