//! What earlier runs of a batch task held of memory, and the limit for the next run.

const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = 1024.0 * MIB;

/// Runs that get the request, before anything is learned. Of fewer runs the highest says next to nothing.
const RUNS_MIN: u64 = 3;

/// Room above the highest run, before it is divided by the square root of the number of runs: a share of that run, and
/// the square root of it, in GiB. The expected overshoot of the next run above the highest of n falls with n; small
/// tasks overshoot by more of their size than large ones.
const SHARE: f64 = 0.5;
const ROOT: f64 = 1.0;

/// Room that stays however many runs there were: what a runtime, a library or the page cache moves from one run to the
/// next, whatever the input.
const REST_BYTES: f64 = 32.0 * MIB;

/// What is remembered of a batch task: two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchUse {
    runs: u64,
    peak_bytes: f64,
}

impl BatchUse {
    /// Remembers the peak of a run.
    pub fn observe(&mut self, peak_bytes: f64) {
        self.runs += 1;
        self.peak_bytes = self.peak_bytes.max(peak_bytes);
    }

    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// The highest run.
    pub fn peak_bytes(&self) -> f64 {
        self.peak_bytes
    }

    /// The limit for the next run; none until there were three.
    pub fn target_bytes(&self) -> Option<f64> {
        if self.runs < RUNS_MIN {
            return None;
        }
        let room = SHARE * self.peak_bytes + ROOT * (self.peak_bytes * GIB).sqrt();
        Some(self.peak_bytes + room / (self.runs as f64).sqrt() + REST_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_shrinks_with_experience() {
        let mut batch = BatchUse::default();
        let mut limits = Vec::new();
        for _ in 0..100 {
            batch.observe(GIB);
            limits.extend(batch.target_bytes());
        }
        assert_eq!(limits.len(), 98);
        assert!(limits.is_sorted_by(|a, b| a >= b));
        assert!(limits[0] > 1.8 * GIB && limits[97] < 1.2 * GIB);
    }
}
