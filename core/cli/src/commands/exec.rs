//! `tw exec`

use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;

use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tw_api::{
    Client, Connection, ErrorBody, ExecRequest, Frame, FrameKind, InputCredit, InputGrants,
    SessionRequest, input_credit, read_frame, write_frame,
};
use tw_model::Exit;

use crate::context::{Context, TaskSelector};
use crate::failure;

/// Run a command in a running task: its namespaces, its user, its limits
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A task such as web.0; the only task of a job may be named by the job
    task: TaskSelector,
    /// See the machine's programs instead of the task's, and trace its processes: strace, gdb and a shell work although
    /// its image has none. The task's root is at /task
    #[arg(long)]
    debug: bool,
    /// The command [default: sh]
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let task = args.task.resolve_one(&client).await?;
    let argv = match args.command.is_empty() {
        true => vec!["sh".to_owned()],
        false => args.command,
    };
    // First, so that no signal leaves the terminal raw.
    let mut signals = Signals::new()?;
    let terminal = RawTerminal::enter();
    let request = ExecRequest {
        task,
        argv,
        terminal: terminal
            .as_ref()
            .and_then(|_| size(nix::libc::STDIN_FILENO)),
        debug: args.debug,
        credit: true,
    };
    let exit = tokio::select! {
        signal = signals.next() => Ok(ended_by(signal)),
        opened = open(&client, request) => match opened {
            Ok(session) => follow(session, &mut signals, terminal.is_some()).await,
            Err(cause) => Err(cause),
        },
    };
    drop(terminal);
    match exit {
        Ok(exit) => Ok(exit_code(&exit)),
        Err(cause) => match not_run(&cause) {
            Some(code) => {
                failure::report(&cause);
                Ok(code.into())
            }
            None => Err(cause),
        },
    }
}

/// As a shell would say it: 127 for a command that is not there, 126 for one that cannot be run. None where the command is not
/// what is wrong.
fn not_run(cause: &anyhow::Error) -> Option<u8> {
    cause.downcast_ref::<ErrorBody>()?.exit_code()
}

async fn open(client: &Client, request: ExecRequest) -> anyhow::Result<Connection> {
    let mut session = client.session("/v1/session").await?;
    let request = SessionRequest::Exec(request);
    write_frame(&mut session, &Frame::json(FrameKind::Open, &request)).await?;
    Ok(session)
}

/// Passes on what is typed and what the command prints until one of the two ends the session.
async fn follow(
    session: Connection,
    signals: &mut Signals,
    has_terminal: bool,
) -> anyhow::Result<Exit> {
    let (mut from, mut to) = tokio::io::split(session);
    let (grants, mut credit) = input_credit();
    let left = async {
        match send_input(&mut to, &mut credit, signals, has_terminal).await {
            Ok(signal) => signal,
            // What became of the command is told by what comes.
            Err(_connection_broke) => std::future::pending().await,
        }
    };
    tokio::select! {
        exit = receive_output(&mut from, &grants) => exit,
        signal = left => Ok(ended_by(signal)),
    }
}

fn ended_by(signal: SignalKind) -> Exit {
    Exit {
        signal: Some(signal.as_raw_value()),
        ..Exit::default()
    }
}

async fn receive_output(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    grants: &InputGrants,
) -> anyhow::Result<Exit> {
    // Who reads what is printed may stop reading: signals are heard meanwhile.
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(frame) = read_frame(from).await? {
        match frame.kind {
            FrameKind::Stdout if !print(&mut stdout, &frame.bytes).await? => {
                return Ok(ended_by(SignalKind::pipe()));
            }
            FrameKind::Stderr if !print(&mut stderr, &frame.bytes).await? => {
                return Ok(ended_by(SignalKind::pipe()));
            }
            FrameKind::Credit => grants.take(&frame),
            FrameKind::Exit => return Ok(frame.parse()?),
            FrameKind::Error => return Err(frame.parse::<ErrorBody>()?.into()),
            _ => {}
        }
    }
    anyhow::bail!("the connection ended before the command did")
}

/// False where nobody reads it any more.
async fn print(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<bool> {
    let printed = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    match printed.await {
        Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// Sends what is typed until a signal ends the session, and answers which: the second of two without a terminal, as the
/// first is passed on; with one the first, as the keys that make signals are typed to the command.
async fn send_input(
    to: &mut (impl AsyncWrite + Unpin),
    credit: &mut InputCredit,
    signals: &mut Signals,
    has_terminal: bool,
) -> anyhow::Result<SignalKind> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    let (mut has_ended, mut is_asked) = (false, has_terminal);
    loop {
        let typed = async {
            let room = credit.available().await.min(buffer.len());
            // What cannot be read, such as a folder, has nothing to give.
            stdin.read(&mut buffer[..room]).await.unwrap_or(0)
        };
        let frame = tokio::select! {
            length = typed, if !has_ended => match length {
                0 => {
                    has_ended = true;
                    Frame::new(FrameKind::StdinEnd, [])
                }
                length => {
                    credit.spend(length);
                    Frame::new(FrameKind::Stdin, &buffer[..length])
                }
            },
            _ = resized.recv() => match size(nix::libc::STDIN_FILENO) {
                Some((rows, columns)) => Frame::new(FrameKind::Resize, [rows.to_be_bytes(), columns.to_be_bytes()].concat()),
                None => continue,
            },
            signal = signals.next() => match std::mem::replace(&mut is_asked, true) {
                true => return Ok(signal),
                false => signal_frame(signal),
            },
        };
        let mut next = Some(frame);
        while let Some(frame) = next.take() {
            let mut writing = pin!(write_frame(to, &frame));
            // A connection that is stuck holds nobody here.
            loop {
                tokio::select! {
                    written = &mut writing => break written?,
                    signal = signals.next() => match std::mem::replace(&mut is_asked, true) {
                        true => return Ok(signal),
                        false => next = Some(signal_frame(signal)),
                    },
                }
            }
        }
    }
}

fn signal_frame(signal: SignalKind) -> Frame {
    Frame::new(FrameKind::Signal, [signal.as_raw_value() as u8])
}

/// The signals with which people and programs end a command.
struct Signals([(SignalKind, Signal); 3]);

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let listen = |kind| signal(kind).map(|signal| (kind, signal));
        Ok(Signals([
            listen(SignalKind::hangup())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        ]))
    }

    async fn next(&mut self) -> SignalKind {
        let [hangup, interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = hangup.1.recv() => hangup.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
        }
    }
}

/// As a shell would say it: 128 and the signal's number where a signal ended the command.
fn exit_code(exit: &Exit) -> ExitCode {
    let code = exit.code.unwrap_or_else(|| 128 + exit.signal.unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// The columns of the terminal that is written to; none if it is no terminal.
pub(super) fn terminal_width() -> Option<usize> {
    let (_, columns) = size(nix::libc::STDOUT_FILENO)?;
    (columns > 0).then_some(columns.into())
}

/// Rows and columns of the terminal behind a descriptor.
fn size(descriptor: nix::libc::c_int) -> Option<(u16, u16)> {
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the ioctl writes one `winsize`, which lives here until it returns.
    unsafe { window_size(descriptor, &mut size) }.ok()?;
    Some((size.ws_row, size.ws_col))
}

/// The terminal without line editing, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<RawTerminal> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
