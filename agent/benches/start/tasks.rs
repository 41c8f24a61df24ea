//! Tasks without an agent: a state folder, a cgroup subtree, and a pool of spare helpers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;
use tw_agent::cgroup::{CGROUP_ROOT, Limits, TreePath};
use tw_agent::helper::client::HelperClient;
use tw_agent::helper::protocol::{PROTO, Request};
use tw_agent::helper::record::{
    self, EXIT_FILE, ExitRecord, LOG_FOLDER, LaunchRecord, Outcome, STARTED_FILE, StartedRecord,
    StopRule,
};
use tw_agent::helper::spare::{HandedOver, SparePool, SpareRequest};
use tw_agent::helper::{make_tasks_folder, prepare_folder, remove_scratch};
use tw_agent::log::{LogLimits, LogReader};
use tw_agent::sandbox::{CommandSpec, DEFAULT_PATH, Ended, SandboxSpec, UserMode, base};

const HELPERS_LEAF: &str = "helpers";
const PATIENCE: Duration = Duration::from_secs(30);

/// As many as an agent keeps.
const SPARES: usize = 4;

/// What the starts share.
pub(crate) struct Bench {
    state: TempDir,
    tree: TreePath,
    pub(crate) base: PathBuf,
    pool: SparePool,
    next: AtomicUsize,
    /// What tasks that have ended took, in microseconds.
    tasks_cpu_us: AtomicU64,
}

/// A task that has been given to a helper.
pub(crate) struct Running {
    pub(crate) helper: HandedOver,
    folder: PathBuf,
    began_us: i64,
}

/// One start, measured.
pub(crate) struct Measured {
    /// Until the command was executed.
    pub(crate) exec_ms: f64,
    /// What the task printed.
    pub(crate) printed: String,
    pub(crate) began_us: i64,
}

/// A task that has printed much.
pub(crate) struct Printed {
    /// From its first instruction to its end.
    pub(crate) seconds: f64,
    /// What did not reach the disk.
    pub(crate) dropped_bytes: u64,
}

impl Bench {
    pub(crate) fn new() -> io::Result<Bench> {
        let state = tempfile::tempdir()?;
        make_tasks_folder(&state.path().join("tasks"))?;
        let tree = TreePath::new(CGROUP_ROOT, format!("twill-bench-{}", std::process::id()));
        let base = base::prepare(&state.path().join("base")).map_err(io::Error::other)?;
        let request = SpareRequest {
            tree: tree.clone(),
            helpers_leaf: HELPERS_LEAF.to_owned(),
            users: UserMode::Mapped,
        };
        let program = crate::program("lib/twill/tw-helper", env!("CARGO_BIN_EXE_tw-helper"));
        Ok(Bench {
            state,
            base,
            pool: SparePool::new(program, request, SPARES),
            tree,
            next: AtomicUsize::new(0),
            tasks_cpu_us: AtomicU64::new(0),
        })
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    pub(crate) fn refill(&self) -> io::Result<()> {
        self.pool.refill()
    }

    pub(crate) fn cgroups(&self) -> String {
        let kind = self.tree.open().map(|tree| format!("{:?}", tree.kind()));
        kind.unwrap_or_default().to_lowercase()
    }

    /// Time on a core that the bench, the helpers and the tasks have had so far.
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        let own = getrusage(UsageWho::RUSAGE_SELF)?;
        let own_us = |time: TimeVal| time.num_microseconds() as u64;
        let total_us = own_us(own.user_time())
            + own_us(own.system_time())
            + self.tasks_cpu_us.load(Ordering::Relaxed);
        Ok(total_us as f64 / 1e6 + self.helpers_cpu_seconds()?)
    }

    /// Time on a core that all helpers have had so far.
    pub(crate) fn helpers_cpu_seconds(&self) -> io::Result<f64> {
        let tree = self.tree.open().map_err(io::Error::other)?;
        let used = tree.usage(HELPERS_LEAF).map_err(io::Error::other)?;
        Ok(used.cpu_usage_us as f64 / 1e6)
    }

    /// Runs a command to its end without reading what it printed.
    pub(crate) fn run_unread(&self, argv: &[&str]) -> io::Result<Printed> {
        let task = self.begin(argv)?;
        wait(&task.helper)?;
        let exit: Option<ExitRecord> = read(&task.folder, EXIT_FILE)?;
        let started: Option<StartedRecord> = read(&task.folder, STARTED_FILE)?;
        remove_scratch(&task.folder)?;
        fs::remove_dir_all(&task.folder)?;
        match (started, exit) {
            (Some(started), Some(exit)) => Ok(Printed {
                seconds: (exit.ended_at_us - started.started_at_us) as f64 / 1e6,
                dropped_bytes: exit.log.bytes_dropped,
            }),
            _ => Err(io::Error::other("it left no records")),
        }
    }

    /// Does what an agent does between an assignment and its helper's work.
    pub(crate) fn begin(&self, argv: &[&str]) -> io::Result<Running> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.state.path().join(format!("tasks/{number}"));
        let began_us = now_us();
        prepare_folder(&folder, &self.launch(&folder, number, argv)).map_err(io::Error::other)?;
        let helper = self.pool.start(&folder, None)?;
        Ok(Running {
            helper,
            folder,
            began_us,
        })
    }

    /// Runs a command to its end and removes what is left of it.
    pub(crate) fn run(&self, argv: &[&str]) -> io::Result<Measured> {
        let task = self.begin(argv)?;
        wait(&task.helper)?;
        let exit: Option<ExitRecord> = read(&task.folder, EXIT_FILE)?;
        let started: Option<StartedRecord> = read(&task.folder, STARTED_FILE)?;
        let cpu_us = exit.as_ref().map_or(0, |exit| exit.usage.cpu_usage_us);
        self.tasks_cpu_us.fetch_add(cpu_us, Ordering::Relaxed);
        let printed = printed(&task.folder)?;
        let (began_us, folder) = (task.began_us, task.folder);
        remove_scratch(&folder)?;
        fs::remove_dir_all(&folder)?;
        match (started, exit.map(|exit| exit.outcome)) {
            (
                Some(started),
                Some(Outcome::Ended {
                    how: Ended::Code(0),
                    ..
                }),
            ) => Ok(Measured {
                exec_ms: (started.started_at_us - began_us) as f64 / 1000.0,
                printed,
                began_us,
            }),
            (_, outcome) => Err(io::Error::other(format!("it did not run: {outcome:?}"))),
        }
    }

    pub(crate) fn wait_started(&self, task: &Running) -> io::Result<StartedRecord> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(started) = read(&task.folder, STARTED_FILE)? {
                return Ok(started);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let said = fs::read_to_string(task.folder.join("helper.log")).unwrap_or_default();
        Err(io::Error::other(format!("a task did not start: {said}")))
    }

    pub(crate) fn kill(&self, task: Running) -> io::Result<()> {
        HelperClient::connect(&task.folder, PATIENCE)?.ask(&Request::Kill)?;
        wait(&task.helper)?;
        remove_scratch(&task.folder)
    }

    /// Gives back what the bench made.
    pub(crate) fn close(self) -> io::Result<()> {
        self.pool.close();
        let tree = self.tree.open().map_err(io::Error::other)?;
        tree.remove(HELPERS_LEAF, PATIENCE)
            .and_then(|()| tree.remove_tree())
            .map_err(io::Error::other)
    }

    fn launch(&self, folder: &Path, number: usize, argv: &[&str]) -> LaunchRecord {
        LaunchRecord {
            proto: PROTO,
            task: format!("bench.0#{number}"),
            tree: self.tree.clone(),
            leaf: format!("task-{number}"),
            helpers_leaf: HELPERS_LEAF.to_owned(),
            limits: Limits {
                cpu_millicores: 100,
                cpu_quota_millicores: None,
                memory_bytes_max: 64 << 20,
                pids_max: 64,
                swap_bytes_max: 0,
                io_weight: 100,
            },
            cores: Vec::new(),
            sandbox: SandboxSpec {
                hostname: "bench-0".to_owned(),
                command: CommandSpec {
                    argv: argv.iter().map(|word| (*word).to_owned()).collect(),
                    env: BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]),
                    user: "nobody".to_owned(),
                    workdir: "/tmp".into(),
                },
                base: self.base.clone(),
                folder: folder.to_owned(),
                binds: base::host_binds(),
                secrets: Vec::new(),
                shm_bytes_max: 16 << 20,
                is_root_writable: false,
                has_own_root: false,
                users: UserMode::Mapped,
                pids_max: None,
            },
            log: LogLimits::default(),
            stop: StopRule::default(),
            hooks: Default::default(),
            sidecars: Vec::new(),
            term: None,
        }
    }
}

fn wait(helper: &HandedOver) -> io::Result<()> {
    let mut polled = [PollFd::new(&helper.process, PollFlags::IN)];
    poll(&mut polled, None)?;
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> io::Result<Option<T>> {
    record::read(folder, name).map_err(io::Error::other)
}

fn printed(folder: &Path) -> io::Result<String> {
    let mut reader = LogReader::open(&folder.join(LOG_FOLDER));
    let mut text = Vec::new();
    while let Some(frame) = reader.next_frame().map_err(io::Error::other)? {
        text.extend(frame.data);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Memory that goes when the process goes.
pub(crate) fn private_kib(pid: i32) -> io::Result<f64> {
    let mut text = String::new();
    fs::File::open(format!("/proc/{pid}/smaps_rollup"))?.read_to_string(&mut text)?;
    let value = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let is_private = name.starts_with("Private_");
        is_private.then(|| rest.trim().trim_end_matches(" kB").parse::<f64>().ok())?
    };
    Ok(text.lines().filter_map(value).sum())
}

pub(crate) fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}
