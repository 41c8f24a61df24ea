//! Robusta's KRR, its "simple" strategy: the 95th percentile of CPU and the peak of memory plus 15%, over the last
//! week. (`robusta_krr/strategies/simple.py`.)

use std::collections::VecDeque;

use super::super::usage::Rule;

const HOURS: usize = 168;
const CPU_PERCENTILE: f64 = 0.95;
const MEMORY_BUFFER: f64 = 1.15;

/// One strategy, for one resource of one job.
#[derive(Clone, Debug)]
pub enum Krr {
    Cpu(CpuWindow),
    /// The peak of each hour of the window.
    Memory(VecDeque<f32>),
}

/// The samples of a window, counted in buckets of 0.4%: fine enough to read a percentile from.
#[derive(Clone, Debug)]
pub struct CpuWindow {
    hours: VecDeque<Vec<u16>>,
    counts: Vec<u32>,
    /// Sums of 64 counts each.
    blocks: Vec<u32>,
    samples: u64,
}

/// The high bits of a float order like the float: its exponent and the first eight bits of its mantissa.
const BITS_DROPPED: u32 = 15;
const LOWEST: u32 = 127 << 8;
const BUCKETS: usize = 24 << 8;
const BLOCK: usize = 64;

impl Krr {
    pub fn cpu() -> Krr {
        Krr::Cpu(CpuWindow {
            hours: VecDeque::new(),
            counts: vec![0; BUCKETS],
            blocks: vec![0; BUCKETS / BLOCK],
            samples: 0,
        })
    }

    pub fn memory() -> Krr {
        Krr::Memory(VecDeque::new())
    }
}

/// The limit for a peak of memory.
pub(crate) fn memory_limit(peak: f64) -> f64 {
    peak * MEMORY_BUFFER
}

impl Rule for Krr {
    fn observe(&mut self, _hour: usize, used: &[f32], _limit: f64) {
        match self {
            Krr::Cpu(window) => window.push(used),
            Krr::Memory(peaks) => {
                peaks.push_back(used.iter().fold(0.0, |peak, used| used.max(peak)));
                if peaks.len() > HOURS {
                    peaks.pop_front();
                }
            }
        }
    }

    fn decide(&mut self, _hour: usize) -> Option<f64> {
        match self {
            Krr::Cpu(window) => window.percentile(CPU_PERCENTILE),
            Krr::Memory(peaks) => {
                let peak = peaks.iter().copied().reduce(f32::max)?;
                Some(memory_limit(f64::from(peak)))
            }
        }
    }
}

impl CpuWindow {
    fn push(&mut self, used: &[f32]) {
        let buckets: Vec<u16> = used.iter().map(|used| bucket(*used)).collect();
        for bucket in &buckets {
            self.counts[usize::from(*bucket)] += 1;
            self.blocks[usize::from(*bucket) / BLOCK] += 1;
        }
        self.samples += buckets.len() as u64;
        self.hours.push_back(buckets);
        let dropped = if self.hours.len() > HOURS {
            self.hours.pop_front()
        } else {
            None
        };
        for bucket in dropped.into_iter().flatten() {
            self.counts[usize::from(bucket)] -= 1;
            self.blocks[usize::from(bucket) / BLOCK] -= 1;
            self.samples -= 1;
        }
    }

    /// The end of the bucket below which the share of the samples lies.
    fn percentile(&self, share: f64) -> Option<f64> {
        // As many samples lie above, counted from the top.
        let above = self.samples - (self.samples as f64 * share).ceil() as u64;
        let mut seen = 0;
        let block = (0..self.blocks.len()).rev().find(|block| {
            seen += u64::from(self.blocks[*block]);
            seen > above
        })?;
        seen -= u64::from(self.blocks[block]);
        let within = (block * BLOCK..(block + 1) * BLOCK).rev().find(|bucket| {
            seen += u64::from(self.counts[*bucket]);
            seen > above
        })?;
        Some(reach(within))
    }
}

fn bucket(used: f32) -> u16 {
    let high = (used.max(0.0).to_bits() >> BITS_DROPPED).saturating_sub(LOWEST);
    high.min(BUCKETS as u32 - 1) as u16
}

fn reach(bucket: usize) -> f64 {
    f64::from(f32::from_bits(
        ((bucket as u32 + LOWEST + 1) << BITS_DROPPED) - 1,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_the_percentile_of_the_week() {
        let mut krr = Krr::cpu();
        for hour in 0..400 {
            let samples: Vec<f32> = (0..12).map(|n| (hour % 100 * 12 + n) as f32).collect();
            krr.observe(hour, &samples, 0.0);
        }
        // The last 168 hours are one pass from 232 on: hours 32 to 99 and 0 to 99.
        let mut week: Vec<usize> = (232..400)
            .flat_map(|h| (0..12).map(move |n| h % 100 * 12 + n))
            .collect();
        week.sort_unstable();
        let exact = week[(week.len() * 95).div_ceil(100) - 1] as f64;
        let found = krr.decide(0).expect("there are samples");
        assert!(
            found >= exact && found <= exact * 1.005,
            "{found} for {exact}"
        );
    }

    #[test]
    fn memory_is_the_peak_of_the_week_and_a_buffer() {
        let mut krr = Krr::memory();
        krr.observe(0, &[100.0, 400.0], 0.0);
        (1..168).for_each(|hour| krr.observe(hour, &[200.0], 0.0));
        assert_eq!(krr.decide(0), Some(memory_limit(400.0)));
        krr.observe(168, &[200.0], 0.0);
        assert_eq!(krr.decide(0), Some(memory_limit(200.0)));
    }
}
