//! Sessions: logs, and commands in a task, over connections that the agent opens.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tw_api::{
    Connection, Dial, ErrorBody, Frame, FrameKind, LogLine, LogsRequest, SessionRequest, Stream,
    discard, read_frame, write_frame,
};
use tw_model::{Code, Exit, Millis, Timestamp};

use super::Agent;
use super::folder::TaskFolder;
use crate::helper::record::{EXIT_FILE, LOG_FOLDER, SIDECARS_FOLDER};
use crate::helper::{DebugRequest, ExecRequest};
use crate::log::{self, LogReader};

/// How often a log that is followed is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// How long a debugger that was killed may take to be gone.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

/// How far the frames of two streams may be out of order.
const OVERLAP: Millis = Millis::seconds(2);

/// Frames read in one go off the runtime's thread.
const FRAMES_AT_ONCE: usize = 64;

/// Serves one session.
pub(super) async fn serve(agent: Arc<Agent>, dial: Dial) {
    let path = format!("/v1/agents/{}/sessions/{}", agent.config.name, dial.session);
    let mut connection = match agent.client.session(&path).await {
        Ok(connection) => connection,
        Err(cause) => return tracing::warn!(%cause, "cannot open a session"),
    };
    let folder = TaskFolder::of(&agent.config.tasks_folder(), dial.request.task());
    let served = match &dial.request {
        _ if !folder.path().is_dir() => refuse(&mut connection, dial.request.task()).await,
        SessionRequest::Exec(request) => {
            let debug = request.debug.then(|| DebugRequest {
                base: agent.base.clone(),
                leaf: format!("{}.debug.{}", request.task.folder_name(), dial.session),
            });
            let leaf = debug.as_ref().map(|debug| debug.leaf.clone());
            let request = ExecRequest {
                argv: request.argv.clone(),
                terminal: request.terminal,
                debug,
                credit: request.credit,
            };
            let done = exec(&agent.helper, folder.path(), &request, &mut connection).await;
            if let Some(leaf) = leaf {
                remove_leaf(&agent, leaf).await;
            }
            done
        }
        SessionRequest::Logs(request) => logs(folder.path(), request, &mut connection).await,
    };
    if let Err(cause) = served {
        tracing::debug!(%cause, "a session ended early");
    }
}

async fn refuse(connection: &mut Connection, task: &tw_model::TaskId) -> anyhow::Result<()> {
    let body = ErrorBody::new(
        Code::TaskNotFound,
        format!("nothing is left of task {task} on its machine"),
    );
    Ok(write_frame(connection, &Frame::json(FrameKind::Error, &body)).await?)
}

/// Starts `tw-helper exec` for a task and gives it its request; the frames after that are the session's.
async fn start_exec(
    helper: &Path,
    folder: &Path,
    request: &ExecRequest,
) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let child = Command::new(helper)
        .arg("exec")
        .arg(folder)
        .stdin(OwnedFd::from(theirs))
        .kill_on_drop(true)
        .spawn()?;
    ours.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(ours)?;
    write_frame(&mut stream, &Frame::json(FrameKind::Open, request))
        .await
        .map_err(io::Error::other)?;
    Ok((child, stream))
}

async fn exec(
    helper: &Path,
    folder: &Path,
    request: &ExecRequest,
    connection: &mut Connection,
) -> anyhow::Result<()> {
    let (mut child, stream) = start_exec(helper, folder, request).await?;
    let relayed = relay(connection, stream).await;
    child.wait().await?;
    Ok(relayed?)
}

/// Carries bytes both ways until the helper has said its last.
async fn relay(connection: &mut Connection, helper: UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(connection);
    let (mut from_helper, mut to_helper) = helper.into_split();
    let up = async {
        // A command may end before its input does: what comes of it tells how.
        let _gone = tokio::io::copy(&mut from_client, &mut to_helper).await;
        let _gone = to_helper.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async {
        let copied = tokio::io::copy(&mut from_helper, &mut to_client).await;
        to_client.shutdown().await?;
        copied.map(drop)
    };
    let relayed = tokio::select! {
        () = up => Ok(()),
        copied = down => copied,
    };
    drop((from_helper, to_helper));
    discard(&mut from_client).await;
    relayed
}

/// Ends what a debugger has left.
async fn remove_leaf(agent: &Agent, leaf: String) {
    let tree = Arc::clone(&agent.tree);
    let removed = tokio::task::spawn_blocking(move || {
        tree.kill(&leaf)?;
        tree.remove(&leaf, LEAVES_WITHIN)
    });
    if let Ok(Err(cause)) = removed.await {
        tracing::warn!(%cause, "cannot remove the cgroup of a debugger");
    }
}

/// Runs a command in a task to its end; an error says how it ended, with the last it wrote.
pub(super) async fn command(helper: &Path, folder: &Path, argv: &[String]) -> Result<(), String> {
    let request = ExecRequest {
        argv: argv.to_vec(),
        terminal: None,
        debug: None,
        credit: false,
    };
    let (_child, mut stream) = start_exec(helper, folder, &request)
        .await
        .map_err(|cause| cause.to_string())?;
    write_frame(&mut stream, &Frame::new(FrameKind::StdinEnd, []))
        .await
        .map_err(|cause| cause.to_string())?;
    let mut said = String::new();
    while let Some(frame) = read_frame(&mut stream)
        .await
        .map_err(|cause| cause.to_string())?
    {
        match frame.kind {
            FrameKind::Stdout | FrameKind::Stderr => {
                said = String::from_utf8_lossy(&frame.bytes)
                    .trim()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .to_owned();
            }
            FrameKind::Error => {
                return Err(frame
                    .parse::<ErrorBody>()
                    .map_or_else(|cause| cause.to_string(), |body| body.message));
            }
            FrameKind::Exit => {
                let exit: Exit = frame.parse().map_err(|cause| cause.to_string())?;
                return match exit.success() {
                    true => Ok(()),
                    false => Err(format!("`{}` ended with {exit}: {said}", argv.join(" "))),
                };
            }
            _ => {}
        }
    }
    Err("the command ended without a word".to_owned())
}

async fn logs(
    folder: &Path,
    request: &LogsRequest,
    connection: &mut Connection,
) -> anyhow::Result<()> {
    let log_folder = match &request.sidecar {
        None => folder.join(LOG_FOLDER),
        Some(name) => match name.parse::<tw_model::Name>() {
            Ok(name) => folder
                .join(SIDECARS_FOLDER)
                .join(name.as_str())
                .join(LOG_FOLDER),
            Err(cause) => anyhow::bail!(cause),
        },
    };
    let (lines, since) = (request.tail, request.since);
    let started = tokio::task::spawn_blocking(move || match lines {
        Some(lines) => log::tail(
            &log_folder,
            usize::try_from(lines).unwrap_or(usize::MAX),
            None,
        ),
        None => from_its_beginning(&log_folder, since).map(|reader| (Vec::new(), reader)),
    });
    let (first, mut reader) = started.await??;
    let mut splitter = Splitter {
        since: request.since,
        until: request.until,
        ..Splitter::default()
    };
    splitter.send(first, connection).await?;
    loop {
        // Looked at before the log is: what was written before the end is read after it.
        let has_ended = ended(folder);
        let (frames, back) = tokio::task::spawn_blocking(move || read_some(reader)).await??;
        reader = back;
        let none_left = frames.is_empty();
        splitter.send(frames, connection).await?;
        let is_past = request
            .until
            .is_some_and(|until| splitter.newest > until.plus(OVERLAP));
        if is_past || none_left && (has_ended || !request.follow) {
            splitter.send_rest(connection).await?;
            return Ok(write_frame(connection, &Frame::new(FrameKind::End, [])).await?);
        }
        if none_left {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

fn from_its_beginning(folder: &Path, since: Option<Timestamp>) -> Result<LogReader, log::LogError> {
    let Some(Timestamp(since_us)) = since else {
        return Ok(LogReader::open(folder));
    };
    let mut reader = LogReader::open_since(folder, since_us)?;
    reader.skip_until(since_us)?;
    Ok(reader)
}

fn ended(folder: &Path) -> bool {
    let exit: PathBuf = folder.join(EXIT_FILE);
    exit.exists() || !folder.exists()
}

fn read_some(mut reader: LogReader) -> Result<(Vec<log::Frame>, LogReader), log::LogError> {
    let mut frames = Vec::new();
    while frames.len() < FRAMES_AT_ONCE {
        match reader.next_frame()? {
            Some(frame) => frames.push(frame),
            None => break,
        }
    }
    Ok((frames, reader))
}

/// Cuts what the frames of a log hold into lines; a line may be spread over frames.
#[derive(Default)]
struct Splitter {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// When the newest frame was begun.
    newest: Timestamp,
    /// The beginnings of lines that have no end yet, of standard output and of standard error.
    open: [Option<(Timestamp, Vec<u8>)>; 2],
}

impl Splitter {
    async fn send(
        &mut self,
        frames: Vec<log::Frame>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> anyhow::Result<()> {
        for frame in frames {
            for line in self.lines(&frame) {
                write_frame(to, &Frame::json(FrameKind::Log, &line)).await?;
            }
        }
        Ok(())
    }

    async fn send_rest(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> anyhow::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some((at, text)) = self.open[stream as usize].take() {
                write_frame(
                    to,
                    &Frame::json(FrameKind::Log, &line_of(at, stream, &text)),
                )
                .await?;
            }
        }
        Ok(())
    }

    fn lines(&mut self, frame: &log::Frame) -> Vec<LogLine> {
        let stream = match frame.stream {
            log::Stream::Stdout => Stream::Stdout,
            log::Stream::Stderr => Stream::Stderr,
        };
        let now = Timestamp(frame.timestamp_us);
        self.newest = self.newest.max(now);
        let mut lines = Vec::new();
        for piece in frame.data.split_inclusive(|byte| *byte == b'\n') {
            let (at, mut text) = self.open[stream as usize]
                .take()
                .unwrap_or((now, Vec::new()));
            text.extend_from_slice(piece);
            match text.strip_suffix(b"\n") {
                Some(line) => lines.push(line_of(at, stream, line)),
                None => self.open[stream as usize] = Some((at, text)),
            }
        }
        lines.retain(|line| {
            self.since.is_none_or(|since| line.at >= since)
                && self.until.is_none_or(|until| line.at < until)
        });
        lines
    }
}

fn line_of(at: Timestamp, stream: Stream, text: &[u8]) -> LogLine {
    LogLine {
        at,
        stream,
        text: String::from_utf8_lossy(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: log::Stream, at: i64, text: &str) -> log::Frame {
        log::Frame {
            stream,
            timestamp_us: at,
            sequence: 0,
            data: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_line_that_is_spread_over_frames_has_the_time_of_its_beginning() {
        let mut splitter = Splitter::default();
        assert!(
            splitter
                .lines(&frame(log::Stream::Stdout, 1, "hel"))
                .is_empty()
        );
        assert_eq!(
            splitter.lines(&frame(log::Stream::Stderr, 2, "no\n"))[0].text,
            "no"
        );
        let lines = splitter.lines(&frame(log::Stream::Stdout, 3, "lo\nworld\n!"));
        let seen: Vec<(i64, &str)> = lines
            .iter()
            .map(|line| (line.at.0, line.text.as_str()))
            .collect();
        assert_eq!(seen, [(1, "hello"), (3, "world")]);
    }
}
