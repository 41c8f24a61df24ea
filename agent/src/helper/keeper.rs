//! The helper's life: start the task, keep it ([`running`]), record its end ([`ending`]).

mod ending;
mod running;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::diagnostics::say;
use super::folder::lock;
use super::hook::{self, HookEnd, HookPoint, HookRecord, HookSpec, JoinedHook};
use super::memory::OomRecord;
use super::output::Outputs;
use super::protocol::PROTO;
use super::record::{
    self, EXIT_FILE, ExitRecord, LAUNCH_FILE, LOG_FOLDER, LaunchRecord, Outcome, RecordError,
    STARTED_FILE, StartedRecord,
};
use super::sidecar::{self, Sidecar};
use super::socket::{Peer, listen};
use super::term::Term;
use crate::cgroup::{CgroupError, CgroupTree, MemoryWatch, TreePath, Usage};
use crate::failpoint;
use crate::log::{LogError, LogWriter};
use crate::process::{ProcessIdentity, now_us};
use crate::sandbox::{
    CommandSpec, Ended, Prepared, SandboxSpec, Stage, StartError, Started, UserMode, UserNamespace,
    secrets,
};

/// How long killed processes may take to be gone before their cgroup is left to the agent.
pub(super) const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);

/// Why a helper could not do its work. It has recorded what it could.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{} holds no {LAUNCH_FILE}", folder.display())]
    NoLaunch { folder: PathBuf },
    #[error("the agent speaks protocol {found}, this helper {PROTO}")]
    Proto { found: u32 },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot prepare a start")]
    Spare(#[source] StartError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot {action}")]
    System {
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> HelperError {
    move |error| HelperError::System {
        action,
        source: error.into(),
    }
}

/// Runs the task in `folder` to its end. The calling process must have one thread only.
pub fn keep(folder: &Path) -> Result<(), HelperError> {
    detach()?;
    keep_with(folder, None, None, || {})
}

/// What a spare helper brings along; see [`super::spare`].
pub(super) struct Ready {
    pub(super) prepared: Prepared,
    /// Whose users it was prepared for.
    pub(super) users: UserMode,
    /// Where the cgroups are that its launcher has joined, and their name.
    pub(super) tree_path: TreePath,
    pub(super) tree: Arc<dyn CgroupTree>,
    pub(super) reserved: String,
    /// Takes users whose task has gone, for the next spare.
    pub(super) nursery: Arc<UnixDatagram>,
}

impl Ready {
    /// Gives everything back.
    pub(super) fn abandon(self) -> Result<(), CgroupError> {
        self.prepared.abandon();
        self.tree.remove(&self.reserved, CLEANUP_PATIENCE)
    }
}

/// Takes the folder that is the calling process's working directory, for as long as the lock is held. None where an
/// agent has given this start up before it began.
fn take(folder: &Path) -> Result<Option<(OwnedFd, LaunchRecord)>, HelperError> {
    // Held as long as this process lives: whoever gets it knows that no helper is here.
    let held = lock(folder).map_err(system("lock the task's folder"))?;
    failpoint::reach("helper.locked");
    if record::read::<ExitRecord>(folder, EXIT_FILE)?.is_some() {
        return Ok(None);
    }
    let launch: LaunchRecord =
        record::read(folder, LAUNCH_FILE)?.ok_or_else(|| HelperError::NoLaunch {
            folder: folder.to_owned(),
        })?;
    match launch.proto > PROTO {
        true => Err(HelperError::Proto {
            found: launch.proto,
        }),
        false => Ok(Some((held, launch))),
    }
}

/// As [`keep`], with what has been prepared and the values of the task's secrets; `on_listening` is called once agents can connect.
pub(super) fn keep_with(
    folder: &Path,
    ready: Option<Ready>,
    secrets: Option<OwnedFd>,
    on_listening: impl FnOnce(),
) -> Result<(), HelperError> {
    std::env::set_current_dir(folder).map_err(system("enter the task's folder"))?;
    let folder = std::env::current_dir().map_err(system("find the task's folder"))?;
    let is_spare = ready.is_some();
    failpoint::reach("helper.entered");
    let (_held, launch) = match take(&folder) {
        Ok(Some(taken)) => taken,
        // Nobody else knows what was prepared.
        nothing => {
            if let Some(ready) = ready {
                ready.abandon()?;
            }
            return nothing.map(drop);
        }
    };
    record::reserve(&folder, EXIT_FILE)?;
    let tree = match &ready {
        Some(ready) if ready.tree_path == launch.tree => Arc::clone(&ready.tree),
        _ => launch.tree.open()?.into(),
    };
    let term = launch.term.map(Term::begin).transpose();
    let term = term.map_err(system("watch the end of the task's term"))?;
    let log = LogWriter::create(&folder.join(LOG_FOLDER), launch.log)?;
    let listener = listen().map_err(system("listen on the helper's socket"))?;
    on_listening();
    failpoint::reach("helper.listening");
    let mut keeper = Keeper {
        folder,
        launch,
        secrets,
        tree,
        log,
        listener,
        started_at_us: now_us(),
        main: None,
        users: None,
        nursery: ready.as_ref().map(|ready| Arc::clone(&ready.nursery)),
        joined: None,
        sidecars: Vec::new(),
        peers: VecDeque::new(),
        stop: Stop::default(),
        term,
        memory: None,
        oom: None,
        hooks: Vec::new(),
        used: None,
        is_ready: false,
        is_acknowledged: false,
    };
    match keeper.start(ready) {
        Ok(()) => {
            keeper.record_start()?;
            if !is_spare {
                // Off the way of the start: moving an own process between cgroups takes milliseconds.
                join_helpers(keeper.tree.as_ref(), &keeper.launch.helpers_leaf)?;
            }
            failpoint::reach("helper.joined");
            keeper.run()
        }
        Err(error) => keeper.give_up(error),
    }
}

/// Leaves the agent's session and forgets its signals: nothing typed or sent at the agent ends a task.
pub(super) fn detach() -> Result<(), HelperError> {
    // A helper that leads a session already was started by hand.
    let _leads_already = nix::unistd::setsid();
    let mut ignored = SigSet::empty();
    [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
    ]
    .into_iter()
    .for_each(|signal| ignored.add(signal));
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ignored), None).map_err(system("block signals"))
}

/// Moves the calling process where it is not charged to its task.
pub(super) fn join_helpers(tree: &dyn CgroupTree, leaf: &str) -> Result<(), CgroupError> {
    tree.create(leaf)?;
    tree.join(leaf)
}

/// Turns what was prepared into the task's leaf, with its limits; answers how its first process is born there.
fn enter_leaf(
    launch: &LaunchRecord,
    tree: &dyn CgroupTree,
    ready: Option<Ready>,
) -> Result<(Prepared, Option<OwnedFd>), StartError> {
    let users = launch.sandbox.users;
    let entered = match ready {
        // Cores of its own must be joined before the first process counts them.
        Some(ready) if ready.users == users && launch.cores.is_empty() => {
            tree.assume(&ready.reserved, &launch.leaf).map_err(cgroup)?;
            let directory = tree.directory(&launch.leaf).map_err(cgroup)?;
            (ready.prepared, directory)
        }
        unfit => {
            if let Some(unfit) = unfit {
                unfit.abandon().map_err(cgroup)?;
            }
            tree.create(&launch.leaf).map_err(cgroup)?;
            if !launch.cores.is_empty() {
                tree.give_cores(&launch.leaf, &launch.cores)
                    .map_err(cgroup)?;
            }
            prepare_in(launch, tree)?
        }
    };
    failpoint::reach("helper.leaf_created");
    tree.set_limits(&launch.leaf, &launch.limits)
        .map_err(cgroup)?;
    failpoint::reach("helper.limits_set");
    Ok(entered)
}

/// Prepares one more start in the task's leaf.
fn prepare_in(
    launch: &LaunchRecord,
    tree: &dyn CgroupTree,
) -> Result<(Prepared, Option<OwnedFd>), StartError> {
    let entry = tree.entry(&launch.leaf).map_err(cgroup)?;
    Ok((
        Prepared::new(launch.sandbox.users, entry.procs)?,
        entry.directory,
    ))
}

fn cgroup(error: CgroupError) -> StartError {
    StartError {
        stage: Stage::Cgroup,
        errno: None,
        message: crate::error::chain(&error),
    }
}

fn start_failed(error: io::Error) -> StartError {
    StartError {
        stage: Stage::Clone,
        errno: error.raw_os_error(),
        message: format!("cannot make a pipe: {error}"),
    }
}

/// The task runs all the same: the kernel still ends it at its limit.
fn say_unwatched(error: CgroupError) {
    say(&format!(
        "memory is not watched: {}",
        crate::error::chain(&error)
    ));
}

/// What has been asked for a task's end.
#[derive(Default)]
struct Stop {
    /// What follows the pre-stop hook: not before when, which signal, and its grace.
    after_hook: Option<(Instant, i32, Duration)>,
    signal_at: Option<(Instant, i32)>,
    kill_at: Option<Instant>,
    was_asked: bool,
    was_killed: bool,
}

impl Stop {
    fn kill_no_later_than(&mut self, at: Instant) {
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.signal_at
            .map(|(at, _)| at)
            .into_iter()
            .chain(self.kill_at)
            .min()
    }
}

/// A process of the task's own sandbox, as PID 1 of it, and what it prints.
struct Main {
    task: Started,
    outputs: Outputs,
}

struct Keeper {
    folder: PathBuf,
    launch: LaunchRecord,
    /// The values of the task's secrets, for all that is started of it.
    secrets: Option<OwnedFd>,
    tree: Arc<dyn CgroupTree>,
    log: LogWriter,
    listener: UnixListener,
    started_at_us: i64,
    /// The command, or a hook before or after it.
    main: Option<Main>,
    /// The users of the last one that has ended.
    users: Option<UserNamespace>,
    /// Who takes users for the next task; none where this helper was no spare.
    nursery: Option<Arc<UnixDatagram>>,
    /// A hook beside the command.
    joined: Option<JoinedHook>,
    sidecars: Vec<Sidecar>,
    peers: VecDeque<Peer>,
    stop: Stop,
    /// None where the task may run without end.
    term: Option<Term>,
    /// None where the machine cannot tell; the kernel kills then.
    memory: Option<MemoryWatch>,
    oom: Option<Box<OomRecord>>,
    hooks: Vec<HookRecord>,
    /// What the command used, once its leaf is another's.
    used: Option<Usage>,
    /// Whether the start is complete, its hooks included.
    is_ready: bool,
    /// Whether an agent knows of the end.
    is_acknowledged: bool,
}

impl Keeper {
    /// Everything up to the moment in which the command runs.
    fn start(&mut self, ready: Option<Ready>) -> Result<(), StartError> {
        let (mut prepared, mut directory) = enter_leaf(&self.launch, self.tree.as_ref(), ready)?;
        if let Some(hook) = self.launch.hooks.pre_start.clone() {
            let command = hook::command_of(&self.launch, HookPoint::PreStart, &hook, None);
            let record = self.run_alone(HookPoint::PreStart, &hook, prepared, directory, command);
            let (is_success, words) = (record.is_success(), record.to_string());
            self.hooks.push(record);
            if self.stop.was_asked {
                return Err(refused("it was stopped before it began".to_owned()));
            }
            if !is_success {
                return Err(refused(words));
            }
            (prepared, directory) = prepare_in(&self.launch, self.tree.as_ref())?;
        }
        for spec in &self.launch.sidecars {
            sidecar::prepare(&spec.sandbox.folder).map_err(start_failed)?;
            let secrets = secrets::share(self.secrets.as_ref()).map_err(start_failed)?;
            let started = Sidecar::start(spec, self.tree.as_ref(), &self.launch.leaf, secrets)?;
            self.sidecars.push(started);
        }
        if self.term.as_ref().is_some_and(Term::forbids_start) {
            return Err(refused("its term was over before it began".to_owned()));
        }
        let sandbox = self.launch.sandbox.clone();
        self.main = Some(self.spawn(prepared, &sandbox, directory)?);
        failpoint::reach("helper.command_runs");
        let memory = self.tree.watch_memory(&self.launch.leaf);
        self.memory = memory.map_err(say_unwatched).ok();
        Ok(())
    }

    /// Records that the command never ran, and why.
    fn give_up(mut self, error: StartError) -> Result<(), HelperError> {
        self.tree.kill(&self.launch.leaf)?;
        self.sidecars.iter_mut().for_each(Sidecar::end);
        let record = self.exit_record(Outcome::NeverStarted(error), now_us());
        self.conclude(&record, |_| {})
    }

    /// Runs a hook in a sandbox of its own, to its end or that of its time.
    fn run_alone(
        &mut self,
        point: HookPoint,
        hook: &HookSpec,
        prepared: Prepared,
        directory: Option<OwnedFd>,
        command: CommandSpec,
    ) -> HookRecord {
        let began = Instant::now();
        let sandbox = SandboxSpec {
            command,
            ..self.launch.sandbox.clone()
        };
        let end = match self.spawn(prepared, &sandbox, directory) {
            Ok(main) => {
                self.main = Some(main);
                match self.attend(Some(began + hook.timeout())) {
                    Ok(Some(ended)) => HookEnd::Ended(ended),
                    Ok(None) => HookEnd::TimedOut,
                    Err(error) => HookEnd::NotStarted(crate::error::chain(&error)),
                }
            }
            Err(error) => HookEnd::NotStarted(error.message),
        };
        HookRecord {
            point,
            end,
            took_ms: began.elapsed().as_millis() as u64,
        }
    }

    /// Starts a process in the task's leaf as PID 1 of a sandbox.
    fn spawn(
        &self,
        prepared: Prepared,
        sandbox: &SandboxSpec,
        directory: Option<OwnedFd>,
    ) -> Result<Main, StartError> {
        let (outputs, [stdout, stderr]) = Outputs::new().map_err(start_failed)?;
        let secrets = secrets::share(self.secrets.as_ref()).map_err(start_failed)?;
        let task = prepared.start(sandbox, directory, secrets, stdout, stderr)?;
        // An init that is not noted ends with this helper all the same.
        let admitted = self.tree.admit(&self.launch.leaf, task.pid);
        admitted.map_err(cgroup)?;
        Ok(Main { task, outputs })
    }

    /// Says who runs.
    fn record_start(&mut self) -> Result<(), HelperError> {
        let Some(main) = &self.main else {
            return Ok(());
        };
        let identity = |pid| ProcessIdentity::of_pid(pid).map_err(system("identify a process"));
        self.started_at_us = now_us();
        let started = StartedRecord {
            proto: PROTO,
            helper: ProcessIdentity::of_self().map_err(system("identify the helper"))?,
            task: identity(main.task.pid)?,
            cgroup_id: self.tree.id(&self.launch.leaf)?,
            started_at_us: self.started_at_us,
        };
        record::write(&self.folder, STARTED_FILE, &started)?;
        failpoint::reach("helper.start_recorded");
        Ok(())
    }

    /// From the moment the command runs to the record of its end.
    fn run(mut self) -> Result<(), HelperError> {
        match self.launch.hooks.post_start.clone() {
            Some(hook) => self.join(HookPoint::PostStart, &hook),
            None => self.become_ready(),
        }
        let how = self.attend(None)?;
        self.finish(how.unwrap_or(Ended::Signal(libc::SIGKILL as u8)))
    }
}

fn refused(message: String) -> StartError {
    StartError {
        stage: Stage::Hook,
        errno: None,
        message,
    }
}
