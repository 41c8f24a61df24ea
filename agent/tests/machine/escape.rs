//! Ways out of a sandbox that have worked elsewhere, each refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tw_agent::helper::record::Outcome;
use tw_agent::log::Stream;
use tw_agent::sandbox::image::live_binds;
use tw_agent::sandbox::{Ended, Stage, UserMode};

use crate::common::{Task, ended};
use crate::machine::{Machine, assignment};

/// Makes every attempt and prints those that were not refused. The words of a refused call are EPERM, EACCES, EROFS,
/// ENOSYS, EAFNOSUPPORT or ENOENT.
const ATTEMPTS: &str = r#"
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
refusals = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS, errno.EAFNOSUPPORT, errno.ENOENT}
attempts = 0

def refused(name, attempt):
    global attempts
    attempts += 1
    ctypes.set_errno(0)
    try:
        answer = attempt()
        number = ctypes.get_errno() if answer == -1 else None
    except OSError as error:
        number = error.errno
    if number not in refusals:
        print('NOT REFUSED', name, number)

for name in os.listdir('/proc/self/fd'):
    if int(name) > 2:
        try:
            print('LEAKED', os.readlink('/proc/self/fd/' + name))
        except FileNotFoundError:
            pass  # the descriptor of this very listing

# System calls by number: mounts and roots, namespaces, other processes, the kernel, keys, clocks, devices.
calls = dict(mount=165, umount2=166, pivot_root=155, fsopen=430, fsmount=432, move_mount=429, open_tree=428,
    mount_setattr=442, chroot=161, unshare=272, setns=308, clone3=435, ptrace=101, process_vm_readv=310,
    process_vm_writev=311, pidfd_getfd=438, kcmp=312, bpf=321, perf_event_open=298, userfaultfd=323,
    io_uring_setup=425, init_module=175, finit_module=313, delete_module=176, kexec_load=246, kexec_file_load=320,
    add_key=248, request_key=249, keyctl=250, settimeofday=164, clock_settime=227, adjtimex=159, swapon=167,
    reboot=169, iopl=172, ioperm=173, open_by_handle_at=304, name_to_handle_at=303, quotactl=179, acct=163,
    syslog=103, fanotify_init=300, lookup_dcookie=212, nfsservctl=180, vhangup=153, sethostname=170)
for name, number in calls.items():
    refused(name, lambda: libc.syscall(number, 0, 0, 0, 0, 0))
refused('clone with namespaces', lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
refused('typing into a terminal', lambda: libc.syscall(16, 0, 0x5412, b'x'))

for name, family, kind, protocol in (('packets', socket.AF_PACKET, socket.SOCK_RAW, 0),
        ('raw', socket.AF_INET, socket.SOCK_RAW, 1), ('raw 6', socket.AF_INET6, socket.SOCK_RAW, 58),
        ('vsock', 40, socket.SOCK_STREAM, 0), ('crypto', 38, 5, 0)):
    refused(name, lambda: socket.socket(family, kind, protocol))

for path, kind, device in (('/tmp/disk', 0o60666, os.makedev(254, 0)), ('/dev/mem', 0o20666, os.makedev(1, 1))):
    refused('node ' + path, lambda: os.mknod(path, kind, device))

for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hostname',
        '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger', '/proc/1/mem', '/proc/1/oom_score_adj',
        '/proc/self/uid_map', '/proc/self/setgroups', '/sys/kernel/uevent_helper', '/sys/fs/cgroup/release_agent',
        '/usr/bin/twill-was-here', '/etc/passwd', '/twill-was-here', '/proc/1/exe', '/proc/bus/x'):
    new = 0 if os.path.exists(path) else os.O_CREAT
    refused('write ' + path, lambda: os.write(os.open(path, os.O_WRONLY | new), b'0 0 1'))

for path in ('/proc/1/root/etc', '/proc/1/cwd', '/proc/1/exe', '/proc/1/fd/0', '/proc/1/environ'):
    refused('look into ' + path, lambda: os.listdir(path) if path.endswith('etc') else os.readlink(path)
        if 'environ' not in path else open(path).read())

for path in ('/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/interrupts'):
    if os.path.exists(path) and open(path, 'rb').read(64):
        print('NOT REFUSED read', path)
for path in ('/root', '/home', '/boot', '/etc/shadow', '/etc/ssh', '/var/lib/dpkg', '/sys/kernel', '/dev/vda', '/dev/sda', '/dev/kmsg'):
    if os.path.exists(path):
        print('NOT HIDDEN', path)
print('attempts', attempts)
"#;

#[test]
fn every_attempt_is_refused_to_any_user() {
    for user in ["root", "nobody"] {
        let mut task = Task::new(&["/usr/bin/python3", "-c", ATTEMPTS]).user(user);
        let exit = task.run();
        let said = (task.stdout(), task.output(Stream::Stderr));
        assert_eq!(ended(&exit), Ended::Code(0), "{user}: {said:?}");
        let lines: Vec<&str> = said.0.lines().collect();
        assert_eq!(lines, ["attempts 76"], "{user}: {}", said.0);
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

#[test]
fn set_user_id_programs_of_a_package_give_no_rights() {
    let package = tempfile::tempdir().unwrap();
    let program = package.path().join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
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
    task.bind(&run, "/run/twill")
}

/// A small root with a static shell.
fn image() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["bin", "dev", "etc", "proc", "run", "tmp", "var"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::copy("/bin/busybox", folder.path().join("bin/busybox")).unwrap();
    folder
}
