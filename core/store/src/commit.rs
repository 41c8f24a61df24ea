//! The answer to a submitted transaction.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::CommitError;
use crate::kv::Rev;

/// Resolves once the transaction is durable or refused. Dropping it withdraws nothing.
///
/// The revision is the transaction's own, or the newest one if it changed nothing.
#[must_use = "a transaction is not known to be committed until its answer is awaited"]
#[derive(Debug)]
pub struct Commit {
    state: State,
}

#[derive(Debug)]
enum State {
    Ready(Option<Result<Rev, CommitError>>),
    Waiting(oneshot::Receiver<Result<Rev, CommitError>>),
}

impl Commit {
    /// Makes an answer that is already known.
    pub fn ready(result: Result<Rev, CommitError>) -> Self {
        Commit {
            state: State::Ready(Some(result)),
        }
    }

    /// Makes an answer that will be sent; a sender that is dropped means the store is closed.
    pub fn waiting(receiver: oneshot::Receiver<Result<Rev, CommitError>>) -> Self {
        Commit {
            state: State::Waiting(receiver),
        }
    }
}

impl Future for Commit {
    type Output = Result<Rev, CommitError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().state {
            State::Ready(result) => Poll::Ready(result.take().unwrap_or(Err(CommitError::Closed))),
            State::Waiting(receiver) => Pin::new(receiver)
                .poll(cx)
                .map(|answer| answer.unwrap_or(Err(CommitError::Closed))),
        }
    }
}
