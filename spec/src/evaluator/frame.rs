//! Frames on a child's socket: a length of four bytes, big-endian, and that many bytes.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};

/// The most bytes a frame from a child may have.
pub(super) const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The parent's end of a child's socket.
#[derive(Debug)]
pub(super) struct Frames<S> {
    socket: BufReader<S>,
}

/// What a child sent: the byte for its kind, and the rest.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) kind: u8,
    pub(super) content: Vec<u8>,
}

impl<S: Read + Write> Frames<S> {
    pub(super) fn new(socket: S) -> Frames<S> {
        Frames {
            socket: BufReader::with_capacity(64 * 1024, socket),
        }
    }

    /// Reads one frame; none at the end of the stream. Takes memory for what comes, not for what is announced.
    pub(super) fn read(&mut self) -> io::Result<Option<Received>> {
        let mut head = [0; 5];
        match self.socket.read_exact(&mut head) {
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [length @ .., kind] = head;
        let length = (u32::from_be_bytes(length) as usize).wrapping_sub(1);
        if length > BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes; at most {BYTES_MAX} are possible"),
            ));
        }
        let mut content = Vec::new();
        (&mut self.socket)
            .take(length as u64)
            .read_to_end(&mut content)?;
        Ok((content.len() == length).then_some(Received { kind, content }))
    }

    /// Writes an answer as one frame: the length of `head`, `head`, then the content and the code it announces.
    pub(super) fn answer(&mut self, head: &str, content: &[u8], code: &[u8]) -> io::Result<()> {
        let head_bytes = u32::try_from(head.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.write(&[&head_bytes.to_be_bytes(), head.as_bytes(), content, code])
    }

    /// Writes one frame.
    pub(super) fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let announced = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut frame = Vec::with_capacity(4 + length);
        frame.extend(announced.to_be_bytes());
        for part in parts {
            frame.extend(*part);
        }
        self.socket.get_mut().write_all(&frame)
    }
}

impl Frames<UnixStream> {
    /// Whether the child has said nothing that was not read.
    pub(super) fn is_silent(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let socket = self.socket.get_ref().as_raw_fd();
        self.socket.buffer().is_empty() && recv(socket, &mut [0], flags) == Err(nix::Error::EAGAIN)
    }

    /// Bounds how long the child may take to say or to hear something.
    pub(super) fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        let socket = self.socket.get_ref();
        socket.set_read_timeout(Some(time))?;
        socket.set_write_timeout(Some(time))
    }
}
