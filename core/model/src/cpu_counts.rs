//! How often how much CPU was used: counts in buckets that grow by 5%.
//!
//! A quarter of an hour or a year of samples is one small table this way, two tables add up by adding counts, and
//! any percentile read from it is at most 5% above the sample that stood there.

use serde::{Deserialize, Serialize};

use crate::Cores;

/// Each bucket reaches 5% further than the one below it: finer than any margin put on top, and small to keep.
const GROWTH: f64 = 1.05;

/// The buckets reach past a million millicores, more than any machine has.
pub const CPU_BUCKETS: usize = 288;

/// Counts of CPU samples by bucket, in the order of the buckets; empty buckets are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuCounts(Vec<(u16, u32)>);

/// The bucket of a use: the first that reaches it. Up to one millicore is the first bucket.
pub fn cpu_bucket(millicores: f64) -> usize {
    if millicores.is_nan() || millicores <= 1.0 {
        return 0;
    }
    let bucket = (millicores.ln() / GROWTH.ln()).ceil() as usize;
    bucket.min(CPU_BUCKETS - 1)
}

/// The most that a bucket holds, in millicores.
pub fn cpu_bucket_reach(bucket: usize) -> f64 {
    GROWTH.powi(bucket as i32)
}

impl CpuCounts {
    /// Counts one sample.
    pub fn add(&mut self, cpu: Cores) {
        self.add_many(cpu_bucket(cpu.0 as f64) as u16, 1);
    }

    /// Adds what another table counted.
    pub fn merge(&mut self, other: &CpuCounts) {
        for (bucket, count) in &other.0 {
            self.add_many(*bucket, *count);
        }
    }

    /// How many samples were counted.
    pub fn samples(&self) -> u64 {
        self.0.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// The buckets with their counts, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.0
            .iter()
            .map(|(bucket, count)| (usize::from(*bucket), *count))
    }

    /// How many samples were above `cpu`, as far as the buckets tell: those of a bucket that begins at or above it.
    pub fn above(&self, cpu: Cores) -> u64 {
        let limit = cpu_bucket(cpu.0 as f64);
        let above = self.iter().filter(|(bucket, _)| *bucket > limit);
        above.map(|(_, count)| u64::from(count)).sum()
    }

    /// The use that this share of the samples stayed within, as far as the buckets tell; 0 without samples.
    pub fn percentile(&self, share: f64) -> Cores {
        let wanted = (self.samples() as f64 * share).ceil();
        let mut seen = 0.0;
        for (bucket, count) in self.iter() {
            seen += f64::from(count);
            if seen >= wanted {
                return Cores(cpu_bucket_reach(bucket) as u64);
            }
        }
        Cores::ZERO
    }

    /// As few bytes: the distance to the bucket before, then the count, both in groups of seven bits.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 3);
        let mut last = 0;
        for (bucket, count) in &self.0 {
            write_number(u32::from(*bucket) - last, &mut bytes);
            write_number(*count, &mut bytes);
            last = u32::from(*bucket);
        }
        bytes
    }

    /// Reads what [`CpuCounts::to_bytes`] wrote; none when it did not.
    pub fn from_bytes(bytes: &[u8]) -> Option<CpuCounts> {
        let mut rest = bytes;
        let mut counts = CpuCounts::default();
        let mut bucket = 0_u32;
        while !rest.is_empty() {
            bucket = bucket.checked_add(read_number(&mut rest)?)?;
            let count = read_number(&mut rest)?;
            if bucket as usize >= CPU_BUCKETS {
                return None;
            }
            counts.add_many(bucket as u16, count);
        }
        Some(counts)
    }

    fn add_many(&mut self, bucket: u16, count: u32) {
        match self.0.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(found) => self.0[found].1 = self.0[found].1.saturating_add(count),
            Err(place) => self.0.insert(place, (bucket, count)),
        }
    }
}

fn write_number(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in (0..35).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_reaches_its_samples_by_at_most_five_percent(millicores in 1_u64..1_000_000) {
            let reach = cpu_bucket_reach(cpu_bucket(millicores as f64));
            prop_assert!(reach >= millicores as f64 * 0.999_999);
            prop_assert!(reach <= millicores as f64 * GROWTH * 1.000_001);
        }

        #[test]
        fn counts_survive_their_bytes(samples in prop::collection::vec(0_u64..100_000, 0..300)) {
            let mut counts = CpuCounts::default();
            samples.iter().for_each(|sample| counts.add(Cores(*sample)));
            prop_assert_eq!(counts.samples(), samples.len() as u64);
            prop_assert_eq!(CpuCounts::from_bytes(&counts.to_bytes()), Some(counts));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = CpuCounts::from_bytes(&bytes);
        }
    }

    #[test]
    fn what_is_no_number_is_nothing() {
        assert_eq!(cpu_bucket(f64::NAN), 0);
        assert_eq!(cpu_bucket(-5.0), 0);
        assert_eq!(cpu_bucket(f64::INFINITY), CPU_BUCKETS - 1);
    }
}
