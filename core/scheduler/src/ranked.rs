//! Jobs in the order of something that is known of each.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::JobId;

/// Some jobs, each with its rank.
#[derive(Clone, Debug)]
pub(crate) struct Ranked<K> {
    of: BTreeMap<JobId, K>,
    sorted: BTreeSet<(K, JobId)>,
}

impl<K> Default for Ranked<K> {
    fn default() -> Ranked<K> {
        Ranked {
            of: BTreeMap::new(),
            sorted: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Ord> Ranked<K> {
    /// Gives a job its rank, or takes it out.
    pub(crate) fn set(&mut self, id: &JobId, rank: Option<K>) {
        if self.of.get(id).copied() == rank {
            return;
        }
        if let Some(old) = self.of.remove(id) {
            self.sorted.remove(&(old, id.clone()));
        }
        if let Some(rank) = rank {
            self.of.insert(id.clone(), rank);
            self.sorted.insert((rank, id.clone()));
        }
    }

    /// The jobs, lowest rank first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &JobId)> {
        self.sorted.iter().map(|(rank, id)| (*rank, id))
    }
}
