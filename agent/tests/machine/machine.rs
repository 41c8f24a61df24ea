//! A machine with an agent, a scripted controller, and a state folder and cgroups of its own.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tw_agent::cgroup::{CGROUP_ROOT, CgroupTree};
use tw_agent::helper::record::{self, STARTED_FILE, StartedRecord};
use tw_api::{
    AgentEvent, Assignment, Dial, Frame, FrameKind, LogLine, LogsRequest, SessionRequest,
    read_frame, write_frame,
};
use tw_model::{Code, Exit, Name, Phase, TaskId, Timestamp};

use crate::common::{PATIENCE, Subtree};
use crate::controller::Controller;
pub(crate) use crate::controller::assignment;

/// A machine with an agent and its controller.
pub(crate) struct Machine {
    pub(crate) controller: Controller,
    pub(crate) agent: Option<Child>,
    pub(crate) subtree: Subtree,
    pub(crate) folder: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let mut machine = Machine::without_agent();
        machine.start();
        machine
    }

    pub(crate) fn without_agent() -> Machine {
        Machine::within(&std::env::temp_dir())
    }

    /// A machine without an agent, whose folders are below `place`.
    pub(crate) fn within(place: &Path) -> Machine {
        let folder = tempfile::tempdir_in(place).unwrap();
        let controller = Controller::start(folder.path());
        Machine {
            controller,
            agent: None,
            subtree: Subtree::new(),
            folder,
        }
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the agent with more in its environment, which its helpers inherit.
    pub(crate) fn start_with(&mut self, env: &[(&str, &OsStr)]) {
        let program = Command::new(env!("CARGO_BIN_EXE_tw-agent"));
        self.run(program, env, &[]);
    }

    /// Starts the agent with more arguments.
    pub(crate) fn start_saying(&mut self, more: &[&str]) {
        let program = Command::new(env!("CARGO_BIN_EXE_tw-agent"));
        self.run(program, &[], more);
    }

    /// Starts the agent on what it takes for the same machine after a reboot.
    pub(crate) fn start_in_boot(&mut self, boot_id: &str) {
        let file = self.folder.path().join("boot_id");
        std::fs::write(&file, format!("{boot_id}\n")).unwrap();
        let mut program = Command::new("unshare");
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        program
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(&file)
            .arg(env!("CARGO_BIN_EXE_tw-agent"));
        self.run(program, &[], &[]);
    }

    /// Starts the agent from another place.
    pub(crate) fn start_program(&mut self, program: &Path) {
        self.run(Command::new(program), &[], &[]);
    }

    fn run(&mut self, mut program: Command, env: &[(&str, &OsStr)], more: &[&str]) {
        let agent = program
            .args(["run", "--name", "machine-1", "--state"])
            .arg(self.state())
            .arg("--controller")
            .arg(format!("unix:{}", self.controller.socket.display()))
            .args(["--cgroup", &self.subtree.path.subtree, "--runtimes"])
            .arg(self.folder.path().join("runtimes"))
            .args(more)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(self.folder.path().join("agent.log")).unwrap())
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    /// As `kill -9` would.
    pub(crate) fn kill(&mut self) {
        self.controller.forget_stream();
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn task_folder(&self, task: &TaskId) -> PathBuf {
        self.state().join("tasks").join(task.folder_name())
    }

    pub(crate) fn started(&self, task: &TaskId) -> StartedRecord {
        record::read(&self.task_folder(task), STARTED_FILE)
            .unwrap()
            .unwrap()
    }

    /// Cgroups but the helpers' and those of spare helpers that live.
    pub(crate) fn leaves_of_nobody(&self) -> Vec<String> {
        let is_of_spare = |leaf: &str| {
            let pid = leaf.strip_prefix("spare-");
            pid.is_some_and(|pid| PathBuf::from("/proc").join(pid).exists())
        };
        let mut leaves = self.tree().leaves().unwrap();
        leaves.retain(|leaf| leaf != "helpers" && !is_of_spare(leaf));
        leaves
    }

    /// The process that the agent's spare helpers are forks of.
    pub(crate) fn nursery(&self) -> Option<i32> {
        let agent = self.agent.as_ref()?.id();
        children_of(agent.cast_signed()).into_iter().find(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words
                .split(|byte| *byte == 0)
                .any(|word| word == b"nursery")
        })
    }

    /// Helpers that wait for tasks; those with a task are children of the nursery, too, and work in its folder.
    pub(crate) fn spares(&self) -> Vec<i32> {
        let mut children = self.nursery().map(children_of).unwrap_or_default();
        let has_task = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| cwd.starts_with(self.state()))
        };
        children.retain(|pid| !has_task(pid));
        children
    }

    pub(crate) fn tree(&self) -> Box<dyn CgroupTree> {
        self.subtree.open()
    }

    pub(crate) async fn snapshot(&self, assignments: &[Assignment]) {
        let (assignments, endpoints) = (assignments.to_vec(), Vec::new());
        self.controller
            .say(AgentEvent::Snapshot {
                assignments,
                endpoints,
            })
            .await;
    }

    pub(crate) async fn assign(&self, assignment: &Assignment) {
        self.controller
            .say(AgentEvent::Assign {
                assignment: Box::new(assignment.clone()),
            })
            .await;
    }

    pub(crate) async fn running(&self, task: &TaskId) -> Timestamp {
        self.controller
            .report(task, |report| match report.phase {
                Phase::Running { started_at } => Some(started_at),
                _ => None,
            })
            .await
    }

    pub(crate) async fn exited(&self, task: &TaskId) -> (Exit, String) {
        self.controller
            .report(task, |report| match &report.phase {
                Phase::Exited { exit, detail, .. } => Some((exit.clone(), detail.clone())),
                _ => None,
            })
            .await
    }

    pub(crate) async fn never_started(&self, task: &TaskId) -> (Code, String) {
        self.controller
            .report(task, |report| match &report.phase {
                Phase::NeverStarted { code, message, .. } => Some((*code, message.clone())),
                _ => None,
            })
            .await
    }

    /// Waits until the agent says of a task's health what is wanted, with `words` as its reason.
    pub(crate) async fn health(&self, task: &TaskId, wanted: bool, words: &str) {
        self.controller
            .report(task, |report| match &report.phase {
                Phase::Health {
                    healthy, detail, ..
                } => (*healthy == wanted && detail.contains(words)).then_some(()),
                _ => None,
            })
            .await
    }

    /// Opens a session and answers every frame up to the last.
    pub(crate) async fn session(
        &self,
        name: &str,
        request: SessionRequest,
        typed: &[Frame],
    ) -> Vec<Frame> {
        let session = self.controller.expect_session(name);
        self.controller
            .say(AgentEvent::Dial(Dial {
                session: name.to_owned(),
                request,
            }))
            .await;
        let mut connection = tokio::time::timeout(PATIENCE, session)
            .await
            .unwrap()
            .unwrap();
        for frame in typed {
            write_frame(&mut connection, frame).await.unwrap();
        }
        let mut frames = Vec::new();
        loop {
            let frame = tokio::time::timeout(PATIENCE, read_frame(&mut connection))
                .await
                .unwrap()
                .unwrap();
            let frame = frame.expect("a last frame");
            let is_last = matches!(
                frame.kind,
                FrameKind::Exit | FrameKind::End | FrameKind::Error
            );
            frames.push(frame);
            if is_last {
                connection.shutdown().await.unwrap();
                return frames;
            }
        }
    }

    /// What a task has printed, by a session.
    pub(crate) async fn logs(&self, name: &str, task: &TaskId, follow: bool) -> Vec<String> {
        self.printed(name, task, follow, None).await
    }

    /// What a sidecar of a task has printed.
    pub(crate) async fn sidecar_logs(&self, sidecar: &str, task: &TaskId) -> Vec<String> {
        let name = Some(sidecar.to_owned());
        self.printed(&format!("logs-{sidecar}"), task, false, name)
            .await
    }

    async fn printed(
        &self,
        name: &str,
        task: &TaskId,
        follow: bool,
        sidecar: Option<String>,
    ) -> Vec<String> {
        let request = LogsRequest {
            task: task.clone(),
            follow,
            tail: None,
            since: None,
            until: None,
            sidecar,
        };
        let frames = self.session(name, SessionRequest::Logs(request), &[]).await;
        let lines = frames.iter().filter(|frame| frame.kind == FrameKind::Log);
        lines
            .map(|frame| frame.parse::<LogLine>().unwrap().text)
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
        let cleaned = Command::new(env!("CARGO_BIN_EXE_tw-agent"))
            .arg("clean")
            .arg("--state")
            .arg(self.state())
            .args(["--cgroup", &self.subtree.path.subtree])
            .output()
            .unwrap();
        if !std::thread::panicking() {
            assert!(
                cleaned.status.success(),
                "{}",
                String::from_utf8_lossy(&cleaned.stderr)
            );
            for hierarchy in ["", "memory"] {
                let group = PathBuf::from(CGROUP_ROOT)
                    .join(hierarchy)
                    .join(&self.subtree.path.subtree);
                assert!(!group.exists(), "clean left {}", group.display());
            }
        } else {
            let log =
                std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default();
            show(&log);
        }
    }
}

fn children_of(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// The agent's own words help to understand a failed test.
fn show(log: &str) {
    use std::io::Write;
    // A closed standard error is no reason to fail twice.
    let _written = std::io::stderr().write_all(log.as_bytes());
}

pub(crate) fn shell(name: &str, script: &str) -> Assignment {
    assignment(name, json!({"command": ["sh", "-c", script]}))
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Puts a program into another place, by a process of its own: what this one has open for writing, a child of another
/// test may have as well, and nobody can run it until that child runs its own program.
pub(crate) fn install(program: &Path, place: &Path) {
    let mut command = Command::new("install");
    let status = command.arg(program).arg(place).status().unwrap();
    assert!(status.success(), "install {program:?} {place:?}: {status}");
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn code(code: i32) -> Exit {
    Exit {
        code: Some(code),
        ..Exit::default()
    }
}
