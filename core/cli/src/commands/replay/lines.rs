//! The text of a trace, unpacked while it is read.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

/// What an xz file begins with.
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// How much is unpacked ahead: the pieces that wait, and their size.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 256 << 10;

/// Opens a trace, compressed or not.
pub(super) fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::with_capacity(PIECE_BYTES, File::open(path)?);
    if !file.fill_buf()?.starts_with(XZ_MAGIC) {
        return Ok(Box::new(file));
    }
    let (pieces, inbox) = sync_channel(PIECES);
    // Ends by itself: at the end of the file, or when nobody reads any more.
    std::thread::spawn(move || {
        let mut text = liblzma::read::XzDecoder::new_multi_decoder(file);
        loop {
            let piece = next_piece(&mut text);
            let last = piece.as_ref().map_or(true, Vec::is_empty);
            if pieces.send(piece).is_err() || last {
                return;
            }
        }
    });
    Ok(Box::new(BufReader::with_capacity(
        PIECE_BYTES,
        Pieces {
            inbox,
            piece: Vec::new(),
            read: 0,
        },
    )))
}

fn next_piece(text: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    text.by_ref()
        .take(PIECE_BYTES as u64)
        .read_to_end(&mut piece)?;
    Ok(piece)
}

/// What another thread unpacks, as a reader.
struct Pieces {
    inbox: Receiver<std::io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    read: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.read == self.piece.len() {
            self.read = 0;
            self.piece = match self.inbox.recv() {
                Ok(piece) => piece?,
                Err(_) => Vec::new(),
            };
        }
        let count = into.len().min(self.piece.len() - self.read);
        into[..count].copy_from_slice(&self.piece[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}
