//! Room above what was seen.
//!
//! A share of the use that shrinks as the use grows: a task of 64 MiB gets twice its use on top, one of 16 GiB an
//! eighth. A unit of room costs the same wherever it is given, but prevents more where tasks are small, for their use
//! moves by more of its size: one more request, thread or buffer is a large part of it. So a fixed share, as the
//! published methods have it, gives large tasks too much room and small ones too little.

/// How much room a use gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margin {
    /// The share at a use of one unit.
    pub(crate) share: f64,
    /// The use, in the caller's measure, that is one unit.
    pub(crate) unit: f64,
    /// How fast the share shrinks: with 0 the room is a fixed share, with 1 a fixed amount.
    pub(crate) power: f64,
    /// The share never falls below this, nor rises above that.
    pub(crate) share_min: f64,
    pub(crate) share_max: f64,
}

impl Margin {
    /// The use with its room.
    pub(crate) fn above(self, used: f64) -> f64 {
        if used <= 0.0 {
            return 0.0;
        }
        let share = self.share / (used / self.unit).powf(self.power);
        used * (1.0 + share.clamp(self.share_min, self.share_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Margin = Margin {
        share: 0.5,
        unit: 1024.0,
        power: 0.5,
        share_min: 0.1,
        share_max: 2.0,
    };

    #[test]
    fn small_uses_get_more_room_for_their_size() {
        assert_eq!(MARGIN.above(1024.0), 1536.0);
        assert_eq!(MARGIN.above(256.0), 512.0);
        assert_eq!(MARGIN.above(1.0), 3.0);
        assert_eq!(MARGIN.above(0.0), 0.0);
        assert!((MARGIN.above(1_000_000.0) - 1_100_000.0).abs() < 1e-3);
    }

    #[test]
    fn more_use_never_gets_a_lower_limit() {
        let limits: Vec<f64> = (0..100_000)
            .map(|used| MARGIN.above(f64::from(used)))
            .collect();
        assert!(limits.is_sorted());
    }
}
