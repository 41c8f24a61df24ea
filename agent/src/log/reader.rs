//! Reading a log, also while it is being written and after its task has ended.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zstd::zstd_safe;

use super::frame::{HEADER_BYTES, Header};
use super::{Frame, LogError, Stream, segment_path, segments};

/// Two streams are flushed apart, and lines are spread over frames: frames may be this far out of order.
const ORDER_SLACK_US: i64 = 2_000_000;

/// Goes through the frames of a log in order. At the end it answers none, and more later if there is more.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    number: u64,
    offset: u64,
    file: Option<File>,
    next_sequence: u64,
    frames_missed: u64,
}

impl LogReader {
    /// Starts at the oldest frame that is kept.
    pub fn open(folder: &Path) -> LogReader {
        LogReader {
            folder: folder.to_owned(),
            number: 0,
            offset: 0,
            file: None,
            next_sequence: 0,
            frames_missed: 0,
        }
    }

    /// Starts at the newest segment that begins before `since_us`: what is older is neither read nor unpacked. The
    /// first headers of the segments are the index.
    pub fn open_since(folder: &Path, since_us: i64) -> Result<LogReader, LogError> {
        let mut reader = LogReader::open(folder);
        for number in segments(folder)?.into_iter().rev() {
            let mut probe = LogReader::open(folder);
            probe.number = number;
            // A segment that was dropped in this moment is none to begin with.
            if probe.open_segment()?
                && let Some(header) = probe.header_here()?
                && header.timestamp_us <= since_us.saturating_sub(ORDER_SLACK_US)
            {
                reader.number = probe.number;
                reader.next_sequence = header.sequence;
                break;
            }
        }
        Ok(reader)
    }

    /// Passes over frames that were begun before `since_us`, without unpacking them.
    pub fn skip_until(&mut self, since_us: i64) -> Result<(), LogError> {
        while let Some(header) = self.next_header()? {
            if header.timestamp_us > since_us.saturating_sub(ORDER_SLACK_US) {
                break;
            }
            self.pass(header);
        }
        Ok(())
    }

    /// Frames that were dropped before they could be read, by size or by a write error.
    pub fn frames_missed(&self) -> u64 {
        self.frames_missed
    }

    /// The next frame, or none when there is no whole one yet.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, LogError> {
        let Some(header) = self.next_header()? else {
            return Ok(None);
        };
        let frame = self.read_data(self.offset, header)?;
        self.pass(header);
        Ok(Some(frame))
    }

    /// The header at the reading position, moving to the next segment where this one is at its end.
    fn next_header(&mut self) -> Result<Option<Header>, LogError> {
        loop {
            if self.file.is_none() && !self.open_segment()? {
                return Ok(None);
            }
            if let Some(header) = self.header_here()? {
                return Ok(Some(header));
            }
            // A segment is complete once a later one exists; look again, as it may just have become so.
            let has_later = segments(&self.folder)?
                .iter()
                .any(|number| *number > self.number);
            if !has_later {
                return Ok(None);
            }
            if let Some(header) = self.header_here()? {
                return Ok(Some(header));
            }
            self.number += 1;
            self.offset = 0;
            self.file = None;
        }
    }

    /// Opens the segment at the reading position, or the next one that still exists.
    fn open_segment(&mut self) -> Result<bool, LogError> {
        loop {
            let next = segments(&self.folder)?
                .into_iter()
                .find(|number| *number >= self.number);
            let Some(number) = next else { return Ok(false) };
            let path = segment_path(&self.folder, number);
            match File::open(&path) {
                Ok(file) => {
                    (self.number, self.offset, self.file) = (number, 0, Some(file));
                    return Ok(true);
                }
                // Dropped between the listing and the opening.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.number = number + 1,
                Err(source) => {
                    return Err(LogError::File {
                        action: "open",
                        path,
                        source,
                    });
                }
            }
        }
    }

    fn header_here(&self) -> Result<Option<Header>, LogError> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let length = file
            .metadata()
            .map_err(|source| self.failed("look at", source))?
            .len();
        let data_at = self.offset + HEADER_BYTES as u64;
        if data_at > length {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, self.offset)
            .map_err(|source| self.failed("read", source))?;
        let header = Header::decode(&bytes).map_err(|found| self.damaged(found))?;
        Ok((data_at + u64::from(header.compressed_bytes) <= length).then_some(header))
    }

    fn read_data(&self, offset: u64, header: Header) -> Result<Frame, LogError> {
        let mut compressed = vec![0; header.compressed_bytes as usize];
        if let Some(file) = &self.file {
            file.read_exact_at(&mut compressed, offset + HEADER_BYTES as u64)
                .map_err(|source| self.failed("read", source))?;
        }
        let mut data = Vec::with_capacity(header.raw_bytes as usize);
        zstd_safe::decompress(&mut data, &compressed)
            .map_err(|code| self.damaged(zstd_safe::get_error_name(code).to_owned()))?;
        Ok(Frame {
            stream: header.stream,
            timestamp_us: header.timestamp_us,
            sequence: header.sequence,
            data,
        })
    }

    fn pass(&mut self, header: Header) {
        self.offset += HEADER_BYTES as u64 + u64::from(header.compressed_bytes);
        self.frames_missed += header.sequence.saturating_sub(self.next_sequence);
        self.next_sequence = header.sequence + 1;
    }

    fn failed(&self, action: &'static str, source: io::Error) -> LogError {
        LogError::File {
            action,
            path: segment_path(&self.folder, self.number),
            source,
        }
    }

    fn damaged(&self, found: String) -> LogError {
        LogError::Damaged {
            path: segment_path(&self.folder, self.number),
            offset: self.offset,
            found,
        }
    }
}

/// The last `lines` lines of a log, and a reader that goes on behind them.
/// `stream` restricts the count and the frames to one stream; the reader still gives both.
pub fn tail(
    folder: &Path,
    lines: usize,
    stream: Option<Stream>,
) -> Result<(Vec<Frame>, LogReader), LogError> {
    let mut reader = LogReader::open(folder);
    let mut places = Vec::new();
    while let Some(header) = reader.next_header()? {
        if stream.is_none_or(|wanted| wanted == header.stream) {
            places.push((reader.number, reader.offset, header));
        }
        reader.pass(header);
    }
    let mut frames = Vec::new();
    let mut missing = lines;
    for (number, offset, header) in places.into_iter().rev() {
        if missing == 0 {
            break;
        }
        let Some(mut frame) = read_at(folder, number, offset, header)? else {
            break;
        };
        missing = keep_last_lines(&mut frame.data, missing, frames.is_empty());
        frames.push(frame);
    }
    frames.reverse();
    Ok((frames, reader))
}

/// Reads one frame by its place; none when its segment has been dropped since.
fn read_at(
    folder: &Path,
    number: u64,
    offset: u64,
    header: Header,
) -> Result<Option<Frame>, LogError> {
    let path = segment_path(folder, number);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(LogError::File {
                action: "open",
                path,
                source,
            });
        }
    };
    let reader = LogReader {
        number,
        offset,
        file: Some(file),
        ..LogReader::open(folder)
    };
    reader.read_data(offset, header).map(Some)
}

/// Cuts `data` down to its last `lines` lines and answers how many are still missing before it.
/// `is_last` is the frame at the log's end, whose final newline ends a line rather than beginning one.
fn keep_last_lines(data: &mut Vec<u8>, lines: usize, is_last: bool) -> usize {
    let counted = match (is_last, data.last()) {
        (true, Some(b'\n')) => data.len() - 1,
        _ => data.len(),
    };
    let newlines = data[..counted]
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    let starts: Vec<usize> = newlines.map(|(at, _)| at + 1).take(lines).collect();
    match starts.len() == lines {
        true => {
            data.drain(..starts[lines - 1]);
            0
        }
        false => lines - starts.len(),
    }
}
