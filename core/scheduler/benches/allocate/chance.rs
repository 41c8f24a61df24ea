//! Chance that is the same in every run.

/// A small generator.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// A number from `low` up to and without `high`.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + (self.0 >> 8) % (high - low)
    }
}
