//! How much a learned limit is worth.

use serde::{Deserialize, Serialize};
use tw_model::Millis;

use super::Horizon;

/// How much a learned limit is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Less than three days, or gaps over more than half of the time.
    Low,
    /// Three days: a pattern that repeats by the day was seen to repeat.
    Medium,
    /// A whole window, nearly without gaps: a weekend was seen too.
    High,
}

impl Confidence {
    /// What history of this length and coverage (the share of it with samples) is worth.
    pub fn of(span: Millis, coverage: f64, horizon: Horizon) -> Confidence {
        if span >= horizon.window() && coverage >= 0.9 {
            Confidence::High
        } else if span.0 >= 3 * horizon.day().0 && coverage >= 0.5 {
            Confidence::Medium
        } else {
            Confidence::Low
        }
    }
}

impl std::fmt::Display for Confidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Confidence::Low => "low",
            Confidence::Medium => "medium",
            Confidence::High => "high",
        })
    }
}
