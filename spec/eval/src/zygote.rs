//! The zygote's loop: a child is asked for and forked; it ends, and its parent is told how.
//!
//! A child is made ahead of its job: it seals itself and waits on its socket for what it is to do, once.

use std::fs::File;
use std::hash::RandomState;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::frame::{self, Kind};
use crate::heap::{self, Place};
use crate::message::{Begun, Denied, Ended, Hello, Job, Limits, PROTOCOL, Request};
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

/// A sealed process that does one job.
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
    /// Where the parent waits to be told.
    status: File,
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    request: bool,
    sealed: bool,
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
    let watch = Watch::new().context("the watch over children")?;
    let mut seal = Some(seal);
    let mut children: Vec<Child> = Vec::new();
    loop {
        let ready = wait(control, &watch, &children)?;
        if ready.sealed {
            hold(&watch, &mut children);
        }
        for index in ready.denied {
            children[index].deny();
        }
        for index in ready.abandoned {
            children[index].kill();
        }
        for index in ready.ended.into_iter().rev() {
            report(children.swap_remove(index));
        }
        kill_overdue(&mut children);
        if !ready.request {
            continue;
        }
        let Some((request, descriptors)) = receive(control)? else {
            return Ok(());
        };
        if let Some(job) = request.begun {
            begin(&mut children, &job);
        }
        if let Some(make) = request.make {
            let (socket, status) = descriptors.context("a request came without its descriptors")?;
            match fork_child(py)? {
                Forked::Parent(pid) => children.push(Child::new(make.child, pid, status)?),
                Forked::Child { zygote } => {
                    let Some(seal) = seal.take() else {
                        host::leave(BROKEN)
                    };
                    run_child(seal, zygote, &watch, socket, make.limits, run_job)
                }
            }
        }
    }
}

/// Starts the time of a child that has its job; one that is gone needs none.
fn begin(children: &mut [Child], begun: &Begun) {
    if let Some(child) = children
        .iter_mut()
        .find(|child| child.number == begun.child)
    {
        child.deadline = Some(Instant::now() + Duration::from_millis(begun.wall_ms));
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
fn wait(control: &OwnedFd, watch: &Watch, children: &[Child]) -> anyhow::Result<Ready> {
    let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
    let mut polled = vec![readable(control.as_fd()), readable(watch.as_fd())];
    let mut signs = Vec::with_capacity(3 * children.len());
    for (index, child) in children.iter().enumerate() {
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
    match poll(&mut polled, until_a_deadline(children)) {
        Err(nix::Error::EINTR) => return Ok(Ready::default()),
        other => other.context("poll")?,
    };
    let happened = |polled: &PollFd<'_>| polled.any().unwrap_or(false);
    let (own, theirs) = polled.split_at(2);
    let mut ready = Ready {
        request: happened(&own[0]),
        sealed: happened(&own[1]),
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

/// Takes the other ends of the filters of children that have just sealed themselves.
fn hold(watch: &Watch, children: &mut [Child]) {
    while let Some((pid, denials)) = watch.take() {
        if let Some(child) = children.iter_mut().find(|child| child.pid == pid) {
            child.denials = Some(denials);
        }
    }
}

/// A child's socket and status pipe.
type Descriptors = Option<(OwnedFd, File)>;

/// Reads one request with the descriptors that came with it; none when the parent is gone.
fn receive(control: &OwnedFd) -> anyhow::Result<Option<(Request, Descriptors)>> {
    let mut bytes = [0; REQUEST_BYTES_MAX];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = match recvmsg::<()>(control.as_raw_fd(), &mut slices, Some(&mut space), flags) {
        // It has gone without having read all that it was told.
        Err(nix::Error::ECONNRESET) => return Ok(None),
        received => received?,
    };
    let length = message.bytes;
    if length == 0 {
        return Ok(None);
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
    Ok(Some((request, socket.zip(status.map(File::from)))))
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

fn run_child(
    seal: Seal,
    zygote: Pid,
    watch: &Watch,
    socket: OwnedFd,
    limits: Limits,
    run_job: &Bound<'_, PyAny>,
) -> ! {
    if let Err(cause) = seal.close(zygote, &watch.child, &socket, &limits) {
        let unsealed = format!("{cause:#}");
        // Either place may be the socket by now; the other is closed or belongs to nobody.
        for place in [SOCKET, socket.as_raw_fd()] {
            if frame::write(place, Kind::Unsealed, unsealed.as_bytes()).is_ok() {
                break;
            }
        }
        host::leave(BROKEN);
    }
    host::connect(SOCKET);
    heap::enter();
    let Some(job) = first_word() else {
        host::leave(UNHEARD)
    };
    let result = run_job
        .call1((&job.role, &job.path, job.references))
        .and_then(|result| Ok(result.cast_into::<PyBytes>()?));
    match result {
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

    fn kill(&mut self) {
        self.killed = self.killed || kill(self.pid, Signal::SIGKILL).is_ok();
    }
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
