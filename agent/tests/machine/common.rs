//! A task folder and a cgroup subtree of its own for each test, and what is needed to look inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tw_agent::cgroup::{CGROUP_ROOT, CgroupTree, Limits, TreePath};
use tw_agent::helper::client::HelperClient;
use tw_agent::helper::protocol::{PROTO, Reply, Request};
use tw_agent::helper::record::{
    self, EXIT_FILE, ExitRecord, LOG_FOLDER, LaunchRecord, Outcome, STARTED_FILE, StartedRecord,
    StopRule,
};
use tw_agent::log::{LogLimits, LogReader, Stream};
use tw_agent::sandbox::{Bind, CommandSpec, DEFAULT_PATH, SandboxSpec, UserMode, base};

/// How long anything may take, also under emulation on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A subtree of the machine's cgroups that is gone when the test is.
pub(crate) struct Subtree {
    pub(crate) path: TreePath,
}

impl Subtree {
    pub(crate) fn new() -> Subtree {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(remove_what_killed_tests_left);
        let name = format!(
            "{SUBTREES}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Subtree {
            path: TreePath::new(CGROUP_ROOT, name),
        }
    }

    pub(crate) fn open(&self) -> Box<dyn CgroupTree> {
        self.path.open().expect("this machine has cgroups")
    }
}

/// How the names of test subtrees begin; the number of the test's process follows.
const SUBTREES: &str = "twill-test-";

/// A test process that is killed cannot clean up: the next one removes the empty groups of those that died an hour ago
/// or earlier.
fn remove_what_killed_tests_left() {
    const AN_HOUR: Duration = Duration::from_secs(3600);
    let hierarchies = std::fs::read_dir(CGROUP_ROOT)
        .into_iter()
        .flatten()
        .flatten();
    for hierarchy in hierarchies
        .map(|entry| entry.path())
        .chain([CGROUP_ROOT.into()])
    {
        for entry in std::fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_prefix(SUBTREES)
                .and_then(|rest| rest.split('-').next());
            let is_old = || {
                let made = entry.metadata().and_then(|found| found.modified());
                made.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > AN_HOUR))
            };
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) && is_old() {
                remove_if_empty(&entry.path());
            }
        }
    }
}

/// The kernel refuses to remove a group that has a process.
fn remove_if_empty(group: &Path) {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    inner.for_each(|entry| remove_if_empty(&entry.path()));
    let _has_processes = std::fs::remove_dir(group);
}

impl Drop for Subtree {
    fn drop(&mut self) {
        let tree = self.open();
        let remove_leaves = || {
            for leaf in tree.leaves().unwrap_or_default() {
                tree.kill(&leaf).expect("the leaf can be killed");
                tree.remove(&leaf, PATIENCE)
                    .expect("the leaf can be removed");
            }
        };
        remove_leaves();
        // Spare helpers of an agent that was killed give back what they have reserved in their own time. One that was only
        // about to reserve it when it was killed with its leaf leaves that behind.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = tree.remove_tree() {
            assert!(Instant::now() < deadline, "the subtree stays: {error:?}");
            std::thread::sleep(Duration::from_millis(10));
            remove_leaves();
        }
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        cpu_millicores: 500,
        cpu_quota_millicores: None,
        memory_bytes_max: 64 << 20,
        pids_max: 64,
        swap_bytes_max: 0,
        io_weight: 100,
    }
}

/// A task that can be started.
pub(crate) struct Task {
    pub(crate) subtree: Subtree,
    _state: TempDir,
    pub(crate) folder: PathBuf,
    pub(crate) launch: LaunchRecord,
    helper: Option<Child>,
}

impl Task {
    pub(crate) fn new(argv: &[&str]) -> Task {
        Task::within(&std::env::temp_dir(), argv)
    }

    /// A task whose folder is below `place`.
    pub(crate) fn within(place: &Path, argv: &[&str]) -> Task {
        let state = tempfile::tempdir_in(place).expect("a temporary folder");
        let subtree = Subtree::new();
        let folder = state.path().join("tasks/web");
        let env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
        let launch = LaunchRecord {
            proto: PROTO,
            task: "web.0#1".to_owned(),
            tree: subtree.path.clone(),
            leaf: "task".to_owned(),
            helpers_leaf: "helpers".to_owned(),
            limits: limits(),
            cores: Vec::new(),
            sandbox: SandboxSpec {
                hostname: "web-0".to_owned(),
                command: CommandSpec {
                    argv: argv.iter().map(|word| (*word).to_owned()).collect(),
                    env,
                    user: "nobody".to_owned(),
                    workdir: "/tmp".into(),
                },
                base: base::prepare(&state.path().join("base")).expect("a base"),
                folder: folder.clone(),
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
        };
        Task {
            subtree,
            _state: state,
            folder,
            launch,
            helper: None,
        }
    }

    pub(crate) fn shell(script: &str) -> Task {
        Task::new(&["sh", "-c", script])
    }

    pub(crate) fn bind(mut self, source: &Path, target: &str) -> Task {
        let bind = Bind {
            source: source.to_owned(),
            target: target.into(),
            is_writable: false,
            is_optional: false,
            is_of_host: false,
        };
        self.launch.sandbox.binds.push(bind);
        self
    }

    pub(crate) fn bind_writable(mut self, source: &Path, target: &str) -> Task {
        self = self.bind(source, target);
        if let Some(bind) = self.launch.sandbox.binds.last_mut() {
            bind.is_writable = true;
        }
        self
    }

    pub(crate) fn user(mut self, user: &str) -> Task {
        self.launch.sandbox.command.user = user.to_owned();
        self
    }

    /// Starts the helper and does not wait.
    pub(crate) fn spawn(&mut self) -> &mut Task {
        tw_agent::helper::prepare_folder(&self.folder, &self.launch)
            .expect("the folder can be made");
        let helper = Command::new(env!("CARGO_BIN_EXE_tw-helper"))
            .arg("keep")
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the helper starts");
        self.helper = Some(helper);
        self
    }

    /// Starts the helper and waits until the command runs.
    pub(crate) fn start(&mut self) -> StartedRecord {
        self.spawn();
        self.wait_for(|task| record::read(&task.folder, STARTED_FILE).expect("a record"))
    }

    /// Runs the task to its end.
    pub(crate) fn run(&mut self) -> ExitRecord {
        self.spawn();
        self.exit()
    }

    pub(crate) fn exit(&mut self) -> ExitRecord {
        self.wait_for(|task| task.folder.join(EXIT_FILE).exists().then_some(()));
        let status = self
            .helper
            .take()
            .expect("a helper")
            .wait()
            .expect("it can be waited for");
        assert!(status.success(), "the helper ended with {status}");
        // Read last: a hook after the end adds to it.
        let exit = record::read(&self.folder, EXIT_FILE).expect("a record");
        exit.expect("a record that stays")
    }

    pub(crate) fn helper_pid(&self) -> i32 {
        self.helper.as_ref().expect("a helper").id().cast_signed()
    }

    pub(crate) fn connect(&self) -> HelperClient {
        self.wait_for(|task| HelperClient::connect(&task.folder, PATIENCE).ok())
    }

    pub(crate) fn ask(&self, request: &Request) -> Reply {
        self.connect().ask(request).expect("an answer")
    }

    /// Asks again and again until there is an answer.
    pub(crate) fn wait_for<T>(&self, mut look: impl FnMut(&Task) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} in vain; printed so far: {}",
                self.stdout()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn stdout(&self) -> String {
        self.output(Stream::Stdout)
    }

    pub(crate) fn output(&self, stream: Stream) -> String {
        let mut reader = LogReader::open(&self.folder.join(LOG_FOLDER));
        let mut text = Vec::new();
        while let Some(frame) = reader.next_frame().expect("a sound log") {
            if frame.stream == stream {
                text.extend(frame.data);
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(crate) fn wait_for_stdout(&self, text: &str) {
        self.wait_for(|task| task.stdout().contains(text).then_some(()));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            helper.kill().expect("the helper can be killed");
            helper.wait().expect("the helper can be waited for");
        }
    }
}

/// How a task that ran came to its end.
pub(crate) fn ended(exit: &ExitRecord) -> tw_agent::sandbox::Ended {
    match &exit.outcome {
        Outcome::Ended { how, .. } => *how,
        other => panic!("the task did not run to its end: {other:?}"),
    }
}
