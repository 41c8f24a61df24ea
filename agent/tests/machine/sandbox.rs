//! What a task sees, may do, and how it ends.

use std::fs;

use crate::common::{Task, ended};
use tw_agent::helper::record::Outcome;
use tw_agent::log::Stream;
use tw_agent::sandbox::{Ended, Stage};

#[test]
fn a_task_ends_with_its_exit_code_and_its_output_is_kept() {
    let mut task = Task::shell("echo to out; echo to err >&2; exit 7");
    let exit = task.run();
    assert_eq!(ended(&exit), Ended::Code(7));
    assert_eq!(
        (task.stdout().as_str(), task.output(Stream::Stderr).as_str()),
        ("to out\n", "to err\n")
    );
    assert!(
        exit.usage.cpu_usage_us > 0 && exit.usage.memory_peak_bytes > 0,
        "{:?}",
        exit.usage
    );
    assert!(!exit.is_oom);
}

#[test]
fn a_task_that_kills_itself_ends_with_that_signal() {
    assert_eq!(
        ended(&Task::shell("kill -USR1 $$").run()),
        Ended::Signal(10)
    );
}

#[test]
fn a_task_sees_its_own_processes_and_files_only() {
    let mut task = Task::shell(
        "ls /proc | grep -c '^[0-9]'; ls -d /root /home /work /boot 2>/dev/null; cat /etc/shadow; \
         ls /sys | wc -l; hostname; pwd; id -u",
    );
    task.run();
    let out = task.stdout();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].parse::<u32>().unwrap() <= 6, "{out}");
    assert_eq!(lines[1..], ["0", "web-0", "/tmp", "65534"], "{out}");
}

#[test]
fn a_task_has_no_capabilities_and_no_new_privileges() {
    let mut task =
        Task::shell("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status");
    task.run();
    let out = task.stdout();
    for line in out.lines() {
        let expected = match line.split(':').next() {
            Some("NoNewPrivs") => "1",
            Some("Seccomp") => "2",
            _ => "0000000000000000",
        };
        assert_eq!(line.rsplit('\t').next(), Some(expected), "{out}");
    }
    assert_eq!(out.lines().count(), 7, "{out}");
}

#[test]
fn root_in_a_task_cannot_mount_trace_make_devices_or_open_raw_sockets() {
    let script = "import ctypes, os, socket\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        def tried(name, answer): print(name, answer, ctypes.get_errno())\n\
        tried('mount', libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None))\n\
        tried('unshare', libc.unshare(0x10000000))\n\
        tried('ptrace', libc.ptrace(16, 1, 0, 0))\n\
        tried('setns', libc.setns(0, 0))\n\
        tried('keyctl', libc.syscall(250, 0, 0, 0))\n\
        tried('bpf', libc.syscall(321, 0, 0, 0))\n\
        for kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW)):\n\
        \x20   try: socket.socket(*kind); print('raw', 0)\n\
        \x20   except OSError: print('raw', -1)\n\
        for path in ('/dev/sda', '/tmp/node'):\n\
        \x20   try: os.mknod(path, 0o60666, os.makedev(8, 0)); print('mknod', 0)\n\
        \x20   except OSError: print('mknod', -1)\n\
        for path in ('/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/usr/bin/x', '/proc/1/mem'):\n\
        \x20   try: open(path, 'w').write('x'); print('write', 0)\n\
        \x20   except OSError: print('write', -1)\n";
    let mut task = Task::new(&["/usr/bin/python3", "-c", script]).user("root");
    let exit = task.run();
    let out = task.stdout();
    assert_eq!(
        ended(&exit),
        Ended::Code(0),
        "{}",
        task.output(Stream::Stderr)
    );
    assert_eq!(out.lines().count(), 14, "{out}");
    assert!(
        out.lines().all(|line| line.split(' ').nth(1) == Some("-1")),
        "{out}"
    );
}

#[test]
fn what_a_task_writes_goes_to_its_own_layer_and_packages_are_read_only() {
    let package = tempfile::tempdir().unwrap();
    fs::write(package.path().join("data"), "packed").unwrap();
    let mut task = Task::shell(
        "cat /packages/app/data; echo x > /tmp/mine; echo x > /packages/app/data || echo refused",
    )
    .bind(package.path(), "/packages/app");
    task.run();
    assert_eq!(task.stdout(), "packedrefused\n");
    assert_eq!(
        fs::read_to_string(package.path().join("data")).unwrap(),
        "packed"
    );
    assert!(task.folder.join("upper/tmp/mine").exists());
}

#[test]
fn a_missing_command_fails_the_start_with_the_places_looked_in() {
    let mut task = Task::new(&["no-such-program"]);
    let Outcome::NeverStarted(error) = task.run().outcome else {
        panic!("it started")
    };
    assert_eq!(
        (error.stage, error.errno),
        (Stage::Command, Some(libc::ENOENT))
    );
    assert!(
        error
            .message
            .contains("'no-such-program' not found; looked for /usr/local/sbin/no-such-program")
    );
    assert!(
        error.message.contains("/usr/bin/no-such-program"),
        "{error}"
    );
    assert_eq!(task.subtree.open().leaves().unwrap(), Vec::<String>::new());
}

#[test]
fn commands_that_cannot_run_say_why() {
    let package = tempfile::tempdir().unwrap();
    let make = |name: &str, text: &str, mode: u32| {
        let path = package.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    make("plain", "text", 0o644);
    make("orphan", "#!/no/such/interpreter\n", 0o755);
    make("other", "neither ELF nor script", 0o755);
    let mut foreign = fs::read("/bin/true").unwrap();
    // A machine that nobody has built (EM_RISCV is 243, the last that Linux runs on is below 260).
    foreign[18..20].copy_from_slice(&0xFEED_u16.to_le_bytes());
    let path = package.path().join("foreign");
    fs::write(&path, foreign).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (command, expected) in [
        ("/packages/app/plain", "not executable"),
        ("/packages/app/orphan", "interpreter is missing"),
        ("/packages/app/other", "not a program of this architecture"),
        (
            "/packages/app/foreign",
            "not a program of this architecture",
        ),
        ("/packages/app", "it is a directory"),
    ] {
        let mut task = Task::new(&[command]).bind(package.path(), "/packages/app");
        let Outcome::NeverStarted(error) = task.run().outcome else {
            panic!("{command} started")
        };
        assert!(error.message.contains(expected), "{error}");
    }
}

#[test]
fn a_limit_below_what_a_start_takes_is_a_failed_start_that_leaves_nothing() {
    let mut task = Task::shell("exit 0");
    task.launch.limits.memory_bytes_max = 64 << 10;
    let exit = task.run();
    let is_success = matches!(
        exit.outcome,
        Outcome::Ended {
            how: Ended::Code(0),
            ..
        }
    );
    assert!(!is_success, "{exit:?}");
    let leaves = task.subtree.open().leaves().unwrap();
    assert!(leaves.iter().all(|leaf| leaf == "helpers"), "{leaves:?}");
    let mut task = Task::shell("true & wait; echo done");
    task.launch.limits.pids_max = 1;
    let exit = task.run();
    assert!(!task.stdout().contains("done"), "{exit:?}");
}

#[test]
fn an_unknown_user_and_a_missing_folder_fail_the_start() {
    let Outcome::NeverStarted(error) = Task::new(&["true"]).user("no-such-user").run().outcome
    else {
        panic!()
    };
    assert_eq!(error.stage, Stage::User);
    let mut task = Task::new(&["true"]);
    task.launch.sandbox.command.workdir = "/no/such/folder".into();
    let Outcome::NeverStarted(error) = task.run().outcome else {
        panic!()
    };
    assert_eq!(error.stage, Stage::Workdir);
}

#[test]
fn no_descriptor_of_the_helper_leaks_into_a_task() {
    let mut task = Task::shell("ls -l /proc/self/fd | grep -v total | wc -l");
    task.run();
    // 0, 1, 2 and the one `ls` has open on the folder.
    assert_eq!(task.stdout(), "4\n");
}

#[test]
fn orphans_are_reaped_and_end_with_the_command() {
    let mut task = Task::shell(
        "(sleep 0.05 &) ; (setsid sleep 60 &) ; sleep 0.3; ps -eo stat= | grep -c Z; true",
    );
    let exit = task.run();
    assert_eq!(ended(&exit), Ended::Code(0));
    assert_eq!(task.stdout(), "0\n");
}

#[test]
fn the_end_of_a_task_does_not_write_out_the_file_system_of_its_layer() {
    let mut task = Task::shell("grep ' / / ' /proc/self/mountinfo");
    task.run();
    let root = task.stdout();
    // Listed as `volatile` or, by newer kernels, as `fsync=volatile`.
    let options = root.trim().rsplit(' ').next().unwrap_or_default();
    let is_volatile = |option: &str| option.ends_with("volatile");
    assert!(options.split(',').any(is_volatile), "{root}");
}

#[test]
fn shared_memory_is_anybodys_and_bounded_and_runs_no_program() {
    let script = "cp /bin/true /dev/shm/program && chmod 755 /dev/shm/program; /dev/shm/program; echo $?; \
        head -c 15M /dev/zero > /dev/shm/within && echo within; \
        head -c 17M /dev/zero > /dev/shm/beyond || echo bounded; stat -f -c %T /dev/shm";
    let mut task = Task::shell(script);
    task.run();
    assert_eq!(task.stdout(), "126\nwithin\nbounded\ntmpfs\n");
}

#[test]
fn what_covers_folders_of_proc_is_empty_and_closed_and_has_no_name() {
    let script = "for name in acpi asound scsi; do test -d /proc/$name || continue; \
        ls -A /proc/$name; touch /proc/$name/x 2>/dev/null && echo wrote; done; ls -A /dev";
    let mut task = Task::shell(script).user("root");
    task.run();
    let stdout = task.stdout();
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected);
}
