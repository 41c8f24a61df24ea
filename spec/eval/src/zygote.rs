//! The zygote's loop: a child is asked for and forked; it ends, and its parent is told how.
//!
//! A child is made ahead of its job: it seals itself and waits on its socket for what it is to do, once, or, if it is kept,
//! again and again ([`crate::kept`]).

use std::fs::File;
use std::hash::RandomState;
use std::io::{ErrorKind, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::frame::{self, Kind};
use crate::heap::{self, Place};
use crate::image::Image;
use crate::kept::{self, Kept};
use crate::message::{Begun, Denied, Ended, Hello, Job, Make, PROTOCOL, Request, Rested};
use crate::seal::{SOCKET, Seal};
use crate::watch::{self, DeniedCall, Watch};
use crate::{host, interpreter};

/// (module, file, compiled code, whether it is a package) of every embedded source.
const SOURCES: &[(&str, &str, &[u8], bool)] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

const REQUEST_BYTES_MAX: usize = 1024;

/// How long a child whose call was denied may take to name its line.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Denied calls that a child is told of, by signals to which it should end; the next one kills it.
const DENIALS_MAX: u32 = 2;
/// The exit code of a child that could not be sealed or whose Python failed.
const BROKEN: i32 = 70;
/// The exit code of a child that never got a job.
const UNHEARD: i32 = 71;

/// A sealed process.
struct Child {
    /// The parent's number for it.
    number: u64,
    pid: Pid,
    /// Readable once the child has ended.
    ended: OwnedFd,
    /// None as long as it has no job.
    deadline: Option<Instant>,
    killed: bool,
    /// How many calls the kernel has denied it.
    denied: u32,
    /// The other end of its filter, from which denied calls are read.
    denials: Option<OwnedFd>,
    /// Of one that does more than one job: the hold on it.
    kept: Option<Kept>,
    /// What it has stopped for, if it has.
    stopped: Option<WaitStatus>,
    /// Where the parent waits to be told.
    status: File,
}

/// All children.
struct Children {
    all: Vec<Child>,
    watch: Watch,
    /// Tells when a child that is kept may have stopped.
    stops: SignalFd,
    /// What kept children have in common.
    image: Option<Rc<Image>>,
    /// Whether the kernel lets this process keep any.
    can_keep: bool,
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    sealed: bool,
    stopped: bool,
    /// Children by what happened to them, in ascending order.
    denied: Vec<usize>,
    abandoned: Vec<usize>,
    ended: Vec<usize>,
}

/// Serves requests until the parent closes the control socket.
pub(crate) fn run(control: OwnedFd, seal: Seal, heap_shift: u32) -> anyhow::Result<()> {
    // SAFETY: replaces a disposition; there is no handler to be unsafe. Ctrl-C in a terminal reaches the
    // whole group, but the zygote ends when its parent does.
    unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }?;
    Python::attach(|py| {
        let _shift = shift_heap(py, heap_shift)?;
        // The first hash map of a thread asks the kernel for random numbers, which a sealed child cannot.
        std::hint::black_box(RandomState::new());
        let run_job = prepare(py)?;
        let hello = Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION"),
            python: &interpreter::version(py),
            landlock: seal.has_landlock(),
            library: &interpreter::library()?,
        };
        send_datagram(&control, &serde_json::to_vec(&hello)?)?;
        serve(py, &control, seal, &run_job)
    })
}

/// Allocates objects that stay, so that all later ones have other addresses.
fn shift_heap(py: Python<'_>, objects: u32) -> PyResult<Bound<'_, PyList>> {
    PyList::new(py, (0..objects).map(|number| format!("shift {number}")))
}

/// Loads everything a spec may need; returns the function that does a job.
fn prepare(py: Python<'_>) -> anyhow::Result<Bound<'_, PyAny>> {
    let sources = PyDict::new(py);
    for (module, file, code, is_package) in SOURCES {
        sources.set_item(module, (file, PyBytes::new(py, code), is_package))?;
    }
    let (_, _, code, _) = SOURCES
        .iter()
        .find(|(module, ..)| *module == "_twill.bootstrap")
        .context("the embedded sources have no bootstrap")?;
    let globals = PyDict::new(py);
    globals.set_item("__name__", "_twill_bootstrap")?;
    globals.set_item("SOURCES", sources)?;
    globals.set_item("keep_far", wrap_pyfunction!(keep_far, py)?)?;
    let code = py
        .import("marshal")?
        .call_method1("loads", (PyBytes::new(py, code),))?;
    py.import("builtins")?
        .call_method1("exec", (code, globals))
        .map_err(|error| {
            anyhow::anyhow!(
                "the library for specs does not load: {}",
                describe(py, &error)
            )
        })?;
    Ok(py.import("_twill.entry")?.getattr("run")?)
}

/// Says whether few specs use what is loaded next.
#[pyfunction]
fn keep_far(is_far: bool) {
    heap::keep(if is_far { Place::Far } else { Place::Near });
}

fn describe(py: Python<'_>, error: &PyErr) -> String {
    let traceback = error
        .traceback(py)
        .and_then(|traceback| traceback.format().ok())
        .unwrap_or_default();
    format!("{error}\n{traceback}")
}

fn serve(
    py: Python<'_>,
    control: &OwnedFd,
    seal: Seal,
    run_job: &Bound<'_, PyAny>,
) -> anyhow::Result<()> {
    let mut seal = Some(seal);
    let mut children = Children::new()?;
    loop {
        let ready = wait(control, &children)?;
        children.note_stops(&ready);
        // All that was asked is heard next: that a child was given a job comes before that it has done it.
        let mut makes = Vec::new();
        let mut begun_ahead = Vec::new();
        loop {
            match receive(control)? {
                Received::Request(request, descriptors) => {
                    // A child that is still to be made may have its job.
                    begun_ahead.extend(request.begun.filter(|job| !children.begin(job)));
                    makes.extend(request.make.map(|make| (make, descriptors)));
                }
                Received::Nothing => break,
                Received::End => return Ok(()),
            }
        }
        children.heed(ready);
        for (make, descriptors) in makes {
            let (socket, status) = descriptors.context("a request came without its descriptors")?;
            if make.is_kept && !children.can_keep {
                // The parent sees the end of what it reads.
                continue;
            }
            match fork_child(py)? {
                Forked::Parent(pid) => {
                    children.add(&make, pid, status, make.is_kept.then_some(socket))?;
                }
                Forked::Child { zygote } => {
                    let Some(seal) = seal.take() else {
                        host::leave(BROKEN)
                    };
                    let watch = (!make.is_kept).then_some(&children.watch);
                    run_child(seal, zygote, watch, socket, &make, run_job)
                }
            }
        }
        for job in &begun_ahead {
            children.begin(job);
        }
    }
}

impl Children {
    fn new() -> anyhow::Result<Children> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Children {
            all: Vec::new(),
            watch: Watch::new().context("the watch over children")?,
            stops: SignalFd::with_flags(&signals, flags).context("the stops of children")?,
            image: None,
            can_keep: true,
        })
    }

    /// Takes a child that was just forked; one that is to be kept comes with its end of the socket.
    fn add(
        &mut self,
        make: &Make,
        pid: Pid,
        status: File,
        kept: Option<OwnedFd>,
    ) -> anyhow::Result<()> {
        let mut child = Child::new(make.child, pid, status)?;
        if let Some(socket) = kept {
            match Kept::seize(pid, socket) {
                Ok(kept) => child.kept = Some(kept),
                Err(_) => {
                    self.can_keep = false;
                    child.kill();
                }
            }
        }
        self.all.push(child);
        Ok(())
    }

    /// Starts the time of a child that has its job. False if there is no such child, not yet or not any more.
    fn begin(&mut self, begun: &Begun) -> bool {
        let child = self
            .all
            .iter_mut()
            .find(|child| child.number == begun.child);
        let Some(child) = child else {
            return false;
        };
        child.deadline = Some(Instant::now() + Duration::from_millis(begun.wall_ms));
        true
    }

    /// Does what there is to do.
    fn heed(&mut self, ready: Ready) {
        if ready.sealed {
            self.hold();
        }
        for index in ready.denied {
            self.all[index].deny();
        }
        for child in &mut self.all {
            if let Err(cause) = child.put_back(&mut self.image) {
                child.kill();
                self.can_keep &= !is_forbidden(&cause);
            }
        }
        for index in ready.abandoned {
            self.all[index].kill();
        }
        for index in ready.ended.into_iter().rev() {
            report(self.all.swap_remove(index));
        }
        kill_overdue(&mut self.all);
    }

    /// Takes the other ends of the filters of children that have just sealed themselves.
    fn hold(&mut self) {
        while let Some((pid, denials)) = self.watch.take() {
            if let Some(child) = self.all.iter_mut().find(|child| child.pid == pid) {
                child.denials = Some(denials);
            }
        }
    }

    /// Notes which kept children have stopped.
    fn note_stops(&mut self, ready: &Ready) {
        if !ready.stopped {
            return;
        }
        while let Ok(Some(_)) = self.stops.read_signal() {}
        for child in &mut self.all {
            child.stopped = child.kept.as_ref().and_then(Kept::has_stopped);
        }
    }
}

/// What a descriptor of a child can tell.
#[derive(Clone, Copy)]
enum Sign {
    Ended,
    /// The reader of its status is gone.
    Abandoned,
    Denied,
}

/// Waits for a request, something of a child, or a deadline.
fn wait(control: &OwnedFd, children: &Children) -> anyhow::Result<Ready> {
    let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
    let own = [
        control.as_fd(),
        children.watch.as_fd(),
        children.stops.as_fd(),
    ];
    let mut polled = Vec::from(own.map(readable));
    let mut signs = Vec::with_capacity(3 * children.all.len());
    for (index, child) in children.all.iter().enumerate() {
        signs.push((Sign::Ended, index));
        polled.push(readable(child.ended.as_fd()));
        if child.killed {
            // The kernel takes a while; what is ready until then would have this loop spin.
            continue;
        }
        signs.push((Sign::Abandoned, index));
        polled.push(PollFd::new(child.status.as_fd(), PollFlags::empty()));
        if let Some(denials) = &child.denials {
            signs.push((Sign::Denied, index));
            polled.push(readable(denials.as_fd()));
        }
    }
    match poll(&mut polled, until_a_deadline(&children.all)) {
        Err(nix::Error::EINTR) => return Ok(Ready::default()),
        other => other.context("poll")?,
    };
    let happened = |polled: &PollFd<'_>| polled.any().unwrap_or(false);
    let (own, theirs) = polled.split_at(own.len());
    let mut ready = Ready {
        sealed: happened(&own[1]),
        stopped: happened(&own[2]),
        ..Ready::default()
    };
    for ((sign, index), polled) in signs.into_iter().zip(theirs) {
        let events = polled.revents().unwrap_or(PollFlags::empty());
        match sign {
            Sign::Ended if !events.is_empty() => ready.ended.push(index),
            Sign::Abandoned if !events.is_empty() => ready.abandoned.push(index),
            Sign::Denied if events.contains(PollFlags::POLLIN) => ready.denied.push(index),
            _ => {}
        }
    }
    Ok(ready)
}

fn until_a_deadline(children: &[Child]) -> PollTimeout {
    let running = children.iter().filter(|child| !child.killed);
    match running.filter_map(|child| child.deadline).min() {
        None => PollTimeout::NONE,
        Some(deadline) => {
            let left =
                deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    }
}

/// A child's socket and status pipe.
type Descriptors = Option<(OwnedFd, File)>;

/// What is read from the control socket.
enum Received {
    /// With the descriptors that came with it.
    Request(Request, Descriptors),
    Nothing,
    /// The parent is gone.
    End,
}

/// Reads one request, if there is any.
fn receive(control: &OwnedFd) -> anyhow::Result<Received> {
    let mut bytes = [0; REQUEST_BYTES_MAX];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<()>(control.as_raw_fd(), &mut slices, Some(&mut space), flags) {
        // It has gone without having read all that it was told.
        Err(nix::Error::ECONNRESET) => return Ok(Received::End),
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(Received::Nothing),
        received => received?,
    };
    let length = message.bytes;
    if length == 0 {
        return Ok(Received::End);
    }
    let mut passed = Vec::new();
    for control_message in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control_message {
            // SAFETY: the kernel has just made these descriptors for this process; nothing else owns them.
            passed.extend(
                descriptors
                    .into_iter()
                    .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }),
            );
        }
    }
    let request = serde_json::from_slice(&bytes[..length]).context("a request")?;
    let (status, socket) = (passed.pop(), passed.pop());
    let descriptors = socket.zip(status.map(File::from));
    Ok(Received::Request(request, descriptors))
}

enum Forked {
    Parent(Pid),
    Child { zygote: Pid },
}

/// Forks, with the interpreter's lock held.
fn fork_child(_py: Python<'_>) -> anyhow::Result<Forked> {
    let zygote = nix::unistd::getpid();
    // SAFETY: this process has one thread, which holds the interpreter's lock, and the interpreter is told
    // before and after the fork on both sides.
    unsafe {
        ffi::PyOS_BeforeFork();
        let forked = fork();
        match forked {
            Ok(ForkResult::Child) => {
                ffi::PyOS_AfterFork_Child();
                Ok(Forked::Child { zygote })
            }
            Ok(ForkResult::Parent { child }) => {
                ffi::PyOS_AfterFork_Parent();
                Ok(Forked::Parent(child))
            }
            Err(cause) => {
                ffi::PyOS_AfterFork_Parent();
                Err(cause).context("cannot fork a child")
            }
        }
    }
}

/// Seals the process and has it do its job, or one after the other if nobody watches it, for then it is traced.
fn run_child(
    seal: Seal,
    zygote: Pid,
    watch: Option<&Watch>,
    socket: OwnedFd,
    make: &Make,
    run_job: &Bound<'_, PyAny>,
) -> ! {
    host::connect(SOCKET);
    heap::enter();
    let sealed = match watch {
        Some(watch) => seal.close(zygote, &watch.child, &socket, &make.limits),
        None => {
            heap::settle();
            seal.close_kept(zygote, &socket, &make.limits)
        }
    };
    if let Err(cause) = sealed {
        let unsealed = format!("{cause:#}");
        // Either place may be the socket by now; the other is closed or belongs to nobody.
        for place in [SOCKET, socket.as_raw_fd()] {
            if frame::write(place, Kind::Unsealed, unsealed.as_bytes()).is_ok() {
                break;
            }
        }
        host::leave(BROKEN);
    }
    let is_kept = watch.is_none();
    if is_kept && !kept::rest() {
        host::leave(UNHEARD)
    }
    // What follows happens again for each job of a child that is kept.
    let Some(job) = first_word() else {
        host::leave(UNHEARD)
    };
    let result = run_job
        .call1((&job.role, &job.path, job.references))
        .and_then(|result| Ok(result.cast_into::<PyBytes>()?));
    match result {
        Ok(jobs) if is_kept => {
            if frame::write(SOCKET, Kind::Jobs, jobs.as_bytes()).is_ok() {
                kept::rest();
            }
            host::leave(UNHEARD)
        }
        Ok(jobs) => host::exit(Kind::Jobs, jobs.as_bytes()),
        Err(error) => host::exit(Kind::Broken, error.to_string().as_bytes()),
    }
}

/// Waits for the child's job; none if the parent went away.
fn first_word() -> Option<Job> {
    let frame = frame::read_first(SOCKET).ok()?;
    serde_json::from_slice(&frame).ok()
}

impl Child {
    fn new(number: u64, pid: Pid, status: File) -> anyhow::Result<Child> {
        // SAFETY: a plain system call on a child that has not been waited for.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        if raw < 0 {
            return Err(std::io::Error::last_os_error()).context("pidfd_open");
        }
        // SAFETY: the kernel has just made this descriptor for this process.
        let ended = unsafe { OwnedFd::from_raw_fd(raw as RawFd) };
        Ok(Child {
            number,
            pid,
            ended,
            deadline: None,
            killed: false,
            denied: 0,
            denials: None,
            kept: None,
            stopped: None,
            status,
        })
    }

    /// Notes a call that the kernel denied, then lets the child go on as far as naming its line.
    fn deny(&mut self) {
        let Some(call) = self.denials.as_ref().and_then(watch::denied_call) else {
            return;
        };
        self.denied += 1;
        if self.note(call).is_err() || self.denied > DENIALS_MAX {
            self.kill();
            return;
        }
        let last = Instant::now() + LAST_WORDS;
        self.deadline = Some(self.deadline.map_or(last, |deadline| deadline.min(last)));
        let _ = kill(self.pid, Signal::SIGSYS);
        if let Some(denials) = &self.denials {
            watch::interrupt(denials, call);
        }
    }

    /// Tells the parent of a denied call, before anything the child may say after it.
    fn note(&mut self, call: DeniedCall) -> std::io::Result<()> {
        let note = Denied {
            denied: call.number,
            argument: call.third,
        };
        let mut line = serde_json::to_vec(&note)?;
        line.push(b'\n');
        self.status.write_all(&line)
    }

    /// Of a kept child that has stopped: readies it for its next job and tells the parent. Of an error it must end.
    fn put_back(&mut self, base: &mut Option<Rc<Image>>) -> anyhow::Result<()> {
        let Some((kept, stopped)) = self.kept.as_mut().zip(self.stopped.take()) else {
            return Ok(());
        };
        let has_job = self.deadline.is_some();
        if kept.has_rested() {
            self.deadline = None;
        }
        kept.put_back(stopped, has_job, base)?;
        let mut line = serde_json::to_vec(&Rested { rested: true })?;
        line.push(b'\n');
        Ok(self.status.write_all(&line)?)
    }

    fn kill(&mut self) {
        self.killed = self.killed || kill(self.pid, Signal::SIGKILL).is_ok();
    }
}

/// Whether this machine does not let the zygote do what it must do to keep children.
fn is_forbidden(cause: &anyhow::Error) -> bool {
    let cause = cause.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| {
        matches!(
            cause.kind(),
            ErrorKind::PermissionDenied | ErrorKind::Unsupported
        )
    })
}

fn kill_overdue(children: &mut [Child]) {
    let now = Instant::now();
    let is_overdue = |child: &&mut Child| child.deadline.is_some_and(|deadline| deadline <= now);
    for child in children.iter_mut().filter(is_overdue) {
        child.kill();
    }
}

/// Collects an ended child and tells its parent. A parent that no longer listens is no error.
fn report(mut child: Child) {
    let mut ended = Ended {
        deadline: child.killed && child.denied == 0,
        ..Ended::default()
    };
    match waitpid(child.pid, None) {
        Ok(WaitStatus::Exited(_, code)) => ended.exit_code = Some(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => ended.signal = Some(signal as i32),
        _ => {}
    }
    let text = serde_json::to_vec(&ended).unwrap_or_default();
    let _ = child.status.write_all(&text);
}

fn send_datagram(control: &OwnedFd, bytes: &[u8]) -> anyhow::Result<()> {
    send(control.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).context("cannot greet the parent")?;
    Ok(())
}
