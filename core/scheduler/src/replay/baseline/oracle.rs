//! What the best policy would do that knows the next 24 hours: their peak, every hour (Rzadca et al., section 5.1).

use std::collections::VecDeque;

use super::super::usage::Rule;

const HOURS: usize = 24;
const SAMPLES_AN_HOUR: usize = 12;

/// The peaks to come.
#[derive(Clone, Debug)]
pub struct Oracle {
    limits: Vec<f64>,
}

impl Oracle {
    pub fn new(used: &[f32]) -> Oracle {
        let peak = |hour: &[f32]| hour.iter().fold(0.0_f32, |peak, used| peak.max(*used));
        let peaks: Vec<f32> = used.chunks(SAMPLES_AN_HOUR).map(peak).collect();
        // Falling candidates for the highest of the hours to come, nearest first.
        let mut ahead: VecDeque<usize> = VecDeque::new();
        let mut limits = vec![0.0; peaks.len()];
        for hour in (0..peaks.len()).rev() {
            while ahead
                .front()
                .is_some_and(|next| peaks[*next] <= peaks[hour])
            {
                ahead.pop_front();
            }
            ahead.push_front(hour);
            if ahead.back().is_some_and(|last| *last >= hour + HOURS) {
                ahead.pop_back();
            }
            limits[hour] = ahead
                .back()
                .map_or(0.0, |highest| f64::from(peaks[*highest]));
        }
        Oracle { limits }
    }
}

impl Rule for Oracle {
    fn observe(&mut self, _hour: usize, _used: &[f32], _limit: f64) {}

    fn decide(&mut self, hour: usize) -> Option<f64> {
        self.limits.get(hour).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_peak_of_the_next_day() {
        let used: Vec<f32> = (0..100 * 12).map(|n| ((n * 7919) % 1009) as f32).collect();
        let mut oracle = Oracle::new(&used);
        for hour in 0..100 {
            let next = &used[hour * 12..((hour + 24) * 12).min(used.len())];
            let peak = next.iter().copied().reduce(f32::max).map(f64::from);
            assert_eq!(oracle.decide(hour), peak, "hour {hour}");
        }
    }
}
