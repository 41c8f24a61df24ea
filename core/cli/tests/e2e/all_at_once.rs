//! A power cut, a dead agent, a cut network and a drain at the same time: of no index do two tasks ever run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, TW};
use crate::probe::{kill_9, wait_until};

const TASKS: usize = 12;

/// Each task holds a line to the witness for as long as it lives.
const SPEC: &str = r#"
from tw import SECOND, Affinity, Failover, Job, Restart, Rollout, Stop, export
export(Job(
    name="only", replicas=12,
    command=["python3", "-c", """
import os, socket, time
line = socket.create_connection(("127.0.0.1", WITNESS))
line.sendall(f"{os.environ['TW_INDEX']} {os.environ['TW_INCARNATION']}\\n".encode())
time.sleep(1000)
"""],
    anti_affinity=[Affinity(job="only", within="machine")],
    rollout=Rollout(max_unavailable=4, healthy_for=1 * SECOND),
    restart=Restart(delay=0.2 * SECOND), stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
    at_most_one=True, failover=Failover(within=8 * SECOND),
))
"#;

/// What the witness has seen.
#[derive(Default)]
struct Seen {
    /// By index: the incarnation that lives, and its line.
    alive: BTreeMap<usize, (u64, TcpStream)>,
    /// The highest incarnation of each index.
    newest: BTreeMap<usize, u64>,
    wrong: Vec<String>,
}

impl Seen {
    fn begins(&mut self, index: usize, incarnation: u64, line: &TcpStream) {
        if let Some((other, old)) = self.alive.get(&index)
            && is_open(old)
        {
            let words = format!("{index} ran as {other} when {incarnation} began");
            self.wrong.push(words);
        }
        let newest = self.newest.entry(index).or_default();
        if incarnation <= *newest {
            let words = format!("{index} began as {incarnation} after {newest}");
            self.wrong.push(words);
        }
        *newest = incarnation;
        let line = line.try_clone().unwrap();
        self.alive.insert(index, (incarnation, line));
    }
}

/// Whether whoever holds the other end of a line lives: the kernel closes it with the process.
fn is_open(line: &TcpStream) -> bool {
    line.set_nonblocking(true).unwrap();
    let found = line.peek(&mut [0]);
    line.set_nonblocking(false).unwrap();
    found.is_err_and(|cause| cause.kind() == std::io::ErrorKind::WouldBlock)
}

fn witness() -> (u16, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        for line in listener.incoming().flatten() {
            let mut said = String::new();
            if BufReader::new(&line).read_line(&mut said).is_err() {
                continue;
            }
            let mut words = said.split_whitespace();
            let index = words.next().and_then(|word| word.parse().ok());
            let incarnation = words.next().and_then(|word| word.parse().ok());
            if let (Some(index), Some(incarnation)) = (index, incarnation) {
                shared.lock().unwrap().begins(index, incarnation, &line);
            }
        }
    });
    (port, seen)
}

/// Passes an agent's connections on to the controller, until it is cut.
struct Relay {
    cut: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<UnixStream>>>,
}

impl Relay {
    fn new(socket: &Path, controller: PathBuf) -> Relay {
        let listener = UnixListener::bind(socket).unwrap();
        let relay = Relay {
            cut: Arc::default(),
            lines: Arc::default(),
        };
        let (cut, lines) = (Arc::clone(&relay.cut), Arc::clone(&relay.lines));
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(to) = UnixStream::connect(&controller) else {
                    continue;
                };
                let ends = [&from, &to].map(|end| end.try_clone().unwrap());
                lines.lock().unwrap().extend(ends);
                for (mut reads, writes) in [(&from, &to), (&to, &from)]
                    .map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
                {
                    std::thread::spawn(move || {
                        let mut into = &writes;
                        let _broken = std::io::copy(&mut reads, &mut into);
                        let _gone = writes.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for line in self.lines.lock().unwrap().drain(..) {
            let _gone = line.shutdown(std::net::Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

/// An agent that reaches the controller through a relay.
struct Remote {
    agent: Child,
    state: PathBuf,
    cgroup: String,
}

impl Remote {
    fn start(cluster: &Cluster, relay: &Path) -> Remote {
        let state = cluster.state().join("remote");
        let cgroup = format!("{}-remote", cluster.cgroup());
        let agent = Remote::program()
            .args(["run", "--name", "remote", "--ports", "33000-33009"])
            .arg("--state")
            .arg(&state)
            .arg("--cgroup")
            .arg(&cgroup)
            .arg("--controller")
            .arg(format!("unix:{}", relay.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Remote {
            agent,
            state,
            cgroup,
        }
    }

    fn program() -> Command {
        Command::new(Path::new(TW).with_file_name("tw-agent"))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        kill_9(self.agent.id().cast_signed());
        let _ended = self.agent.wait();
        let cleaned = Remote::program()
            .args(["clean", "--cgroup", &self.cgroup, "--state"])
            .arg(&self.state)
            .status();
        assert!(cleaned.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn machines_of(cluster: &Cluster) -> Vec<String> {
    let status = cluster.try_status("only").unwrap_or_default();
    let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
    let machine = |task: &Value| task["machine"].as_str().map(str::to_owned);
    tasks.iter().filter_map(machine).collect()
}

#[test]
fn whatever_breaks_at_the_same_time_no_index_runs_twice() {
    let (port, seen) = witness();
    let cluster = Cluster::start(5);
    let socket = cluster.state().join("relay.sock");
    let relay = Relay::new(&socket, cluster.state().join("tw.sock"));
    let _remote = Remote::start(&cluster, &socket);
    wait_until("the sixth machine is there", || cluster.connected() == 6);
    let spec = SPEC.replace("WITNESS", &port.to_string());
    cluster.repository.write("config.tw", &spec);
    cluster.apply();
    cluster.wait_settled("only");
    for machine in ["agent-1", "agent-2", "agent-3", "remote"] {
        assert!(
            machines_of(&cluster).iter().any(|at| at == machine),
            "nothing runs on {machine}"
        );
    }

    // One loses its power, one its agent, one the network, and one is drained.
    relay.cut();
    kill_9(cluster.process("agent-2").unwrap());
    cluster.tw(&["drain", "agent-3", "--detach"]).exits(0);
    cluster.tw(&["dev", "--take", "agent-1"]).exits(0);
    wait_until("every index runs on what is left", || {
        let at = machines_of(&cluster);
        let gone = ["agent-1", "agent-3", "remote"];
        at.len() == TASKS
            && !at.iter().any(|machine| gone.contains(&machine.as_str()))
            && cluster.is_settled("only")
    });

    relay.mend();
    cluster.tw(&["dev", "--give-back", "agent-1"]).exits(0);
    cluster.tw(&["drain", "agent-3", "--cancel"]).exits(0);
    wait_until("all machines are back", || cluster.connected() == 6);
    // Whatever of the old epochs were still about would show now.
    std::thread::sleep(Duration::from_secs(2));
    cluster.wait_settled("only");

    let seen = seen.lock().unwrap();
    assert_eq!(seen.wrong, Vec::<String>::new());
    let alive = seen.alive.values().filter(|(_, line)| is_open(line));
    assert_eq!(alive.count(), TASKS);
    let newest = seen
        .newest
        .values()
        .filter(|newest| **newest > TASKS as u64);
    assert!(newest.count() > 0, "nothing was replaced");
}
