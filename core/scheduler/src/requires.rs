//! What a job requires of a machine, held against what the machine says of itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tw_model::{MachineFacts, Requires};

use crate::fleet::Slot;

/// How many requirements are remembered with the machines that satisfy them.
const REMEMBERED_MAX: usize = 256;

/// The first requirement that a machine does not satisfy, in words such as `os≠debian`; none where it satisfies all.
pub(crate) fn unmet(requires: &Requires, facts: &MachineFacts) -> Option<String> {
    let (os, version) = os_of(facts);
    if !requires.os.is_empty() && requires.os != os {
        return Some(format!("os≠{}", requires.os));
    }
    if !requires.os_version.is_any() && !requires.os_version.contains(version) {
        return Some(format!("os version not {}", requires.os_version.0));
    }
    if !requires.kernel.is_any() && !requires.kernel.contains(&facts.kernel) {
        return Some(format!("kernel not {}", requires.kernel.0));
    }
    let mut labels = requires.labels.iter();
    if let Some((key, value)) = labels.find(|(key, value)| facts.labels.get(&key.0) != Some(*value))
    {
        return Some(format!("label {}≠{value}", key.0));
    }
    let names = [
        ("profile", &requires.profile, &facts.profile),
        ("region", &requires.region, &facts.region),
    ];
    let mut names = names.into_iter();
    names.find_map(|(what, wanted, found)| {
        let wanted = wanted.as_ref()?;
        (wanted.as_str() != found).then(|| format!("{what}≠{wanted}"))
    })
}

/// A machine's operating system and its version, which its agent reports as `debian-12`.
fn os_of(facts: &MachineFacts) -> (&str, &str) {
    match facts.os.rsplit_once('-') {
        Some((os, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => (os, version),
        _ => (&facts.os, ""),
    }
}

/// The machines that satisfy a requirement.
#[derive(Debug)]
pub(crate) struct Eligible {
    bits: Vec<u64>,
    pub(crate) slots: Vec<Slot>,
}

impl Eligible {
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        let word = self.bits.get(slot as usize / 64);
        word.is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}

/// Remembers which machines satisfy which requirements, until the facts of a machine change.
///
/// The answers follow from the facts alone: asking twice or once makes no difference but to the time.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<BTreeMap<String, Arc<Eligible>>>);

impl Memo {
    pub(crate) fn forget(&mut self) {
        let known = self.0.get_mut();
        known.unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn eligible<'a>(
        &self,
        requires: &Requires,
        machines: impl Iterator<Item = &'a MachineFacts>,
    ) -> Arc<Eligible> {
        let key = serde_json::to_string(requires);
        let key = key.expect("requirements hold nothing that JSON cannot");
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(eligible) = known.get(&key) {
            return Arc::clone(eligible);
        }
        let mut found = Eligible {
            bits: Vec::new(),
            slots: Vec::new(),
        };
        for (slot, facts) in machines.enumerate() {
            if slot % 64 == 0 {
                found.bits.push(0);
            }
            if unmet(requires, facts).is_none() {
                found.bits[slot / 64] |= 1 << (slot % 64);
                found.slots.push(slot as Slot);
            }
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        let found = Arc::new(found);
        known.insert(key, Arc::clone(&found));
        found
    }
}

impl Clone for Memo {
    /// An empty one: it fills itself.
    fn clone(&self) -> Memo {
        Memo::default()
    }
}
