//! Writing frames into bounded segments.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use zstd::zstd_safe::{CCtx, CParameter, compress_bound};

use super::frame::{HEADER_BYTES, Header};
use super::{FRAME_BYTES_MAX, LogCounts, LogError, LogLimits, Stream, segment_path, segments};

/// Fast, and small enough that an idle helper's context stays below one MiB.
const COMPRESSION_LEVEL: i32 = 1;

/// Appends frames. A failed write drops the frame and is counted; nothing here ever blocks the task.
pub struct LogWriter {
    folder: PathBuf,
    limits: LogLimits,
    segment: Option<File>,
    segment_bytes: u64,
    /// When the first and the last frame of the open segment were begun.
    segment_span_us: (i64, i64),
    /// Oldest first.
    closed: VecDeque<Closed>,
    number: u64,
    sequence: u64,
    /// None before the first frame: many a task prints nothing.
    compressor: Option<Compressor>,
    counts: LogCounts,
}

/// What turns a piece of output into a frame.
struct Compressor {
    context: CCtx<'static>,
    scratch: Vec<u8>,
}

impl Compressor {
    fn new() -> Compressor {
        let mut context = CCtx::create();
        // Both are known parameters with values in range; without them frames are merely larger.
        let _level = context.set_parameter(CParameter::CompressionLevel(COMPRESSION_LEVEL));
        let _check = context.set_parameter(CParameter::ChecksumFlag(true));
        Compressor {
            context,
            scratch: vec![0; HEADER_BYTES + compress_bound(FRAME_BYTES_MAX)],
        }
    }

    /// Answers the length of the compressed piece, which is in `scratch` behind the room for a header.
    fn compress(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.context
            .compress2(&mut self.scratch[HEADER_BYTES..], piece)
            .map_err(|code| io::Error::other(zstd::zstd_safe::get_error_name(code)))
    }
}

impl LogWriter {
    /// Begins a new segment in `folder`, behind those that are there. The folder is made with the first frame: many a
    /// task prints nothing.
    pub fn create(folder: &Path, limits: LogLimits) -> Result<LogWriter, LogError> {
        let found = segments(folder)?;
        let size =
            |number: &u64| fs::metadata(segment_path(folder, *number)).map_or(0, |meta| meta.len());
        Ok(LogWriter {
            folder: folder.to_owned(),
            limits,
            segment: None,
            segment_bytes: 0,
            segment_span_us: (0, 0),
            closed: found
                .iter()
                .map(|number| Closed {
                    number: *number,
                    bytes: size(number),
                    last_us: 0,
                })
                .collect(),
            number: found.last().map_or(0, |last| last + 1),
            sequence: 0,
            compressor: None,
            counts: LogCounts::default(),
        })
    }

    pub fn counts(&self) -> LogCounts {
        self.counts
    }

    /// Writes `data` as one frame, or as several if it is long.
    pub fn write(&mut self, stream: Stream, timestamp_us: i64, data: &[u8]) {
        for piece in data.chunks(FRAME_BYTES_MAX) {
            match self.append(stream, timestamp_us, piece) {
                Ok(()) => {
                    self.counts.frames += 1;
                    self.counts.bytes += piece.len() as u64;
                }
                Err(_disk) => self.counts.bytes_dropped += piece.len() as u64,
            }
            self.sequence += 1;
        }
    }

    /// Makes what was written survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        self.segment.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn append(&mut self, stream: Stream, timestamp_us: i64, piece: &[u8]) -> io::Result<()> {
        let mut compressor = self.compressor.take().unwrap_or_else(Compressor::new);
        let stored = self.store(&mut compressor, stream, timestamp_us, piece);
        self.compressor = Some(compressor);
        stored
    }

    fn store(
        &mut self,
        compressor: &mut Compressor,
        stream: Stream,
        timestamp_us: i64,
        piece: &[u8],
    ) -> io::Result<()> {
        let compressed = compressor.compress(piece)?;
        let header = Header {
            stream,
            timestamp_us,
            sequence: self.sequence,
            raw_bytes: piece.len() as u32,
            compressed_bytes: compressed as u32,
        };
        compressor.scratch[..HEADER_BYTES].copy_from_slice(&header.encode());
        let length = HEADER_BYTES + compressed;
        self.make_room(length as u64, timestamp_us)?;
        let at = self.segment_bytes;
        let segment = match &mut self.segment {
            Some(segment) => segment,
            empty => empty.insert(open_segment(&self.folder, self.number)?),
        };
        if let Err(error) = segment.write_all_at(&compressor.scratch[..length], at) {
            // Half a frame would hide those behind it.
            segment.set_len(at)?;
            return Err(error);
        }
        if at == 0 {
            self.segment_span_us.0 = timestamp_us;
        }
        self.segment_span_us.1 = timestamp_us;
        self.segment_bytes += length as u64;
        Ok(())
    }

    /// Begins a new segment when this one is full or old, and drops the oldest until `length` more bytes fit and
    /// none is older than it may be.
    fn make_room(&mut self, length: u64, now_us: i64) -> io::Result<()> {
        let is_full = self.segment_bytes + length > self.limits.segment_bytes();
        let is_old = now_us.saturating_sub(self.segment_span_us.0) > self.limits.segment_age_us();
        if self.segment_bytes > 0 && (is_full || is_old) {
            self.closed.push_back(Closed {
                number: self.number,
                bytes: self.segment_bytes,
                last_us: self.segment_span_us.1,
            });
            self.number += 1;
            self.segment_bytes = 0;
            self.segment = None;
        }
        let too_old = |closed: &Closed| {
            closed.last_us > 0 && now_us.saturating_sub(closed.last_us) > self.limits.age_us_max()
        };
        let outdated = self
            .closed
            .iter()
            .take_while(|closed| too_old(closed))
            .count();
        for _ in 0..outdated {
            self.drop_oldest()?;
        }
        while !self.closed.is_empty()
            && self.closed_bytes() + self.segment_bytes + length > self.limits.bytes_max
        {
            self.drop_oldest()?;
        }
        Ok(())
    }

    fn drop_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.closed.pop_front() else {
            return Ok(());
        };
        self.counts.segments_dropped += 1;
        fs::remove_file(segment_path(&self.folder, oldest.number))
    }

    fn closed_bytes(&self) -> u64 {
        self.closed.iter().map(|closed| closed.bytes).sum()
    }
}

/// A segment that nothing is added to any more.
struct Closed {
    number: u64,
    bytes: u64,
    /// When its last frame was begun; 0 for one of an earlier writer.
    last_us: i64,
}

/// Makes a segment, and before it the folder if it is the first.
fn open_segment(folder: &Path, number: u64) -> io::Result<File> {
    let path = segment_path(folder, number);
    match File::create(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            File::create(&path)
        }
        other => other,
    }
}

/// Collects one stream's output until it is worth a frame.
#[derive(Debug)]
pub struct StreamBuffer {
    stream: Stream,
    data: Vec<u8>,
    since: Option<Since>,
}

/// When the oldest byte came: by the wall clock, for people, and by one that does not jump.
#[derive(Clone, Copy, Debug)]
struct Since {
    timestamp_us: i64,
    at: Instant,
}

impl StreamBuffer {
    pub fn new(stream: Stream) -> StreamBuffer {
        StreamBuffer {
            stream,
            data: Vec::new(),
            since: None,
        }
    }

    /// Adds what was read at `now_us`, writing full frames out.
    pub fn push(&mut self, data: &[u8], now_us: i64, writer: &mut LogWriter) {
        let mut rest = data;
        while !rest.is_empty() {
            self.since.get_or_insert_with(|| Since {
                timestamp_us: now_us,
                at: Instant::now(),
            });
            let (piece, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX - self.data.len()));
            self.data.extend_from_slice(piece);
            rest = after;
            if self.data.len() == FRAME_BYTES_MAX {
                self.flush(writer);
            }
        }
    }

    /// When the oldest unwritten byte was read.
    pub fn since(&self) -> Option<Instant> {
        self.since.map(|since| since.at)
    }

    /// Writes out what there is.
    pub fn flush(&mut self, writer: &mut LogWriter) {
        if let Some(since) = self.since.take() {
            writer.write(self.stream, since.timestamp_us, &self.data);
            self.data.clear();
        }
    }
}
