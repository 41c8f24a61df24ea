//! `tw exec` as people and programs use it: on a terminal, and ended by signals.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, ttyname};

use crate::cluster::Cluster;
use crate::probe::{PATIENCE, is_alive, processes, wait_for, wait_until};

const IDLE: &str = r#"
from tw import Job, export
export(Job(name="idle", command=["sleep", "100000"]))
"#;

/// A command of `tw` on a terminal of its own, and who sits before it.
struct Terminal {
    keyboard: File,
    screen: File,
    /// What was on the screen.
    seen: String,
    tty: OwnedFd,
    path: PathBuf,
    tw: Child,
}

impl Terminal {
    fn begin(cluster: &Cluster, words: &[&str]) -> Terminal {
        let size = Winsize {
            ws_row: 30,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let tw = cluster.command(words);
        // Its controlling terminal, so that it hears of a new size.
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(tw.get_program())
            .args(tw.get_args());
        command.current_dir(tw.get_current_dir().unwrap());
        for (key, value) in tw.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let copy = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn();
        Terminal {
            keyboard: File::from(master.try_clone().unwrap()),
            screen: File::from(master),
            seen: String::new(),
            path: ttyname(&slave).unwrap(),
            tty: slave,
            tw: child.unwrap(),
        }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen behind what was waited for before.
    fn shows(&mut self, text: &str) {
        let mut chunk = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut screen = [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut screen, PollTimeout::try_from(left).unwrap()).unwrap();
            assert!(ready > 0, "no {text:?} in {:?}", self.seen);
            let count = self.screen.read(&mut chunk).unwrap();
            self.seen
                .push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        let behind = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..behind);
    }

    fn resize(&self, rows: &str, columns: &str) {
        let resized = Command::new("stty")
            .arg("-F")
            .arg(&self.path)
            .args(["rows", rows, "cols", columns])
            .status()
            .unwrap();
        assert!(resized.success());
    }

    fn edits_lines(&self) -> bool {
        let flags = tcgetattr(&self.tty).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }
}

fn send(signal: Signal, to: &Child) {
    kill(Pid::from_raw(to.id().cast_signed()), signal).unwrap();
}

/// Waits until it ends, and answers its code as a shell sees it.
fn ended(tw: &mut Child) -> Option<i32> {
    wait_for("tw ends", || tw.try_wait().unwrap()).code()
}

/// The lines that it prints, as they come.
fn printed(tw: &mut Child) -> Receiver<String> {
    let lines = BufReader::new(tw.stdout.take().unwrap()).lines();
    let (printed, all) = channel();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| printed.send(line))
    });
    all
}

/// Whether a command with these words runs on this machine.
/// How long a command of this run of the tests sleeps, in words that no other run has.
fn seconds(whole: &str) -> String {
    format!("{whole}{:07}", std::process::id())
}

fn runs(words: &[&str]) -> bool {
    let mut found = processes().into_iter();
    found.any(|process| {
        process
            .words
            .join(" ")
            .trim_end()
            .ends_with(&words.join(" "))
            && is_alive(process.pid)
    })
}

#[test]
fn a_command_has_the_terminal_and_the_signals_of_its_caller() {
    let cluster = Cluster::start(1);
    cluster.repository.write("config.tw", IDLE);
    cluster.apply();
    cluster.wait_settled("idle");
    on_a_terminal(&cluster);
    a_signal_gives_the_terminal_back(&cluster);
    signals_are_passed_on(&cluster);
    nothing_outlives_its_session(&cluster);
    input_that_nobody_takes_holds_nothing_up(&cluster);
    output_that_nobody_reads_holds_no_signal_up(&cluster);
    a_slow_reader_gets_every_byte(&cluster);
    a_command_that_ends_before_its_input_says_how(&cluster);
}

fn on_a_terminal(cluster: &Cluster) {
    let mut terminal = Terminal::begin(cluster, &["exec", "idle.0", "--", "sh"]);
    terminal.types("stty size; echo read$((1))\n");
    terminal.shows("30 100");
    terminal.shows("read1");
    assert!(!terminal.edits_lines(), "keys are the command's");
    terminal.resize("40", "120");
    wait_until("the command knows the new size", || {
        terminal.types("stty size; echo read$((1 + 1))\n");
        terminal.shows("read2");
        terminal.types("test \"$(stty size)\" = '40 120'; echo differs$?\n");
        terminal.shows("differs");
        terminal.types("echo read$((2 + 1))\n");
        let before = std::mem::take(&mut terminal.seen);
        terminal.shows("read3");
        before.starts_with('0') || before.contains("differs0")
    });
    let long = seconds("71717.");
    terminal.types(&format!("sleep {long}\n"));
    wait_until("it sleeps", || runs(&["sleep", &long]));
    terminal.types("\x03");
    wait_until("Ctrl-C ends it", || !runs(&["sleep", &long]));
    terminal.types("exit 3\n");
    assert_eq!(ended(&mut terminal.tw), Some(3));
    assert!(terminal.edits_lines(), "the terminal is as it was");
}

fn a_signal_gives_the_terminal_back(cluster: &Cluster) {
    let long = seconds("72727.");
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = Terminal::begin(cluster, &["exec", "idle.0", "--", "sleep", &long]);
        wait_until("it sleeps", || {
            runs(&["sleep", &long]) && !terminal.edits_lines()
        });
        send(signal, &terminal.tw);
        let code = ended(&mut terminal.tw);
        assert_eq!(code, Some(128 + signal as i32), "{signal}");
        assert!(terminal.edits_lines(), "{signal}");
        wait_until("the command has gone", || !runs(&["sleep", &long]));
    }
}

fn signals_are_passed_on(cluster: &Cluster) {
    let script = "trap 'echo terminated; exit 7' TERM; trap 'echo interrupted; exit 8' INT; \
                  trap 'echo hung up; exit 9' HUP; echo ready; while :; do sleep 0.05; done";
    for (signal, word, expected) in [
        (Signal::SIGTERM, "terminated", 7),
        (Signal::SIGINT, "interrupted", 8),
        (Signal::SIGHUP, "hung up", 9),
    ] {
        let mut tw = cluster
            .command(&["exec", "idle.0", "--", "sh", "-c", script])
            .spawn()
            .unwrap();
        let lines = printed(&mut tw);
        assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "ready");
        send(signal, &tw);
        assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), word);
        assert_eq!(ended(&mut tw), Some(expected), "{signal}");
    }
}

fn nothing_outlives_its_session(cluster: &Cluster) {
    // Its first sleep ends with the signal, the second is there until the session ends.
    let long = seconds("73737.");
    let script = format!("trap 'echo deaf' TERM; echo ready; sleep {long}; sleep {long}");
    let begin = || {
        let mut tw = cluster
            .command(&["exec", "idle.0", "--", "sh", "-c", &script])
            .spawn()
            .unwrap();
        let lines = printed(&mut tw);
        assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "ready");
        wait_until("it sleeps", || runs(&["sleep", &long]));
        (tw, lines)
    };
    // One that does not listen: the second signal ends the session.
    let (mut deaf, lines) = begin();
    send(Signal::SIGTERM, &deaf);
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "deaf");
    assert!(deaf.try_wait().unwrap().is_none());
    send(Signal::SIGTERM, &deaf);
    assert_eq!(ended(&mut deaf), Some(128 + 15));
    wait_until("what it has started has gone", || !runs(&["sleep", &long]));
    let (mut killed, _lines) = begin();
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until("what it has started has gone", || !runs(&["sleep", &long]));
}

/// A command that takes none of its input, behind as much of it as `tw` takes.
fn begin_stuffed(cluster: &Cluster) -> Child {
    let short = seconds("0.7");
    let script = format!("trap 'exit 7' TERM; while :; do sleep {short}; done");
    let mut tw = cluster
        .command(&["exec", "idle.0", "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let (mut stdin, count) = (tw.stdin.take().unwrap(), Arc::clone(&written));
    // It ends with `tw`.
    std::thread::spawn(move || {
        while stdin.write_all(&[b'y'; 4096]).is_ok() {
            count.fetch_add(4096, Ordering::Relaxed);
        }
    });
    wait_until("it sleeps", || runs(&["sleep", &short]));
    let mut before = 0;
    wait_until("nothing more can be written", || {
        let now = written.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now && now > 1 << 20
    });
    assert!(before < 4 << 20, "{before} bytes are on their way");
    tw
}

fn input_that_nobody_takes_holds_nothing_up(cluster: &Cluster) {
    let short = seconds("0.7");
    let mut told = begin_stuffed(cluster);
    send(Signal::SIGTERM, &told);
    assert_eq!(ended(&mut told), Some(7), "the command heard it");
    let mut killed = begin_stuffed(cluster);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let began = Instant::now();
    // A shell whose sleep has just ended has none for a moment.
    wait_until("the command has gone", || {
        let gone_for = (0..10).take_while(|_| {
            std::thread::sleep(Duration::from_millis(20));
            !runs(&["sleep", &short])
        });
        gone_for.count() == 10
    });
    assert!(began.elapsed() < PATIENCE / 4, "its end came late");
}

fn output_that_nobody_reads_holds_no_signal_up(cluster: &Cluster) {
    let mut tw = cluster
        .command(&["exec", "idle.0", "--", "sh", "-c", "exec yes"])
        .spawn()
        .unwrap();
    // Held and not read, it is full at once.
    let _stdout = tw.stdout.take().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    // The command hears the first, but its end comes behind what it has printed.
    send(Signal::SIGTERM, &tw);
    std::thread::sleep(Duration::from_millis(200));
    assert!(tw.try_wait().unwrap().is_none());
    send(Signal::SIGTERM, &tw);
    assert_eq!(ended(&mut tw), Some(128 + 15));
}

fn a_slow_reader_gets_every_byte(cluster: &Cluster) {
    let mut tw = cluster
        .command(&["exec", "idle.0", "--", "sh", "-c", "sleep 1; cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let input: Vec<u8> = (0..1_u32 << 20).flat_map(u32::to_be_bytes).collect();
    let (mut stdin, typed) = (tw.stdin.take().unwrap(), input.clone());
    let typing = std::thread::spawn(move || stdin.write_all(&typed).unwrap());
    let mut printed = Vec::new();
    let mut stdout = tw.stdout.take().unwrap();
    stdout.read_to_end(&mut printed).unwrap();
    assert_eq!(ended(&mut tw), Some(0));
    assert!(printed == input, "{} bytes came back", printed.len());
    typing.join().unwrap();
}

fn a_command_that_ends_before_its_input_says_how(cluster: &Cluster) {
    for _ in 0..20 {
        let mut tw = cluster
            .command(&["exec", "idle.0", "--", "sh", "-c", "head -c 1; exit 5"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = tw.stdin.take().unwrap();
        let typing = std::thread::spawn(move || while stdin.write_all(&[b'y'; 65536]).is_ok() {});
        assert_eq!(ended(&mut tw), Some(5));
        typing.join().unwrap();
    }
}
