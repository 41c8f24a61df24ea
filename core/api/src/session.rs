//! Sessions: logs and commands in a task, over an upgraded HTTP connection.
//!
//! The client opens `GET /v1/session` with `Upgrade: tw-session` and sends an `Open` frame; the controller
//! joins it to the agent's connection. A frame is a kind (1 byte), a length (4 bytes, big endian) and that
//! many bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tw_model::{TaskId, Timestamp};

/// The name in the `Upgrade` header.
pub const SESSION_PROTOCOL: &str = "tw-session";

/// The largest frame, in bytes.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// How long what still comes is taken from a connection that is about to be closed.
const LINGER: Duration = Duration::from_secs(5);

/// What a session is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "snake_case")]
pub enum SessionRequest {
    Exec(ExecRequest),
    Logs(LogsRequest),
}

impl SessionRequest {
    pub fn task(&self) -> &TaskId {
        match self {
            SessionRequest::Exec(request) => &request.task,
            SessionRequest::Logs(request) => &request.task,
        }
    }
}

/// A command in the namespaces of a running task. Answered by `Stdout`, `Stderr`, `Credit` and one `Exit` or
/// `Error` frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecRequest {
    pub task: TaskId,
    pub argv: Vec<String>,
    /// Size of the caller's terminal (rows, columns); none for no terminal.
    pub terminal: Option<(u16, u16)>,
    /// See the machine's programs, with the task's root at `/task`, and trace the task's processes.
    #[serde(default)]
    pub debug: bool,
    /// The client sends no more input than `Credit` frames allow.
    #[serde(default)]
    pub credit: bool,
}

/// The logs of a task, running or ended. Answered by `Log` frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogsRequest {
    pub task: TaskId,
    /// Go on with what comes until the task has ended.
    pub follow: bool,
    /// Only the last lines; none for all that are kept.
    pub tail: Option<u64>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Only lines before then.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// The output of this sidecar instead of the command's.
    #[serde(default)]
    pub sidecar: Option<String>,
}

/// Which of a task's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of a task's output, as in a `Log` frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Timestamp,
    pub stream: Stream,
    /// Without its line feed; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON of a [`SessionRequest`]; the client's first frame.
    Open = 1,
    Stdin = 2,
    /// No more input.
    StdinEnd = 3,
    Stdout = 4,
    Stderr = 5,
    /// Two big-endian 16-bit numbers: rows, columns.
    Resize = 6,
    /// JSON of an [`tw_model::Exit`]; the last frame of a command.
    Exit = 7,
    /// JSON of a [`LogLine`].
    Log = 8,
    /// JSON of an [`crate::ErrorBody`]; the last frame.
    Error = 9,
    /// The logs are complete.
    End = 10,
    /// One byte, the number of a signal for the command and what it has started.
    Signal = 11,
    /// A big-endian 64-bit number: how many bytes of `Stdin` may have been sent since the session began. Only to a client
    /// that asked for it.
    Credit = 12,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        use FrameKind::*;
        [
            Open, Stdin, StdinEnd, Stdout, Stderr, Resize, Exit, Log, Error, End, Signal, Credit,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn new(kind: FrameKind, bytes: impl Into<Vec<u8>>) -> Frame {
        Frame {
            kind,
            bytes: bytes.into(),
        }
    }

    pub fn json<T: Serialize>(kind: FrameKind, value: &T) -> Frame {
        Frame {
            kind,
            bytes: serde_json::to_vec(value).unwrap_or_default(),
        }
    }

    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.bytes).map_err(FrameError::Json)
    }
}

/// A frame that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the session's connection broke")]
    Io(#[from] std::io::Error),
    #[error("a frame of unknown kind {0} arrived; the other side may be of a newer release")]
    Kind(u8),
    #[error("a frame of {0} bytes arrived; {FRAME_BYTES_MAX} is the most")]
    TooLong(u32),
    #[error("a frame does not hold the JSON it should")]
    Json(#[source] serde_json::Error),
}

/// Reads one frame; none at the end of the stream.
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let kind = match from.read_u8().await {
        Ok(kind) => kind,
        Err(end) if end.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(broken) => return Err(broken.into()),
    };
    let kind = FrameKind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
    let length = from.read_u32().await?;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).await?;
    Ok(Some(Frame { kind, bytes }))
}

/// Writes one frame and flushes it.
pub async fn write_frame(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &Frame,
) -> Result<(), FrameError> {
    let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let mut bytes = Vec::with_capacity(frame.bytes.len() + 5);
    bytes.push(frame.kind as u8);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&frame.bytes);
    to.write_all(&bytes).await?;
    to.flush().await?;
    Ok(())
}

/// Takes what still comes, for a few seconds at most: to close a connection that holds something unread cuts off what the
/// other side has not read yet.
pub async fn discard(from: &mut (impl AsyncRead + Unpin)) {
    let _late = timeout(LINGER, tokio::io::copy(from, &mut tokio::io::sink())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent() {
        let (mut here, mut there) = tokio::io::duplex(64);
        let sent = Frame::new(FrameKind::Stdout, "hello".repeat(40));
        let expected = sent.clone();
        let writer = tokio::spawn(async move { write_frame(&mut here, &sent).await });
        assert_eq!(read_frame(&mut there).await.unwrap(), Some(expected));
        writer.await.unwrap().unwrap();
        assert_eq!(read_frame(&mut there).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_frame_that_claims_too_much_is_refused_before_it_is_read() {
        let bytes: &[u8] = &[4, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(
            read_frame(&mut &*bytes).await,
            Err(FrameError::TooLong(u32::MAX))
        ));
        assert!(matches!(
            read_frame(&mut &[77u8, 0][..]).await,
            Err(FrameError::Kind(77))
        ));
    }
}
