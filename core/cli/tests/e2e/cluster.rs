//! One Twill for one test: `tw dev` in a temporary folder, ended and looked after when the test ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tw_api::{ApiEndpoint, Client, ClientError, ServicesReply};

use crate::probe::{self, wait_until};
use crate::ran::Ran;
use crate::repository::Repository;

/// The program under test.
pub(crate) const TW: &str = env!("CARGO_BIN_EXE_tw");

/// How many of them run at a time in this process: two cores hold no more without waiting on each other.
const AT_A_TIME: u32 = 3;

/// How long a process that has said that it ends may still be seen.
const LAST_INSTRUCTIONS: Duration = Duration::from_secs(5);

/// A Twill that runs.
pub(crate) struct Cluster {
    folder: TempDir,
    pub(crate) repository: Repository,
    agents: u32,
    environment: Vec<(&'static str, String)>,
    /// Who runs it; none for root.
    user: Option<u32>,
    runtime: tokio::runtime::Runtime,
    _turn: Turn,
}

impl Cluster {
    /// Starts a controller and agents, and an empty repository beside them.
    pub(crate) fn start(agents: u32) -> Cluster {
        Cluster::start_with(agents, "")
    }

    /// As [`Cluster::start`], with this text in its configuration file.
    pub(crate) fn start_with(agents: u32, config: &str) -> Cluster {
        Cluster::start_within(agents, config, &[])
    }

    /// As [`Cluster::start_with`], with these variables in the environment of every command.
    pub(crate) fn start_within(
        agents: u32,
        config: &str,
        environment: &[(&'static str, String)],
    ) -> Cluster {
        let cluster = Cluster::new(agents, None, environment);
        std::fs::write(cluster.state().join("twill.toml"), config).unwrap();
        cluster.dev().exits(0);
        cluster
    }

    /// A Twill of an ordinary user, from programs that this user can reach; what the start said.
    pub(crate) fn start_as(user: u32) -> (Cluster, String) {
        let cluster = Cluster::new(1, Some(user), &[]);
        let programs = cluster.folder.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        for name in ["tw", "tw-agent", "tw-helper", "tw-eval"] {
            let built = Path::new(TW).parent().unwrap().join(name);
            // By a process of its own: what this one has open for writing, a child of another test may have as well,
            // and nobody can run it until that child runs its own program.
            let mut install = Command::new("install");
            let status = install.arg(built).arg(programs.join(name)).status();
            assert!(status.unwrap().success(), "{name}");
        }
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(cluster.folder.path(), open).unwrap();
        std::os::unix::fs::chown(cluster.state(), Some(user), Some(user)).unwrap();
        let said = cluster.dev().exits(0).stderr;
        (cluster, said)
    }

    fn new(agents: u32, user: Option<u32>, environment: &[(&'static str, String)]) -> Cluster {
        let turn = Turn::take();
        let (folder, _ports) = folder_with_free_ports();
        let cluster = Cluster {
            repository: Repository::new(folder.path().join("repository")),
            folder,
            agents,
            environment: environment.to_vec(),
            user,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            _turn: turn,
        };
        std::fs::create_dir_all(cluster.state()).unwrap();
        cluster
    }

    /// Starts it again after [`Cluster::stop`], or makes sure that it runs.
    pub(crate) fn dev(&self) -> Ran {
        self.by_its_user(&[
            "dev",
            "--detach",
            "--agents",
            &self.agents.to_string(),
            "--lost-after",
            "3",
        ])
    }

    pub(crate) fn stop(&self) {
        self.by_its_user(&["dev", "--stop"]).exits(0);
    }

    /// `tw WORDS`, as whoever runs it.
    fn by_its_user(&self, words: &[&str]) -> Ran {
        let Some(user) = self.user else {
            return self.tw(words);
        };
        let user = user.to_string();
        let output = Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .args(["--inh-caps=-all", "--bounding-set=-all"])
            .arg(self.folder.path().join("bin/tw"))
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TW_STATE", self.state())
            .current_dir("/")
            .stdin(Stdio::null())
            .output();
        Ran::of(output.unwrap())
    }

    /// The cgroup subtree of everything it starts.
    pub(crate) fn cgroup(&self) -> String {
        cgroup(&self.state())
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// `tw WORDS` in the repository, waited for.
    pub(crate) fn tw(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words).output().unwrap())
    }

    /// `tw WORDS` in the repository, with its output piped.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = tw(words);
        command
            .current_dir(self.repository.root())
            .envs(self.environment.iter().cloned())
            .env("TW_STATE", self.state());
        command
    }

    /// Applies the repository's work tree.
    pub(crate) fn apply(&self) -> Ran {
        self.tw(&["apply", "--auto-approve", "."]).exits(0)
    }

    pub(crate) fn status(&self, job: &str) -> Value {
        self.tw(&["status", job, "--json"]).exits(0).json()
    }

    /// As [`Cluster::status`], where the controller may just be away.
    pub(crate) fn try_status(&self, job: &str) -> Option<Value> {
        let ran = self.tw(&["status", job, "--json"]);
        (ran.code == 0).then(|| ran.json())
    }

    /// The row of one index.
    pub(crate) fn task(&self, job: &str, index: usize) -> Value {
        self.status(job)["tasks"][index].clone()
    }

    /// Whether no update goes on and all replicas run and pass their checks.
    pub(crate) fn is_settled(&self, job: &str) -> bool {
        self.try_status(job).is_some_and(|status| {
            let tasks = status["tasks"].as_array().unwrap();
            let well = |task: &&Value| task["state"] == "running" && task["healthy"] != false;
            status["job"]["rollout"].is_null()
                && status["job"]["healthy"] == status["job"]["replicas"]
                && tasks.iter().filter(well).count() as u64
                    == status["job"]["replicas"].as_u64().unwrap()
        })
    }

    pub(crate) fn wait_settled(&self, job: &str) {
        wait_until(&format!("{job} settled"), || self.is_settled(job));
    }

    pub(crate) fn events(&self, job: &str) -> Vec<Value> {
        let reply = self.tw(&["events", job, "--json"]).exits(0).json();
        reply["events"].as_array().unwrap().clone()
    }

    pub(crate) fn machines(&self) -> Vec<Value> {
        let ran = self.tw(&["machines", "--json"]);
        match ran.code {
            0 => ran.json()["machines"].as_array().unwrap().clone(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(ApiEndpoint::Unix(self.state().join("tw.sock")))
    }

    /// What the controller answers at a path.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.runtime.block_on(self.client().get(path))
    }

    /// What the controller answers to a request.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.runtime.block_on(self.client().post(path, body))
    }

    /// Where healthy tasks listen now.
    pub(crate) fn endpoints(&self, job: &str, port: &str) -> Result<Vec<String>, ClientError> {
        let path = format!("/v1/services/default/{job}/{port}");
        let client = self.client();
        let reply: ServicesReply = self.runtime.block_on(client.get(&path))?;
        Ok(reply
            .endpoints
            .into_iter()
            .map(|endpoint| endpoint.address)
            .collect())
    }

    /// The folder in which a task's agent keeps it.
    pub(crate) fn task_folder(&self, task: &Value) -> PathBuf {
        let name = format!("default.{}", task["id"].as_str().unwrap().replace('#', "."));
        self.state()
            .join("agents")
            .join(task["machine"].as_str().unwrap())
            .join("tasks")
            .join(name)
    }

    /// A process of a task as the host numbers it: `task` is its PID 1, `helper` what keeps it.
    pub(crate) fn pid_of(&self, task: &Value, who: &str) -> i32 {
        let text = std::fs::read_to_string(self.task_folder(task).join("started.json")).unwrap();
        let record: Value = serde_json::from_str(&text).unwrap();
        record[who]["pid"].as_i64().unwrap() as i32
    }

    /// The process of the controller or of an agent that runs now.
    pub(crate) fn process(&self, name: &str) -> Option<i32> {
        let state = self.state();
        let found = probe::processes().into_iter().find(|process| {
            let has = |word: &str| process.words.iter().any(|other| other == word);
            let ours = process
                .words
                .iter()
                .any(|word| word.starts_with(state.to_str().unwrap()));
            ours && match name {
                "controller" => has("controller"),
                agent => has("run") && has("--name") && has(agent),
            }
        });
        found.map(|process| process.pid)
    }

    /// `kill -9` of the controller or an agent, and waits until another one serves in its place.
    pub(crate) fn kill_and_await(&self, name: &str) {
        let old = self
            .process(name)
            .unwrap_or_else(|| panic!("no process of {name}"));
        probe::kill_9(old);
        wait_until(&format!("another {name}"), || {
            self.process(name).is_some_and(|new| new != old)
        });
        wait_until("all machines connected", || {
            self.connected() == self.agents as usize
        });
    }

    /// How many machines hold a stream to the controller.
    pub(crate) fn connected(&self) -> usize {
        self.machines()
            .iter()
            .filter(|machine| machine["connected"] == true)
            .count()
    }

    /// What a failed test needs to be understood.
    fn describe(&self) -> String {
        let mut text = String::new();
        for words in [&["status"][..], &["machines"]] {
            let ran = self.tw(words);
            text += &format!("--- tw {words:?}\n{}{}", ran.stdout, ran.stderr);
        }
        let jobs = self.tw(&["status", "--json"]);
        let jobs: Value = serde_json::from_str(&jobs.stdout).unwrap_or_default();
        for job in jobs["jobs"].as_array().into_iter().flatten() {
            for command in ["status", "events"] {
                let ran = self.tw(&[command, job["name"].as_str().unwrap_or_default()]);
                text += &format!(
                    "--- tw {command} {}\n{}{}",
                    job["name"], ran.stdout, ran.stderr
                );
            }
        }
        for log in std::fs::read_dir(self.state().join("log"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let lines = std::fs::read_to_string(log.path()).unwrap_or_default();
            let last: Vec<&str> = lines.lines().rev().take(15).collect();
            text += &format!("--- {}\n", log.path().display());
            last.iter()
                .rev()
                .for_each(|line| text += &format!("{line}\n"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            anstream::eprintln!("{}", self.describe());
        }
        let stopped = self.by_its_user(&["dev", "--stop", "--now"]);
        // Who has let go of the lock may be in its last instructions.
        let deadline = Instant::now() + LAST_INSTRUCTIONS;
        let look = || probe::left_behind(&self.state(), &cgroup(&self.state()));
        let mut left = look();
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            left = look();
        }
        let clean = stopped.code == 0 && left.is_empty();
        if !clean && panicking {
            anstream::eprintln!("left behind: {left:#?} after {stopped:?}");
        }
        assert!(
            clean || panicking,
            "left behind: {left:#?} after {stopped:?}"
        );
    }
}

/// `tw WORDS`, deaf to the caller's environment.
pub(crate) fn tw(words: &[&str]) -> Command {
    let folder = Path::new(TW).parent().unwrap();
    for companion in ["tw-agent", "tw-helper", "tw-eval"] {
        assert!(
            folder.join(companion).is_file(),
            "{companion} is not in {}; run `cargo build --workspace --bins`",
            folder.display()
        );
    }
    let mut command = Command::new(TW);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in ["TW_STATE", "TW_LIBEXEC", "RUST_LOG", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    // One for all tests: commands share a cache as a person's do.
    command.env("TW_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command
}

/// `tw WORDS` in a folder, waited for.
pub(crate) fn tw_in(folder: &Path, words: &[&str]) -> Ran {
    Ran::of(
        tw(words)
            .current_dir(folder)
            .env("TW_STATE", folder.join("no-state"))
            .output()
            .unwrap(),
    )
}

/// The right to run a cluster, given back when dropped.
struct Turn;

static RUNNING: Mutex<u32> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Turn {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= AT_A_TIME {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A temporary folder whose range of ports no other Twill of this machine has: `tw dev` derives the range
/// from the folder's path. The guard keeps other tests of this process from choosing meanwhile.
fn folder_with_free_ports() -> (TempDir, MutexGuard<'static, Vec<u64>>) {
    static TAKEN: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let in_use: Vec<u64> = probe::processes()
        .iter()
        .filter_map(|process| {
            let at = process.words.iter().position(|word| word == "--ports")?;
            let first: u64 = process.words.get(at + 1)?.split('-').next()?.parse().ok()?;
            Some(first.checked_sub(20_000)? / 1000)
        })
        .collect();
    for _ in 0..200 {
        let folder = tempfile::Builder::new()
            .prefix("twill-e2e-")
            .tempdir()
            .unwrap();
        let range = fingerprint(&folder.path().join("state")) % 12;
        let recent = taken
            .iter()
            .rev()
            .take(AT_A_TIME as usize * 2)
            .any(|other| *other == range);
        if !in_use.contains(&range) && !recent {
            taken.push(range);
            return (folder, taken);
        }
    }
    panic!("every range of ports is in use: {in_use:?}");
}

/// The cgroup subtree of a state folder.
fn cgroup(state: &Path) -> String {
    format!("twill-{:016x}", fingerprint(state))
}

/// FNV-1a of a path, by which `tw dev` names cgroups and ranges of ports.
fn fingerprint(path: &Path) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
