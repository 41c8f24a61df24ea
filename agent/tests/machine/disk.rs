//! Disks that are full, or have become read-only: the task goes on and its end is not lost.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use tw_agent::helper::protocol::{Reply, Request};
use tw_agent::helper::record::{EXIT_FILE, ExitRecord, read};
use tw_agent::sandbox::Ended;

use crate::common::{Task, ended};

/// A small file system of its own.
struct Disk(TempDir);

impl Disk {
    fn new(size: &str) -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("mode=755,size={size}");
        let none = None::<&str>;
        mount(
            none,
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        Disk(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok() {}
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
