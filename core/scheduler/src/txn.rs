//! What a decision writes: rows put and deleted, in portions that every store can commit.

use tw_model::{Record, RecordKey};

/// The most operations that one transaction may hold, on every store.
pub const TXN_OPS_MAX: usize = 100;

/// The most bytes of encoded rows that one transaction may hold, on every store.
pub const TXN_BYTES_MAX: usize = 1 << 20;

/// One row written or removed.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all operations are the large variant, and a box would cost each an allocation"
)]
pub enum Op {
    Put(Record),
    Delete(RecordKey),
}

impl Op {
    /// The key of the row.
    pub fn key(&self) -> RecordKey {
        match self {
            Op::Put(record) => record.key(),
            Op::Delete(key) => key.clone(),
        }
    }

    /// The encoded size in bytes, as far as it matters for [`TXN_BYTES_MAX`].
    fn bytes(&self) -> usize {
        match self {
            Op::Put(record @ (Record::Version(_) | Record::Repository(_) | Record::Plan(_))) => {
                record.encode().len()
            }
            // Every text in the other rows is bounded by REASON_BYTES_MAX or by the length of names.
            Op::Put(_) => 4096,
            Op::Delete(_) => 256,
        }
    }
}

/// Rows that are committed together or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    pub ops: Vec<Op>,
}

/// Cuts operations into transactions, keeping those together that belong together unless they alone are too many.
///
/// The caller adds them in such an order that every prefix is a valid state.
pub(crate) struct Portions {
    full: Vec<Txn>,
    open: Vec<Op>,
    bytes: usize,
    /// How many operations are still to come.
    left: usize,
}

impl Portions {
    /// Portions of so many operations altogether.
    pub(crate) fn of(ops: usize) -> Portions {
        Portions {
            full: Vec::new(),
            open: Vec::with_capacity(ops.min(TXN_OPS_MAX)),
            bytes: 0,
            left: ops,
        }
    }

    /// Adds operations of which each may be the last of its transaction.
    pub(crate) fn add(&mut self, ops: Vec<Op>) {
        for op in ops {
            self.make_room(1, op.bytes());
            self.open.push(op);
        }
    }

    /// Adds operations that belong together.
    pub(crate) fn add_together(&mut self, ops: Vec<Op>) {
        self.make_room(ops.len(), ops.iter().map(Op::bytes).sum());
        self.open.extend(ops);
    }

    pub(crate) fn into_txns(mut self) -> Vec<Txn> {
        if !self.open.is_empty() {
            self.full.push(Txn { ops: self.open });
        }
        self.full
    }

    fn make_room(&mut self, ops: usize, bytes: usize) {
        let full = self.open.len() + ops > TXN_OPS_MAX || self.bytes + bytes > TXN_BYTES_MAX;
        if full && !self.open.is_empty() {
            let next = Vec::with_capacity(self.left.min(TXN_OPS_MAX));
            let ops = std::mem::replace(&mut self.open, next);
            self.full.push(Txn { ops });
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.left = self.left.saturating_sub(ops);
    }
}
