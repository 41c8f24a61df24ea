//! Leases: who may write for a name, for how long, and under which epoch.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::LeaseError;
use crate::txn::Found;

/// The number of a win. It rises with every win of a name, not necessarily by one, and never repeats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease that was won. It lasts for `ttl` from the last time it was kept alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub name: String,
    pub holder: String,
    pub epoch: Epoch,
    pub ttl: Duration,
}

/// The leases of one store. Epochs are remembered by the store; who holds what is not, because every
/// holder reaches the store through the process that this table lives in, and ends with it.
pub(crate) struct LeaseTable {
    clock: Arc<dyn Clock>,
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    epoch: Epoch,
    tenure: Option<Tenure>,
}

struct Tenure {
    holder: String,
    ttl: Duration,
    expires_at: Duration,
}

impl LeaseTable {
    /// Makes a table in which nobody holds anything and the given epochs have been used.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        used: impl IntoIterator<Item = (String, Epoch)>,
    ) -> Self {
        let entries = used
            .into_iter()
            .map(|(name, epoch)| {
                (
                    name,
                    Entry {
                        epoch,
                        tenure: None,
                    },
                )
            })
            .collect();
        LeaseTable {
            clock,
            entries: Mutex::new(entries),
        }
    }

    /// Grants the lease if it is free or already held by the same holder, under a new epoch.
    ///
    /// The epoch must be durable before the caller learns of it.
    pub(crate) fn campaign(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Lease, LeaseError> {
        let now = self.clock.now();
        let mut entries = self.lock();
        let entry = entries.entry(name.to_owned()).or_default();
        if let Some(tenure) = entry
            .tenure
            .as_ref()
            .filter(|t| t.expires_at > now && t.holder != holder)
        {
            return Err(LeaseError::Held {
                name: name.into(),
                by: tenure.holder.clone(),
                epoch: entry.epoch,
                remaining: tenure.expires_at - now,
            });
        }
        entry.epoch = Epoch(entry.epoch.0 + 1);
        entry.tenure = Some(Tenure {
            holder: holder.into(),
            ttl,
            expires_at: now.saturating_add(ttl),
        });
        Ok(Lease {
            name: name.into(),
            holder: holder.into(),
            epoch: entry.epoch,
            ttl,
        })
    }

    /// Lets the lease last for its `ttl` from now.
    pub(crate) fn keep_alive(&self, lease: &Lease) -> Result<(), LeaseError> {
        let now = self.clock.now();
        let mut entries = self.lock();
        match held(&mut entries, &lease.name, lease.epoch, now) {
            Ok(tenure) => {
                tenure.expires_at = now.saturating_add(tenure.ttl);
                Ok(())
            }
            Err(found) => Err(lost(lease, found)),
        }
    }

    /// Gives the lease up, so that another holder need not wait for it to expire.
    pub(crate) fn resign(&self, lease: &Lease) -> Result<(), LeaseError> {
        let now = self.clock.now();
        let mut entries = self.lock();
        held(&mut entries, &lease.name, lease.epoch, now).map_err(|found| lost(lease, found))?;
        if let Some(entry) = entries.get_mut(&lease.name) {
            entry.tenure = None;
        }
        Ok(())
    }

    /// Returns what stands in the way if the lease is not held at `epoch`.
    pub(crate) fn check(&self, name: &str, epoch: Epoch) -> Result<(), Found> {
        let now = self.clock.now();
        held(&mut self.lock(), name, epoch, now).map(|_| ())
    }

    /// Takes a granted lease back because its epoch could not be made durable.
    pub(crate) fn revoke(&self, lease: &Lease) {
        if let Some(entry) = self
            .lock()
            .get_mut(&lease.name)
            .filter(|e| e.epoch == lease.epoch)
        {
            entry.tenure = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().expect("no holder panics")
    }
}

fn held<'a>(
    entries: &'a mut HashMap<String, Entry>,
    name: &str,
    epoch: Epoch,
    now: Duration,
) -> Result<&'a mut Tenure, Found> {
    let entry = entries.get_mut(name).ok_or(Found::Unheld)?;
    let current = entry.epoch;
    let tenure = entry
        .tenure
        .as_mut()
        .filter(|t| t.expires_at > now)
        .ok_or(Found::Unheld)?;
    if current == epoch {
        Ok(tenure)
    } else {
        Err(Found::Held(current))
    }
}

fn lost(lease: &Lease, found: Found) -> LeaseError {
    LeaseError::Lost {
        name: lease.name.clone(),
        epoch: lease.epoch,
        found,
    }
}
