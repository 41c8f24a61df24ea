//! Frames on a child's socket: a length of four bytes, big-endian, and that many bytes.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

/// The most bytes a frame from a child may have.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The parent's end of a child's socket.
#[derive(Debug)]
pub(super) struct Frames {
    socket: BufReader<UnixStream>,
}

impl Frames {
    pub(super) fn new(socket: UnixStream) -> Frames {
        Frames {
            socket: BufReader::with_capacity(64 * 1024, socket),
        }
    }

    /// Reads one frame; none at the end of the stream.
    pub(super) fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        match self.socket.read_exact(&mut length) {
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes"),
            ));
        }
        let mut bytes = vec![0; length];
        self.socket.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Writes an answer as one frame: the length of `head`, `head`, then the content and the code it announces.
    pub(super) fn answer(&mut self, head: &str, content: &[u8], code: &[u8]) -> io::Result<()> {
        let length = 4 + head.len() + content.len() + code.len();
        let mut frame = Vec::with_capacity(4 + length);
        for number in [length, head.len()] {
            let number = u32::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
            frame.extend(number.to_be_bytes());
        }
        frame.extend(head.as_bytes());
        frame.extend(content);
        frame.extend(code);
        self.socket.get_mut().write_all(&frame)
    }
}
