//! Frames on a child's socket: a length of four bytes, big-endian, and that many bytes.
//!
//! What the child says begins with a byte for its kind. The native half chooses that byte, so Python in a child
//! can word an error or ask a question, but only an evaluation that came to its end gives jobs.
//!
//! The socket is spoken to with `sendmsg` and `recv` alone: `read` and `write` are not allowed on it, and the
//! interpreter has no other way to make those two calls.

use std::io;
use std::os::fd::RawFd;

/// The most bytes a frame may have.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest first frame.
const FIRST_BYTES_MAX: usize = 32 * 1024;
/// Most frames fit into one read of this size, on the stack: from the heap it would come in pages of the zygote.
const READ_BYTES: usize = 8 * 1024;
const LENGTH_BYTES: usize = 4;

/// What a child says.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// JSON: what it wants to know of the tree.
    Question = b'Q',
    /// JSON: the jobs of a spec that ran to its end.
    Jobs = b'J',
    /// A file's code, of a compile job, which goes on.
    Code = b'C',
    /// JSON: what is wrong with the spec.
    Error = b'E',
    /// A signal's number, whether the clock was read, and the interpreter's own account of where it was.
    Fault = b'F',
    /// Text: why the child could not be sealed.
    Unsealed = b'U',
    /// Text: how the evaluator's own Python failed.
    Broken = b'B',
}

/// Reads one frame: the parent sends one only when it is asked, so nothing can follow it.
/// The end of the stream is an error: the parent went away.
pub(crate) fn read(socket: RawFd) -> io::Result<Vec<u8>> {
    let mut first = [0; READ_BYTES];
    let mut got = 0;
    while got < LENGTH_BYTES {
        got += receive(socket, &mut first[got..])?;
    }
    let (length, content) = first[..got]
        .split_first_chunk()
        .ok_or(io::ErrorKind::InvalidData)?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > BYTES_MAX || got > LENGTH_BYTES + length {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes; at most {BYTES_MAX} are possible"),
        ));
    }
    let mut frame = Vec::with_capacity(length);
    frame.extend_from_slice(content);
    frame.resize(length, 0);
    fill(socket, &mut frame[content.len()..])?;
    Ok(frame)
}

/// Reads the first frame, which others may follow at once.
pub(crate) fn read_first(socket: RawFd) -> io::Result<Vec<u8>> {
    let mut length = [0; LENGTH_BYTES];
    fill(socket, &mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FIRST_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    fill(socket, &mut frame)?;
    Ok(frame)
}

fn fill(socket: RawFd, bytes: &mut [u8]) -> io::Result<()> {
    let mut got = 0;
    while got < bytes.len() {
        got += receive(socket, &mut bytes[got..])?;
    }
    Ok(())
}

/// Writes one frame, with one call if the socket takes it. Calls nothing that a signal handler may not call.
pub(crate) fn write(socket: RawFd, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut head = [0; LENGTH_BYTES + 1];
    head[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    head[LENGTH_BYTES] = kind as u8;
    let mut sent = 0;
    while sent < head.len() + bytes.len() {
        let parts = [
            &head[sent.min(head.len())..],
            &bytes[sent.saturating_sub(head.len())..],
        ];
        sent += send(socket, parts)?;
    }
    Ok(())
}

/// Sends as much as the socket takes; none if a signal came first.
fn send(socket: RawFd, parts: [&[u8]; 2]) -> io::Result<usize> {
    let parts = parts.map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    });
    // SAFETY: an all-zero header is valid, and says that nothing is sent beyond the parts.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: the header leads to slices that outlive the call, which only reads.
    progress(unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) })
}

/// Receives some bytes; none if a signal came first.
fn receive(socket: RawFd, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a slice that outlives the call.
    match unsafe { libc::recv(socket, bytes.as_mut_ptr().cast(), bytes.len(), 0) } {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        received => progress(received),
    }
}

/// The bytes a call moved; none if a signal interrupted it.
fn progress(returned: isize) -> io::Result<usize> {
    match usize::try_from(returned) {
        Ok(moved) => Ok(moved),
        Err(_) => match io::Error::last_os_error() {
            cause if cause.kind() == io::ErrorKind::Interrupted => Ok(0),
            cause => Err(cause),
        },
    }
}
