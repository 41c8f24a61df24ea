//! The zygote's loop: a request comes, a child is forked; a child ends, its parent is told how.

use std::fs::File;
use std::hash::RandomState;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
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

use crate::message::{Ended, Hello, PROTOCOL, Request};
use crate::seal::{SOCKET, Seal};
use crate::{host, interpreter};

/// (module, file, compiled code, whether it is a package) of every embedded source.
const SOURCES: &[(&str, &str, &[u8], bool)] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// A sealed process that does one job.
struct Child {
    pid: Pid,
    /// Readable once the child has ended.
    ended: OwnedFd,
    deadline: Instant,
    killed: bool,
    /// Where the parent waits to be told.
    status: File,
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
    let mut children: Vec<Child> = Vec::new();
    loop {
        let (has_request, ended) = wait(control, &children)?;
        for index in ended.into_iter().rev() {
            report(children.swap_remove(index));
        }
        kill_overdue(&mut children);
        if !has_request {
            continue;
        }
        let Some((request, socket, status)) = receive(control)? else {
            return Ok(());
        };
        match fork_child(py)? {
            Forked::Parent(pid) => children.push(Child::new(pid, &request, status)?),
            Forked::Child { zygote } => {
                let Some(seal) = seal.take() else {
                    host::exit(None)
                };
                run_child(seal, zygote, socket, &request, run_job)
            }
        }
    }
}

/// Waits for a request, the end of a child, or a deadline. Returns whether a request waits and who ended.
fn wait(control: &OwnedFd, children: &[Child]) -> anyhow::Result<(bool, Vec<usize>)> {
    let mut polled: Vec<PollFd<'_>> = std::iter::once(control.as_fd())
        .chain(children.iter().map(|child| child.ended.as_fd()))
        .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
        .collect();
    let next = children
        .iter()
        .filter(|child| !child.killed)
        .map(|child| child.deadline)
        .min();
    let timeout = match next {
        None => PollTimeout::NONE,
        Some(deadline) => {
            let left =
                deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut polled, timeout) {
        Err(nix::Error::EINTR) => return Ok((false, Vec::new())),
        other => other.context("poll")?,
    };
    let ready: Vec<bool> = polled
        .iter()
        .map(|polled| polled.any().unwrap_or(false))
        .collect();
    let ended = (0..children.len())
        .filter(|index| ready[index + 1])
        .collect();
    Ok((ready[0], ended))
}

/// Reads one request with its two descriptors; none when the parent is gone.
fn receive(control: &OwnedFd) -> anyhow::Result<Option<(Request, OwnedFd, File)>> {
    use std::os::fd::AsRawFd;
    let mut bytes = vec![0; REQUEST_BYTES_MAX];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(control.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
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
    let (Some(status), Some(socket)) = (passed.pop(), passed.pop()) else {
        anyhow::bail!("a request came without its descriptors");
    };
    Ok(Some((request, socket, status.into())))
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
    socket: OwnedFd,
    request: &Request,
    run_job: &Bound<'_, PyAny>,
) -> ! {
    let early = socket.try_clone().ok().map(File::from);
    if let Err(cause) = seal.close(zygote, socket, request) {
        let refused = serde_json::json!({ "unsealed": format!("{cause:#}") }).to_string();
        if let Some(socket) = &early {
            let _ = crate::frame::write(socket, refused.as_bytes());
        }
        host::exit(None);
    }
    std::mem::forget(early);
    host::connect(SOCKET);
    let what = (&request.role, &request.path, request.references);
    let failure = run_job.call1(what).err();
    let text = failure.map(|error| error.to_string()).unwrap_or_default();
    host::exit(Some(
        serde_json::json!({ "broken": text }).to_string().as_bytes(),
    ))
}

impl Child {
    fn new(pid: Pid, request: &Request, status: File) -> anyhow::Result<Child> {
        // SAFETY: a plain system call on a child that has not been waited for.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        if raw < 0 {
            return Err(std::io::Error::last_os_error()).context("pidfd_open");
        }
        // SAFETY: the kernel has just made this descriptor for this process.
        let ended = unsafe { OwnedFd::from_raw_fd(raw as RawFd) };
        let deadline = Instant::now() + Duration::from_millis(request.wall_ms);
        Ok(Child {
            pid,
            ended,
            deadline,
            killed: false,
            status,
        })
    }
}

fn kill_overdue(children: &mut [Child]) {
    let now = Instant::now();
    for child in children
        .iter_mut()
        .filter(|child| !child.killed && child.deadline <= now)
    {
        child.killed = kill(child.pid, Signal::SIGKILL).is_ok();
    }
}

/// Collects an ended child and tells its parent. A parent that no longer listens is no error.
fn report(mut child: Child) {
    let mut ended = Ended {
        deadline: child.killed,
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
    use std::os::fd::AsRawFd;
    send(control.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).context("cannot greet the parent")?;
    Ok(())
}
