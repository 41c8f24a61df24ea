//! Volumes: what a task writes there is there for the next one, whoever was killed or upgraded in between.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use tw_agent::manager::volume::{VolumeError, Volumes};
use tw_agent::sandbox::user::Account;
use tw_api::{AgentEvent, Assignment, ExecRequest, FrameKind, SessionRequest};
use tw_model::{Code, Exit, TaskId, Volume};

use crate::machine::{Machine, assignment, code};

fn writer(incarnation: u64, script: &str) -> Assignment {
    let mut task = assignment(
        "db",
        json!({
            "command": ["sh", "-c", script],
            "volumes": [{"name": "data", "path": "/var/lib/db"}],
        }),
    );
    task.task.id.incarnation = incarnation;
    task
}

#[tokio::test]
async fn a_volume_outlives_its_task_and_the_agent() {
    let mut machine = Machine::new();
    let script = "echo first >> /var/lib/db/rows; cat /var/lib/db/rows; exit 1";
    let first = writer(1, script);
    machine.assign(&first).await;
    assert_eq!(machine.exited(&first.task.id).await.0, code(1));
    let task = first.task.id.clone();
    machine.controller.say(AgentEvent::Forget { task }).await;
    machine.kill();
    machine.start();
    let second = writer(
        2,
        "cat /var/lib/db/rows; echo second >> /var/lib/db/rows; exit 2",
    );
    machine.assign(&second).await;
    assert_eq!(machine.exited(&second.task.id).await.0, code(2));
    assert_eq!(
        machine.logs("second", &second.task.id, false).await,
        ["first"]
    );
    let data = machine.state().join("volumes/default.db.0.data/data/rows");
    assert_eq!(std::fs::read_to_string(data).unwrap(), "first\nsecond\n");
}

#[tokio::test]
async fn a_volume_of_another_owner_is_refused_in_words() {
    let machine = Machine::new();
    let first = writer(1, "exit 0");
    machine.assign(&first).await;
    machine.exited(&first.task.id).await;
    let volume = machine.state().join("volumes/default.db.0.data");
    let record = std::fs::read_to_string(volume.join("volume.json")).unwrap();
    std::fs::write(
        volume.join("volume.json"),
        record.replace("\"db\"", "\"mail\""),
    )
    .unwrap();
    let second = writer(2, "exit 0");
    machine.assign(&second).await;
    let (found, message) = machine.never_started(&second.task.id).await;
    assert_eq!(found, Code::TaskStartFailed);
    assert!(
        message.contains("belongs to mail.0, not to db.0"),
        "{message}"
    );
}

#[tokio::test]
async fn a_sidecar_has_the_volumes_that_it_names_and_no_others() {
    let machine = Machine::new();
    let script = "until [ -e /shared/answer ]; do echo question > /shared/asked; echo mine > /own/kept; sleep 0.05; done; \
                  cat /shared/answer; exit 3";
    // The answer comes last and at once: with it the task ends, and its sidecar.
    let beside = "ls /own 2>/dev/null || echo hidden > /shared/own; until [ -s /shared/asked ]; do sleep 0.05; done; \
                  cp /shared/asked /shared/draft; mv /shared/draft /shared/answer; exec sleep 60";
    let task = assignment(
        "pair",
        json!({
            "command": ["sh", "-c", script],
            "volumes": [{"name": "shared", "path": "/shared"}, {"name": "own", "path": "/own"}],
            "sidecars": [{"name": "beside", "command": ["sh", "-c", beside], "volumes": ["shared"]}],
        }),
    );
    machine.assign(&task).await;
    assert_eq!(machine.exited(&task.task.id).await.0, code(3));
    assert_eq!(
        machine.logs("pair", &task.task.id, false).await,
        ["question"]
    );
    let volumes = machine.state().join("volumes");
    let hidden = volumes.join("default.pair.0.shared/data/own");
    assert_eq!(std::fs::read_to_string(hidden).unwrap(), "hidden\n");
    assert!(volumes.join("default.pair.0.own/data/kept").exists());
}

/// A btrfs of its own, in a file that is mounted by loop.
struct Btrfs(TempDir);

impl Btrfs {
    fn new() -> Btrfs {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(160 << 20)
            .unwrap();
        let made = Btrfs(folder);
        std::fs::create_dir(made.path()).unwrap();
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(made.path()));
        made
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mounted")
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        // Killed tasks let go of their mounts a moment later. Nothing is mounted where the mount failed.
        let deadline = std::time::Instant::now() + crate::common::PATIENCE;
        let unmount = || Command::new("umount").arg(self.path()).output();
        let is_busy = |output: &std::process::Output| {
            String::from_utf8_lossy(&output.stderr).contains("busy")
        };
        while unmount().is_ok_and(|output| is_busy(&output)) && std::time::Instant::now() < deadline
        {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}

#[test]
fn on_btrfs_a_volume_is_bounded_kept_by_version_and_rolled_back() {
    let disk = Btrfs::new();
    let volumes = Volumes::open(&disk.path().join("volumes")).unwrap();
    assert!(volumes.has_snapshots());
    let task: TaskId = "db.0#1".parse().unwrap();
    let volume: Volume =
        serde_json::from_value(json!({"name": "data", "path": "/data", "size_bytes": 8 << 20}))
            .unwrap();
    let root = Account { uid: 0, gid: 0 };
    let tasks = disk.path().join("tasks");
    let data = volumes.prepare(&task, &volume, root, 1).unwrap();
    std::fs::write(data.join("rows"), "of version 1").unwrap();
    volumes.prepare(&task, &volume, root, 1).unwrap();
    volumes.prepare(&task, &volume, root, 2).unwrap();
    std::fs::write(data.join("rows"), "spoilt by version 2").unwrap();
    let too_much = std::fs::write(data.join("large"), vec![7; 32 << 20]);
    assert!(too_much.is_err(), "32 MiB in a volume of 8 MiB");
    let found = volumes.get(&task.job, 0, "data").unwrap();
    assert_eq!(found.snapshots(), [1]);
    let lock = {
        let folder = tasks.join(task.folder_name());
        std::fs::create_dir_all(&folder).unwrap();
        tw_agent::helper::lock(&folder).unwrap()
    };
    assert!(matches!(
        found.roll_back(1, &tasks),
        Err(VolumeError::InUse { .. })
    ));
    drop(lock);
    let missing = found.roll_back(7, &tasks).unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("no snapshot of version 7; it has [1]"),
        "{missing}"
    );
    found.roll_back(1, &tasks).unwrap();
    assert_eq!(
        std::fs::read_to_string(data.join("rows")).unwrap(),
        "of version 1"
    );
    assert!(!data.join("large").exists());
    for version in 3..9 {
        volumes.prepare(&task, &volume, root, version).unwrap();
    }
    let kept = volumes.get(&task.job, 0, "data").unwrap().snapshots();
    assert_eq!(kept.len(), 3, "{kept:?}");
}

/// A volume with two versions of its data: the first in a snapshot.
fn of_two_versions(disk: &Btrfs) -> (Volumes, TaskId, Volume, PathBuf) {
    let volumes = Volumes::open(&disk.path().join("volumes")).unwrap();
    let task: TaskId = "db.0#1".parse().unwrap();
    let volume: Volume =
        serde_json::from_value(json!({"name": "data", "path": "/data", "size_bytes": 8 << 20}))
            .unwrap();
    let data = volumes.prepare(&task, &volume, ROOT, 1).unwrap();
    std::fs::write(data.join("rows"), "of version 1").unwrap();
    volumes.prepare(&task, &volume, ROOT, 2).unwrap();
    std::fs::write(data.join("rows"), "of version 2").unwrap();
    (volumes, task, volume, data)
}

const ROOT: Account = Account { uid: 0, gid: 0 };

#[test]
fn a_roll_back_that_a_crash_cut_off_loses_no_data() {
    let disk = Btrfs::new();
    let (volumes, task, volume, data) = of_two_versions(&disk);
    let rows = || std::fs::read_to_string(data.join("rows")).unwrap();
    let replaced = data.with_file_name("replaced");
    // Between setting aside and putting in place: undone when the agent begins, or at the next use.
    std::fs::rename(&data, &replaced).unwrap();
    let again = Volumes::open(&disk.path().join("volumes")).unwrap();
    assert_eq!(rows(), "of version 2");
    std::fs::rename(&data, &replaced).unwrap();
    again.prepare(&task, &volume, ROOT, 2).unwrap();
    assert_eq!(rows(), "of version 2");
    std::fs::rename(&data, &replaced).unwrap();
    let tasks = disk.path().join("tasks");
    volumes
        .get(&task.job, 0, "data")
        .unwrap()
        .roll_back(1, &tasks)
        .unwrap();
    assert_eq!(rows(), "of version 1");
    // After that, before the old data was removed and the new bounded.
    std::fs::rename(&data, &replaced).unwrap();
    let snapshot = data.with_file_name("snapshots").join("1");
    run(Command::new("btrfs")
        .args(["-q", "subvolume", "snapshot"])
        .arg(&snapshot)
        .arg(&data));
    again.prepare(&task, &volume, ROOT, 2).unwrap();
    assert_eq!(rows(), "of version 1");
    assert!(!replaced.exists());
    let too_much = std::fs::write(data.join("large"), vec![7; 32 << 20]);
    assert!(too_much.is_err(), "32 MiB in a volume of 8 MiB");
}

#[test]
fn a_roll_back_that_fails_puts_the_data_back() {
    let disk = Btrfs::new();
    let (volumes, task, _, data) = of_two_versions(&disk);
    let folder = data.with_file_name("snapshots").join("7");
    // No snapshot can be made of what is none.
    std::fs::create_dir(folder).unwrap();
    let found = volumes.get(&task.job, 0, "data").unwrap();
    let refused = found.roll_back(7, &disk.path().join("tasks")).unwrap_err();
    assert!(
        refused.to_string().contains("cannot roll back"),
        "{refused}"
    );
    assert_eq!(
        std::fs::read_to_string(data.join("rows")).unwrap(),
        "of version 2"
    );
    assert!(!data.with_file_name("replaced").exists());
}

/// `tw-agent volumes`: whether it succeeded, and what it said.
fn volumes_command(machine: &Machine, more: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tw-agent"))
        .args(["volumes", "--state"])
        .arg(machine.state())
        .args(more)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn on_btrfs_a_task_has_a_sized_volume_that_people_list_and_roll_back() {
    let disk = Btrfs::new();
    let mut machine = Machine::within(&disk.path());
    machine.start();
    let of_version = |version: u64, mib: u64, script: &str| {
        let volumes = json!([{"name": "data", "path": "/var/lib/db", "size_bytes": mib << 20}]);
        let words =
            json!({"command": ["sh", "-c", script], "workdir": "/var/lib/db", "volumes": volumes});
        let mut task = assignment("db", words);
        (task.task.version, task.task.id.incarnation) = (version, version);
        task
    };
    let fill = "head -c 20M /dev/zero > large && echo fits; rm -f large";
    let first = of_version(1, 8, &format!("echo one > rows; {fill}; exit 1"));
    machine.assign(&first).await;
    assert_eq!(machine.exited(&first.task.id).await.0, code(1));
    let said = machine.logs("first", &first.task.id, false).await;
    assert!(
        said.iter().any(|line| line.contains("quota exceeded")),
        "{said:?}"
    );
    let mut second = of_version(
        2,
        48,
        &format!("cat rows; {fill}; echo two > rows; exec sleep 60"),
    );
    machine.assign(&second).await;
    machine.running(&second.task.id).await;
    let rows = machine.state().join("volumes/default.db.0.data/data/rows");
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while std::fs::read_to_string(&rows).unwrap() != "two\n" {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (is_success, list) = volumes_command(&machine, &[]);
    assert!(
        is_success
            && list.contains("db.0 data")
            && list.contains("used by version 2, snapshots of [1]"),
        "{list}"
    );
    let roll_back = ["--task", "db.0", "--volume", "data", "--roll-back-to", "1"];
    let (is_success, said) = volumes_command(&machine, &roll_back);
    assert!(
        !is_success && said.contains("in use by a running task"),
        "{said}"
    );
    let (is_success, said) = volumes_command(&machine, &roll_back[..2]);
    assert!(!is_success && said.contains("--roll-back-to"), "{said}");
    second.task.desired = tw_model::Desired::Stop;
    machine.assign(&second).await;
    machine.exited(&second.task.id).await;
    let said = machine.logs("second", &second.task.id, false).await;
    assert_eq!(said, ["one", "fits"]);
    let (is_success, said) = volumes_command(&machine, &roll_back);
    assert!(is_success, "{said}");
    assert_eq!(std::fs::read_to_string(&rows).unwrap(), "one\n");
    drop(machine);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

#[tokio::test]
async fn on_btrfs_what_a_task_writes_is_bounded_and_goes_with_it() {
    let disk = Btrfs::new();
    let mut machine = Machine::within(&disk.path());
    machine.start();
    let facts = machine.controller.registration(1).await.facts;
    for name in ["disk", "volume-size"] {
        assert!(
            facts.enforces.iter().any(|found| found == name),
            "{facts:?}"
        );
    }
    let spec = |mib: u64| {
        json!({
            "command": ["sleep", "60"],
            "resources": {"disk_bytes": mib << 20},
        })
    };
    let mut task = assignment("full", spec(8));
    let id = task.task.id.clone();
    machine.assign(&task).await;
    machine.running(&id).await;
    let write = |session: String, script: &str| {
        let request = SessionRequest::Exec(ExecRequest {
            task: id.clone(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            terminal: None,
            debug: false,
            credit: false,
        });
        let machine = &machine;
        async move { machine.session(&session, request, &[]).await }
    };
    let fill = "head -c 60M /dev/zero > /var/tmp/large; echo $?; rm /var/tmp/large";
    let frames = write("first".to_owned(), fill).await;
    let said: String = frames
        .iter()
        .map(|frame| String::from_utf8_lossy(&frame.bytes).into_owned())
        .collect();
    assert!(said.contains("quota exceeded"), "{said}");
    // More room for a running task.
    task.task.version = 2;
    task.spec = assignment("full", spec(100)).spec;
    machine.assign(&task).await;
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    let mut number = 0;
    loop {
        number += 1;
        let frames = write(format!("again-{number}"), fill).await;
        let exit: Exit = frames.last().unwrap().parse().unwrap();
        let is_full = frames.iter().any(|frame| frame.kind == FrameKind::Stderr);
        if exit.success() && !is_full {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it is still bounded");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let folder = machine.task_folder(&id);
    machine
        .controller
        .say(AgentEvent::Forget { task: id })
        .await;
    while folder.exists() {
        assert!(std::time::Instant::now() < deadline, "its folder is left");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(machine);
    // The controller's socket, which lies on the disk, is closed when its task is.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

#[tokio::test]
async fn on_btrfs_a_task_has_a_snapshot_of_its_image_as_its_root() {
    let disk = Btrfs::new();
    let mut machine = Machine::within(&disk.path());
    let digest = machine.controller.add_package(image());
    machine.start();
    let on_image = |name: &str, script: &str| {
        let words = |script: &str| json!(["/bin/busybox", "sh", "-c", script]);
        assignment(
            name,
            json!({
                "command": words(script), "user": "root", "workdir": "/",
                "image": {"type": "archive", "path": "//image.tar", "digest": digest},
                "resources": {"disk_bytes": 8 << 20},
                "sidecars": [{"name": "beside", "command": words("busybox cat /bin/note; exec busybox sleep 60")}],
            }),
        )
    };
    let script = "busybox grep -c '^[^ ]* / btrfs' /proc/mounts; echo spoilt > /bin/note; busybox cat /bin/note; \
                  busybox head -c 60M /dev/zero > /large || echo bounded; exit 3";
    let first = on_image("first", script);
    // Its sidecar, which ends with it, has the time to print.
    let second = on_image(
        "second",
        "busybox cat /bin/note; busybox ls /large; busybox sleep 2; exit 4",
    );
    machine.assign(&first).await;
    assert_eq!(machine.exited(&first.task.id).await.0, code(3));
    let said = machine.logs("first", &first.task.id, false).await;
    assert_eq!(said[..2], ["1", "spoilt"], "{said:?}");
    assert!(said.contains(&"bounded".to_owned()), "{said:?}");
    machine.assign(&second).await;
    assert_eq!(machine.exited(&second.task.id).await.0, code(4));
    let said = machine.logs("second", &second.task.id, false).await;
    assert_eq!(said[0], "pristine", "{said:?}");
    assert_eq!(
        machine.sidecar_logs("beside", &second.task.id).await,
        ["pristine"]
    );
    let unpacked = machine.state().join("packages").join(&digest);
    let refused = std::fs::write(unpacked.join("bin/note"), "changed").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    for task in [&first, &second] {
        let task = task.task.id.clone();
        machine.controller.say(AgentEvent::Forget { task }).await;
    }
    // What no task needs goes with the next word of all that is assigned.
    let tasks = machine.state().join("tasks");
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while tasks.read_dir().unwrap().count() > 0 || unpacked.exists() {
        assert!(std::time::Instant::now() < deadline, "something is left");
        machine.snapshot(&[]).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop(machine);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

/// A small root with a static shell and a file.
fn image() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").unwrap();
    for (name, mode, content) in [
        ("bin/busybox", 0o755, busybox.as_slice()),
        ("bin/note", 0o644, b"pristine\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, name, content).unwrap();
    }
    archive.into_inner().unwrap()
}
