//! What every request handler may use.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::driver::Driver;
use crate::follow::Follow;
use crate::hub::Hub;
use crate::pass::{Door, Passes};
use crate::registry::Registry;
use crate::secrets::Secrets;
use crate::sessions::Sessions;
use crate::token::Token;
use crate::usage::UsageLog;

/// The parts of a running controller.
pub(crate) struct App {
    pub(crate) hub: Arc<Hub>,
    pub(crate) driver: Driver,
    pub(crate) registry: Arc<Registry>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) sessions: Sessions,
    pub(crate) usage: UsageLog,
    pub(crate) follow: Follow,
    pub(crate) passes: Passes,
    pub(crate) door: Door,
    pub(crate) token: Token,
    pub(crate) heartbeat_every: Duration,
    pub(crate) stopping: Stopping,
}

/// Tells when the controller stops, by its own will or not.
#[derive(Clone)]
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Makes the two ends. Dropping the sender means the same as sending `true`.
    pub(crate) fn channel() -> (watch::Sender<bool>, Stopping) {
        let (stop, stopping) = watch::channel(false);
        (stop, Stopping(stopping))
    }

    /// Waits until the controller stops.
    pub(crate) async fn wait(&self) {
        // An error means that the sender is gone, and the controller with it.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }
}
