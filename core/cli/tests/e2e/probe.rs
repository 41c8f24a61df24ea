//! Looking at the machine from outside: processes, mounts, cgroups, ports.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take that a test waits for; far more than it does, for busy machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until there is something to see.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "not seen within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// A process and its command line.
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) words: Vec<String>,
}

/// Every process of the machine.
pub(crate) fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let described = pids.filter_map(|pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned());
        Some(Process {
            pid,
            words: words.collect(),
        })
    });
    described.collect()
}

/// Whether a process runs; a zombie that only waits for its parent does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains("zombie"))
}

pub(crate) fn kill_9(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL)
        .unwrap_or_else(|cause| panic!("kill -9 {pid}: {cause}"));
}

/// `kill -9` of a process that may have ended by itself; whether there was one.
pub(crate) fn try_kill_9(pid: i32) -> bool {
    kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}

/// What still speaks of a state folder: processes, mounts, cgroups.
pub(crate) fn left_behind(state: &Path, cgroup: &str) -> Vec<String> {
    let state = state.to_str().unwrap();
    let named = processes()
        .into_iter()
        .filter(|process| process.words.iter().any(|word| word.contains(state)));
    let mut found: Vec<String> = named
        .map(|process| format!("process {} {:?}", process.pid, process.words))
        .collect();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(state))
            .map(|line| format!("mount {line}")),
    );
    found.extend(
        cgroups(Path::new("/sys/fs/cgroup"), cgroup)
            .iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    found
}

/// The folders of this name below a folder of the cgroup hierarchies.
fn cgroups(folder: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let folders = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .flat_map(|entry| match entry.file_name() == name {
            true => vec![entry.path()],
            false => cgroups(&entry.path(), name),
        })
        .collect()
}

/// One HTTP request on a connection of its own: status and body.
pub(crate) fn http_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        connection,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let broken = || {
        std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("not an answer: {answer:?}"),
        )
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(broken)?;
    Ok((status, body.to_owned()))
}
