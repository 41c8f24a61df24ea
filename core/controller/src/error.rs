//! Why a controller does not start, or does not go on.

use std::net::SocketAddr;
use std::path::PathBuf;

use tw_model::RecordError;

/// Why a controller ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{action} '{path}' failed")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "another controller answers at '{path}'; stop it first, or name another socket or state folder"
    )]
    SocketInUse { path: PathBuf },
    #[error(
        "'{address}' is not an address of this machine alone; only loopback addresses such as 127.0.0.1 are listened on"
    )]
    NotLoopback { address: SocketAddr },
    #[error("listening on '{address}' failed")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("the token file '{path}' does not hold a token; remove it to have a new one made")]
    Token { path: PathBuf },
    #[error(transparent)]
    Open(#[from] tw_store::OpenError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error("the store cannot be read")]
    Read(#[from] tw_store::StoreError),
    #[error(
        "the store takes no more writes; what was acknowledged is kept, start the controller again"
    )]
    Write(#[from] tw_store::CommitError),
    #[error("the controller's {task} ended unexpectedly")]
    Panicked {
        task: &'static str,
        source: tokio::task::JoinError,
    },
}

impl RunError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> RunError {
        let path = path.into();
        move |source| RunError::Io {
            action,
            path,
            source,
        }
    }
}

/// Why the rows of a store are refused. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error(
        "the store's records have format {found}, and this release knows formats up to {known}; use the release that wrote them, or a later one"
    )]
    Newer { found: u64, known: u64 },
    #[error("the store holds {rows} rows but no record format; it was not written by a controller")]
    NoFormat { rows: usize },
    #[error("the store's record format '{found}' is not a number")]
    BadFormat { found: String },
    #[error("use the release that wrote the store, or a later one")]
    Row(#[from] RecordError),
    #[error("the row '{key}' holds a record that belongs at '{belongs}'")]
    Misplaced { key: String, belongs: String },
}
