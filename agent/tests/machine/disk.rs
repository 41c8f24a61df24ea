//! Disks that are full, or have become read-only: the task goes on and its end is not lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use tw_agent::helper::protocol::{Reply, Request};
use tw_agent::helper::record::{EXIT_FILE, ExitRecord, read};
use tw_agent::sandbox::Ended;

use tw_api::AgentEvent;
use tw_model::{Desired, TaskId};

use crate::common::{PATIENCE, Task, ended};
use crate::machine::{Machine, code, shell};

/// A small file system of its own.
struct Disk {
    place: PathBuf,
    folder: Option<TempDir>,
}

impl Disk {
    fn new(size: &str) -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::at(folder.path(), size);
        disk.folder = Some(folder);
        disk
    }

    fn at(place: &Path, size: &str) -> Disk {
        let options = format!("mode=755,size={size}");
        let none = None::<&str>;
        mount(
            none,
            place,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        Disk {
            place: place.to_owned(),
            folder: None,
        }
    }

    fn path(&self) -> &Path {
        &self.place
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok() {}
    }

    /// Takes all names but a few.
    fn use_up_names(&self, left: usize) {
        let names = self.path().join("names");
        std::fs::create_dir(&names).unwrap();
        let taken =
            (0..).find(|number| std::fs::write(names.join(number.to_string()), "").is_err());
        for number in (0..taken.unwrap()).take(left) {
            std::fs::remove_file(names.join(number.to_string())).unwrap();
        }
    }

    fn set_read_only(&self, is_read_only: bool) {
        let read_only = if is_read_only {
            MsFlags::MS_RDONLY
        } else {
            MsFlags::empty()
        };
        let none = None::<&str>;
        mount(
            none,
            self.path(),
            none,
            MsFlags::MS_REMOUNT | read_only,
            none,
        )
        .unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(self.path(), MntFlags::MNT_DETACH).expect("the disk can be unmounted");
    }
}

#[test]
fn a_full_disk_never_blocks_a_task_and_its_end_is_recorded() {
    let disk = Disk::new("4m");
    let script = "trap 'head -c 6000000 /dev/urandom; exit 9' USR1; echo begun; while :; do sleep 0.02; done";
    let mut task = Task::within(disk.path(), &["sh", "-c", script]);
    task.start();
    task.wait_for_stdout("begun");
    disk.fill();
    task.ask(&Request::Stop {
        signal: 10,
        after_ms: 0,
        grace_ms: 20_000,
    });
    let exit = task.exit();
    assert_eq!(ended(&exit), Ended::Code(9));
    assert!(exit.log.bytes_dropped > 1_000_000, "{:?}", exit.log);
    assert!(
        task.stdout().starts_with("begun\n"),
        "what was written before is kept"
    );
}

#[test]
fn a_start_on_a_full_disk_is_refused_in_words() {
    let disk = Disk::new("1m");
    let task = Task::within(disk.path(), &["true"]);
    tw_agent::helper::prepare_folder(&task.folder, &task.launch).unwrap();
    disk.fill();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tw-helper"))
        .arg("keep")
        .arg(&task.folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("No space left on device") && said.contains("exit.json"),
        "{said}"
    );
    assert_eq!(task.subtree.open().leaves().unwrap(), Vec::<String>::new());
}

#[test]
fn an_end_on_a_disk_that_became_read_only_is_held_until_it_can_be_written() {
    let disk = Disk::new("16m");
    let mut task = Task::within(disk.path(), &["sh", "-c", "sleep 0.5; exit 5"]);
    task.start();
    let mut agent = task.connect();
    disk.set_read_only(true);
    let Reply::Ended { record } = agent.wait_ended().unwrap() else {
        panic!("no end")
    };
    assert_eq!(ended(&record), Ended::Code(5));
    drop(agent);
    // The next agent is told as well.
    let Reply::Ended { record: again } = task.connect().wait_ended().unwrap() else {
        panic!("no end")
    };
    assert_eq!(again, record);
    assert_eq!(read::<ExitRecord>(&task.folder, EXIT_FILE).unwrap(), None);
    disk.set_read_only(false);
    assert_eq!(task.exit(), *record);
}

#[test]
fn a_helper_that_cannot_write_goes_when_its_agent_knows_the_end() {
    let disk = Disk::new("16m");
    let mut task = Task::within(disk.path(), &["sh", "-c", "sleep 0.3"]);
    task.start();
    let mut agent = task.connect();
    disk.set_read_only(true);
    assert!(matches!(agent.wait_ended().unwrap(), Reply::Ended { .. }));
    assert_eq!(agent.ask(&Request::Acknowledge).unwrap(), Reply::Done);
    let began = Instant::now();
    task.wait_for(|task| tw_agent::helper::lock(&task.folder).ok());
    assert!(began.elapsed() < Duration::from_secs(5));
    disk.set_read_only(false);
}

/// A machine whose state folder is a small file system.
fn on_a_small_disk() -> (Disk, Machine) {
    let mut machine = Machine::without_agent();
    std::fs::create_dir(machine.state()).unwrap();
    let disk = Disk::at(&machine.state(), "64m,nr_inodes=3000");
    machine.start();
    (disk, machine)
}

/// Waits until the agent has ended by itself, and answers what it said.
async fn last_words(machine: &mut Machine) -> String {
    let deadline = Instant::now() + PATIENCE;
    while machine
        .agent
        .as_mut()
        .unwrap()
        .try_wait()
        .unwrap()
        .is_none()
    {
        assert!(Instant::now() < deadline, "the agent goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    machine.agent = None;
    std::fs::read_to_string(machine.folder.path().join("agent.log")).unwrap()
}

async fn is_forgotten(machine: &Machine, task: &TaskId) {
    let (folder, task) = (machine.task_folder(task), task.clone());
    machine.controller.say(AgentEvent::Forget { task }).await;
    let deadline = Instant::now() + PATIENCE;
    while folder.exists() {
        assert!(Instant::now() < deadline, "{} stays", folder.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_agent_begins_on_a_full_disk_and_keeps_what_runs() {
    let (disk, mut machine) = on_a_small_disk();
    let mut kept = shell("kept", "trap 'exit 7' TERM; while :; do sleep 0.02; done");
    let id = kept.task.id.clone();
    machine.snapshot(std::slice::from_ref(&kept)).await;
    machine.running(&id).await;
    machine.kill();
    machine.controller.drop_reports_of(&id);
    disk.fill();
    machine.start();
    let late = shell("late", "true");
    machine.snapshot(&[kept.clone(), late.clone()]).await;
    machine.running(&id).await;
    let (_, message) = machine.never_started(&late.task.id).await;
    assert!(message.contains("No space left on device"), "{message}");
    is_forgotten(&machine, &late.task.id).await;
    kept.task.desired = Desired::Stop;
    kept.task.version += 1;
    machine.assign(&kept).await;
    assert_eq!(machine.exited(&id).await.0, code(7));
    is_forgotten(&machine, &id).await;
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    let next = shell("next", "exit 5");
    machine.assign(&next).await;
    assert_eq!(machine.exited(&next.task.id).await.0, code(5));
}

#[test]
fn a_full_disk_does_not_say_that_tasks_share_the_users_of_the_machine() {
    let disk = Disk::new("1m,nr_inodes=40");
    let probe = || {
        let mut helper = std::process::Command::new(env!("CARGO_BIN_EXE_tw-helper"));
        let said = helper.arg("probe").arg(disk.path()).output().unwrap();
        [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned())
    };
    let found = r#"{"users":"mapped","users_reason":null}"#;
    assert_eq!(probe(), [found, ""]);
    // At each place of the attempt the disk may be full.
    disk.use_up_names(0);
    let (mut undecided, mut last) = (0, probe());
    for freed in 0..12 {
        match last.each_ref().map(String::as_str) {
            ["", words] if words.contains("cannot be found out") => undecided += 1,
            other => assert_eq!(other, [found, ""], "with room for {freed}"),
        }
        std::fs::remove_file(disk.path().join(format!("names/{freed}"))).unwrap();
        last = probe();
    }
    assert!(undecided > 3 && last == [found, ""], "{undecided} {last:?}");
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_agent_that_begins_on_a_full_disk_gives_tasks_what_it_gave_before() {
    let (disk, mut machine) = on_a_small_disk();
    let before = machine.controller.registration(1).await.facts.enforces;
    assert!(before.contains(&"user-namespace".to_owned()), "{before:?}");
    machine.kill();
    disk.use_up_names(3);
    machine.start();
    let after = machine.controller.registration(2).await.facts.enforces;
    assert_eq!(after, before);
    machine.kill();
    // As an agent asks before it makes room for another.
    let check = &["--check"];
    machine.start_saying(check);
    let words = last_words(&mut machine).await;
    assert!(
        words.contains("found to be possible last") && !words.contains("no sandbox"),
        "{words}"
    );
    // Nobody knows what there was.
    std::fs::remove_file(machine.state().join("features.json")).unwrap();
    for more in [&[][..], check] {
        machine.start_saying(more);
        let words = last_words(&mut machine).await;
        assert!(
            words.contains("cannot be found out") && words.contains("No space left on device"),
            "{more:?}: {words}"
        );
    }
}

#[tokio::test]
async fn an_agent_on_a_read_only_disk_ends_in_words_and_no_end_is_lost() {
    let (disk, mut machine) = on_a_small_disk();
    let kept = shell("kept", "sleep 600");
    let id = kept.task.id.clone();
    machine.snapshot(std::slice::from_ref(&kept)).await;
    machine.running(&id).await;
    let started = machine.started(&id);
    machine.kill();
    machine.controller.drop_reports_of(&id);
    // The kernel makes nothing read-only that somebody writes to.
    let helper = started.helper.open().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&helper, rustix::process::Signal::KILL).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while started.helper.is_alive().unwrap() || started.task.is_alive().unwrap() {
        assert!(Instant::now() < deadline, "they stay");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    disk.set_read_only(true);
    machine.start();
    let words = last_words(&mut machine).await;
    assert!(
        words.contains("Read-only file system") && words.contains("agent.lock"),
        "{words}"
    );
    disk.set_read_only(false);
    machine.start();
    machine.snapshot(&[kept]).await;
    let (_, detail) = machine.exited(&id).await;
    assert!(detail.contains("task.helper_lost"), "{detail}");
    is_forgotten(&machine, &id).await;
}

#[tokio::test]
async fn an_end_that_the_agent_cannot_write_down_is_told_all_the_same() {
    let machine = Machine::new();
    let kept = shell("kept", "sleep 600");
    let id = kept.task.id.clone();
    machine.snapshot(std::slice::from_ref(&kept)).await;
    machine.running(&id).await;
    let started = machine.started(&id);
    // No record takes the place of a folder.
    std::fs::create_dir(machine.task_folder(&id).join(EXIT_FILE)).unwrap();
    let helper = started.helper.open().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&helper, rustix::process::Signal::KILL).unwrap();
    let (_, detail) = machine.exited(&id).await;
    assert!(detail.contains("task.helper_lost"), "{detail}");
    assert!(!started.task.is_alive().unwrap());
    let log = std::fs::read_to_string(machine.folder.path().join("agent.log")).unwrap();
    assert!(log.contains("cannot record the end"), "{log}");
    is_forgotten(&machine, &id).await;
}
