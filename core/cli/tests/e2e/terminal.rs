//! `tw exec` as people and programs use it: on a terminal, and ended by signals.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, ttyname};

use crate::cluster::Cluster;
use crate::probe::{is_alive, processes, wait_until};

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
        while !self.seen.contains(text) {
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

/// As a shell sees it.
fn code(status: ExitStatus) -> Option<i32> {
    status.code()
}

/// Whether a command with these words runs on this machine.
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
    terminal.types("sleep 71717\n");
    wait_until("it sleeps", || runs(&["sleep", "71717"]));
    terminal.types("\x03");
    wait_until("Ctrl-C ends it", || !runs(&["sleep", "71717"]));
    terminal.types("exit 3\n");
    assert_eq!(code(terminal.tw.wait().unwrap()), Some(3));
    assert!(terminal.edits_lines(), "the terminal is as it was");
}

fn a_signal_gives_the_terminal_back(cluster: &Cluster) {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = Terminal::begin(cluster, &["exec", "idle.0", "--", "sleep", "72727"]);
        wait_until("it sleeps", || {
            runs(&["sleep", "72727"]) && !terminal.edits_lines()
        });
        send(signal, &terminal.tw);
        let status = terminal.tw.wait().unwrap();
        assert_eq!(code(status), Some(128 + signal as i32), "{signal}");
        assert!(terminal.edits_lines(), "{signal}");
        wait_until("the command has gone", || !runs(&["sleep", "72727"]));
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
        let mut lines = BufReader::new(tw.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        send(signal, &tw);
        assert_eq!(lines.next().unwrap().unwrap(), word);
        assert_eq!(code(tw.wait().unwrap()), Some(expected), "{signal}");
    }
}

fn nothing_outlives_its_session(cluster: &Cluster) {
    let script = "trap '' TERM; echo ready; sleep 73737; sleep 73737";
    let begin = || {
        let mut tw = cluster
            .command(&["exec", "idle.0", "--", "sh", "-c", script])
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(tw.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        wait_until("it sleeps", || runs(&["sleep", "73737"]));
        tw
    };
    // One that does not listen: the second signal ends the session.
    let mut deaf = begin();
    send(Signal::SIGTERM, &deaf);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(deaf.try_wait().unwrap().is_none());
    send(Signal::SIGTERM, &deaf);
    assert_eq!(code(deaf.wait().unwrap()), Some(128 + 15));
    wait_until("what it has started has gone", || {
        !runs(&["sleep", "73737"])
    });
    let mut killed = begin();
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until("what it has started has gone", || {
        !runs(&["sleep", "73737"])
    });
}
