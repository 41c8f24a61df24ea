//! An agent without root: the same sandbox on what a user may do, and plain words for what is missing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tw_api::{AgentEvent, ExecRequest, FrameKind, SessionRequest};
use tw_model::{Desired, TaskId};

use crate::common::PATIENCE;
use crate::machine::{Machine, assignment, code, install, shell};

/// A user that nobody on the machine is.
const UID: u32 = 54_321;

/// A machine whose agent is an ordinary user's.
pub(crate) struct Ordinary(pub(crate) Machine);

impl Ordinary {
    /// The programs are copied: a fresh clone may lie where only root can reach it.
    pub(crate) fn new() -> Ordinary {
        let machine = Machine::without_agent();
        let folder = machine.folder.path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(
            &machine.controller.socket,
            fs::Permissions::from_mode(0o666),
        )
        .unwrap();
        let programs = folder.join("bin");
        fs::create_dir(&programs).unwrap();
        for program in [
            env!("CARGO_BIN_EXE_tw-agent"),
            env!("CARGO_BIN_EXE_tw-helper"),
        ] {
            let program = Path::new(program);
            install(program, &programs.join(program.file_name().unwrap()));
        }
        fs::create_dir(machine.state()).unwrap();
        chown(machine.state(), Some(UID), Some(UID)).unwrap();
        Ordinary(machine)
    }

    fn program(&self) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &UID.to_string(), "--regid", &UID.to_string()])
            .args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
            .arg(self.0.folder.path().join("bin/tw-agent"))
            .current_dir("/");
        command
    }

    pub(crate) fn start(&mut self) {
        let log = fs::File::create(self.0.folder.path().join("agent.log")).unwrap();
        let agent = self
            .program()
            .args(["run", "--name", "machine-1", "--state"])
            .arg(self.0.state())
            .arg("--controller")
            .arg(format!("unix:{}", self.0.controller.socket.display()))
            .args(["--cgroup", "twill"])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.0.agent = Some(agent);
    }

    /// What an agent with a state folder of its own says on a machine that a command has changed before.
    fn refusal_behind(&self, command: &str) -> String {
        let state = tempfile::tempdir().unwrap();
        let script = format!(
            "{command} && exec setpriv --inh-caps=-all --ambient-caps=-all \"$0\" check --state \"$1\""
        );
        let user = UID.to_string();
        let refused = Command::new("unshare")
            .args(["--user", "--mount", "--keep-caps"])
            .args(["--map-user", &user, "--map-group", &user])
            .args(["sh", "-c", &script])
            .arg(self.0.folder.path().join("bin/tw-agent"))
            .arg(state.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && refused.stdout.is_empty(),
            "{text}"
        );
        text
    }

    async fn exec(&self, name: &str, task: &TaskId, script: &str) -> String {
        let request = ExecRequest {
            task: task.clone(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            terminal: None,
            debug: false,
            credit: false,
        };
        let frames = self
            .0
            .session(name, SessionRequest::Exec(request), &[])
            .await;
        let printed = frames.iter().filter(|frame| frame.kind != FrameKind::Exit);
        let bytes: Vec<u8> = printed.flat_map(|frame| frame.bytes.clone()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        if let Some(mut agent) = self.0.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
        let cleaned = self
            .program()
            .args(["clean", "--cgroup", "twill", "--state"])
            .arg(self.0.state())
            .output()
            .unwrap();
        if !std::thread::panicking() {
            let said = String::from_utf8_lossy(&cleaned.stderr);
            assert!(cleaned.status.success(), "{said}");
            assert!(!self.0.state().join("leaves/twill").exists(), "leaves stay");
        }
    }
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_task_of_an_ordinary_user_is_shut_in_kept_and_cleaned_up() {
    let mut machine = Ordinary::new();
    machine.start();
    let script = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t' ' '; \
                  echo own > /tmp/own && cat /tmp/own; echo x > /etc/own || echo kept; \
                  cat /proc/1/cmdline > /dev/null && ls /proc | grep -c '^[0-9]'; \
                  ls /home /root 2>&1 | head -1; mkdir -m 0 /var/closed; exit 3";
    let ending = shell("ending", script);
    let lasting = shell(
        "lasting",
        "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
    );
    let doomed = assignment("doomed", json!({"command": ["sleep", "60"]}));
    let all = [ending.clone(), lasting.clone(), doomed.clone()];
    machine.0.snapshot(&all).await;
    assert_eq!(machine.0.exited(&ending.task.id).await.0, code(3));
    let lines = machine.0.logs("ending", &ending.task.id, false).await;
    let status = lines.join("\n");
    assert!(
        lines[0] == "65534" && status.contains("CapEff: 0000000000000000"),
        "{status}"
    );
    assert!(status.contains("CapBnd: 0000000000000000"), "{status}");
    assert!(
        status.contains("NoNewPrivs: 1") && status.contains("Seccomp: 2"),
        "{status}"
    );
    assert!(
        status.contains("\nown\n") && status.contains("\nkept\n"),
        "{status}"
    );

    // Who it is on the machine, what is known of it, and a command in it.
    let id = &lasting.task.id;
    machine.0.running(id).await;
    let started = machine.0.started(id);
    let on_host = fs::metadata(format!("/proc/{}", started.helper.pid)).unwrap();
    assert_eq!(on_host.uid(), UID);
    let said = machine
        .exec(
            "exec",
            id,
            "id -u; cat /proc/1/status >/dev/null; echo $TW_TASK",
        )
        .await;
    assert_eq!(said, "65534\nlasting.0#1\n");

    // Nobody but it ends with its helper, and the agent may go and come.
    machine.0.running(&doomed.task.id).await;
    let lost = machine.0.started(&doomed.task.id);
    let helper = lost.helper.open().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&helper, rustix::process::Signal::KILL).unwrap();
    let (_, detail) = machine.0.exited(&doomed.task.id).await;
    assert!(detail.contains("task.helper_lost"), "{detail}");
    wait_for("the task has outlived its helper", || {
        !lost.task.is_alive().unwrap()
    })
    .await;
    machine.0.kill();
    machine.start();
    machine.0.controller.registration(2).await;
    let mut stopped = lasting.clone();
    stopped.task.desired = Desired::Stop;
    machine.0.snapshot(&[ending.clone(), stopped]).await;
    assert_eq!(machine.0.exited(id).await.0, code(0));
    assert!(
        machine
            .0
            .logs("asked", id, false)
            .await
            .contains(&"asked".to_owned())
    );

    for task in [&ending, &lasting, &doomed] {
        let task = task.task.id.clone();
        machine.0.controller.say(AgentEvent::Forget { task }).await;
    }
    wait_for("folders of forgotten tasks stay", || {
        let left = fs::read_dir(machine.0.state().join("tasks")).unwrap();
        left.count() == 0
    })
    .await;
}

#[tokio::test]
async fn processes_are_bounded_without_cgroups_too() {
    let mut machine = Ordinary::new();
    machine.start();
    let bomb = "import os, time\nlit = 0\nwhile True:\n    try:\n        if os.fork() == 0:\n            time.sleep(600)\n        lit += 1\n    except OSError:\n        break\nprint('lit', lit, flush=True)\ntime.sleep(600)";
    let task = assignment(
        "bomb",
        json!({"command": ["/usr/bin/python3", "-c", bomb], "resources": {"pids": 20}}),
    );
    let other = shell("other", "sleep 0.5; sh -c 'exit 4'");
    machine.0.snapshot(&[task.clone(), other.clone()]).await;
    let id = &task.task.id;
    machine.0.running(id).await;
    assert_eq!(machine.0.exited(&other.task.id).await.0, code(4));
    let mut lines = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while lines.is_empty() {
        assert!(Instant::now() < deadline);
        let mut stopped = task.clone();
        stopped.task.desired = Desired::Stop;
        tokio::time::sleep(Duration::from_millis(500)).await;
        machine.0.assign(&stopped).await;
        machine.0.exited(id).await;
        lines = machine.0.logs("bomb", id, false).await;
    }
    assert_eq!(lines, ["lit 19"]);
}

#[tokio::test]
async fn what_is_missing_is_said_and_what_is_unsafe_refused() {
    let machine = Ordinary::new();
    let state = machine.0.state();
    let said = machine
        .program()
        .args(["check", "--state"])
        .arg(&state)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{said:?}");
    for word in ["limits:", "users:", "network:", "disk:", "ports below 1024"] {
        assert!(text.contains(word), "{text}");
    }
    // A user namespace that allows none below it, as a machine that gives its users none.
    let text = machine.refusal_behind("echo 0 > /proc/sys/user/max_user_namespaces");
    assert!(
        text.contains("gives its users no user namespaces"),
        "{text}"
    );
    // A /proc of which a part is covered, as in most containers.
    let text = machine.refusal_behind("mount -t tmpfs none /proc/sys/kernel");
    assert!(
        text.contains("no sandbox can be made here: cannot make /proc: Operation not permitted")
            && text.contains("run the agent outside of the container, or as root"),
        "{text}"
    );
    let remote = machine
        .program()
        .args([
            "run",
            "--name",
            "machine-1",
            "--controller",
            "http://127.0.0.1:1",
        ])
        .args(["--token-file", "/dev/null", "--state"])
        .arg(&state)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&remote.stderr).into_owned();
    assert!(
        !remote.status.success() && text.contains("would run as you"),
        "{text}"
    );
}
