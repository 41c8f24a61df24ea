//! The helper's life: start the task, keep it, record its end.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal as KillSignal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::hook::{self, HookEnd, HookPoint, HookRecord, HookSpec, JoinedHook};
use super::memory::OomRecord;
use super::output::Outputs;
use super::protocol::{PROTO, Reply, Request, Status};
use super::record::{
    self, EXIT_FILE, ExitRecord, LAUNCH_FILE, LOG_FOLDER, LaunchRecord, Outcome, RecordError,
    SIDECARS_FOLDER, STARTED_FILE, StartedRecord, TermEnd,
};
use super::sidecar::{self, Sidecar};
use super::socket::{Peer, listen};
use super::term::{Due, Term};
use crate::cgroup::{CgroupError, CgroupTree, MemoryWatch, TreePath, Usage};
use crate::failpoint;
use crate::log::{LogError, LogWriter};
use crate::process::{ProcessIdentity, now_us};
use crate::removal::remove_tree;
use crate::sandbox::{
    CommandSpec, Ended, Prepared, SandboxSpec, Stage, StartError, Started, UPPER, UserMode, secrets,
};

/// How long killed processes may take to be gone before their cgroup is left to the agent.
pub(super) const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);

/// The longest time that a task without memory has to end: what it holds is missing elsewhere.
const OOM_GRACE_MAX: Duration = Duration::from_secs(10);

/// How long sidecars have to end once the command has.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

/// How long a record that could not be written waits for the next attempt.
const WRITE_AGAIN_AFTER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};

/// Most connections at once; the oldest gives way.
const PEERS_MAX: usize = 8;

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

/// Makes a task's folder and, last, its `launch.json`.
pub fn prepare_folder(folder: &Path, launch: &LaunchRecord) -> Result<(), RecordError> {
    make_layers(folder).map_err(|source| RecordError::File {
        action: "create",
        path: folder.to_owned(),
        source,
    })?;
    record::write(folder, LAUNCH_FILE, launch)
}

/// Makes the folders that a sandbox needs.
pub(super) fn make_layers(folder: &Path) -> io::Result<()> {
    let make = |path: &Path, mode: u32| DirBuilder::new().recursive(true).mode(mode).create(path);
    make(folder, 0o700)?;
    let layers = [
        (UPPER, 0o755),
        ("work", 0o700),
        ("root", 0o700),
        ("run", 0o755),
    ];
    layers
        .into_iter()
        .try_for_each(|(name, mode)| make(&folder.join(name), mode))
}

/// Takes the lock that a helper holds on its folder; an error of kind `WouldBlock` means that one lives.
pub fn lock(folder: &Path) -> io::Result<OwnedFd> {
    let directory = OwnedFd::from(fs::File::open(folder)?);
    rustix::fs::flock(
        &directory,
        rustix::fs::FlockOperation::NonBlockingLockExclusive,
    )?;
    Ok(directory)
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

/// Standard error is the task's `helper.log`.
fn say(words: &str) {
    let text = format!("tw-helper: {words}\n");
    // Nobody is left to say it to if that fails.
    let _written = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

/// Tells whoever has connected already how the start went.
fn tell_waiting(listener: &UnixListener, task: &str, record: &ExitRecord) {
    while let Ok((stream, _)) = listener.accept() {
        if let Ok(mut peer) = Peer::greet(stream, task) {
            // One that has hung up reads the record from the folder.
            let _told = peer.say(&Reply::Ended {
                record: Box::new(record.clone()),
            });
        }
    }
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

/// What a wait came to.
struct Woken {
    has_ended: bool,
    memory_is_short: bool,
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

    /// Follows the process that is the main one now until it has ended, or until `deadline`, when it is killed
    /// and the answer is none.
    fn attend(&mut self, deadline: Option<Instant>) -> Result<Option<Ended>, HelperError> {
        loop {
            let woken = self.wait(deadline)?;
            self.drain();
            self.serve();
            self.attend_hook();
            if woken.has_ended {
                return Ok(Some(self.end_of_main()));
            }
            if woken.memory_is_short {
                self.act_on_memory()?;
            }
            self.act_on_deadlines()?;
            if deadline.is_some_and(|at| at <= Instant::now()) {
                self.kill_main();
                return Ok(None);
            }
        }
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

    /// Starts a hook beside the command.
    fn join(&mut self, point: HookPoint, hook: &HookSpec) {
        let Some(main) = &self.main else { return };
        let began = Instant::now();
        let tree = self.tree.as_ref();
        match JoinedHook::start(&self.launch, tree, &main.task.pidfd, point, hook) {
            Ok(joined) => self.joined = Some(joined),
            Err(error) => self.after_hook(HookRecord {
                point,
                end: HookEnd::NotStarted(error.message),
                took_ms: began.elapsed().as_millis() as u64,
            }),
        }
    }

    /// Takes the output of the hook beside the command, and notices its end.
    fn attend_hook(&mut self) {
        let Some(joined) = &mut self.joined else {
            return;
        };
        joined.outputs.drain(&mut self.log);
        joined.outputs.flush_due(&mut self.log);
        if let Some(record) = joined.poll_end() {
            joined.outputs.finish(&mut self.log);
            self.joined = None;
            self.after_hook(record);
        }
    }

    /// What follows from the end of a hook beside the command.
    fn after_hook(&mut self, record: HookRecord) {
        let (point, is_success) = (record.point, record.is_success());
        self.hooks.push(record);
        match point {
            HookPoint::PreStop => self.signal_after_hook(),
            HookPoint::PostStart if is_success => self.become_ready(),
            // A task that could not be completed does not serve.
            HookPoint::PostStart => {
                let rule = self.launch.stop;
                let now = Instant::now();
                self.stop.signal_at = Some((now, rule.signal));
                self.stop.kill_at = Some(now + Duration::from_millis(rule.grace_ms));
            }
            HookPoint::PreStart | HookPoint::PostStop => {}
        }
    }

    fn become_ready(&mut self) {
        self.is_ready = true;
        self.tell_newer(&Reply::Ready);
    }

    /// Says something that agents of protocol 1 do not understand to those that do.
    fn tell_newer(&mut self, reply: &Reply) {
        self.peers
            .retain_mut(|peer| peer.proto < 2 || peer.say(reply).is_ok());
    }

    /// Waits for output, requests, the end, a lack of memory, or the next deadline.
    fn wait(&self, deadline: Option<Instant>) -> Result<Woken, HelperError> {
        let wakeup = self.next_wakeup().into_iter().chain(deadline).min();
        let timeout = wakeup.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let main = self.main.iter();
        let joined = self.joined.iter();
        let descriptors = main
            .flat_map(|main| [&main.task.pidfd].into_iter().chain(main.outputs.pipes()))
            .chain(joined.flat_map(|hook| [&hook.pidfd].into_iter().chain(hook.outputs.pipes())))
            .chain(self.sidecars.iter().flat_map(Sidecar::descriptors));
        let mut polled: Vec<PollFd<'_>> = descriptors
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        polled.push(PollFd::new(&self.listener, PollFlags::IN));
        polled.extend(
            self.peers
                .iter()
                .map(|peer| PollFd::new(&peer.stream, PollFlags::IN)),
        );
        let term = self.term.as_ref().map(Term::fd);
        polled.extend(term.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let watch = self.memory.as_ref().map(MemoryWatch::poll);
        if let Some((fd, flags)) = &watch {
            polled.push(PollFd::new(fd, *flags));
        }
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(system("wait")(error)),
        }
        let rings = |(_, flags): &(_, PollFlags)| {
            polled
                .last()
                .is_some_and(|fd| fd.revents().intersects(*flags))
        };
        Ok(Woken {
            has_ended: self.main.is_some() && polled[0].revents().contains(PollFlags::IN),
            memory_is_short: watch.as_ref().is_some_and(rings),
        })
    }

    fn next_wakeup(&self) -> Option<Instant> {
        let main = self.main.as_ref().and_then(|main| main.outputs.due_at());
        let joined = self.joined.as_ref().map(|hook| {
            let due_at = hook.outputs.due_at();
            due_at.map_or(hook.deadline(), |at| at.min(hook.deadline()))
        });
        let sidecars = self.sidecars.iter().filter_map(Sidecar::next_wakeup);
        let own = [main, joined, self.stop.next_deadline()];
        own.into_iter().flatten().chain(sidecars).min()
    }

    fn drain(&mut self) {
        if let Some(main) = &mut self.main {
            main.outputs.drain(&mut self.log);
            main.outputs.flush_due(&mut self.log);
        }
        for sidecar in &mut self.sidecars {
            sidecar.attend(self.tree.as_ref());
        }
    }

    fn serve(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Ok(peer) = Peer::greet(stream, &self.launch.task) {
                self.peers.push_back(peer);
            }
        }
        while self.peers.len() > PEERS_MAX {
            self.peers.pop_front();
        }
        let mut peers = std::mem::take(&mut self.peers);
        peers.retain_mut(|peer| peer.serve(|request| self.answer(request)).is_ok());
        self.peers = peers;
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::Agent { .. } if self.is_ready => Reply::Ready,
            Request::Agent { .. } => Reply::Done,
            Request::Status => Reply::Status(Status {
                started_at_us: self.started_at_us,
                is_stopping: self.stop.was_asked,
                is_starting: !self.is_ready,
                log: self.log.counts(),
            }),
            Request::Stop {
                signal,
                after_ms,
                grace_ms,
            } => self.arrange_stop(*signal, *after_ms, *grace_ms),
            Request::Acknowledge => {
                self.is_acknowledged = true;
                Reply::Done
            }
            Request::Prolong { term } => self.prolong(*term),
            Request::Kill => {
                self.stop.was_asked = true;
                self.stop.kill_at = Some(Instant::now());
                Reply::Done
            }
        }
    }

    fn prolong(&mut self, end: TermEnd) -> Reply {
        let Some(term) = &mut self.term else {
            return Reply::Refused {
                message: "the task has no term".to_owned(),
            };
        };
        match term.prolong(end) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused {
                message: format!("cannot watch the new end: {error}"),
            },
        }
    }

    /// Ends the task in time when nobody has prolonged its term.
    fn act_on_term(&mut self) -> Result<(), HelperError> {
        let Some(term) = &mut self.term else {
            return Ok(());
        };
        match term.due() {
            Due::Nothing => {}
            Due::Signal => {
                say(
                    "the term is nearly over and nobody has prolonged it; the task is asked to end",
                );
                let signal = KillSignal::from_named_raw(self.launch.stop.signal);
                if let (Some(main), Some(signal)) = (&self.main, signal) {
                    // It may end by itself in this moment.
                    let _gone = pidfd_send_signal(&main.task.pidfd, signal);
                }
            }
            Due::Kill => {
                self.tree.kill(&self.launch.leaf)?;
                term.release();
                say("the term is over; the task was killed");
            }
        }
        Ok(())
    }

    fn arrange_stop(&mut self, signal: i32, after_ms: u64, grace_ms: u64) -> Reply {
        if Signal::try_from(signal).is_err() {
            return Reply::Refused {
                message: format!("{signal} is not a signal"),
            };
        }
        let signal_at = Instant::now() + Duration::from_millis(after_ms);
        let grace = Duration::from_millis(grace_ms);
        let is_first = !self.stop.was_asked;
        self.stop.was_asked = true;
        failpoint::reach("helper.stop_taken");
        let hook = self.launch.hooks.pre_stop.clone().filter(|_| self.is_ready);
        if is_first && let Some(hook) = hook {
            self.stop.after_hook = Some((signal_at, signal, grace));
            self.join(HookPoint::PreStop, &hook);
            return Reply::Done;
        }
        if let Some((_, _, earlier)) = &mut self.stop.after_hook {
            *earlier = grace.min(*earlier);
            return Reply::Done;
        }
        if is_first {
            self.stop.signal_at = Some((signal_at, signal));
        }
        self.stop.kill_no_later_than(signal_at + grace);
        Reply::Done
    }

    /// The hook before the signal has ended, well or not.
    fn signal_after_hook(&mut self) {
        if let Some((not_before, signal, grace)) = self.stop.after_hook.take() {
            let signal_at = not_before.max(Instant::now());
            self.stop.signal_at = Some((signal_at, signal));
            self.stop.kill_no_later_than(signal_at + grace);
        }
    }

    /// The task needs more memory than it may have: look who holds it, let the task end in order, with a
    /// little more for that, and do not let it take more again.
    fn act_on_memory(&mut self) -> Result<(), HelperError> {
        let Some(watch) = &mut self.memory else {
            return Ok(());
        };
        if !watch.is_out()? {
            return Ok(());
        }
        let now = Instant::now();
        if self.oom.is_some() {
            self.stop.kill_at = Some(now);
            return Ok(());
        }
        let record = OomRecord::of(self.tree.as_ref(), &self.launch.leaf, now_us());
        let rule = self.launch.stop;
        let grace = Duration::from_millis(rule.grace_ms).min(OOM_GRACE_MAX);
        self.stop.signal_at = Some((now, rule.signal));
        self.stop.kill_no_later_than(now + grace);
        // The signal waits for the task, so that a handler runs before the rest is used up.
        self.act_on_deadlines()?;
        let bytes_max = record.limit_bytes + record.grace_bytes;
        self.tree.raise_memory(&self.launch.leaf, bytes_max)?;
        let reply = Reply::OutOfMemory {
            record: Box::new(record.clone()),
        };
        self.oom = Some(Box::new(record));
        self.tell_newer(&reply);
        Ok(())
    }

    fn act_on_deadlines(&mut self) -> Result<(), HelperError> {
        self.act_on_term()?;
        let now = Instant::now();
        if let Some((_, signal)) = self.stop.signal_at.take_if(|(at, _)| *at <= now)
            && let Some(signal) = KillSignal::from_named_raw(signal)
        {
            // The task may have ended in this moment; its end is seen next.
            if let Some(main) = &self.main {
                let _gone = pidfd_send_signal(&main.task.pidfd, signal);
            }
            failpoint::reach("helper.signal_sent");
        }
        if self.stop.kill_at.take_if(|at| *at <= now).is_some() {
            self.stop.was_killed = true;
            self.tree.kill(&self.launch.leaf)?;
            failpoint::reach("helper.kill_sent");
        }
        Ok(())
    }

    /// The main process has ended: takes the last it has printed, and answers how it ended.
    fn end_of_main(&mut self) -> Ended {
        let Some(mut main) = self.main.take() else {
            return Ended::Signal(libc::SIGKILL as u8);
        };
        let how = how_it_ended(&main.task);
        main.outputs.finish(&mut self.log);
        how
    }

    fn kill_main(&mut self) {
        if let Some(main) = &self.main {
            // With the init goes all that is in its namespace.
            let _gone = pidfd_send_signal(&main.task.pidfd, KillSignal::KILL);
        }
        self.end_of_main();
    }

    /// The command has ended: records that, and ends what was beside it.
    fn finish(mut self, how: Ended) -> Result<(), HelperError> {
        let ended_at_us = now_us();
        failpoint::reach("helper.end_seen");
        if let Some(mut joined) = self.joined.take() {
            let record = joined.kill(HookEnd::CutShort);
            joined.outputs.finish(&mut self.log);
            self.hooks.push(record);
        }
        self.end_sidecars()?;
        let outcome = Outcome::Ended {
            how,
            was_asked: self.stop.was_asked,
            was_killed: self.stop.was_killed,
            term_over: self.term.as_ref().is_some_and(Term::is_over),
        };
        let may_run_hook = !self.term.as_ref().is_some_and(Term::is_over);
        if let Some(hook) = self.launch.hooks.post_stop.clone().filter(|_| may_run_hook) {
            // Whatever happens to the hook, the end of the command is known.
            let record = self.exit_record(outcome.clone(), ended_at_us);
            let _again_after_the_hook = record::write_durably(&self.folder, EXIT_FILE, &record);
            self.run_post_stop(&hook, how);
        }
        // Losing the last lines to a power cut is better than losing the record of the end.
        let _synced = self.log.sync();
        failpoint::reach("helper.log_synced");
        let record = self.exit_record(outcome, ended_at_us);
        self.conclude(&record, failpoint::reach)
    }

    fn run_post_stop(&mut self, hook: &HookSpec, how: Ended) {
        self.memory = None;
        self.stop = Stop {
            was_asked: self.stop.was_asked,
            was_killed: self.stop.was_killed,
            ..Stop::default()
        };
        self.used = self.tree.usage(&self.launch.leaf).ok();
        let prepared = self.renew_leaf().map_err(cgroup);
        let prepared = prepared.and_then(|()| prepare_in(&self.launch, self.tree.as_ref()));
        let command = hook::command_of(&self.launch, HookPoint::PostStop, hook, Some(how));
        let record = match prepared {
            Ok((prepared, directory)) => {
                self.run_alone(HookPoint::PostStop, hook, prepared, directory, command)
            }
            Err(error) => HookRecord {
                point: HookPoint::PostStop,
                end: HookEnd::NotStarted(error.message),
                took_ms: 0,
            },
        };
        self.hooks.push(record);
    }

    /// Makes the leaf anew: the kernel (6.18) also kills what is cloned into a group after it was killed.
    fn renew_leaf(&self) -> Result<(), CgroupError> {
        let leaf = &self.launch.leaf;
        self.tree.remove(leaf, CLEANUP_PATIENCE)?;
        self.tree.create(leaf)?;
        if !self.launch.cores.is_empty() {
            self.tree.give_cores(leaf, &self.launch.cores)?;
        }
        self.tree.set_limits(leaf, &self.launch.limits)
    }

    /// Gives the sidecars a moment to end by themselves, then kills all that is left.
    fn end_sidecars(&mut self) -> Result<(), HelperError> {
        self.sidecars.iter().for_each(Sidecar::ask_to_end);
        let deadline = Instant::now() + SIDECAR_GRACE;
        while self.sidecars.iter().any(Sidecar::is_running) && Instant::now() < deadline {
            self.wait(Some(deadline))?;
            self.drain();
            self.serve();
            self.act_on_term()?;
        }
        self.sidecars.iter_mut().for_each(Sidecar::end);
        self.sidecars.clear();
        Ok(self.tree.kill(&self.launch.leaf)?)
    }

    fn exit_record(&self, outcome: Outcome, ended_at_us: i64) -> ExitRecord {
        let usage = self
            .used
            .or_else(|| self.tree.usage(&self.launch.leaf).ok());
        let usage = usage.unwrap_or_default();
        ExitRecord {
            proto: PROTO,
            outcome,
            ended_at_us,
            is_oom: usage.oom_kills > 0,
            oom: self.oom.clone(),
            hooks: self.hooks.clone(),
            usage,
            log: self.log.counts(),
        }
    }

    /// Makes the record of the end durable, tells it, and removes what is left.
    fn conclude(mut self, record: &ExitRecord, reach: impl Fn(&str)) -> Result<(), HelperError> {
        let written = record::write_durably(&self.folder, EXIT_FILE, record);
        reach("helper.end_recorded");
        self.tell_end(record);
        tell_waiting(&self.listener, &self.launch.task, record);
        reach("helper.end_told");
        self.term.iter().for_each(Term::release);
        self.remove_leaf()?;
        reach("helper.leaf_removed");
        let done = match written {
            Ok(()) => Ok(()),
            Err(cause) => self.hold_record(record, cause),
        };
        // The process ends now, and the kernel takes everything at once.
        std::mem::forget(self);
        done
    }

    /// Removes the leaf. All in it was killed before; what has come in since is killed now.
    fn remove_leaf(&self) -> Result<(), CgroupError> {
        let leaf = &self.launch.leaf;
        match self.tree.remove(leaf, Duration::ZERO) {
            Err(CgroupError::NotEmpty { .. }) => {
                self.tree.kill(leaf)?;
                self.tree.remove(leaf, CLEANUP_PATIENCE)
            }
            done => done,
        }
    }

    /// Tells every agent that has not heard it.
    fn tell_end(&mut self, record: &ExitRecord) {
        for peer in self.peers.iter_mut().filter(|peer| !peer.knows_end) {
            peer.knows_end = true;
            // One that does not listen reads the record from the folder, or asks again.
            let _told = peer.say(&Reply::Ended {
                record: Box::new(record.clone()),
            });
        }
    }

    /// Keeps a record that no disk takes until one does, or an agent knows it.
    fn hold_record(
        &mut self,
        record: &ExitRecord,
        mut cause: RecordError,
    ) -> Result<(), HelperError> {
        say(&format!(
            "the end is held in memory: {}",
            crate::error::chain(&cause)
        ));
        loop {
            let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
            polled.extend(
                self.peers
                    .iter()
                    .map(|peer| PollFd::new(&peer.stream, PollFlags::IN)),
            );
            poll(&mut polled, Some(&WRITE_AGAIN_AFTER)).map_err(system("wait"))?;
            self.serve();
            self.tell_end(record);
            if self.is_acknowledged {
                return Err(cause.into());
            }
            match record::write_durably(&self.folder, EXIT_FILE, record) {
                Ok(()) => return Ok(()),
                Err(again) => cause = again,
            }
        }
    }
}

fn refused(message: String) -> StartError {
    StartError {
        stage: Stage::Hook,
        errno: None,
        message,
    }
}

/// The init's word; without it the init itself was killed.
fn how_it_ended(task: &Started) -> Ended {
    let mut word = [0; 2];
    let told = rustix::io::read(&task.status, &mut word);
    let status = waitid(WaitId::PidFd(task.pidfd.as_fd()), WaitIdOptions::EXITED)
        .ok()
        .flatten();
    match told {
        Ok(2) => Ended::decode(word),
        _ => None,
    }
    .or_else(|| {
        let status = status?;
        let code = status.exit_status().map(|code| Ended::Code(code as u8));
        code.or(status
            .terminating_signal()
            .map(|signal| Ended::Signal(signal as u8)))
    })
    .unwrap_or(Ended::Signal(libc::SIGKILL as u8))
}

/// Removes what a task has left below its folder, but for the records and the log.
pub fn remove_scratch(folder: &Path) -> io::Result<()> {
    let sidecars = fs::read_dir(folder.join(SIDECARS_FOLDER))
        .into_iter()
        .flatten();
    let folders = sidecars.flatten().map(|entry| entry.path());
    for folder in folders.chain([folder.to_owned()]) {
        for name in [UPPER, "work", "root", "run"] {
            remove_tree(&folder.join(name))?;
        }
    }
    Ok(())
}
