//! The `tw-eval` process and its control socket.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::{EvalConfig, EvaluatorError};

/// What both sides must agree on; `tw-eval` states its own.
const PROTOCOL: u32 = 3;
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

/// A request as the control socket carries it, together with two descriptors.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    /// What the child does.
    pub(super) role: &'a str,
    pub(super) path: &'a str,
    pub(super) cpu_ms: u64,
    pub(super) wall_ms: u64,
    pub(super) memory_bytes: u64,
    pub(super) references: bool,
}

/// A running zygote.
#[derive(Debug)]
pub(super) struct Zygote {
    /// Closed on drop, which is what ends the process.
    control: Option<OwnedFd>,
    process: Mutex<Child>,
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
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Ok(Launched {
            program: program.to_owned(),
            zygote: Zygote {
                control: Some(control),
                process: Mutex::new(process),
                python: String::new(),
                library: PathBuf::new(),
            },
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

    /// Asks for a child; it gets `socket`, and how it ended is written to `status`.
    pub(super) fn request(
        &self,
        request: &Request<'_>,
        socket: &OwnedFd,
        status: &OwnedFd,
    ) -> std::io::Result<()> {
        let control = self
            .control
            .as_ref()
            .ok_or(std::io::ErrorKind::NotConnected)?;
        let bytes = serde_json::to_vec(request)?;
        let descriptors = [socket.as_raw_fd(), status.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(
            control.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    pub(super) fn process_id(&self) -> u32 {
        self.process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .id()
    }
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
