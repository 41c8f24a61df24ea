//! What happens at the same time every week.

use std::collections::VecDeque;

use super::horizon::{HOURS, HOURS_A_DAY};

/// The height that the coming day reached one week ago and two weeks ago: the lower of both. One week alone proves no
/// pattern. Zero when two weeks are not remembered yet.
pub(super) fn recurring_peak(hours: &VecDeque<f32>) -> f32 {
    // Two full windows less the hours of a day that was dropped at the far end.
    if hours.len() < 2 * HOURS {
        return 0.0;
    }
    let day_after = |ago: usize| {
        let from = hours.len() - ago;
        let day = hours.range(from..from + HOURS_A_DAY);
        day.fold(0.0_f32, |highest, peak| highest.max(*peak))
    };
    day_after(HOURS).min(day_after(2 * HOURS))
}
