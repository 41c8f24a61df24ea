//! What a command prints, on its way into a log.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::log::{LogWriter, Stream, StreamBuffer};
use crate::process::now_us;

/// A part of a frame waits at most this long for more.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// Standard output and standard error of one command.
pub(super) struct Outputs {
    streams: [Output; 2],
    /// Takes what is read: small, as most tasks print little at a time, until it has been filled once.
    chunk: Vec<u8>,
}

const CHUNK_BYTES_FIRST: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 64 << 10;

struct Output {
    pipe: Option<OwnedFd>,
    buffer: StreamBuffer,
}

impl Outputs {
    /// Nobody writes yet. Answers the writing ends beside: standard output, standard error.
    pub(super) fn new() -> io::Result<(Outputs, [OwnedFd; 2])> {
        let ((stdout, stdout_in), (stderr, stderr_in)) = (
            pipe_with(PipeFlags::CLOEXEC)?,
            pipe_with(PipeFlags::CLOEXEC)?,
        );
        let output = |pipe: OwnedFd, stream| -> io::Result<Output> {
            rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)?;
            Ok(Output {
                pipe: Some(pipe),
                buffer: StreamBuffer::new(stream),
            })
        };
        let streams = [
            output(stdout, Stream::Stdout)?,
            output(stderr, Stream::Stderr)?,
        ];
        let chunk = vec![0; CHUNK_BYTES_FIRST];
        Ok((Outputs { streams, chunk }, [stdout_in, stderr_in]))
    }

    /// The reading ends that are open.
    pub(super) fn pipes(&self) -> impl Iterator<Item = &OwnedFd> {
        let pipes = self.streams.iter().map(|output| output.pipe.as_ref());
        pipes.flatten()
    }

    /// Reads what the pipes hold, at most a few frames each, so that a busy task cannot starve requests.
    pub(super) fn drain(&mut self, log: &mut LogWriter) {
        for output in &mut self.streams {
            for _ in 0..4 {
                let Some(pipe) = &output.pipe else { break };
                match rustix::io::read(pipe, &mut *self.chunk) {
                    Ok(0) => output.pipe = None,
                    Ok(count) => {
                        output.buffer.push(&self.chunk[..count], now_us(), log);
                        if count == self.chunk.len() {
                            self.chunk.resize(CHUNK_BYTES_MAX, 0);
                        }
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_empty) => break,
                }
            }
        }
    }

    /// Writes out what has waited long enough.
    pub(super) fn flush_due(&mut self, log: &mut LogWriter) {
        for output in &mut self.streams {
            let since = output.buffer.since();
            if since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER) {
                output.buffer.flush(log);
            }
        }
    }

    /// Reads and writes out what there is. The pipes are not waited for: whoever else holds them may never close.
    pub(super) fn finish(&mut self, log: &mut LogWriter) {
        self.drain(log);
        self.streams
            .iter_mut()
            .for_each(|output| output.buffer.flush(log));
    }

    /// When something will have waited long enough.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let oldest = self
            .streams
            .iter()
            .filter_map(|output| output.buffer.since())
            .min();
        oldest.map(|since| since + FLUSH_AFTER)
    }
}
