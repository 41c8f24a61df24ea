//! Keys with revisions, and the events that change them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// A point in the store's history: the number of transactions that changed something so far.
///
/// Every such transaction takes the next revision, and all its events carry it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev(pub u64);

impl Rev {
    /// The empty store.
    pub const ZERO: Rev = Rev(0);

    /// Returns the revision after this one.
    pub fn next(self) -> Rev {
        Rev(self.0 + 1)
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key, its value, and when both came to be. Clones share the key and the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kv {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision that wrote this value.
    pub mod_rev: Rev,
    /// The revision that created the key; a key that was deleted and put again is a new one.
    pub create_rev: Rev,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was created or overwritten.
    Put(Kv),
    /// The key was deleted. Deleting an absent key is no event.
    Delete { key: Arc<str> },
}

impl Event {
    /// Returns the key that changed.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Event::Put(kv) => &kv.key,
            Event::Delete { key } => key,
        }
    }

    /// Returns about how many bytes the event holds.
    pub(crate) fn bytes(&self) -> usize {
        const OVERHEAD: usize = 64;
        OVERHEAD
            + match self {
                Event::Put(kv) => kv.key.len() + kv.value.len(),
                Event::Delete { key } => key.len(),
            }
    }
}

/// What one transaction changed, in the order of its operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub rev: Rev,
    pub events: Vec<Event>,
}

impl Batch {
    /// Returns about how many bytes the batch holds.
    pub(crate) fn bytes(&self) -> usize {
        self.events.iter().map(Event::bytes).sum()
    }
}

/// How much history a store keeps for watches that resume. Beyond either bound it compacts itself,
/// oldest out first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    pub revisions_max: u64,
    pub bytes_max: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        LogLimits {
            revisions_max: 65_536,
            bytes_max: 64 << 20,
        }
    }
}

/// Returns the first string after all that begin with `prefix`, or `None` if there is none.
///
/// UTF-8 sorts by code point, so this is the prefix with its last character raised by one.
pub(crate) fn prefix_end(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if last == char::MAX {
            continue;
        }
        let next = if last == '\u{d7ff}' {
            0xe000
        } else {
            last as u32 + 1
        };
        chars.extend(char::from_u32(next));
        return Some(chars.into_iter().collect());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn prefix_end_is_the_first_string_after_the_prefix() {
        assert_eq!(prefix_end("task/"), Some("task0".into()));
        assert_eq!(prefix_end("a\u{d7ff}"), Some("a\u{e000}".into()));
        assert_eq!(prefix_end("a\u{10ffff}"), Some("b".into()));
        assert_eq!(prefix_end("\u{10ffff}"), None);
        assert_eq!(prefix_end(""), None);
    }
}
