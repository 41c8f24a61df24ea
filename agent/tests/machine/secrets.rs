//! Secrets: in memory, for the task alone, and nowhere else.

use std::fs;
use std::path::Path;

use serde_json::json;
use tw_model::{Code, Desired};

use crate::machine::{Machine, assignment, code};
use crate::ordinary::Ordinary;

const VALUE: &[u8] = b"qx7-hush-\x00\xff-value\n";

/// Shows what a task can do with its secret, without the value itself.
const LOOK: &str = "md5sum < /secrets/key; stat -c '%a %u %g %s' /secrets/key; stat -f -c %T /secrets; \
                    for how in '>> /secrets/key' '> /secrets/other'; do \
                      (eval \"echo x $how\") 2> /dev/null && echo changed; done; ls /secrets";

/// Every file below `folder` whose name or content has the value.
fn holders(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holders(&entry.path()));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(8).any(|part| part == &VALUE[..8]) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn a_secret_is_a_file_in_memory_for_all_of_a_task_and_outlives_the_agent() {
    let mut machine = Machine::new();
    machine.controller.set_secret("reader", "key", VALUE);
    let hook = |when: &str| json!({"command": ["sh", "-c", format!("echo {when}; md5sum < /secrets/key")]});
    let mut task = assignment(
        "reader",
        json!({
            "command": ["sh", "-c", format!("{LOOK}; trap 'md5sum < /secrets/key; exit 4' TERM; echo up; while :; do sleep 0.05; done")],
            "secrets": [{"name": "key"}],
            "hooks": {"pre_start": hook("before"), "post_start": hook("beside"), "post_stop": hook("after")},
            "sidecars": [{"name": "short", "command": ["sh", "-c", "md5sum < /secrets/key; exec sleep 60"]}],
        }),
    );
    let id = task.task.id.clone();
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&id).await;
    assert_eq!(holders(&machine.state()), [""; 0]);
    machine.kill();
    machine.start();
    machine.controller.registration(2).await;
    task.task.desired = Desired::Stop;
    machine.snapshot(std::slice::from_ref(&task)).await;
    assert_eq!(machine.exited(&id).await.0, code(4));
    let lines = machine.logs("all", &id, false).await;
    let sum = md5_of(VALUE);
    let expected = [
        "before",
        &sum,
        &sum,
        &format!("400 65534 65534 {}", VALUE.len()),
        "tmpfs",
        "key",
        "up",
    ];
    let said: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(
        said.iter().filter(|line| **line == sum).count(),
        5,
        "{said:?}"
    );
    for line in expected {
        assert!(said.contains(&line), "{line}: {said:?}");
    }
    assert!(!said.contains(&"changed"), "{said:?}");
    let beside = machine.sidecar_logs("short", &id).await;
    assert_eq!(beside, [sum.as_str()]);
    assert_eq!(holders(&machine.state()), [""; 0]);
}

#[tokio::test]
async fn a_secret_without_a_value_starts_nothing() {
    let machine = Machine::new();
    let task = assignment(
        "reader",
        json!({"command": ["true"], "secrets": [{"name": "key"}]}),
    );
    machine.snapshot(std::slice::from_ref(&task)).await;
    let (code, message) = machine.never_started(&task.task.id).await;
    assert_eq!(
        (code, message.as_str()),
        (Code::SecretMissing, "it has no value; set it")
    );
    assert!(
        !machine
            .task_folder(&task.task.id)
            .join("launch.json")
            .exists()
    );
}

#[tokio::test]
async fn a_secret_of_an_ordinary_users_task_is_its_own_as_well() {
    let mut machine = Ordinary::new();
    machine.start();
    machine.0.controller.set_secret("reader", "key", VALUE);
    let task = assignment(
        "reader",
        json!({"command": ["sh", "-c", LOOK], "secrets": [{"name": "key"}]}),
    );
    machine.0.snapshot(std::slice::from_ref(&task)).await;
    machine.0.exited(&task.task.id).await;
    let lines = machine.0.logs("all", &task.task.id, false).await;
    let owner = format!("400 65534 65534 {}", VALUE.len());
    assert_eq!(lines, [&md5_of(VALUE), &owner, "tmpfs", "key"]);
    assert_eq!(holders(&machine.0.state()), [""; 0]);
}

/// As `md5sum` prints it of its standard input.
fn md5_of(value: &[u8]) -> String {
    use std::io::Write;
    let mut program = std::process::Command::new("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    program.stdin.take().unwrap().write_all(value).unwrap();
    let printed = program.wait_with_output().unwrap().stdout;
    String::from_utf8(printed).unwrap().trim_end().to_owned()
}
