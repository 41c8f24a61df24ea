//! How a batch is written into the log, and the checksums of both tables.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::{Batch, Event, Kv, Rev};

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Writes the events one after another: kind, key, and for a put the creating revision and the value.
/// Lengths are 4 bytes and revisions 8, little-endian.
pub(super) fn encode(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::with_capacity(events.iter().map(Event::bytes).sum());
    for event in events {
        match event {
            Event::Put(kv) => {
                out.push(PUT);
                put_slice(&mut out, kv.key.as_bytes());
                out.extend(kv.create_rev.0.to_le_bytes());
                put_slice(&mut out, &kv.value);
            }
            Event::Delete { key } => {
                out.push(DELETE);
                put_slice(&mut out, key.as_bytes());
            }
        }
    }
    out
}

fn put_slice(out: &mut Vec<u8>, slice: &[u8]) {
    // Transactions are far below 4 GiB.
    out.extend((slice.len() as u32).to_le_bytes());
    out.extend(slice);
}

/// Reads what [`encode`] wrote; `None` if it did not.
pub(super) fn decode(rev: Rev, bytes: Bytes) -> Option<Batch> {
    let mut reader = Reader { rest: bytes };
    let mut events = Vec::new();
    while !reader.rest.is_empty() {
        events.push(reader.event(rev)?);
    }
    Some(Batch { rev, events })
}

struct Reader {
    rest: Bytes,
}

impl Reader {
    fn event(&mut self, rev: Rev) -> Option<Event> {
        let kind = self.take(1)?[0];
        let key: Arc<str> = std::str::from_utf8(&self.slice()?).ok()?.into();
        match kind {
            PUT => {
                let create_rev = Rev(u64::from_le_bytes(self.take(8)?[..].try_into().ok()?));
                Some(Event::Put(Kv {
                    key,
                    value: self.slice()?,
                    mod_rev: rev,
                    create_rev,
                }))
            }
            DELETE => Some(Event::Delete { key }),
            _ => None,
        }
    }

    fn slice(&mut self) -> Option<Bytes> {
        let length = u32::from_le_bytes(self.take(4)?[..].try_into().ok()?);
        self.take(length as usize)
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.rest.len()).then(|| self.rest.split_to(length))
    }
}

/// Sums up a row of `kv`.
pub(super) fn row_checksum(key: &str, value: &[u8], mod_rev: Rev, create_rev: Rev) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(&mod_rev.0.to_le_bytes());
    hasher.update(&create_rev.0.to_le_bytes());
    hasher.update(value);
    truncate(hasher.finalize())
}

/// Sums up a row of `log`.
pub(super) fn log_checksum(rev: Rev, events: &[u8]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&rev.0.to_le_bytes());
    hasher.update(events);
    truncate(hasher.finalize())
}

fn truncate(hash: blake3::Hash) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::kv::{Event, Kv, Rev};

    #[test]
    fn a_batch_is_read_as_it_was_written_and_never_in_part() {
        let put = Kv {
            key: "task/ä".into(),
            value: "v".into(),
            mod_rev: Rev(7),
            create_rev: Rev(3),
        };
        let events = vec![
            Event::Put(put),
            Event::Delete {
                key: "job/b".into(),
            },
        ];
        let written = encode(&events);
        assert_eq!(
            decode(Rev(7), written.clone().into())
                .expect("whole")
                .events,
            events
        );
        let first_len = encode(&events[..1]).len();
        for length in (1..written.len()).filter(|length| *length != first_len) {
            assert_eq!(
                decode(Rev(7), written[..length].to_vec().into()),
                None,
                "{length} bytes"
            );
        }
    }
}
