//! The agent's side of `helper.sock`: plain blocking calls with a time limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Hello, PROTO_OLDEST, Reply, Request};
use super::record::SOCKET_FILE;

/// How long [`HelperClient::wait_ended`] waits: whoever follows a task for longer does not block on it.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// A connection to one helper.
#[derive(Debug)]
pub struct HelperClient {
    stream: BufReader<UnixStream>,
    pub hello: Hello,
}

impl HelperClient {
    /// Connects to the helper of the task in `folder`.
    pub fn connect(folder: &Path, patience: Duration) -> io::Result<HelperClient> {
        // A socket's path may have 107 bytes; the way through a descriptor is always short.
        let directory = File::open(folder)?;
        let stream = UnixStream::connect(format!(
            "/proc/self/fd/{}/{SOCKET_FILE}",
            directory.as_raw_fd()
        ))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut stream = BufReader::new(stream);
        let hello: Hello = read_line(&mut stream)?;
        match hello.proto >= PROTO_OLDEST {
            true => Ok(HelperClient { stream, hello }),
            false => Err(io::Error::other(format!(
                "the helper speaks protocol {}, this agent {PROTO_OLDEST} and later",
                hello.proto
            ))),
        }
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        read_line(&mut self.stream)
    }

    /// Waits for the next word that was not asked for, at the latest the end; an error of kind `UnexpectedEof` means that the helper died.
    pub fn wait_ended(&mut self) -> io::Result<Reply> {
        self.stream.get_ref().set_read_timeout(Some(ENDS_WITHIN))?;
        read_line(&mut self.stream)
    }
}

fn read_line<T: serde::de::DeserializeOwned>(stream: &mut impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(serde_json::from_str(&line)?),
    }
}
