//! One frame: header and bytes.

use super::Stream;

/// The most raw bytes in a frame.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Size of the whole header: skippable frame magic, its length, and our fields.
pub(super) const HEADER_BYTES: usize = 8 + FIELD_BYTES as usize;

const FIELD_BYTES: u32 = 28;

/// One of zstd's magic numbers for frames that decoders skip.
const MAGIC: u32 = 0x184D_2A57;

const VERSION: u8 = 1;

/// A piece of one stream's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub stream: Stream,
    /// When its first byte was read, in microseconds since 1970.
    pub timestamp_us: i64,
    /// Counts the frames of a task, both streams together, from 0. A gap means that frames were dropped.
    pub sequence: u64,
    pub data: Vec<u8>,
}

/// What stands before the compressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) stream: Stream,
    pub(super) timestamp_us: i64,
    pub(super) sequence: u64,
    pub(super) raw_bytes: u32,
    pub(super) compressed_bytes: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&FIELD_BYTES.to_le_bytes());
        out[8] = VERSION;
        out[9] = match self.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        out[12..16].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.compressed_bytes.to_le_bytes());
        out[20..28].copy_from_slice(&self.sequence.to_le_bytes());
        out[28..36].copy_from_slice(&self.timestamp_us.to_le_bytes());
        out
    }

    /// Reads a header; the error says what was found instead.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, String> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if (word(0), word(4), bytes[8]) != (MAGIC, FIELD_BYTES, VERSION) {
            return Err(format!(
                "no frame header of version {VERSION} but {:02x?}",
                &bytes[..9]
            ));
        }
        let stream = match bytes[9] {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            other => return Err(format!("stream {other}")),
        };
        let header = Header {
            stream,
            raw_bytes: word(12),
            compressed_bytes: word(16),
            sequence: long(20),
            timestamp_us: long(28).cast_signed(),
        };
        match header.raw_bytes as usize <= FRAME_BYTES_MAX {
            true => Ok(header),
            false => Err(format!("a frame of {} bytes", header.raw_bytes)),
        }
    }
}
