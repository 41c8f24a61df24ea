//! A histogram of CPU use in which old samples fade.

use tw_model::{CPU_BUCKETS, Millis, Timestamp, cpu_bucket, cpu_bucket_reach};

/// Weights by bucket. Rather than fade the old, new samples come with more weight: one addition a sample.
#[derive(Clone, Debug)]
pub(crate) struct FadingHistogram {
    half_life_us: f64,
    /// The moment at which a sample weighs one.
    origin: Option<Timestamp>,
    weights: Vec<f32>,
}

/// When new samples have come to weigh this, all weights are scaled back: far inside the precision of the sums.
const WEIGHT_MAX: f64 = 1024.0;

impl FadingHistogram {
    pub(crate) fn new(half_life: Millis) -> FadingHistogram {
        FadingHistogram {
            half_life_us: half_life.0.max(1) as f64 * 1000.0,
            origin: None,
            weights: vec![0.0; CPU_BUCKETS],
        }
    }

    /// Counts samples of one size. Samples from before the newest weigh what their age says.
    pub(crate) fn add(&mut self, at: Timestamp, millicores: f64, count: f64) {
        self.add_bucket(at, cpu_bucket(millicores), count);
    }

    pub(crate) fn add_bucket(&mut self, at: Timestamp, bucket: usize, count: f64) {
        let weight = self.weight_at(at);
        self.weights[bucket.min(CPU_BUCKETS - 1)] += (count * weight) as f32;
    }

    /// The uses that `time_share` of the time, and that `load_share` of the work, stayed within. None without samples.
    pub(crate) fn percentiles(&self, time_share: f64, load_share: f64) -> Option<(f64, f64)> {
        let (mut time, mut load) = (0.0, 0.0);
        for (weight, reach) in self.weights.iter().zip(reaches()) {
            time += f64::from(*weight);
            load += f64::from(*weight) * reach;
        }
        if time <= 0.0 {
            return None;
        }
        // Sums of rounded numbers may end a hair below their total.
        let (time_wanted, load_wanted) = (time * time_share * NEARLY, load * load_share * NEARLY);
        let (mut by_time, mut by_load) = (None, None);
        (time, load) = (0.0, 0.0);
        for (weight, reach) in self.weights.iter().zip(reaches()) {
            time += f64::from(*weight);
            load += f64::from(*weight) * reach;
            if by_time.is_none() && time >= time_wanted {
                by_time = Some(*reach);
            }
            if by_load.is_none() && load >= load_wanted {
                by_load = Some(*reach);
            }
            if by_time.is_some() && by_load.is_some() {
                break;
            }
        }
        by_time.zip(by_load)
    }

    fn weight_at(&mut self, at: Timestamp) -> f64 {
        let origin = *self.origin.get_or_insert(at);
        let half_lives = (at.0.saturating_sub(origin.0)) as f64 / self.half_life_us;
        let weight = half_lives.exp2();
        if weight <= WEIGHT_MAX {
            return weight;
        }
        let shrink = (-half_lives).exp2() as f32;
        self.weights.iter_mut().for_each(|weight| *weight *= shrink);
        self.origin = Some(at);
        1.0
    }
}

const NEARLY: f64 = 1.0 - 1e-9;

fn reaches() -> &'static [f64] {
    static REACHES: std::sync::LazyLock<Vec<f64>> =
        std::sync::LazyLock::new(|| (0..CPU_BUCKETS).map(cpu_bucket_reach).collect());
    &REACHES
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn percentiles_are_those_of_time_and_of_work() {
        let mut histogram = FadingHistogram::new(Millis::hours(12));
        assert_eq!(histogram.percentiles(0.98, 0.6), None);
        for minute in 0..1000 {
            let busy = minute % 100 == 0;
            histogram.add(Timestamp(minute), if busy { 4000.0 } else { 10.0 }, 1.0);
        }
        let (time, load) = histogram.percentiles(0.98, 0.6).expect("there are samples");
        assert!((10.0..=10.5).contains(&time), "{time}");
        assert!((4000.0..=4200.0).contains(&load), "{load}");
    }

    #[test]
    fn the_old_fades_over_any_length_of_time() {
        let mut histogram = FadingHistogram::new(Millis::hours(12));
        (0..100).for_each(|_| histogram.add(Timestamp(0), 5000.0, 1.0));
        histogram.add(Timestamp(10_000 * HOUR), 100.0, 1.0);
        let (time, _) = histogram
            .percentiles(0.98, 0.98)
            .expect("there are samples");
        assert!(time < 106.0, "{time}");
    }
}
