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

/// Cuts groups of operations into transactions without cutting a group, unless a group alone is too large.
///
/// The caller orders the groups so that every prefix is a valid state.
pub(crate) fn split(groups: impl IntoIterator<Item = Vec<Op>>) -> Vec<Txn> {
    let mut txns = Vec::new();
    let mut open = Txn::default();
    let mut bytes = 0;
    for group in groups {
        let size: usize = group.iter().map(Op::bytes).sum();
        let full = open.ops.len() + group.len() > TXN_OPS_MAX || bytes + size > TXN_BYTES_MAX;
        if full && !open.ops.is_empty() {
            txns.push(std::mem::take(&mut open));
            bytes = 0;
        }
        open.ops.extend(group);
        bytes += size;
    }
    if !open.ops.is_empty() {
        txns.push(open);
    }
    txns
}
