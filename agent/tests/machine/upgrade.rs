//! An agent that makes room for another program, or does not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tw_agent::helper::record::StartedRecord;
use tw_api::Assignment;

use crate::machine::{Machine, code, install, shell};

const AGENT: &str = env!("CARGO_BIN_EXE_tw-agent");

/// A machine whose agent was started from a place of its own, with a task.
struct Installed {
    machine: Machine,
    program: PathBuf,
    task: Assignment,
    before: StartedRecord,
}

impl Installed {
    async fn new() -> Installed {
        let mut machine = Machine::without_agent();
        let folder = machine.folder.path().join("bin");
        fs::create_dir(&folder).unwrap();
        install(
            env!("CARGO_BIN_EXE_tw-helper").as_ref(),
            &folder.join("tw-helper"),
        );
        let program = folder.join("tw-agent");
        install(AGENT.as_ref(), &program);
        machine.start_program(&program);
        let task = shell("lasting", "while :; do sleep 0.1; done");
        machine.snapshot(std::slice::from_ref(&task)).await;
        machine.running(&task.task.id).await;
        let before = machine.started(&task.task.id);
        Installed {
            machine,
            program,
            task,
            before,
        }
    }

    /// Puts a script in the program's place.
    fn replace_by(&self, script: &str) {
        let written = self.machine.folder.path().join("script");
        fs::write(&written, script).unwrap();
        install(&written, &self.program);
    }

    fn pid(&self) -> u32 {
        self.machine.agent.as_ref().unwrap().id()
    }

    /// Which file the agent's process runs.
    fn running_inode(&self) -> u64 {
        fs::metadata(format!("/proc/{}/exe", self.pid()))
            .unwrap()
            .ino()
    }

    fn upgrade(&self) -> (bool, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(AGENT)
            .args(["upgrade", "--state"])
            .arg(self.machine.state())
            .output()
            .unwrap();
        let said = [stdout, stderr].concat();
        (
            status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// The upgrade is refused with `words`, and the agent goes on as if nothing had been asked.
    async fn is_refused(&self, name: &str, words: &str) {
        let before = self.running_inode();
        let (is_success, said) = self.upgrade();
        assert!(
            !is_success && said.contains(words) && said.contains("goes on"),
            "{name}: {said}"
        );
        assert_eq!(self.running_inode(), before, "{name}");
        let next = shell(name, "exit 4");
        self.machine.assign(&next).await;
        assert_eq!(self.machine.exited(&next.task.id).await.0, code(4));
        assert!(self.before.task.is_alive().unwrap(), "{name}");
    }
}

#[tokio::test]
async fn an_agent_is_upgraded_in_place_and_its_tasks_go_on() {
    let installed = Installed::new().await;
    let (pid, old) = (installed.pid(), installed.running_inode());
    let newer = installed.program.with_extension("new");
    install(AGENT.as_ref(), &newer);
    let new = fs::metadata(&newer).unwrap().ino();
    fs::rename(&newer, &installed.program).unwrap();
    installed.machine.controller.forget_stream();
    let (is_success, said) = installed.upgrade();
    assert!(is_success && said.contains("tw-agent "), "{said}");
    // By the time that it is said, the new program serves under the old number.
    assert_ne!(old, new);
    assert_eq!((installed.pid(), installed.running_inode()), (pid, new));
    let machine = &installed.machine;
    let reports = machine.controller.registration(2).await.reports;
    assert_eq!(reports.len(), 1, "{reports:?}");
    machine
        .snapshot(std::slice::from_ref(&installed.task))
        .await;
    let before = &installed.before;
    assert!(before.task.is_alive().unwrap() && before.helper.is_alive().unwrap());
}

#[tokio::test]
async fn an_agent_does_not_make_room_for_a_program_that_could_not_run() {
    let installed = Installed::new().await;
    installed.replace_by("#!/bin/sh\nexit 0\n");
    installed.is_refused("another", "it is no tw-agent").await;
    installed.replace_by("#!/bin/sh\necho the library is missing >&2; exit 3\n");
    installed
        .is_refused("broken", "the library is missing")
        .await;
    installed.replace_by("\u{7f}ELF\n");
    installed.is_refused("garbage", "cannot run").await;
    fs::remove_file(&installed.program).unwrap();
    installed.is_refused("missing", "cannot run").await;
    // A program that could read the arguments, and not the state.
    let state = installed.machine.state().join("state.json");
    let known = fs::read_to_string(&state).unwrap();
    fs::write(&state, r#"{"format": 99}"#).unwrap();
    install(AGENT.as_ref(), &installed.program);
    installed.is_refused("older", "has format 99").await;
    fs::write(&state, known).unwrap();
}

#[test]
fn nobody_is_upgraded_where_no_agent_runs() {
    let nobody = tempfile::tempdir().unwrap();
    let refused = Command::new(AGENT)
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
