//! Text of lengths of time.

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

#[cfg(test)]
mod tests {
    use super::format_millis;

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
