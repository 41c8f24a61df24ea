//! A second command inside a running task.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tw_agent::helper::protocol::{Reply, Request};
use tw_agent::helper::{DebugRequest, ExecRequest};
use tw_api::{ErrorBody, FrameKind};
use tw_model::Exit;

use crate::common::{PATIENCE, Task};

/// A session with `tw-helper exec`.
pub(crate) struct Session {
    socket: UnixStream,
    helper: Child,
}

impl Session {
    pub(crate) fn open(task: &Task, argv: &[&str], terminal: Option<(u16, u16)>) -> Session {
        let request = ExecRequest {
            terminal,
            ..request(argv)
        };
        Session::begin(&[], task, &request)
    }

    /// With the machine's tools.
    fn debug(task: &Task, argv: &[&str]) -> Session {
        Session::debug_by(&[], task, argv)
    }

    /// As [`Session::debug`], with these words before the helper's.
    fn debug_by(start: &[&str], task: &Task, argv: &[&str]) -> Session {
        let debug = DebugRequest {
            base: task.launch.sandbox.base.clone(),
            leaf: "task.debug".to_owned(),
        };
        let request = ExecRequest {
            debug: Some(debug),
            ..request(argv)
        };
        Session::begin(start, task, &request)
    }

    /// Of a client that counts its input; how much it may send.
    fn counted(task: &Task, argv: &[&str]) -> (Session, u64) {
        let request = ExecRequest {
            credit: true,
            ..request(argv)
        };
        let mut session = Session::begin(&[], task, &request);
        let (kind, bytes) = session.receive();
        assert_eq!(kind, FrameKind::Credit as u8);
        (session, u64::from_be_bytes(bytes.try_into().unwrap()))
    }

    fn begin(start: &[&str], task: &Task, request: &ExecRequest) -> Session {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let words = [start, &[env!("CARGO_BIN_EXE_tw-helper")]].concat();
        let helper = Command::new(words[0])
            .args(&words[1..])
            .arg("exec")
            .arg(&task.folder)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut session = Session {
            socket: ours,
            helper,
        };
        session.send(FrameKind::Open, &serde_json::to_vec(request).unwrap());
        session
    }

    fn send(&mut self, kind: FrameKind, bytes: &[u8]) {
        let mut frame = vec![kind as u8];
        frame.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        frame.extend_from_slice(bytes);
        self.socket.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.socket.read_exact(&mut header).unwrap();
        let mut bytes =
            vec![0; u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize];
        self.socket.read_exact(&mut bytes).unwrap();
        (header[0], bytes)
    }

    /// Reads standard output until it holds `text`.
    fn wait_for(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            let (kind, bytes) = self.receive();
            seen.push_str(&String::from_utf8_lossy(&bytes));
            assert_eq!(kind, FrameKind::Stdout as u8, "{seen}");
        }
    }

    /// Hangs up, as whoever has heard all does. The helper ends at that.
    fn close(&mut self) {
        self.socket.shutdown(Shutdown::Both).unwrap();
        assert!(self.helper.wait().unwrap().success());
    }

    /// Everything that was printed, and how the command ended.
    pub(crate) fn end(self) -> (String, String, Exit) {
        self.outcome().unwrap_or_else(|words| panic!("{words}"))
    }

    /// As [`Session::end`], or why the command did not begin.
    pub(crate) fn outcome(mut self) -> Result<(String, String, Exit), String> {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        loop {
            let (kind, bytes) = self.receive();
            let text = String::from_utf8_lossy(&bytes);
            if kind == FrameKind::Stdout as u8 {
                stdout.push_str(&text);
            } else if kind == FrameKind::Stderr as u8 {
                stderr.push_str(&text);
            } else if kind != FrameKind::Credit as u8 {
                self.close();
                return match kind == FrameKind::Exit as u8 {
                    true => Ok((stdout, stderr, serde_json::from_slice(&bytes).unwrap())),
                    false => Err(text.into_owned()),
                };
            }
        }
    }
}

fn request(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        terminal: None,
        debug: None,
        credit: false,
    }
}

fn code(code: i32) -> Exit {
    Exit {
        code: Some(code),
        ..Exit::default()
    }
}

#[test]
fn a_command_shares_the_tasks_files_processes_user_and_limits() {
    let mut task = Task::shell("echo mine > /tmp/file; echo ready; sleep 60");
    task.start();
    task.wait_for_stdout("ready");
    let script = "cat /tmp/file; hostname; id -u; grep -c . /proc/1/comm; \
                  grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -s '\\t\\n' '  '; \
                  cut -d: -f3 /proc/self/cgroup | sort -u; cat /etc/shadow; exit 4";
    let (stdout, stderr, exit) = Session::open(&task, &["sh", "-c", script], None).end();
    assert_eq!(exit, code(4));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[..4], ["mine", "web-0", "65534", "1"], "{stdout}");
    assert_eq!(
        lines[4].trim_end(),
        "CapEff: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 /",
        "{stdout}"
    );
    assert!(stderr.contains("No such file"), "{stderr}");
    let tree = task.subtree.open();
    assert!(!tree.is_empty("task").unwrap());
}

#[test]
fn a_command_reads_what_is_typed_to_its_end() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let mut session = Session::open(&task, &["cat"], None);
    session.send(FrameKind::Stdin, b"hello ");
    session.send(FrameKind::Stdin, b"there");
    session.send(FrameKind::StdinEnd, b"");
    assert_eq!(
        session.end(),
        ("hello there".to_owned(), String::new(), code(0))
    );
}

#[test]
fn a_command_that_prints_more_than_it_reads_takes_any_amount() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let mut session = Session::open(&task, &["od", "-v", "-t", "x1"], None);
    let mut typist = Session {
        socket: session.socket.try_clone().unwrap(),
        helper: Command::new("true").spawn().unwrap(),
    };
    // More than all buffers on the way hold.
    let typed_bytes = 2 << 20;
    let typed = std::thread::spawn(move || {
        for _ in 0..typed_bytes / 1024 / 16 {
            typist.send(FrameKind::Stdin, &[b'x'; 16 << 10]);
        }
        typist.send(FrameKind::StdinEnd, b"");
        typist.helper.wait().unwrap();
    });
    let mut printed = 0;
    let last = loop {
        match session.receive() {
            (kind, bytes) if kind == FrameKind::Stdout as u8 => printed += bytes.len(),
            (kind, _) => break kind,
        }
    };
    assert_eq!(last, FrameKind::Exit as u8);
    assert!(printed > 3 * typed_bytes, "{printed}");
    typed.join().unwrap();
    session.close();
}

#[test]
fn a_command_that_reads_nothing_ends_with_its_caller_all_the_same() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let tree = task.subtree.open();
    let before = tree.usage("task").unwrap().pids;
    // What it has started goes, too.
    let script = "sleep 61 & sleep 62";
    let mut session = Session::open(&task, &["sh", "-c", script], None);
    task.wait_for(|_| (tree.usage("task").unwrap().pids == before + 3).then_some(()));
    session.send(FrameKind::Stdin, &[b'x'; 128 << 10]);
    let Session { socket, mut helper } = session;
    drop(socket);
    let began = std::time::Instant::now();
    assert!(helper.wait().unwrap().success());
    task.wait_for(|_| (tree.usage("task").unwrap().pids == before).then_some(()));
    assert!(began.elapsed() < PATIENCE / 2, "it waited for the command");
}

/// Types as much as a client may that counts; none of it is taken.
fn type_all_that_is_granted(session: &mut Session, granted: u64) {
    session.wait_for("ready");
    let chunk = [b'x'; 16 << 10];
    for _ in 0..granted as usize / chunk.len() {
        session.send(FrameKind::Stdin, &chunk);
    }
}

#[test]
fn a_signal_and_the_callers_end_overtake_input_that_nobody_takes() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let tree = task.subtree.open();
    let before = tree.usage("task").unwrap().pids;
    let script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let (mut session, granted) = Session::counted(&task, &["sh", "-c", script]);
    type_all_that_is_granted(&mut session, granted);
    session.send(FrameKind::Signal, &[15]);
    let (stdout, _, exit) = session.end();
    assert_eq!((stdout.as_str(), exit), ("told\n", code(7)));
    let (mut session, granted) = Session::counted(&task, &["sh", "-c", "echo ready; sleep 61"]);
    type_all_that_is_granted(&mut session, granted);
    let Session { socket, mut helper } = session;
    drop(socket);
    assert!(helper.wait().unwrap().success());
    task.wait_for(|_| (tree.usage("task").unwrap().pids == before).then_some(()));
}

#[test]
fn what_is_granted_grows_as_the_command_takes_its_input() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let (mut session, mut granted) = Session::counted(&task, &["sh", "-c", "sleep 0.5; cat"]);
    let input: Vec<u8> = (0..1_u32 << 20).flat_map(u32::to_be_bytes).collect();
    assert!(input.len() as u64 > 3 * granted);
    let mut typist = session.socket.try_clone().unwrap();
    let (grants, granted_next) = std::sync::mpsc::channel();
    let typed = input.clone();
    let typing = std::thread::spawn(move || {
        let mut frame = |kind: FrameKind, bytes: &[u8]| {
            let length = (bytes.len() as u32).to_be_bytes();
            let all = [&[kind as u8], &length[..], bytes].concat();
            typist.write_all(&all).unwrap();
        };
        let mut sent = 0;
        for chunk in typed.chunks(10_000) {
            while sent + chunk.len() as u64 > granted {
                granted = granted_next.recv().unwrap();
            }
            frame(FrameKind::Stdin, chunk);
            sent += chunk.len() as u64;
        }
        frame(FrameKind::StdinEnd, &[]);
    });
    let mut printed = Vec::new();
    let last = loop {
        match session.receive() {
            (kind, bytes) if kind == FrameKind::Stdout as u8 => printed.extend(bytes),
            (kind, bytes) if kind == FrameKind::Credit as u8 => {
                // The typist may have sent all.
                let _done = grants.send(u64::from_be_bytes(bytes.try_into().unwrap()));
            }
            (kind, _) => break kind,
        }
    };
    assert_eq!(last, FrameKind::Exit as u8);
    assert!(printed == input, "{} bytes came back", printed.len());
    typing.join().unwrap();
    session.close();
}

#[test]
fn input_that_comes_after_the_end_cuts_off_nothing_that_was_said() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let mut session = Session::open(&task, &["sh", "-c", "exit 5"], None);
    let said = loop {
        let (kind, bytes) = session.receive();
        if kind == FrameKind::Exit as u8 {
            break bytes;
        }
    };
    assert_eq!(serde_json::from_slice::<Exit>(&said).unwrap(), code(5));
    session.send(FrameKind::Stdin, &[b'x'; 64 << 10]);
    // Nothing was reset.
    assert_eq!(session.socket.read(&mut [0]).unwrap(), 0);
    session.close();
}

#[test]
fn a_signal_reaches_a_command_and_what_it_has_started() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let script = "trap 'echo told; wait; exit 5' TERM; \
                  sh -c \"trap 'echo too; exit 0' TERM; echo up; while :; do sleep 0.02; done\" & wait; wait";
    let mut session = Session::open(&task, &["sh", "-c", script], None);
    session.wait_for("up");
    // Numbers that are no signals are passed over.
    session.send(FrameKind::Signal, &[0]);
    session.send(FrameKind::Signal, &[200]);
    session.send(FrameKind::Signal, &[15]);
    let (stdout, _, exit) = session.end();
    assert_eq!(exit, code(5), "{stdout}");
    assert!(
        stdout.contains("told") && stdout.contains("too"),
        "{stdout}"
    );
}

#[test]
fn a_command_with_a_terminal_knows_its_size_and_takes_keys() {
    let mut task = Task::new(&["sleep", "60"]);
    task.start();
    let mut session = Session::open(&task, &["sh"], Some((30, 100)));
    session.send(FrameKind::Stdin, b"tty; stty size\n");
    session.wait_for("30 100");
    session.send(FrameKind::Resize, &[0, 40, 0, 120]);
    session.send(FrameKind::Stdin, b"stty size; sleep 60\n");
    session.wait_for("40 120");
    // Ctrl-C ends the sleep, not the shell.
    std::thread::sleep(std::time::Duration::from_millis(200));
    session.send(FrameKind::Stdin, b"\x03exit 3\n");
    let (_, _, exit) = session.end();
    assert_eq!(exit, code(3));
}

#[test]
fn a_command_ends_with_its_caller_and_the_task_goes_on() {
    let mut task = Task::new(&["sleep", "60"]);
    let started = task.start();
    let tree = task.subtree.open();
    let before = tree.usage("task").unwrap().pids;
    let session = Session::open(&task, &["sleep", "61"], None);
    task.wait_for(|_| (tree.usage("task").unwrap().pids > before).then_some(()));
    let Session { socket, mut helper } = session;
    drop(socket);
    assert!(helper.wait().unwrap().success());
    task.wait_for(|_| (tree.usage("task").unwrap().pids == before).then_some(()));
    assert!(started.task.is_alive().unwrap());
}

#[test]
fn a_missing_command_and_an_ended_task_are_refused_in_words() {
    let mut task = Task::shell("sleep 1");
    task.start();
    let refused = |task: &Task, program| {
        let (kind, bytes) = Session::open(task, &[program], None).receive();
        assert_eq!(kind, FrameKind::Error as u8);
        let body: ErrorBody = serde_json::from_slice(&bytes).unwrap();
        (body.exit_code(), body.message)
    };
    for (program, code, words) in [
        (
            "no-such-program",
            127,
            "'no-such-program' not found; looked for",
        ),
        ("/etc/passwd", 126, "it is not executable"),
        ("/tmp", 126, "it is a directory"),
    ] {
        let (found, message) = refused(&task, program);
        assert_eq!(found, Some(code), "{message}");
        assert!(message.contains(words), "{message}");
    }
    task.exit();
    let (code, message) = refused(&task, "true");
    assert_eq!(code, None);
    assert!(message.contains("has ended"), "{message}");
}

/// The processes that live in a user namespace.
fn living_in(users: &Metadata) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lives_there = |folder: &Path| {
        let is_there = std::fs::metadata(folder.join("ns/user"))
            .is_ok_and(|found| (found.dev(), found.ino()) == (users.dev(), users.ino()));
        let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        is_there && !state.starts_with(['Z', 'X', 'x'])
    };
    processes
        .filter(|process| lives_there(&process.path()))
        .map(|process| process.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn whoever_enters_the_users_of_a_task_goes_with_its_leaf() {
    let mut task = Task::new(&["sleep", "60"]);
    let started = task.start();
    // Held open, so that its number is not another's when it has gone.
    let users = File::open(format!("/proc/{}/ns/user", started.task.pid)).unwrap();
    let users = users.metadata().map(|found| (users, found)).unwrap();
    let before = living_in(&users.1).len();
    // Whoever enters a namespace stays there for a while before it does anything else.
    let slowly = "strace -f -o /dev/null -e trace=setns -e inject=setns:delay_exit=2000000";
    let slowly: Vec<&str> = slowly.split(' ').collect();
    let session = Session::begin(&slowly, &task, &request(&["sleep", "60"]));
    task.wait_for(|_| (living_in(&users.1).len() > before).then_some(()));
    assert_eq!(task.ask(&Request::Kill), Reply::Done);
    let tree = task.subtree.open();
    task.wait_for(|_| tree.id("task").is_err().then_some(()));
    // From here on the namespace may be the next task's.
    assert_eq!(living_in(&users.1), [""; 0]);
    let _killed = session.outcome();
}

#[test]
fn a_debugger_brings_the_machines_tools_and_traces_the_task_and_nothing_else() {
    let script = "echo mine > /tmp/file; echo ready; while sleep 0.05; do :; done";
    let mut task = Task::shell(script);
    task.start();
    task.wait_for_stdout("ready");
    let (_, stderr, exit) =
        Session::open(&task, &["strace", "-p", "2", "-e", "trace=none"], None).end();
    assert_eq!(exit, code(1));
    assert!(stderr.contains("Operation not permitted"), "{stderr}");
    // Now and then strace hangs as it lets go of a child that is just ending.
    let follow =
        "timeout -k 3 1 strace -f -p 2 -e trace=execve -o /tmp/trace; grep -c execve /tmp/trace";
    let (stdout, stderr, _) = Session::debug(&task, &["sh", "-c", follow]).end();
    assert!(
        stdout.trim().parse::<u32>().is_ok_and(|seen| seen > 0),
        "{stdout}{stderr}"
    );
    let script = "cat /task/tmp/file; tr '\\0' ' ' < /proc/2/cmdline; echo; ls /task/packages | wc -l; \
                  cat /proc/2/root/tmp/file; hostname; ls -d /proc/[0-9]* 2>&- | wc -l; \
                  cat /etc/shadow; ls /home /root; mount -t tmpfs x /tmp; \
                  echo x > /task/usr/x; echo x > /usr/x; mknod /tmp/x b 7 0; cat /proc/kcore; \
                  strace -p 1 -e trace=none 2>&1 | grep -o 'Operation not permitted'; \
                  cut -d: -f3 /proc/self/cgroup | sort -u";
    let (stdout, stderr, _) = Session::debug(&task, &["sh", "-c", script]).end();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], "mine", "{stdout}{stderr}");
    assert!(lines[1].starts_with("sh -c echo mine"), "{stdout}");
    assert_eq!(lines[3..5], ["mine", "web-0"], "{stdout}");
    assert!(lines[5].parse::<u32>().unwrap() < 12, "{stdout}");
    assert_eq!(
        lines[6], "Operation not permitted",
        "the init is not to be traced"
    );
    assert_eq!(lines[7], "/", "{stdout}");
    let refusals = stderr.lines().filter(|line| !line.contains("dmesg"));
    assert_eq!(refusals.count(), 8, "each is refused: {stderr}");
    let tree = task.subtree.open();
    assert!(tree.leaves().unwrap().contains(&"task.debug".to_owned()));
    assert!(tree.is_empty("task.debug").unwrap());
}

#[test]
fn a_debugger_writes_to_harmless_devices_whoever_started_the_agent() {
    let mut task = Task::shell("echo ready; exec sleep 60");
    task.start();
    task.wait_for_stdout("ready");
    // A helper has the mask of new files that its agent was started with.
    let masked = "umask 077 && exec \"$0\" \"$@\"";
    let script = "for name in null zero full tty; do test -r /dev/$name -a -w /dev/$name || echo $name; done; \
                  echo x > /dev/null; ls /dev/pts > /dev/null && umask";
    for start in [&["sh", "-c", masked][..], &[]] {
        let session = Session::debug_by(start, &task, &["sh", "-c", script]);
        let expected = ("0022\n".to_owned(), String::new(), code(0));
        assert_eq!(session.end(), expected, "{start:?}");
        let tree = task.subtree.open();
        tree.remove("task.debug", PATIENCE).unwrap();
    }
}

#[test]
fn a_debugger_stops_a_program_of_the_task_and_looks_at_it() {
    let mut task = Task::shell("echo ready; exec sleep 60");
    task.start();
    task.wait_for_stdout("ready");
    let script = "gdb -nx -batch -p 2 -ex 'info proc' -ex 'info registers rip' -ex detach 2>&1";
    let (stdout, stderr, exit) = Session::debug(&task, &["sh", "-c", script]).end();
    assert_eq!(exit, code(0), "{stdout}{stderr}");
    assert!(
        stdout.contains("process 2") && stdout.contains("rip "),
        "{stdout}"
    );
    assert!(stdout.contains("cmdline = 'sleep 60'"), "{stdout}");
    task.ask(&Request::Kill);
}
