//! Transactions: guards that must hold, and the operations they permit.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;

use crate::error::CommitError;
use crate::kv::Rev;
use crate::lease::Epoch;

/// The most operations one transaction may have, and the most guards. etcd allows 128 of each.
pub const TXN_OPS_MAX: usize = 100;

/// The most bytes the keys and values of one transaction may have together. etcd allows 1.5 MiB a request.
pub const TXN_BYTES_MAX: usize = 1 << 20;

/// A condition on the state before the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent { key: String },
    /// The key exists and was last written at exactly `rev`.
    At { key: String, rev: Rev },
    /// The lease is held, unexpired, at exactly this epoch.
    Held { lease: String, epoch: Epoch },
}

impl Guard {
    fn bytes(&self) -> usize {
        match self {
            Guard::Absent { key } | Guard::At { key, .. } => key.len(),
            Guard::Held { lease, .. } => lease.len(),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Guard::Absent { key } => write!(f, "key `{key}` is absent"),
            Guard::At { key, rev } => write!(f, "key `{key}` is at revision {rev}"),
            Guard::Held { lease, epoch } => write!(f, "lease `{lease}` is held at epoch {epoch}"),
        }
    }
}

/// What a guard found in place of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    At(Rev),
    /// Nobody holds the lease, or its holder let it expire.
    Unheld,
    /// The lease is held at this epoch.
    Held(Epoch),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Absent => write!(f, "no such key"),
            Found::At(rev) => write!(f, "revision {rev}"),
            Found::Unheld => write!(f, "nobody holding it"),
            Found::Held(epoch) => write!(f, "epoch {epoch}"),
        }
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates or overwrites the key.
    Put { key: String, value: Bytes },
    /// Deletes the key; an absent key stays absent.
    Delete { key: String },
}

impl Op {
    /// Returns the key that the operation is about.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        }
    }
}

/// Operations that happen together or not at all, and only if every guard holds.
///
/// A key may be operated on once. A transaction without operations, or one that deletes absent keys
/// only, takes no revision; it still checks its guards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub ops: Vec<Op>,
}

impl Txn {
    /// Makes an empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation that creates or overwrites a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Adds an operation that deletes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Adds a guard that a key does not exist.
    #[must_use]
    pub fn if_absent(mut self, key: impl Into<String>) -> Self {
        self.guards.push(Guard::Absent { key: key.into() });
        self
    }

    /// Adds a guard that a key was last written at `rev`.
    #[must_use]
    pub fn if_at(mut self, key: impl Into<String>, rev: Rev) -> Self {
        self.guards.push(Guard::At {
            key: key.into(),
            rev,
        });
        self
    }

    /// Adds a guard that a lease is held at `epoch`.
    #[must_use]
    pub fn if_held(mut self, lease: impl Into<String>, epoch: Epoch) -> Self {
        self.guards.push(Guard::Held {
            lease: lease.into(),
            epoch,
        });
        self
    }

    /// Returns how many bytes the limit [`TXN_BYTES_MAX`] counts.
    pub fn bytes(&self) -> usize {
        let guards: usize = self.guards.iter().map(Guard::bytes).sum();
        let ops: usize = self.ops.iter().map(Op::bytes).sum();
        guards + ops
    }

    /// Checks the limits and the keys, without looking at any store.
    pub fn check(&self) -> Result<(), CommitError> {
        let (ops, guards, bytes) = (self.ops.len(), self.guards.len(), self.bytes());
        if ops > TXN_OPS_MAX || guards > TXN_OPS_MAX || bytes > TXN_BYTES_MAX {
            return Err(CommitError::TooLarge { ops, guards, bytes });
        }
        let mut seen = HashSet::with_capacity(ops);
        for op in &self.ops {
            if op.key().is_empty() {
                return Err(CommitError::Invalid(InvalidTxn::EmptyKey));
            }
            if !seen.insert(op.key()) {
                return Err(CommitError::Invalid(InvalidTxn::RepeatedKey {
                    key: op.key().into(),
                }));
            }
        }
        Ok(())
    }
}

/// Why no store would take a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTxn {
    #[error("an operation has an empty key; keys have at least one character")]
    EmptyKey,
    #[error("two operations have the key `{key}`; keep the later one")]
    RepeatedKey { key: String },
}
