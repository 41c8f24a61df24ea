//! What the program logs: to standard error, as text on a terminal and as JSON otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts the log. `TW_LOG` sets the level; without it the level is `default`.
pub(crate) fn start(default: &str) {
    let filter = EnvFilter::try_from_env("TW_LOG").unwrap_or_else(|_| default.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match std::io::stderr().is_terminal() {
        true => log.init(),
        false => log.json().init(),
    }
}
