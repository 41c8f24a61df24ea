//! The helper's side of `helper.sock`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde::Serialize;

use super::protocol::{Hello, PROTO, PROTO_OLDEST, Reply, Request};
use super::record::SOCKET_FILE;

/// The longest request.
const LINE_BYTES_MAX: usize = 4096;

/// One agent's connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: UnixStream,
    pending: Vec<u8>,
    /// Whether it was told that the task has ended.
    pub(super) knows_end: bool,
    /// What the agent speaks: 1 until it says more.
    pub(super) proto: u32,
}

/// Listens in the calling process's working directory: a relative path is never too long.
pub(super) fn listen() -> io::Result<UnixListener> {
    match fs::remove_file(Path::new(SOCKET_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(SOCKET_FILE)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Peer {
    /// Greets a new connection.
    pub(super) fn greet(stream: UnixStream, task: &str) -> io::Result<Peer> {
        stream.set_nonblocking(true)?;
        let mut peer = Peer {
            stream,
            pending: Vec::new(),
            knows_end: false,
            proto: 1,
        };
        peer.say(&Hello {
            proto: PROTO,
            proto_oldest: PROTO_OLDEST,
            task: task.to_owned(),
        })?;
        Ok(peer)
    }

    /// Writes one line. An agent that does not read is not waited for: the error ends its connection.
    pub(super) fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }

    /// Reads what has come and answers every whole line. An error ends the connection.
    pub(super) fn serve(&mut self, mut answer: impl FnMut(&Request) -> Reply) -> io::Result<()> {
        let mut chunk = [0; 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let reply = match serde_json::from_slice(&line) {
                Ok(request) => {
                    if let Request::Agent { proto } = request {
                        self.proto = proto;
                    }
                    answer(&request)
                }
                Err(error) => Reply::Refused {
                    message: format!("not a request of protocol {PROTO}: {error}"),
                },
            };
            self.say(&reply)?;
        }
        match self.pending.len() <= LINE_BYTES_MAX {
            true => Ok(()),
            false => Err(io::Error::other("the request is too long")),
        }
    }
}
