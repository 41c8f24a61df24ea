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
pub(super) struct Outputs([Output; 2]);

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
        let outputs = [
            output(stdout, Stream::Stdout)?,
            output(stderr, Stream::Stderr)?,
        ];
        Ok((Outputs(outputs), [stdout_in, stderr_in]))
    }

    /// The reading ends that are open.
    pub(super) fn pipes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().filter_map(|output| output.pipe.as_ref())
    }

    /// Reads what the pipes hold, at most a few frames each, so that a busy task cannot starve requests.
    pub(super) fn drain(&mut self, log: &mut LogWriter) {
        let mut chunk = [0; 64 * 1024];
        for output in &mut self.0 {
            for _ in 0..4 {
                let Some(pipe) = &output.pipe else { break };
                match rustix::io::read(pipe, &mut chunk) {
                    Ok(0) => output.pipe = None,
                    Ok(count) => output.buffer.push(&chunk[..count], now_us(), log),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_empty) => break,
                }
            }
        }
    }

    /// Writes out what has waited long enough.
    pub(super) fn flush_due(&mut self, log: &mut LogWriter) {
        for output in &mut self.0 {
            let since = output.buffer.since();
            if since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER) {
                output.buffer.flush(log);
            }
        }
    }

    /// Reads and writes out what there is. The pipes are not waited for: whoever else holds them may never close.
    pub(super) fn finish(&mut self, log: &mut LogWriter) {
        self.drain(log);
        self.0
            .iter_mut()
            .for_each(|output| output.buffer.flush(log));
    }

    /// When something will have waited long enough.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let oldest = self
            .0
            .iter()
            .filter_map(|output| output.buffer.since())
            .min();
        oldest.map(|since| since + FLUSH_AFTER)
    }
}
