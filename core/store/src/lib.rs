//! Remembering: revisioned keys with watch and leases, and usage history.
//!
//! [`Store`] is the interface; [`MemoryStore`] and [`SqliteStore`] implement it and pass one contract
//! suite (`tests/contract.rs`). Its shape suits etcd as well: a transaction compares and then writes at
//! most [`TXN_OPS_MAX`] keys, leases fence by epoch, and a watch resumes from a revision.
//!
//! Only transitions belong in a [`Store`]. Heartbeats and logs are never stored, and usage samples go
//! into a [`history::History`], a file of its own with weaker promises and a fixed size.

mod clock;
mod commit;
mod database;
mod error;
mod feed;
pub mod history;
mod kv;
mod lease;
mod memory;
mod pipeline;
mod sqlite;
mod store;
mod txn;
mod watch;

pub use clock::{BootClock, Clock, ManualClock};
pub use commit::Commit;
pub use error::{CommitError, Damage, LeaseError, OpenError, StoreError};
pub use kv::{Batch, Event, Kv, LogLimits, Rev};
pub use lease::{Epoch, Lease};
pub use memory::MemoryStore;
pub use pipeline::{Pipeline, Ticket};
pub use sqlite::{SqliteOptions, SqliteStore};
pub use store::{BoxFuture, Store};
pub use txn::{Found, Guard, InvalidTxn, Op, TXN_BYTES_MAX, TXN_OPS_MAX, Txn};
pub use watch::{Watch, WatchEvent, WatchSource};
