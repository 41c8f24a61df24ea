//! The `tw-eval` process, its control socket, and the children that it has made ahead of their jobs.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::frame::Frames;
use super::{EvalConfig, EvaluatorError};

/// What both sides must agree on; `tw-eval` states its own.
const PROTOCOL: u32 = 5;
/// Children that are made ahead of their jobs. One is enough: when it gets its job, the next one is made beside it.
const SPARES: usize = 1;
/// From which evaluation on children are kept: to make one takes several times as long as one for a single job.
const KEPT_FROM: u64 = 3;
/// How long to wait for a child that is being put back, which takes less than a millisecond.
const PUT_BACK: Duration = Duration::from_millis(100);
/// What the zygote says of a kept child that is ready for a job.
const RESTED: &[u8] = b"{\"rested\":true}\n";
/// How long the interpreter may take to come up.
const START: Duration = Duration::from_secs(30);
/// How long the process may take to end once its control socket is closed.
const END: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Hello {
    protocol: u32,
    version: String,
    python: String,
    landlock: bool,
    library: PathBuf,
}

/// What the control socket carries: a child was given its job, and the next one is to be made.
#[derive(Serialize)]
struct Request {
    begun: Option<Begun>,
    make: Option<Make>,
}

/// A child's time counts from now.
#[derive(Serialize)]
struct Begun {
    child: u64,
    wall_ms: u64,
}

/// A child that is to wait for its job; its socket and status pipe come along.
#[derive(Serialize)]
struct Make {
    child: u64,
    limits: Limits,
    is_kept: bool,
}

/// What a child may use.
#[derive(Clone, Copy, Debug, Serialize)]
struct Limits {
    cpu_ms: u64,
    memory_bytes: u64,
}

/// What a child does.
#[derive(Serialize)]
pub(super) struct Job<'a> {
    pub(super) role: &'a str,
    pub(super) path: &'a str,
    pub(super) references: bool,
}

/// A child that was made ahead, or is being made.
#[derive(Debug)]
struct Spare {
    number: u64,
    socket: UnixStream,
    /// How it ended is written here. Kept open, for the zygote ends a child in which nobody takes an interest.
    status: OwnedFd,
}

/// A child that does one job after the other, between two of them.
#[derive(Debug)]
struct Kept {
    child: Running,
    /// Whether it has had a job: then it rests soon. To make one takes longer.
    is_proven: bool,
}

/// A child that does its job.
#[derive(Debug)]
pub(super) struct Running {
    number: u64,
    pub(super) frames: Frames<UnixStream>,
    /// As for a spare one.
    pub(super) status: OwnedFd,
}

/// A running zygote.
#[derive(Debug)]
pub(super) struct Zygote {
    /// Closed on drop, which is what ends the process.
    control: Option<OwnedFd>,
    process: Mutex<Child>,
    limits: Limits,
    /// The oldest first: it is ready soonest.
    spares: Mutex<VecDeque<Spare>>,
    /// Those that have rested longest first.
    kept: Mutex<VecDeque<Kept>>,
    /// How many children may be kept, and how many there are.
    kept_max: usize,
    kept_count: AtomicUsize,
    /// How many files have been run in children that may be kept.
    asked: AtomicU64,
    /// The number of the next child.
    next: AtomicU64,
    pub(super) python: String,
    /// The file that the interpreter was loaded from.
    pub(super) library: PathBuf,
}

/// A zygote that is coming up.
#[derive(Debug)]
pub(super) struct Launched {
    program: PathBuf,
    zygote: Zygote,
}

impl Zygote {
    /// Starts the process with an empty environment.
    pub(super) fn launch(program: &Path, config: &EvalConfig) -> Result<Launched, EvaluatorError> {
        let failed = |cause| EvaluatorError::Start {
            program: program.to_owned(),
            cause,
        };
        let (control, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|cause| failed(cause.into()))?;
        let process = Command::new(program)
            .args(["--hash-seed", &config.hash_seed.to_string()])
            .args(["--heap-shift", &config.heap_shift.to_string()])
            .env_clear()
            // Otherwise each child would look up the functions it calls, and write down where they are.
            .env("LD_BIND_NOW", "1")
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let zygote = Zygote {
            control: Some(control),
            process: Mutex::new(process),
            limits: Limits {
                cpu_ms: config.cpu.as_millis().max(1) as u64,
                memory_bytes: config.memory_bytes,
            },
            spares: Mutex::default(),
            kept: Mutex::default(),
            kept_max: config.in_flight + 1,
            kept_count: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            next: AtomicU64::new(0),
            python: String::new(),
            library: PathBuf::new(),
        };
        // The first child is made as soon as the process is up. What is wrong with it is said by its first word.
        if let Ok(spare) = zygote.make(None, false) {
            lock(&zygote.spares).push_back(spare);
        }
        Ok(Launched {
            program: program.to_owned(),
            zygote,
        })
    }

    fn hello(&self) -> Option<Hello> {
        let control = self.control.as_ref()?;
        let mut polled = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        poll(
            &mut polled,
            PollTimeout::try_from(START).unwrap_or(PollTimeout::MAX),
        )
        .ok()?;
        let mut bytes = [0; 1024];
        let length = recv(control.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).ok()?;
        serde_json::from_slice(&bytes[..length]).ok()
    }

    /// Gives a child its job. Its time counts from [`Zygote::begun`]. An error means that the zygote is gone.
    pub(super) fn begin(&self, job: &Job<'_>) -> io::Result<Running> {
        let job = serde_json::to_string(job)?;
        loop {
            let (spare, is_new) = match self.spare() {
                Some(spare) => (spare, false),
                None => (self.make(None, false)?, true),
            };
            let mut frames = Frames::new(spare.socket);
            match frames.write(&[job.as_bytes()]) {
                Ok(()) => {
                    return Ok(Running {
                        number: spare.number,
                        frames,
                        status: spare.status,
                    });
                }
                // It ended just now.
                Err(_) if !is_new => {}
                Err(cause) => return Err(cause),
            }
        }
    }

    /// Gives a job to a child that is kept, if there is one that waits for it, and starts its time. Otherwise there may be one
    /// next time.
    pub(super) fn begin_in_kept(&self, job: &Job<'_>, time: Duration) -> Option<Running> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let Some(mut child) = self.rested() else {
            if asked >= KEPT_FROM {
                self.make_kept();
            }
            return None;
        };
        let request = Request {
            begun: Some(Begun {
                child: child.number,
                wall_ms: time.as_millis() as u64,
            }),
            make: None,
        };
        let job = serde_json::to_string(job).ok()?;
        let given = self
            .request(&request, &[])
            .and_then(|()| child.frames.write(&[job.as_bytes()]));
        match given {
            Ok(()) => Some(child),
            Err(_) => {
                self.let_go(child);
                None
            }
        }
    }

    /// Keeps a child that has done its job for the next one.
    pub(super) fn keep(&self, child: Running) {
        lock(&self.kept).push_back(Kept {
            child,
            is_proven: true,
        });
    }

    /// Lets go of a child that was kept, which ends it.
    pub(super) fn let_go(&self, child: Running) {
        drop(child);
        self.kept_count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Has another child made that is kept, unless there are enough.
    fn make_kept(&self) {
        let room = |count| (count < self.kept_max).then_some(count + 1);
        let counted = self
            .kept_count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        if counted.is_err() {
            return;
        }
        match self.make(None, true) {
            Ok(spare) => lock(&self.kept).push_back(Kept {
                child: Running {
                    number: spare.number,
                    frames: Frames::new(spare.socket),
                    status: spare.status,
                },
                is_proven: false,
            }),
            Err(_) => drop(self.kept_count.fetch_sub(1, Ordering::Relaxed)),
        }
    }

    /// A kept child that is as it was made, and waits.
    fn rested(&self) -> Option<Running> {
        let unready = lock(&self.kept).len();
        for _ in 0..unready {
            let kept = lock(&self.kept).pop_front()?;
            let time = match kept.is_proven {
                true => PUT_BACK,
                false => Duration::ZERO,
            };
            match kept.child.rests(time) {
                Some(true) => return Some(kept.child),
                Some(false) => lock(&self.kept).push_back(kept),
                None => self.let_go(kept.child),
            }
        }
        None
    }

    /// Starts the time of a child, and has the next one made beside it.
    pub(super) fn begun(&self, child: &Running, time: Duration) -> io::Result<()> {
        let begun = Begun {
            child: child.number,
            wall_ms: time.as_millis() as u64,
        };
        let mut spares = lock(&self.spares);
        if spares.len() < SPARES {
            spares.push_back(self.make(Some(begun), false)?);
            return Ok(());
        }
        let request = Request {
            begun: Some(begun),
            make: None,
        };
        self.request(&request, &[])
    }

    /// The oldest child that was made ahead and has not ended since.
    fn spare(&self) -> Option<Spare> {
        let mut spares = lock(&self.spares);
        while let Some(spare) = spares.pop_front() {
            if spare.is_waiting() {
                return Some(spare);
            }
        }
        None
    }

    /// Asks for a child. Whoever has it may speak to it at once.
    fn make(&self, begun: Option<Begun>, is_kept: bool) -> io::Result<Spare> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (socket, theirs) = UnixStream::pair()?;
        let (status, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let make = Make {
            child: number,
            limits: self.limits,
            is_kept,
        };
        let request = Request {
            begun,
            make: Some(make),
        };
        self.request(&request, &[theirs.as_raw_fd(), report.as_raw_fd()])?;
        Ok(Spare {
            number,
            socket,
            status,
        })
    }

    fn request(&self, request: &Request, descriptors: &[RawFd]) -> io::Result<()> {
        let control = self.control.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let bytes = serde_json::to_vec(request)?;
        let rights = [ControlMessage::ScmRights(descriptors)];
        sendmsg::<()>(
            control.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            if descriptors.is_empty() { &[] } else { &rights },
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    pub(super) fn process_id(&self) -> u32 {
        lock(&self.process).id()
    }
}

impl Spare {
    /// Whether nothing has been said of its end.
    fn is_waiting(&self) -> bool {
        let mut polled = [PollFd::new(self.status.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO) == Ok(0)
    }
}

impl Running {
    /// Whether a kept child rests, or does so within `time`; none if it is of no use any more.
    fn rests(&self, time: Duration) -> Option<bool> {
        let mut polled = [PollFd::new(self.status.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        if poll(&mut polled, time).ok()? == 0 {
            return Some(false);
        }
        // A line comes in one piece. What it has said after its last word would be taken for an answer to the next job.
        let mut line = [0; 256];
        let length = nix::unistd::read(&self.status, &mut line).ok()?;
        (&line[..length] == RESTED && self.frames.is_silent()).then_some(true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Launched {
    /// Waits until the process is ready.
    pub(super) fn ready(self) -> Result<Zygote, EvaluatorError> {
        let Launched {
            program,
            mut zygote,
        } = self;
        let hello = zygote.hello().ok_or_else(|| EvaluatorError::NotReady {
            program: program.clone(),
        })?;
        if hello.protocol != PROTOCOL || hello.version != env!("CARGO_PKG_VERSION") {
            return Err(EvaluatorError::Version {
                program: program.clone(),
                found: format!("{} (protocol {})", hello.version, hello.protocol),
                expected: format!("{} (protocol {PROTOCOL})", env!("CARGO_PKG_VERSION")),
            });
        }
        tracing::debug!(
            python = hello.python,
            landlock = hello.landlock,
            "the evaluator is ready"
        );
        zygote.python = hello.python;
        zygote.library = hello.library;
        Ok(zygote)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        drop(self.control.take());
        let process = self
            .process
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if self.python.is_empty() {
            // It never was ready, and nobody waits for it.
            let _ = process.kill();
        }
        for _ in 0..END.as_millis() {
            if !matches!(process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = process.kill();
        let _ = process.wait();
    }
}
