//! Whether a target is worth a change: raised at once, lowered late and only by enough.

use super::horizon::HOURS_A_DAY;

/// When a limit changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChangeRule {
    /// Raised when the target is above this multiple of the limit that holds.
    pub raise_above: f64,
    /// Lowered when the highest target of the last day is below this multiple.
    pub lower_below: f64,
}

/// A limit is lowered only where it falls by more than 15%: a smaller gain is of the size of the margins themselves.
/// Without the rule and the day's wait limits change five times as often, and are too low more often.
const LOWER_BELOW: f64 = 0.85;

/// CPU is raised when 3% are missing: less is lost in the grain of the histogram, and steady noise would raise a limit
/// a little every hour.
pub const CPU_RULE: ChangeRule = ChangeRule {
    raise_above: 1.03,
    lower_below: LOWER_BELOW,
};

/// Memory is raised when a twentieth of the limit is missing, the least margin there is: up to there the limit is still
/// above every peak it is made from. A slowly growing task would change its limit every hour otherwise.
pub const MEMORY_RULE: ChangeRule = ChangeRule {
    raise_above: 1.05,
    lower_below: LOWER_BELOW,
};

/// The highest target of each of the last 24 hours. A limit is lowered to the highest of them, never to the target of
/// the moment: what was needed within a day is needed again at that time tomorrow.
#[derive(Clone, Debug)]
pub struct Hysteresis {
    rule: ChangeRule,
    highest: [f64; HOURS_A_DAY],
    hour: Option<i64>,
}

/// What becomes of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    Raise(f64),
    Keep(f64),
    Lower(f64),
}

impl Choice {
    pub fn value(self) -> f64 {
        match self {
            Choice::Raise(value) | Choice::Keep(value) | Choice::Lower(value) => value,
        }
    }
}

impl Hysteresis {
    pub fn new(rule: ChangeRule) -> Hysteresis {
        Hysteresis {
            rule,
            highest: [0.0; HOURS_A_DAY],
            hour: None,
        }
    }

    /// Notes a target of the hour with this number. Hours may be left out, and may arrive late.
    pub fn note(&mut self, hour: i64, target: f64) {
        let newest = *self.hour.get_or_insert(hour);
        let passed = hour.saturating_sub(newest).clamp(0, HOURS_A_DAY as i64);
        for skipped in 1..=passed {
            self.highest[slot(hour - passed + skipped)] = 0.0;
        }
        if hour > newest - HOURS_A_DAY as i64 {
            let highest = &mut self.highest[slot(hour)];
            *highest = highest.max(target);
        }
        self.hour = Some(newest.max(hour));
    }

    /// What becomes of the limit `current`, given the target of the moment, which has been noted.
    pub fn choose(&self, current: f64, target: f64) -> Choice {
        if target > current * self.rule.raise_above {
            return Choice::Raise(target);
        }
        let highest = self
            .highest
            .iter()
            .fold(target, |highest, one| highest.max(*one));
        match highest < current * self.rule.lower_below {
            true => Choice::Lower(highest),
            false => Choice::Keep(current),
        }
    }
}

fn slot(hour: i64) -> usize {
    hour.rem_euclid(HOURS_A_DAY as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raises_at_once_and_lowers_a_day_later_by_enough() {
        let mut hysteresis = Hysteresis::new(CPU_RULE);
        hysteresis.note(0, 100.0);
        assert_eq!(hysteresis.choose(50.0, 100.0), Choice::Raise(100.0));
        for hour in 1..24 {
            hysteresis.note(hour, 10.0);
            assert_eq!(
                hysteresis.choose(100.0, 10.0),
                Choice::Keep(100.0),
                "hour {hour}"
            );
        }
        hysteresis.note(24, 10.0);
        assert_eq!(hysteresis.choose(100.0, 10.0), Choice::Lower(10.0));
        assert_eq!(hysteresis.choose(11.0, 10.0), Choice::Keep(11.0));
    }

    #[test]
    fn memory_is_raised_by_enough() {
        let hysteresis = Hysteresis::new(MEMORY_RULE);
        assert_eq!(hysteresis.choose(100.0, 105.0), Choice::Keep(100.0));
        assert_eq!(hysteresis.choose(100.0, 106.0), Choice::Raise(106.0));
    }

    #[test]
    fn a_gap_forgets_and_a_late_note_counts_for_its_hour() {
        let mut hysteresis = Hysteresis::new(CPU_RULE);
        hysteresis.note(0, 100.0);
        hysteresis.note(1000, 10.0);
        assert_eq!(hysteresis.choose(100.0, 10.0), Choice::Lower(10.0));
        hysteresis.note(990, 60.0);
        hysteresis.note(5, 1000.0);
        assert_eq!(hysteresis.choose(100.0, 10.0), Choice::Lower(60.0));
    }
}
