//! Keys and what proves that an entry is whole.

/// What an entry is found by: a hash over its kind and everything its value depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// The key of the entry of this kind for these parts.
    pub(crate) fn new(kind: &str, parts: &[&[u8]]) -> Key {
        let mut hasher = blake3::Hasher::new();
        for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Key(*hasher.finalize().as_bytes())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The sum that an entry is stored with.
pub(super) fn sum(key: &Key, value: &[u8]) -> Vec<u8> {
    let hash = blake3::keyed_hash(&key.0, value);
    hash.as_bytes()[..16].to_vec()
}
