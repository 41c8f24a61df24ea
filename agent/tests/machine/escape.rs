//! Ways out of a sandbox that have worked elsewhere, each refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tw_agent::helper::hook::HookSpec;
use tw_agent::helper::protocol::Request;
use tw_agent::helper::record::Outcome;
use tw_agent::log::Stream;
use tw_agent::sandbox::image::live_binds;
use tw_agent::sandbox::{Ended, Stage, UserMode};
use tw_api::{ExecRequest, SessionRequest};
use tw_model::{Phase, TaskReport};

use crate::common::{PATIENCE, Task, ended};
use crate::exec::Session;
use crate::machine::{Machine, assignment, install};
use crate::ordinary::Ordinary;

/// Makes every attempt, prints those that were not refused and how many it made, and fails where one was not refused.
const ATTEMPTS: &str = include_str!("attempts.py");

/// All that is printed where every attempt is refused.
fn all_refused(attempts: u32) -> String {
    format!("attempts {attempts}, not refused 0")
}

/// What a task of an ordinary user's agent may write: its init is its own user's, so that it may say who of the two is
/// killed first.
const OF_OWN_INIT: &str = "/proc/1/oom_score_adj";

#[test]
fn every_attempt_is_refused_to_any_user() {
    for user in ["root", "nobody"] {
        let mut task = Task::new(&["/usr/bin/python3", "-c", ATTEMPTS]).user(user);
        let exit = task.run();
        let said = (task.stdout(), task.output(Stream::Stderr));
        assert_eq!(ended(&exit), Ended::Code(0), "{user}: {said:?}");
        let lines: Vec<&str> = said.0.lines().collect();
        assert_eq!(lines, [all_refused(78)], "{user}: {}", said.0);
    }
}

#[tokio::test]
async fn every_attempt_is_refused_to_whatever_runs_in_a_task() {
    let machine = Machine::new();
    for user in ["root", "nobody"] {
        is_refused_everywhere(&machine, user, &[]).await;
    }
}

#[tokio::test]
async fn every_attempt_is_refused_to_whatever_runs_in_a_task_of_an_ordinary_user() {
    let mut machine = Ordinary::new();
    machine.start();
    for user in ["root", "nobody"] {
        is_refused_everywhere(&machine.0, user, &[OF_OWN_INIT]).await;
    }
}

/// The attempts as a task's command, its hooks, its sidecar, its health check and a second command.
async fn is_refused_everywhere(machine: &Machine, user: &str, left_out: &[&str]) {
    let attempts = [&["/usr/bin/python3", "-c", ATTEMPTS], left_out].concat();
    let hook = json!({"command": attempts, "timeout_ms": 30_000});
    let check = json!({"type": "command", "command": attempts, "every_ms": 500, "timeout_ms": 30_000, "failures": 1});
    let script = "\"$0\" \"$@\"; echo ended $?; exec sleep 600";
    let and_stays = [&["sh", "-c", script], &attempts[..]].concat();
    let task = assignment(
        &format!("out-{user}"),
        json!({
            "command": and_stays,
            "user": user,
            "resources": {"memory_bytes": 256 << 20},
            "hooks": {"pre_start": hook, "post_start": hook},
            "sidecars": [{"name": "beside", "command": and_stays}],
            "health": [check],
        }),
    );
    let id = &task.task.id;
    machine.assign(&task).await;
    let first = |report: &TaskReport| match &report.phase {
        Phase::Health { healthy, .. } => Some(*healthy),
        Phase::NeverStarted { .. } | Phase::Exited { .. } => Some(false),
        _ => None,
    };
    let is_well = machine.controller.report(id, first).await;
    let printed = machine.logs(&format!("{user}-first"), id, false).await;
    assert!(is_well, "{user}: {printed:#?}");
    let deadline = Instant::now() + PATIENCE;
    let printed = loop {
        let (task, sidecar) = (
            machine.logs(&format!("{user}-task"), id, false).await,
            machine.sidecar_logs("beside", id).await,
        );
        let has_ended = |lines: &[String]| lines.iter().any(|line| line.starts_with("ended"));
        if has_ended(&task) && has_ended(&sidecar) {
            break [task, sidecar];
        }
        assert!(Instant::now() < deadline, "{task:?} {sidecar:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (all, end) = (
        all_refused(78 - left_out.len() as u32),
        "ended 0".to_owned(),
    );
    let mut of_task = printed[0].clone();
    of_task.sort();
    assert_eq!(of_task, [&all[..], &all, &all, &end], "{user}");
    assert_eq!(printed[1], [all.clone(), end], "{user}");
    let request = ExecRequest {
        task: id.clone(),
        argv: attempts.iter().map(|word| (*word).to_owned()).collect(),
        terminal: None,
        debug: false,
        credit: false,
    };
    let frames = machine
        .session(&format!("{user}-exec"), SessionRequest::Exec(request), &[])
        .await;
    let said: Vec<u8> = frames[..frames.len() - 1]
        .iter()
        .flat_map(|frame| frame.bytes.clone())
        .collect();
    assert_eq!(String::from_utf8_lossy(&said).trim_end(), all, "{user}");
}

/// Exchanges what it is told again and again until it is killed.
const EXCHANGE: &str = r#"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
one, other = (name.encode() for name in sys.argv[1:3])
print('ready', flush=True)
while True:
    if libc.renameat2(-100, one, -100, other, 2) != 0:
        sys.exit(ctypes.get_errno())
"#;

/// As CVE-2024-21626, while the links change: a second command never works outside of its root.
#[test]
fn a_second_command_never_enters_a_folder_outside_of_its_root_while_its_links_change() {
    let script = "mkdir /tmp/work; for n in 3 4 5 6 7 8 9 10; do ln -sfn /proc/self/fd/$n /tmp/link-$n; \
         python3 -c \"$0\" /tmp/work /tmp/link-$n & done; wait";
    // Up from wherever it works is its own root.
    let look = "import os; up = os.stat('../' * 40); root = os.stat('/')\n\
                print((up.st_dev, up.st_ino) == (root.st_dev, root.st_ino), os.getcwd())";
    let mut task = Task::new(&["sh", "-c", script, EXCHANGE]).user("root");
    task.launch.limits.memory_bytes_max = 256 << 20;
    task.launch.sandbox.command.workdir = "/tmp".into();
    tw_agent::helper::prepare_folder(&task.folder, &task.launch).unwrap();
    task.start();
    task.wait_for(|task| (task.stdout().matches("ready").count() == 8).then_some(()));
    // The record of the launch says where a second command works.
    task.launch.sandbox.command.workdir = "/tmp/work".into();
    tw_agent::helper::record::write(&task.folder, "launch.json", &task.launch).unwrap();
    let (mut entered, mut refused) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    // Where it works is one of the nine, and only one of them lets it in.
    while entered + refused < 40 || entered == 0 || refused == 0 {
        assert!(
            Instant::now() < deadline,
            "{entered} entered, {refused} refused"
        );
        let session = Session::open(&task, &["/usr/bin/python3", "-c", look], None);
        match session.outcome() {
            Ok((stdout, _, _)) => {
                assert!(stdout.starts_with("True /tmp/"), "{stdout}");
                entered += 1;
            }
            Err(words) => {
                assert!(words.contains("working directory"), "{words}");
                refused += 1;
            }
        }
    }
}

/// As CVE-2019-5736: what enters a task is at no moment one of the machine's programs that the task could open.
#[test]
fn a_task_never_sees_the_program_that_enters_it() {
    let watch = r#"
import os
print('ready', flush=True)
while True:
    for name in os.listdir('/proc'):
        if not name.isdigit() or int(name) <= 2:
            continue
        for part in ('exe', 'cwd', 'fd/3'):
            try:
                found = os.readlink(f'/proc/{name}/{part}')
            except OSError:
                continue
            if 'tw-helper' in found:
                print('SEEN', name, part, found, flush=True)
"#;
    for user in ["root", "nobody"] {
        let mut task = Task::new(&["/usr/bin/python3", "-c", watch]).user(user);
        task.start();
        task.wait_for_stdout("ready");
        for _ in 0..40 {
            let (_, stderr, exit) = Session::open(&task, &["true"], None).end();
            assert_eq!(exit.code, Some(0), "{stderr}");
        }
        assert_eq!(task.stdout(), "ready\n", "{user}");
        task.ask(&Request::Kill);
        task.exit();
    }
}

/// As CVE-2021-30465: a task that shares a folder with another changes the links in it while that one begins.
#[test]
fn a_mount_never_lands_outside_of_a_root_while_the_links_on_its_way_change() {
    let (shared, outside, inner) = (world_folder(), world_folder(), world_folder());
    fs::write(outside.path().join("key"), "a key of other software").unwrap();
    fs::write(inner.path().join("word"), "inner").unwrap();
    fs::create_dir(shared.path().join("place")).unwrap();
    symlink(outside.path(), shared.path().join("link")).unwrap();
    for name in ["place", "link"] {
        std::os::unix::fs::lchown(shared.path().join(name), Some(65534), Some(65534)).unwrap();
    }
    let mut racer = Task::new(&[
        "/usr/bin/python3",
        "-c",
        EXCHANGE,
        "/shared/place",
        "/shared/link",
    ])
    .bind_writable(shared.path(), "/shared");
    racer.start();
    racer.wait_for_stdout("ready");
    let script = format!(
        "cat /shared/place/deep/word {0}/deep/word 2>/dev/null; cat {0}/key /shared/link/key 2>/dev/null; true",
        outside.path().display()
    );
    for _ in 0..30 {
        let mut task = Task::shell(&script)
            .bind_writable(shared.path(), "/shared")
            .bind(inner.path(), "/shared/place/deep");
        match task.run().outcome {
            Outcome::NeverStarted(error) => assert_eq!(error.stage, Stage::Mount, "{error}"),
            Outcome::Ended { .. } => assert!(!task.stdout().contains("a key"), "{}", task.stdout()),
            other => panic!("{other:?}"),
        }
        let names: Vec<_> = fs::read_dir(outside.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "something was made outside");
    }
    racer.ask(&Request::Kill);
    racer.exit();
}

/// A folder that everybody may use.
fn world_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// As CVE-2025-31133: what runs before the command leaves links where mounts and masks go.
#[test]
fn links_that_a_hook_leaves_are_never_followed_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    for name in ["proc", "dev", "run", "etc"] {
        let image = image();
        let mut task = on(&image).user("root");
        let script = format!(
            "mv /{name} /was-{name}; ln -s {} /{name}",
            outside.path().display()
        );
        let argv = ["/bin/busybox", "sh", "-c", &script]
            .map(str::to_owned)
            .to_vec();
        task.launch.hooks.pre_start = Some(HookSpec {
            argv,
            timeout_ms: 10_000,
        });
        match task.run().outcome {
            Outcome::NeverStarted(_) => {}
            Outcome::Ended { .. } => {
                let said = task.output(Stream::Stderr);
                assert!(said.contains("busy"), "{name}: {said}{}", task.stdout());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn root_of_a_task_is_nobody_on_the_machine() {
    let mut task =
        Task::shell("id -u; cat /proc/self/uid_map; stat -c %u /etc/passwd /tmp; sleep 60")
            .user("root");
    let started = task.start();
    task.wait_for(|task| (task.stdout().lines().count() == 4).then_some(()));
    let out = task.stdout();
    let words: Vec<u64> = out
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    assert_eq!((words[0], words[1], words[3]), (0, 0, 65536), "{out}");
    assert!(words[2] >= 1 << 30, "{out}");
    // Its own files and the machine's programs look as they do on disk.
    assert_eq!(words[4..], [0, 0], "{out}");
    let status = fs::read_to_string(format!("/proc/{}/status", started.task.pid)).unwrap();
    let uids = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(
        uids.split_whitespace()
            .skip(1)
            .all(|uid| uid.parse::<u64>().unwrap() >= 1 << 30),
        "the init is a user of the machine: {uids}"
    );
}

/// Files beside the host's programs that are for their owner or their group alone; gone with this value.
struct HostSecrets(Vec<PathBuf>);

impl HostSecrets {
    fn plant() -> HostSecrets {
        let mut secrets = HostSecrets(Vec::new());
        for folder in [
            "/usr/lib",
            "/usr/local/etc",
            "/etc/alternatives",
            "/etc/ssl/certs",
        ] {
            for (owner, mode) in [(0, 0o600), (65534, 0o600), (65534, 0o640), (33, 0o640)] {
                let name = format!("twill-test-{}-{owner}-{mode:o}", std::process::id());
                let path = Path::new(folder).join(name);
                secrets.0.push(path.clone());
                fs::write(&path, "a key of other software").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                chown(&path, Some(owner), Some(owner)).unwrap();
            }
        }
        secrets
    }
}

impl Drop for HostSecrets {
    fn drop(&mut self) {
        for path in &self.0 {
            let _never_made = fs::remove_file(path);
        }
    }
}

#[test]
fn no_file_of_the_host_that_is_not_for_everyone_is_read() {
    let secrets = HostSecrets::plant();
    let paths: Vec<&str> = secrets
        .0
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    // That the file is seen shows that the folder is bound.
    let script = format!(
        "for file in {}; do ls $file && cat $file; done; ls /etc/nginx; cat /etc/ssl/certs/ca-certificates.crt | head -c 5",
        paths.join(" ")
    );
    for user in ["root", "nobody", "33"] {
        let mut task = Task::shell(&script).user(user);
        task.run();
        let out = task.stdout();
        assert!(!out.contains("a key of other software"), "{user}: {out}");
        let seen: Vec<&str> = paths
            .iter()
            .copied()
            .chain(["fastcgi_params", "mime.types", "-----"])
            .collect();
        assert_eq!(out.lines().collect::<Vec<_>>(), seen, "{user}");
    }
}

/// Where the state folder's file system cannot be mapped, root of a task is the machine's.
#[test]
fn root_without_users_of_its_own_is_refused_on_the_programs_of_the_host() {
    let mut task = Task::shell("id -u").user("root");
    task.launch.sandbox.users = UserMode::Shared;
    let Outcome::NeverStarted(error) = task.run().outcome else {
        panic!("it ran: {}", task.stdout())
    };
    assert_eq!(error.stage, Stage::User, "{error}");
    let mut task = Task::shell("id -u");
    task.launch.sandbox.users = UserMode::Shared;
    task.run();
    assert_eq!(task.stdout(), "65534\n");
}

#[tokio::test]
async fn the_tasks_of_an_agent_with_root_have_users_of_their_own() {
    let machine = Machine::new();
    let facts = machine.controller.registration(1).await.facts;
    assert!(
        facts.enforces.iter().any(|found| found == "user-namespace"),
        "{facts:?}"
    );
    let task = assignment("web", json!({"command": ["sleep", "60"], "user": "root"}));
    machine.assign(&task).await;
    machine.running(&task.task.id).await;
    let pid = machine.started(&task.task.id).task.pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:\t"))
        .unwrap();
    let first: u32 = uid.split('\t').next().unwrap().parse().unwrap();
    assert!(first >= 1 << 30, "{uid}");
}

/// The first of a task's users, as the machine numbers them.
fn first_user(init: i32) -> u32 {
    let map = fs::read_to_string(format!("/proc/{init}/uid_map")).unwrap();
    map.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn nobody_else_can_claim_the_users_of_a_task_that_runs() {
    let mut task = Task::new(&["sleep", "60"]);
    let started = task.start();
    let range = (first_user(started.task.pid) - (1 << 30)) / 65536;
    let claim = format!("@twill-users-{range}");
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let is_claimed = sockets.lines().any(|line| line.ends_with(&claim));
    assert!(is_claimed, "{claim}");
}

#[tokio::test]
async fn users_go_to_the_next_task_once_theirs_has_gone() {
    let machine = Machine::new();
    let lasting = assignment("lasting", json!({"command": ["sleep", "600"]}));
    machine.assign(&lasting).await;
    machine.running(&lasting.task.id).await;
    let held = first_user(machine.started(&lasting.task.id).task.pid);
    let mut given = Vec::new();
    // More than there are spares, which have users of their own.
    for number in 0..12 {
        let task = assignment(
            &format!("brief-{number}"),
            json!({"command": ["sleep", "600"]}),
        );
        machine.assign(&task).await;
        machine.running(&task.task.id).await;
        let init = machine.started(&task.task.id).task;
        given.push(first_user(init.pid));
        let init = init.open().unwrap().unwrap();
        rustix::process::pidfd_send_signal(&init, rustix::process::Signal::KILL).unwrap();
        machine.exited(&task.task.id).await;
    }
    assert!(!given.contains(&held), "{held} of {given:?}");
    let different: BTreeSet<u32> = given.iter().copied().collect();
    assert!(different.len() < given.len(), "{given:?}");
}

#[test]
fn set_user_id_programs_of_a_package_give_no_rights() {
    let package = tempfile::tempdir().unwrap();
    let program = package.path().join("id");
    install("/usr/bin/id".as_ref(), &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    let mut task = Task::shell("/packages/app/id -u; su -c true || echo refused")
        .bind(package.path(), "/packages/app");
    task.run();
    assert_eq!(task.stdout(), "65534\nrefused\n");
}

#[test]
fn a_working_directory_behind_a_descriptor_is_refused() {
    for number in 3..12 {
        let mut task = Task::shell("cat ../../../etc/shadow");
        task.launch.sandbox.command.workdir = format!("/proc/self/fd/{number}").into();
        let Outcome::NeverStarted(error) = task.run().outcome else {
            panic!("descriptor {number} was a way out: {}", task.stdout())
        };
        assert_eq!(error.stage, Stage::Workdir, "{error}");
    }
}

/// The mount points of an image are links that lead out of it, or elsewhere in it.
#[test]
fn links_of_an_image_are_never_followed_out_of_it() {
    let outside = tempfile::tempdir().unwrap();
    let passwd = "root:x:0:0::/:\nevil:x:4242:4242::/:\n";
    fs::write(outside.path().join("passwd"), passwd).unwrap();
    for name in ["proc", "dev", "run", "etc"] {
        let image = image();
        let link = image.path().join(name);
        fs::remove_dir(&link).unwrap();
        symlink(outside.path(), &link).unwrap();
        let Outcome::NeverStarted(error) = on(&image).run().outcome else {
            panic!("{name} was mounted somewhere")
        };
        assert_eq!(error.stage, Stage::Mount, "{name}: {error}");
        let made = fs::read_dir(outside.path()).unwrap().count();
        assert_eq!(made, 1, "something was made outside for {name}");
        let Outcome::NeverStarted(error) = on(&image).user("evil").run().outcome else {
            panic!("a passwd file outside of the image was read")
        };
        assert_eq!(error.stage, Stage::User);
        fs::create_dir(image.path().join("real")).unwrap();
        fs::remove_file(&link).unwrap();
        symlink("/real", &link).unwrap();
        let mut task = on(&image);
        let exit = task.run();
        let said = task.output(Stream::Stderr);
        assert_eq!(ended(&exit), Ended::Code(0), "{name}: {said}");
    }
}

#[test]
fn device_nodes_of_an_image_lead_nowhere() {
    let image = image();
    let nodes = [("zero", "c", "1", "5"), ("disk", "b", "7", "0")];
    for (name, kind, major, minor) in nodes {
        let made = Command::new("mknod")
            .arg(image.path().join(name))
            .args(["-m", "666", kind, major, minor])
            .status()
            .unwrap();
        assert!(made.success());
    }
    let script = "ls /zero /disk; head -c 1 /zero; echo x > /zero; head -c 1 /disk; head -c 1 /dev/zero | wc -c";
    for user in ["root", "nobody"] {
        let mut task = on(&image).user(user);
        task.launch.sandbox.command.argv = ["/bin/busybox", "sh", "-c", script]
            .map(str::to_owned)
            .to_vec();
        task.run();
        let refused = task.output(Stream::Stderr);
        assert_eq!(
            refused.matches("Permission denied").count(),
            3,
            "{user}: {refused}"
        );
        assert!(task.stdout().ends_with("1\n"), "{}", task.stdout());
    }
}

/// A task with an image of its own.
fn on(image: &tempfile::TempDir) -> Task {
    let script = "echo inside; ls /proc/self/exe /dev/null /run/twill /etc/hosts";
    let mut task = Task::new(&["/bin/busybox", "sh", "-c", script]);
    task.launch.sandbox.base = image.path().to_owned();
    task.launch.sandbox.binds = live_binds();
    task.launch.sandbox.is_root_writable = true;
    task.launch.sandbox.command.workdir = "/".into();
    let run = task.folder.join("run");
    fs::create_dir_all(&run).unwrap();
    task.bind(&run, "/run/twill")
}

/// A small root with a static shell.
fn image() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["bin", "dev", "etc", "proc", "run", "tmp", "var"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    install("/bin/busybox".as_ref(), &folder.path().join("bin/busybox"));
    folder
}
