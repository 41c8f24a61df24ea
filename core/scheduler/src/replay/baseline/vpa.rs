//! Kubernetes' Vertical Pod Autoscaler, as its recommender computes a target.
//!
//! A histogram whose weights halve every 24 hours; its first bucket is 10 millicores or 10 MB wide and each next one 5%
//! wider; a percentile is the end of its bucket, plus 15%. CPU counts every sample; memory counts the peak of each day,
//! which grows in place while the day lasts. A container that runs out of memory counts as a peak of 20%, and at least
//! 100 MB, more than it held. (`pkg/recommender`: `model/aggregate_container_state.go`, `util/decaying_histogram.go`,
//! `model/container.go`.)

use super::super::usage::Rule;

const RATIO: f64 = 1.05;
const HALF_LIFE_HOURS: f64 = 24.0;
const MARGIN: f64 = 1.15;
const HOURS_A_PEAK: usize = 24;

const CPU_FIRST_MILLICORES: f64 = 10.0;
/// 10 MB in MiB.
const MEMORY_FIRST_MIB: f64 = 1e7 / (1_u64 << 20) as f64;
const OOM_RAISE: f64 = 1.2;
const OOM_RAISE_MIN_MIB: f64 = 1e8 / (1_u64 << 20) as f64;

/// The recommender's own bound on the number of buckets: a petabyte, or a thousand cores.
const BUCKETS: usize = 400;

/// Weights are scaled back when they reach this.
const WEIGHT_MAX: f64 = 1e9;

/// One recommender, for one resource of one job.
#[derive(Clone, Debug)]
pub struct Vpa {
    percentile: f64,
    first: f64,
    weights: Vec<f64>,
    origin_hour: f64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Cpu,
    Memory { day: usize, peak: f64 },
}

impl Vpa {
    pub fn cpu(percentile: f64) -> Vpa {
        Vpa::new(percentile, CPU_FIRST_MILLICORES, Kind::Cpu)
    }

    pub fn memory(percentile: f64) -> Vpa {
        let kind = Kind::Memory { day: 0, peak: 0.0 };
        Vpa::new(percentile, MEMORY_FIRST_MIB, kind)
    }

    fn new(percentile: f64, first: f64, kind: Kind) -> Vpa {
        Vpa {
            percentile,
            first,
            weights: vec![0.0; BUCKETS],
            origin_hour: 0.0,
            kind,
        }
    }

    fn bucket(&self, value: f64) -> usize {
        let grown = value * (RATIO - 1.0) / self.first + 1.0;
        let bucket = grown.max(1.0).ln() / RATIO.ln();
        (bucket as usize).min(BUCKETS - 1)
    }

    fn start_of(&self, bucket: usize) -> f64 {
        self.first * (RATIO.powi(bucket as i32) - 1.0) / (RATIO - 1.0)
    }

    fn weight_at(&mut self, hour: f64) -> f64 {
        let weight = ((hour - self.origin_hour) / HALF_LIFE_HOURS).exp2();
        if weight > WEIGHT_MAX {
            self.weights.iter_mut().for_each(|one| *one /= weight);
            self.origin_hour = hour;
            return 1.0;
        }
        weight
    }

    fn add(&mut self, hour: f64, value: f64, count: f64) {
        let weight = self.weight_at(hour);
        let bucket = self.bucket(value);
        self.weights[bucket] = (self.weights[bucket] + count * weight).max(0.0);
    }

    /// Takes in a run's or a moment's peak of memory, and whether it was above the limit.
    pub(crate) fn observe_peak(&mut self, hour: usize, used: f64, limit: f64) {
        let Kind::Memory { day, peak } = self.kind else {
            return;
        };
        let today = hour / HOURS_A_PEAK;
        let known = if today == day { peak } else { 0.0 };
        let seen = match used > limit {
            true => (used * OOM_RAISE).max(used + OOM_RAISE_MIN_MIB),
            false => used,
        };
        if seen > known {
            // A day's peak weighs as of the day's end.
            let end = ((today + 1) * HOURS_A_PEAK) as f64;
            if known > 0.0 {
                self.add(end, known, -1.0);
            }
            self.add(end, seen, 1.0);
        }
        self.kind = Kind::Memory {
            day: today,
            peak: seen.max(known),
        };
    }

    /// The recommendation; none before the first sample.
    pub(crate) fn target(&self) -> Option<f64> {
        let total: f64 = self.weights.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let wanted = total * self.percentile * (1.0 - 1e-9);
        let mut seen = 0.0;
        let bucket = self.weights.iter().position(|weight| {
            seen += weight;
            seen >= wanted
        })?;
        Some(self.start_of(bucket + 1) * MARGIN)
    }
}

impl Rule for Vpa {
    fn observe(&mut self, hour: usize, used: &[f32], limit: f64) {
        for (index, used) in used.iter().enumerate() {
            match self.kind {
                Kind::Cpu => {
                    let at = hour as f64 + index as f64 / 12.0;
                    self.add(at, f64::from(*used), 1.0);
                }
                Kind::Memory { .. } => self.observe_peak(hour, f64::from(*used), limit),
            }
        }
    }

    fn decide(&mut self, _hour: usize) -> Option<f64> {
        self.target()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_end_of_its_bucket_plus_the_margin() {
        let mut vpa = Vpa::cpu(0.9);
        (0..24).for_each(|hour| vpa.observe(hour, &[100.0; 12], 1000.0));
        // Buckets end at 10 × (1.05^n - 1) / 0.05: 95.5 and 110.3 are those around 100.
        let target = vpa.target().expect("there are samples");
        assert!((target / MARGIN - 103.2).abs() < 7.5, "{target}");
        let bucket = vpa.bucket(100.0);
        assert!(vpa.start_of(bucket) <= 100.0 && vpa.start_of(bucket + 1) > 100.0);
    }

    #[test]
    fn running_out_of_memory_counts_as_more() {
        let (mut calm, mut killed) = (Vpa::memory(0.9), Vpa::memory(0.9));
        calm.observe(0, &[1000.0; 12], 2000.0);
        killed.observe(0, &[1000.0; 12], 900.0);
        assert!(killed.target() > calm.target().map(|target| target * 1.15));
    }

    #[test]
    fn a_days_peak_counts_once() {
        let mut vpa = Vpa::memory(0.5);
        vpa.observe(0, &[100.0, 200.0, 300.0, 900.0], 2000.0);
        let weights: f64 = vpa.weights.iter().sum();
        assert!((weights - 2.0).abs() < 1e-9, "{weights}");
    }
}
