//! The helper's life: start the task, keep it, record its end.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal as KillSignal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::memory::OomRecord;
use super::protocol::{PROTO, Reply, Request, Status};
use super::record::{
    self, EXIT_FILE, ExitRecord, LAUNCH_FILE, LOG_FOLDER, LaunchRecord, Outcome, RecordError,
    STARTED_FILE, StartedRecord,
};
use super::socket::{Peer, listen};
use crate::cgroup::{CgroupError, CgroupTree, MemoryWatch, Usage};
use crate::failpoint;
use crate::log::{LogError, LogWriter, Stream, StreamBuffer};
use crate::process::ProcessIdentity;
use crate::sandbox::{Ended, Prepared, Stage, StartError, Started, UserMode};

/// A part of a frame waits at most this long for more.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// How long killed processes may take to be gone before their cgroup is left to the agent.
pub(super) const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);

/// The longest time that a task without memory has to end: what it holds is missing elsewhere.
const OOM_GRACE_MAX: Duration = Duration::from_secs(10);

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
    let make = |path: &Path, mode: u32| {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|source| RecordError::File {
                action: "create",
                path: path.to_owned(),
                source,
            })
    };
    make(folder, 0o700)?;
    for (name, mode) in [
        ("upper", 0o755),
        ("work", 0o700),
        ("root", 0o700),
        ("run", 0o755),
    ] {
        make(&folder.join(name), mode)?;
    }
    record::write(folder, LAUNCH_FILE, launch)
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
    keep_with(folder, None, || {})
}

/// What a spare helper brings along; see [`super::spare`].
pub(super) struct Ready {
    pub(super) prepared: Prepared,
    /// Whose users it was prepared for.
    pub(super) users: UserMode,
    /// The name of the cgroups that its launcher has joined.
    pub(super) reserved: String,
}

impl Ready {
    /// Gives everything back.
    pub(super) fn abandon(self, tree: &dyn CgroupTree) -> Result<(), CgroupError> {
        self.prepared.abandon();
        tree.remove(&self.reserved, CLEANUP_PATIENCE)
    }
}

/// As [`keep`], with what has been prepared; `on_listening` is called once agents can connect.
pub(super) fn keep_with(
    folder: &Path,
    ready: Option<Ready>,
    on_listening: impl FnOnce(),
) -> Result<(), HelperError> {
    std::env::set_current_dir(folder).map_err(system("enter the task's folder"))?;
    let folder = std::env::current_dir().map_err(system("find the task's folder"))?;
    let is_spare = ready.is_some();
    failpoint::reach("helper.entered");
    // Held as long as this process lives: whoever gets it knows that no helper is here.
    let _held = lock(&folder).map_err(system("lock the task's folder"))?;
    failpoint::reach("helper.locked");
    if record::read::<ExitRecord>(&folder, EXIT_FILE)?.is_some() {
        // An agent has given this start up before it began.
        return Ok(());
    }
    let launch: LaunchRecord =
        record::read(&folder, LAUNCH_FILE)?.ok_or_else(|| HelperError::NoLaunch {
            folder: folder.clone(),
        })?;
    if launch.proto > PROTO {
        return Err(HelperError::Proto {
            found: launch.proto,
        });
    }
    record::reserve(&folder, EXIT_FILE)?;
    let tree = launch.tree.open()?;
    let log = LogWriter::create(&folder.join(LOG_FOLDER), launch.log)?;
    let listener = listen().map_err(system("listen on the helper's socket"))?;
    on_listening();
    failpoint::reach("helper.listening");
    match start(&launch, tree.as_ref(), ready) {
        Ok(running) => {
            let keeper = Keeper::new(folder, launch, tree, log, listener, running)?;
            if !is_spare {
                // Off the way of the start: moving an own process between cgroups takes milliseconds.
                join_helpers(keeper.tree.as_ref(), &keeper.launch.helpers_leaf)?;
            }
            failpoint::reach("helper.joined");
            keeper.run()
        }
        Err(error) => {
            let record = ExitRecord {
                proto: PROTO,
                outcome: Outcome::NeverStarted(error),
                ended_at_us: now_us(),
                is_oom: false,
                oom: None,
                usage: Usage::default(),
                log: log.counts(),
            };
            record::write_durably(&folder, EXIT_FILE, &record)?;
            tell_waiting(&listener, &launch.task, &record);
            Ok(tree.remove(&launch.leaf, CLEANUP_PATIENCE)?)
        }
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

/// A started task and the reading ends of its output.
struct Running {
    started: Started,
    stdout: OwnedFd,
    stderr: OwnedFd,
    memory: Option<MemoryWatch>,
}

fn start(
    launch: &LaunchRecord,
    tree: &dyn CgroupTree,
    ready: Option<Ready>,
) -> Result<Running, StartError> {
    let cgroup = |error: CgroupError| StartError {
        stage: Stage::Cgroup,
        errno: None,
        message: crate::error::chain(&error),
    };
    let pipe = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| StartError {
            stage: Stage::Clone,
            errno: Some(error.raw_os_error()),
            message: format!("cannot make a pipe: {error}"),
        })
    };
    let users = launch.sandbox.users;
    let (prepared, directory) = match ready {
        Some(ready) if ready.users == users => {
            tree.assume(&ready.reserved, &launch.leaf).map_err(cgroup)?;
            (
                ready.prepared,
                tree.entry(&launch.leaf).map_err(cgroup)?.directory,
            )
        }
        unfit => {
            if let Some(unfit) = unfit {
                unfit.abandon(tree).map_err(cgroup)?;
            }
            tree.create(&launch.leaf).map_err(cgroup)?;
            let entry = tree.entry(&launch.leaf).map_err(cgroup)?;
            (Prepared::new(users, entry.procs)?, entry.directory)
        }
    };
    failpoint::reach("helper.leaf_created");
    tree.set_limits(&launch.leaf, &launch.limits)
        .map_err(cgroup)?;
    failpoint::reach("helper.limits_set");
    let (stdout, stdout_in) = pipe()?;
    let (stderr, stderr_in) = pipe()?;
    let started = prepared.start(&launch.sandbox, directory, stdout_in, stderr_in)?;
    failpoint::reach("helper.command_runs");
    let memory = tree.watch_memory(&launch.leaf);
    Ok(Running {
        started,
        memory: memory.map_err(say_unwatched).ok(),
        stdout,
        stderr,
    })
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
    signal_at: Option<(Instant, i32)>,
    kill_at: Option<Instant>,
    was_asked: bool,
    was_killed: bool,
}

impl Stop {
    fn next_deadline(&self) -> Option<Instant> {
        self.signal_at
            .map(|(at, _)| at)
            .into_iter()
            .chain(self.kill_at)
            .min()
    }
}

/// One output of the task.
struct Output {
    pipe: Option<OwnedFd>,
    buffer: StreamBuffer,
}

struct Keeper {
    folder: PathBuf,
    launch: LaunchRecord,
    tree: Box<dyn CgroupTree>,
    log: LogWriter,
    listener: UnixListener,
    task: Started,
    started_at_us: i64,
    outputs: [Output; 2],
    peers: VecDeque<Peer>,
    stop: Stop,
    /// None where the machine cannot tell; the kernel kills then.
    memory: Option<MemoryWatch>,
    oom: Option<Box<OomRecord>>,
    /// Whether an agent knows of the end.
    is_acknowledged: bool,
}

/// What a wait came to.
struct Woken {
    has_ended: bool,
    memory_is_short: bool,
}

impl Keeper {
    fn new(
        folder: PathBuf,
        launch: LaunchRecord,
        tree: Box<dyn CgroupTree>,
        log: LogWriter,
        listener: UnixListener,
        running: Running,
    ) -> Result<Keeper, HelperError> {
        let started_at_us = now_us();
        let identity = |pid| ProcessIdentity::of_pid(pid).map_err(system("identify a process"));
        let started = StartedRecord {
            proto: PROTO,
            helper: ProcessIdentity::of_self().map_err(system("identify the helper"))?,
            task: identity(running.started.pid)?,
            cgroup_id: tree.id(&launch.leaf)?,
            started_at_us,
        };
        record::write(&folder, STARTED_FILE, &started)?;
        failpoint::reach("helper.start_recorded");
        let output = |pipe: OwnedFd, stream| -> Result<Output, HelperError> {
            rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)
                .map_err(system("open a pipe"))?;
            Ok(Output {
                pipe: Some(pipe),
                buffer: StreamBuffer::new(stream),
            })
        };
        Ok(Keeper {
            memory: running.memory,
            oom: None,
            is_acknowledged: false,
            outputs: [
                output(running.stdout, Stream::Stdout)?,
                output(running.stderr, Stream::Stderr)?,
            ],
            folder,
            launch,
            tree,
            log,
            listener,
            task: running.started,
            started_at_us,
            peers: VecDeque::new(),
            stop: Stop::default(),
        })
    }

    fn run(mut self) -> Result<(), HelperError> {
        loop {
            let woken = self.wait()?;
            let has_ended = woken.has_ended;
            self.drain();
            self.serve();
            self.flush(false);
            if has_ended {
                return self.finish();
            }
            if woken.memory_is_short {
                self.act_on_memory()?;
            }
            self.act_on_deadlines()?;
        }
    }

    /// Waits for output, requests, the end, a lack of memory, or the next deadline.
    fn wait(&self) -> Result<Woken, HelperError> {
        let timeout = self.next_wakeup().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let mut polled = vec![
            PollFd::new(&self.task.pidfd, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        let pipes = self
            .outputs
            .iter()
            .filter_map(|output| output.pipe.as_ref());
        polled.extend(pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        polled.extend(
            self.peers
                .iter()
                .map(|peer| PollFd::new(&peer.stream, PollFlags::IN)),
        );
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
            has_ended: polled[0].revents().contains(PollFlags::IN),
            memory_is_short: watch.as_ref().is_some_and(rings),
        })
    }

    fn next_wakeup(&self) -> Option<Instant> {
        let oldest = self
            .outputs
            .iter()
            .filter_map(|output| output.buffer.since())
            .min();
        let flush_at = oldest.map(|since| since + FLUSH_AFTER);
        flush_at.into_iter().chain(self.stop.next_deadline()).min()
    }

    /// Reads what the pipes hold, at most a few frames each, so that a busy task cannot starve requests.
    fn drain(&mut self) {
        let mut chunk = [0; 64 * 1024];
        for output in &mut self.outputs {
            for _ in 0..4 {
                let Some(pipe) = &output.pipe else { break };
                match rustix::io::read(pipe, &mut chunk) {
                    Ok(0) => output.pipe = None,
                    Ok(count) => output.buffer.push(&chunk[..count], now_us(), &mut self.log),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_empty) => break,
                }
            }
        }
    }

    /// Writes out buffers that have waited long enough, or all of them.
    fn flush(&mut self, is_last: bool) {
        let is_due = |since: Instant| since.elapsed() >= FLUSH_AFTER;
        for output in &mut self.outputs {
            if is_last || output.buffer.since().is_some_and(is_due) {
                output.buffer.flush(&mut self.log);
            }
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
        peers.retain_mut(|peer| peer.serve(|request| self.answer(&request)).is_ok());
        self.peers = peers;
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::Status => Reply::Status(Status {
                started_at_us: self.started_at_us,
                is_stopping: self.stop.was_asked,
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
            Request::Kill => {
                self.stop.was_asked = true;
                self.stop.kill_at = Some(Instant::now());
                Reply::Done
            }
        }
    }

    fn arrange_stop(&mut self, signal: i32, after_ms: u64, grace_ms: u64) -> Reply {
        if Signal::try_from(signal).is_err() {
            return Reply::Refused {
                message: format!("{signal} is not a signal"),
            };
        }
        let signal_at = Instant::now() + Duration::from_millis(after_ms);
        let kill_at = signal_at + Duration::from_millis(grace_ms);
        if !self.stop.was_asked {
            self.stop.signal_at = Some((signal_at, signal));
        }
        self.stop.was_asked = true;
        failpoint::reach("helper.stop_taken");
        self.stop.kill_at = Some(
            self.stop
                .kill_at
                .map_or(kill_at, |earlier| earlier.min(kill_at)),
        );
        Reply::Done
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
        let kill_at = now + grace;
        self.stop.kill_at = Some(self.stop.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        // The signal waits for the task, so that a handler runs before the rest is used up.
        self.act_on_deadlines()?;
        let bytes_max = record.limit_bytes + record.grace_bytes;
        self.tree.raise_memory(&self.launch.leaf, bytes_max)?;
        let reply = Reply::OutOfMemory {
            record: Box::new(record.clone()),
        };
        self.oom = Some(Box::new(record));
        self.peers.retain_mut(|peer| peer.say(&reply).is_ok());
        Ok(())
    }

    fn act_on_deadlines(&mut self) -> Result<(), HelperError> {
        let now = Instant::now();
        if let Some((_, signal)) = self.stop.signal_at.take_if(|(at, _)| *at <= now)
            && let Some(signal) = KillSignal::from_named_raw(signal)
        {
            // The task may have ended in this moment; its end is seen next.
            let _gone = pidfd_send_signal(&self.task.pidfd, signal);
            failpoint::reach("helper.signal_sent");
        }
        if self.stop.kill_at.take_if(|at| *at <= now).is_some() {
            self.stop.was_killed = true;
            self.tree.kill(&self.launch.leaf)?;
            failpoint::reach("helper.kill_sent");
        }
        Ok(())
    }

    /// Records the end. The pipes are emptied but not waited for: whoever else holds them may never close.
    fn finish(mut self) -> Result<(), HelperError> {
        let how = self.how_it_ended();
        failpoint::reach("helper.end_seen");
        self.drain();
        self.flush(true);
        // Losing the last lines to a power cut is better than losing the record of the end.
        let _synced = self.log.sync();
        failpoint::reach("helper.log_synced");
        let usage = self.tree.usage(&self.launch.leaf).unwrap_or_default();
        let record = ExitRecord {
            proto: PROTO,
            outcome: Outcome::Ended {
                how,
                was_asked: self.stop.was_asked,
                was_killed: self.stop.was_killed,
            },
            ended_at_us: now_us(),
            is_oom: usage.oom_kills > 0,
            oom: self.oom.take(),
            usage,
            log: self.log.counts(),
        };
        let written = record::write_durably(&self.folder, EXIT_FILE, &record);
        failpoint::reach("helper.end_recorded");
        self.tell_end(&record);
        tell_waiting(&self.listener, &self.launch.task, &record);
        failpoint::reach("helper.end_told");
        self.tree.kill(&self.launch.leaf)?;
        self.tree.remove(&self.launch.leaf, CLEANUP_PATIENCE)?;
        failpoint::reach("helper.leaf_removed");
        match written {
            Ok(()) => Ok(()),
            Err(cause) => self.hold_record(&record, cause),
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

    /// The init's word; without it the init itself was killed.
    fn how_it_ended(&self) -> Ended {
        let mut word = [0; 2];
        let told = rustix::io::read(&self.task.status, &mut word);
        let status = waitid(
            WaitId::PidFd(self.task.pidfd.as_fd()),
            WaitIdOptions::EXITED,
        )
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
}

fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}

/// Removes what a task has left below its folder, but for the records and the log.
pub fn remove_scratch(folder: &Path) -> io::Result<()> {
    for name in ["upper", "work", "root", "run"] {
        match fs::remove_dir_all(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
