//! Text of lengths of time.

use std::str::FromStr;

use crate::Millis;

const UNITS: [(u64, &str); 5] = [
    (86_400_000, "d"),
    (3_600_000, "h"),
    (60_000, "m"),
    (1000, "s"),
    (1, "ms"),
];

/// Formats milliseconds with the two largest units that are not zero: `1h30m`, `5s`, `1s250ms`.
pub(crate) fn format_millis(millis: u64) -> String {
    if millis == 0 {
        return "0s".to_owned();
    }
    let first = UNITS
        .iter()
        .position(|(size, _)| millis >= *size)
        .unwrap_or(UNITS.len() - 1);
    let (size, unit) = UNITS[first];
    let mut text = format!("{}{unit}", millis / size);
    if let Some((next, next_unit)) = UNITS.get(first + 1) {
        let rest = millis % size / next;
        if rest > 0 {
            text.push_str(&format!("{rest}{next_unit}"));
        }
    }
    text
}

/// A text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is not a length of time: write 30s, 10m, 2h or 1h30m")]
pub struct DurationError {
    pub found: String,
}

impl FromStr for Millis {
    type Err = DurationError;

    /// Reads what [`Millis`] shows: numbers, each with its unit.
    fn from_str(text: &str) -> Result<Millis, DurationError> {
        let refuse = || DurationError {
            found: text.to_owned(),
        };
        let mut millis = 0u64;
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(refuse)?;
            let number: u64 = rest[..end].parse().map_err(|_| refuse())?;
            rest = &rest[end..];
            let end = rest
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(rest.len());
            let unit = UNITS.iter().find(|(_, unit)| *unit == &rest[..end]);
            let (size, _) = unit.ok_or_else(refuse)?;
            let part = number.checked_mul(*size).ok_or_else(refuse)?;
            millis = millis.checked_add(part).ok_or_else(refuse)?;
            rest = &rest[end..];
        }
        match text.trim().is_empty() {
            true => Err(refuse()),
            false => Ok(Millis(millis)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Millis, format_millis};

    #[test]
    fn reads_what_it_shows_and_refuses_the_rest() {
        for millis in [0, 250, 5000, 90_000, 5_400_000, 86_400_000 + 3_600_000] {
            assert_eq!(format_millis(millis).parse(), Ok(Millis(millis)));
        }
        assert_eq!("1d2h3m4s5ms".parse(), Ok(Millis(93_784_005)));
        for bad in [
            "",
            "5",
            "m",
            "5 minutes",
            "-5m",
            "1.5h",
            "99999999999999d",
            "5m3",
        ] {
            assert!(bad.parse::<Millis>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shows_the_two_largest_units() {
        assert_eq!(format_millis(0), "0s");
        assert_eq!(format_millis(250), "250ms");
        assert_eq!(format_millis(5000), "5s");
        assert_eq!(format_millis(90_000), "1m30s");
        assert_eq!(format_millis(5_400_000), "1h30m");
        assert_eq!(format_millis(86_400_000), "1d");
    }
}
