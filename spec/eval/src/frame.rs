//! Frames on a child's socket: a length of four bytes, big-endian, and that many bytes.

use std::fs::File;
use std::io::{self, Read, Write};

/// The most bytes a frame may have.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most frames fit into one read of this size.
const READ_BYTES: usize = 32 * 1024;
const LENGTH_BYTES: usize = 4;

/// Reads one frame: the parent sends one only when it is asked, so nothing can follow it.
/// The end of the stream is an error: the parent went away.
pub(crate) fn read(mut socket: &File) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; READ_BYTES];
    let mut got = 0;
    while got < LENGTH_BYTES {
        got += some(socket.read(&mut frame[got..])?)?;
    }
    let (length, _) = frame
        .split_first_chunk()
        .ok_or(io::ErrorKind::InvalidData)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > BYTES_MAX || got > LENGTH_BYTES + length {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes; at most {BYTES_MAX} are possible"),
        ));
    }
    frame.resize(LENGTH_BYTES + length, 0);
    socket.read_exact(&mut frame[got..])?;
    frame.drain(..LENGTH_BYTES);
    Ok(frame)
}

fn some(bytes: usize) -> io::Result<usize> {
    match bytes {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => Ok(bytes),
    }
}

/// Writes one frame, with one call.
pub(crate) fn write(mut socket: &File, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(LENGTH_BYTES + bytes.len());
    frame.extend(length.to_be_bytes());
    frame.extend(bytes);
    socket.write_all(&frame)
}
