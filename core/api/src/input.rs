//! How much of a command's input may be on its way.
//!
//! Whoever runs the command grants input as the command takes it. So what nobody takes waits at the client, no relay waits to
//! pass it on, and a signal, a new size of the terminal or the end of the connection never waits behind it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::{Frame, FrameKind};

/// What a client may send before anything is granted, in bytes.
const UNASKED_BYTES: u64 = 64 << 10;

/// How long a client waits for the first grant: longer than an agent may take to answer. Who runs a command with an earlier
/// release grants nothing, and takes what comes.
const FIRST_GRANT_WITHIN: Duration = Duration::from_secs(10);

/// The two ends of a client's account, for a session that begins now: who reads its frames tells the one, who sends its input
/// asks the other.
pub fn input_credit() -> (InputGrants, InputCredit) {
    let (grants, granted) = watch::channel(None);
    let credit = InputCredit {
        granted,
        sent: 0,
        first_until: Instant::now() + FIRST_GRANT_WITHIN,
    };
    (InputGrants(grants), credit)
}

/// What has been granted, in bytes since the session began.
#[derive(Debug)]
pub struct InputGrants(watch::Sender<Option<u64>>);

impl InputGrants {
    /// Takes a `Credit` frame; others say nothing of input.
    pub fn take(&self, frame: &Frame) {
        if frame.kind == FrameKind::Credit
            && let Ok(bytes) = frame.bytes.as_slice().try_into()
        {
            self.0.send_replace(Some(u64::from_be_bytes(bytes)));
        }
    }
}

/// What a client has sent, and may send.
#[derive(Debug)]
pub struct InputCredit {
    granted: watch::Receiver<Option<u64>>,
    sent: u64,
    first_until: Instant,
}

impl InputCredit {
    /// Waits until something may be sent, and answers how many bytes. Nothing is lost where the caller waits no longer.
    pub async fn available(&mut self) -> usize {
        loop {
            let granted = *self.granted.borrow_and_update();
            let is_silent = granted.is_none() && Instant::now() >= self.first_until;
            let allowed = match is_silent {
                true => u64::MAX,
                false => granted.unwrap_or(UNASKED_BYTES),
            };
            if allowed > self.sent {
                return usize::try_from(allowed - self.sent).unwrap_or(usize::MAX);
            }
            tokio::select! {
                Ok(()) = self.granted.changed() => {}
                () = sleep_until(self.first_until), if granted.is_none() => {}
                // Nobody reads the session's frames any more: it has ended.
                else => std::future::pending().await,
            }
        }
    }

    /// Notes that so many bytes were sent.
    pub fn spend(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn credit(bytes: u64) -> Frame {
        Frame::new(FrameKind::Credit, bytes.to_be_bytes())
    }

    #[tokio::test]
    async fn no_more_is_sent_than_was_granted() {
        let (grants, mut account) = input_credit();
        assert_eq!(account.available().await, 64 << 10);
        account.spend(64 << 10);
        grants.take(&credit(100 << 10));
        assert_eq!(account.available().await, 36 << 10);
        account.spend(36 << 10);
        assert_eq!(account.available().now_or_never(), None);
        grants.take(&Frame::new(FrameKind::Stdout, (1_u64 << 40).to_be_bytes()));
        assert_eq!(account.available().now_or_never(), None);
        grants.take(&credit((100 << 10) + 1));
        assert_eq!(account.available().await, 1);
    }

    #[tokio::test]
    async fn who_grants_nothing_is_sent_everything_after_a_while() {
        let (grants, mut account) = input_credit();
        account.spend(64 << 10);
        assert_eq!(account.available().now_or_never(), None);
        account.first_until = Instant::now();
        assert!(account.available().await > 1 << 40);
        // It was only late.
        account.spend(1 << 20);
        grants.take(&credit(1 << 20));
        assert_eq!(account.available().now_or_never(), None);
    }
}
