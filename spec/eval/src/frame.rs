//! Frames on a child's socket: a length of four bytes, big-endian, and that many bytes.

use std::fs::File;
use std::io::{self, Read, Write};

/// The most bytes a frame may have.
pub(crate) const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Reads one frame. The end of the stream is an error: the parent went away.
pub(crate) fn read(mut socket: &File) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes; at most {BYTES_MAX} are possible"),
        ));
    }
    let mut bytes = vec![0; length];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Writes one frame.
pub(crate) fn write(mut socket: &File, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    socket.write_all(&length.to_be_bytes())?;
    socket.write_all(bytes)
}
