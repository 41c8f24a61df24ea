//! How long failover tasks may run: the controller grants terms with its answers to heartbeats, and each task's helper
//! is told when its own is over.

use tokio::sync::watch;
use tw_model::{JobSpec, Millis};
use tw_scheduler::lease::{Deadlines, term_of};

use crate::helper::record::TermEnd;

/// The newest grant: when, in milliseconds since boot, the heartbeat was sent that it answers. None before the first.
#[derive(Debug)]
pub(super) struct Grants(watch::Sender<Option<u64>>);

impl Default for Grants {
    fn default() -> Grants {
        Grants(watch::Sender::new(None))
    }
}

impl Grants {
    /// The heartbeat that was sent then has been answered with a grant.
    pub(super) fn note(&self, sent_at_ms: u64) {
        self.0.send_if_modified(|newest| {
            let later = newest.is_none_or(|known| known < sent_at_ms);
            if later {
                *newest = Some(sent_at_ms);
            }
            later
        });
    }

    /// Follows the grants.
    pub(super) fn follow(&self) -> watch::Receiver<Option<u64>> {
        self.0.subscribe()
    }
}

/// Until when a task may run under a grant; none where it may run without end.
pub(super) fn term_end(spec: &JobSpec, granted_at_ms: u64) -> Option<TermEnd> {
    let term: Millis = term_of(spec)?;
    let deadlines = Deadlines::of(granted_at_ms, term, spec.stop.grace);
    Some(TermEnd {
        signal_at_ms: deadlines.signal_at,
        kill_at_ms: deadlines.kill_at,
    })
}
