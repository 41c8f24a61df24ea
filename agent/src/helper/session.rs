//! `tw-helper exec`: a second command in a running task, spoken to in the frames of a session.
//!
//! Descriptor 0 is a socket. It gives one Open frame with an [`ExecRequest`], then Stdin, StdinEnd,
//! Resize and Signal; it takes Stdout, Stderr, Credit, and last Exit or Error. The agent joins it to the controller's
//! connection without looking into it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};
use tw_api::{ErrorBody, FrameKind};
use tw_model::{Code, Exit};

use super::record::{self, LAUNCH_FILE, LaunchRecord, STARTED_FILE, StartedRecord};
use crate::cgroup::{CgroupEntry, CgroupError, Limits};
use crate::sandbox::{
    self, CommandSpec, Connection, DEFAULT_PATH, Entered, Stage, StartError, Stdio, Tools,
};

/// How much input may be on its way to the command. From a client that counts no more comes; else no more is read, and what
/// follows waits behind it.
const INPUT_BYTES_MAX: u64 = 1 << 20;

/// How much of it is worth another grant.
const GRANT_BYTES_MIN: u64 = INPUT_BYTES_MAX / 4;

/// How long input that comes after the command's end is taken.
const LINGER: Duration = Duration::from_secs(5);

/// The exit codes of shells for a command that is not there, and for one that cannot be run.
const EXIT_NOT_FOUND: u8 = 127;
const EXIT_NOT_EXECUTABLE: u8 = 126;

/// The largest frame.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    pub argv: Vec<String>,
    /// Rows and columns; none for no terminal.
    pub terminal: Option<(u16, u16)>,
    /// Where the machine's programs are wanted, as a debugger.
    #[serde(default)]
    pub debug: Option<DebugRequest>,
    /// No more input comes than is granted.
    #[serde(default)]
    pub credit: bool,
}

/// What a debugger needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugRequest {
    /// The skeleton of the machine's own root.
    pub base: PathBuf,
    /// A cgroup leaf for the debugger, so that what it uses is not the task's; whoever asks removes it.
    pub leaf: String,
}

/// What a debugger may use: enough for the symbols of a large program.
const DEBUG_LIMITS: Limits = Limits {
    cpu_millicores: 1000,
    cpu_quota_millicores: None,
    memory_bytes_max: 1 << 30,
    pids_max: 256,
    swap_bytes_max: 0,
    io_weight: 100,
};

/// Serves one session on `socket` for the task in `folder`. The calling process must have one thread only.
pub fn serve(folder: &Path, socket: UnixStream) -> io::Result<()> {
    let mut session = Session {
        socket,
        pending: Vec::new(),
    };
    let served = session.open().and_then(|request| {
        if request.credit {
            session.grant(INPUT_BYTES_MAX)?;
        }
        start(folder, &request)
    });
    match served {
        Ok(mut running) => match session.relay(&mut running) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => hang_up(&running),
            Err(error) => hang_up(&running).and(Err(error)),
            Ok(()) => Ok(()),
        },
        Err(error) => session.send(FrameKind::Error, &serde_json::to_vec(&refusal(&error))?),
    }
}

/// Why nothing runs, in words, and as a shell would say it where that is the command's fault.
fn refusal(error: &io::Error) -> ErrorBody {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<StartError>());
    let (code, exit_code) = match cause.map(|cause| (cause.stage, cause.errno)) {
        Some((Stage::Command, Some(libc::ENOENT))) => {
            (Code::TaskCommandNotFound, Some(EXIT_NOT_FOUND))
        }
        Some((Stage::Command, Some(_))) => (Code::TaskStartFailed, Some(EXIT_NOT_EXECUTABLE)),
        _ => (Code::TaskStartFailed, None),
    };
    let body = ErrorBody::new(code, error.to_string());
    match exit_code {
        Some(exit_code) => body.with_exit_code(exit_code),
        None => body,
    }
}

/// A command and our ends of its descriptors.
struct Running {
    entered: Entered,
    stdin: Option<OwnedFd>,
    /// What was typed and the command has not taken yet.
    input: VecDeque<u8>,
    /// How many bytes it has taken, or will never take.
    taken: u64,
    /// Up to where the client was told that it may send; none if it does not ask.
    granted: Option<u64>,
    /// Whether nothing follows the input.
    input_ends: bool,
    outputs: Vec<(FrameKind, OwnedFd)>,
}

impl Running {
    /// `stdin` must be nobody else's to wait on: a command that does not read holds up neither its output nor its end.
    fn new(
        entered: Entered,
        stdin: OwnedFd,
        outputs: Vec<(FrameKind, OwnedFd)>,
        granted: Option<u64>,
    ) -> io::Result<Running> {
        rustix::fs::fcntl_setfl(&stdin, rustix::fs::OFlags::NONBLOCK)?;
        Ok(Running {
            entered,
            stdin: Some(stdin),
            input: VecDeque::new(),
            taken: 0,
            granted,
            input_ends: false,
            outputs,
        })
    }

    /// Gives the command as much of its input as it takes now.
    fn feed(&mut self) {
        while let Some(stdin) = &self.stdin
            && !self.input.is_empty()
        {
            let (next, _) = self.input.as_slices();
            let gone = match rustix::io::write(stdin, next) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => 0,
                Err(rustix::io::Errno::AGAIN) => return,
                // The command reads no more.
                Err(_) => self.input.len(),
            };
            self.input.drain(..gone);
            self.taken += gone as u64;
        }
        if self.input_ends {
            self.stdin = None;
        }
    }

    /// Up to where the client may send now, where that is worth saying.
    fn next_grant(&mut self) -> Option<u64> {
        let granted = self.granted.as_mut()?;
        let next = self.taken + INPUT_BYTES_MAX;
        (next - *granted >= GRANT_BYTES_MIN).then(|| {
            *granted = next;
            next
        })
    }

    /// Sends a signal to the command and what it has started. The command is a child that is not waited for yet, so that
    /// the number is nobody else's.
    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.entered.pid) {
            // All of them may have ended.
            let _none_left = kill_process_group(group, signal);
        }
    }
}

fn start(folder: &Path, request: &ExecRequest) -> io::Result<Running> {
    let launch: LaunchRecord = record::read(folder, LAUNCH_FILE)
        .map_err(io::Error::other)?
        .ok_or_else(|| io::Error::other("the task has no record of its launch"))?;
    let started: StartedRecord = record::read(folder, STARTED_FILE)
        .map_err(io::Error::other)?
        .ok_or_else(|| io::Error::other("the task has not started"))?;
    let task = started
        .task
        .open()?
        .ok_or_else(|| io::Error::other("the task has ended"))?;
    let helper = started.helper.open()?;
    let entry = leaf_for(&launch, request).map_err(io::Error::other)?;
    let command = command_for(&launch.sandbox.command, request);
    let tools = request
        .debug
        .as_ref()
        .map(|debug| Tools { base: &debug.base });
    let granted = request.credit.then_some(INPUT_BYTES_MAX);
    let enter = |connection| {
        let helper = helper.as_ref();
        let sandbox = &launch.sandbox;
        sandbox::enter(&task, helper, entry, sandbox, &command, connection, tools)
            .map_err(io::Error::other)
    };
    match request.terminal {
        Some((rows, columns)) => {
            let mut entered = enter(Connection::Terminal { rows, columns })?;
            let terminal = entered
                .terminal
                .take()
                .ok_or_else(|| io::Error::other("no terminal came"))?;
            let output = terminal.try_clone()?;
            Running::new(
                entered,
                terminal,
                vec![(FrameKind::Stdout, output)],
                granted,
            )
        }
        None => {
            let pipe = || pipe_with(PipeFlags::CLOEXEC);
            let ((stdin, stdin_in), (stdout, stdout_in), (stderr, stderr_in)) =
                (pipe()?, pipe()?, pipe()?);
            let entered = enter(Connection::Pipes(Stdio {
                stdin,
                stdout: stdout_in,
                stderr: stderr_in,
            }))?;
            let outputs = vec![(FrameKind::Stdout, stdout), (FrameKind::Stderr, stderr)];
            Running::new(entered, stdin_in, outputs, granted)
        }
    }
}

/// The task's own leaf, or a new one for a debugger.
fn leaf_for(launch: &LaunchRecord, request: &ExecRequest) -> Result<CgroupEntry, CgroupError> {
    let tree = launch.tree.open()?;
    let Some(debug) = &request.debug else {
        return tree.entry(&launch.leaf);
    };
    tree.create(&debug.leaf)?;
    tree.set_limits(&debug.leaf, &DEBUG_LIMITS)?;
    tree.entry(&debug.leaf)
}

/// What is run, with the environment of the task's own command.
fn command_for(task: &CommandSpec, request: &ExecRequest) -> CommandSpec {
    let mut env = task.env.clone();
    env.entry("TERM".to_owned())
        .or_insert("xterm-256color".to_owned());
    let mut workdir = task.workdir.clone();
    if request.debug.is_some() {
        env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
        workdir = "/".into();
    }
    CommandSpec {
        argv: request.argv.clone(),
        env,
        workdir,
        ..task.clone()
    }
}

/// Frames on a socket.
struct Session {
    socket: UnixStream,
    pending: Vec<u8>,
}

/// A frame that has arrived.
type SessionFrame = (u8, Vec<u8>);

impl Session {
    fn open(&mut self) -> io::Result<ExecRequest> {
        loop {
            if let Some((kind, bytes)) = self.next_frame()? {
                return match kind == FrameKind::Open as u8 {
                    true => Ok(serde_json::from_slice(&bytes)?),
                    false => Err(io::Error::other("a session begins with an Open frame")),
                };
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Carries bytes both ways until the command has ended and its output is out, or the caller has gone.
    fn relay(&mut self, running: &mut Running) -> io::Result<()> {
        // What came together with the Open frame.
        while let Some(frame) = self.next_frame()? {
            take_input(running, &frame);
        }
        let mut has_ended = false;
        while !has_ended {
            running.feed();
            if let Some(grant) = running.next_grant() {
                self.grant(grant)?;
            }
            // Of a client that counts all is read, so that nothing waits behind its input.
            let takes_more = match running.input.len() as u64 <= INPUT_BYTES_MAX {
                true => PollFlags::IN,
                false => PollFlags::empty(),
            };
            let mut polled = vec![
                PollFd::new(&running.entered.pidfd, PollFlags::IN),
                PollFd::new(&self.socket, takes_more),
            ];
            polled.extend(
                running
                    .outputs
                    .iter()
                    .map(|(_, fd)| PollFd::new(fd, PollFlags::IN)),
            );
            if let Some(stdin) = running.stdin.as_ref().filter(|_| !running.input.is_empty()) {
                polled.push(PollFd::new(stdin, PollFlags::OUT));
            }
            poll(&mut polled, None)?;
            let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            has_ended = ready[0];
            if ready[1] {
                let is_open = self.fill().unwrap_or(false);
                while let Some(frame) = self.next_frame()? {
                    take_input(running, &frame);
                }
                if !is_open {
                    return hang_up(running);
                }
            }
            let outputs = running.outputs.len();
            self.forward(running, &ready[2..2 + outputs])?;
        }
        self.forward_rest(running)?;
        let exit = exit_of(running)?;
        self.send(FrameKind::Exit, &serde_json::to_vec(&exit)?)?;
        self.finish()
    }

    /// Waits for the agent to hang up once it has read all, for a few seconds at most: a socket that is closed with input in it
    /// takes what the agent has not read with it.
    fn finish(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        self.socket.set_read_timeout(Some(LINGER))?;
        let mut rest = [0; 32 * 1024];
        while !matches!(self.socket.read(&mut rest), Ok(0) | Err(_)) {}
        Ok(())
    }

    fn forward(&mut self, running: &mut Running, ready: &[bool]) -> io::Result<()> {
        let mut index = 0;
        let mut chunk = [0; 32 * 1024];
        let mut closed = Vec::new();
        for (kind, fd) in running.outputs.iter().filter(|_| {
            index += 1;
            ready[index - 1]
        }) {
            match rustix::io::read(fd, &mut chunk) {
                Ok(0) | Err(rustix::io::Errno::IO) => closed.push(fd.as_raw_fd()),
                Ok(count) => self.send(*kind, &chunk[..count])?,
                Err(_) => {}
            }
        }
        running
            .outputs
            .retain(|(_, fd)| !closed.contains(&fd.as_raw_fd()));
        Ok(())
    }

    /// Empties the pipes without waiting for those who may still hold them.
    fn forward_rest(&mut self, running: &mut Running) -> io::Result<()> {
        let mut chunk = [0; 32 * 1024];
        for (kind, fd) in &running.outputs {
            rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::NONBLOCK)?;
            while let Ok(count @ 1..) = rustix::io::read(fd, &mut chunk) {
                self.send(*kind, &chunk[..count])?;
            }
        }
        Ok(())
    }

    /// Reads what is there; false at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        let count = self.socket.read(&mut chunk)?;
        self.pending.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    fn next_frame(&mut self) -> io::Result<Option<SessionFrame>> {
        let Some(header) = self.pending.first_chunk::<5>() else {
            return Ok(None);
        };
        let kind = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::other(format!(
                "a frame of {length} bytes; {FRAME_BYTES_MAX} is the most"
            )));
        }
        if self.pending.len() < 5 + length {
            return Ok(None);
        }
        let bytes = self.pending.drain(..5 + length).skip(5).collect();
        Ok(Some((kind, bytes)))
    }

    /// Tells the client up to where it may send, in bytes since the session began.
    fn grant(&mut self, bytes: u64) -> io::Result<()> {
        self.send(FrameKind::Credit, &bytes.to_be_bytes())
    }

    fn send(&mut self, kind: FrameKind, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut frame = vec![kind as u8];
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(bytes);
        self.socket.write_all(&frame)
    }
}

fn take_input(running: &mut Running, (kind, bytes): &SessionFrame) {
    if *kind == FrameKind::Stdin as u8 && running.stdin.is_some() {
        running.input.extend(bytes);
    } else if *kind == FrameKind::StdinEnd as u8 {
        running.input_ends = true;
    } else if *kind == FrameKind::Signal as u8
        && let &[number] = bytes.as_slice()
        && let Some(signal) = Signal::from_named_raw(number.into())
    {
        running.signal(signal);
    } else if *kind == FrameKind::Resize as u8
        && let Some(stdin) = &running.stdin
        && let &[a, b, c, d] = bytes.as_slice()
    {
        let (rows, columns) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A command without a terminal has no size.
        let _no_terminal = rustix::termios::tcsetwinsize(stdin, size);
    }
}

/// The caller has gone: so goes the command, with what it has started.
fn hang_up(running: &Running) -> io::Result<()> {
    running.signal(Signal::KILL);
    // One that is in a group of another's making.
    Ok(pidfd_send_signal(&running.entered.pidfd, Signal::KILL)?)
}

fn exit_of(running: &Running) -> io::Result<Exit> {
    let status = waitid(
        WaitId::PidFd(running.entered.pidfd.as_fd()),
        // Its number stays its own for as long as it may be sent a signal.
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )?;
    Ok(Exit {
        code: status.as_ref().and_then(|status| status.exit_status()),
        signal: status
            .as_ref()
            .and_then(|status| status.terminating_signal()),
        oom: false,
    })
}
