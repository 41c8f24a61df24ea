//! Whoever reads what a command prints, and may stop before the command does, as `head` does.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Whether anybody reads standard output. Prints to nobody are dropped without a word, so that a command that would go on
/// printing asks.
pub(crate) fn is_there() -> bool {
    let stdout = std::io::stdout();
    let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    match poll(&mut watched, PollTimeout::ZERO) {
        Ok(_) => watched[0]
            .revents()
            .is_none_or(|found| !found.contains(PollFlags::POLLERR)),
        Err(_cannot_tell) => true,
    }
}
