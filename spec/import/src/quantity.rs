//! Durations, sizes and shares of cores, as the three families write them.

use tw_model::{Bytes, Cores, Millis};

/// `1m30s`, `500ms`, `1.5h`: Go's durations. A number alone has no meaning there.
pub(crate) fn duration(text: &str) -> Option<Millis> {
    let mut rest = text.trim();
    if rest.is_empty() || rest == "0" {
        return (rest == "0").then_some(Millis::ZERO);
    }
    let mut millis = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let units: [(&str, f64); 8] = [
            ("ms", 1.0),
            ("us", 0.001),
            ("µs", 0.001),
            ("ns", 0.000_001),
            ("s", 1000.0),
            ("m", 60_000.0),
            ("h", 3_600_000.0),
            ("d", 86_400_000.0),
        ];
        let (unit, factor) = units
            .into_iter()
            .find(|(unit, _)| rest[end..].starts_with(unit))?;
        millis += number * factor;
        rest = &rest[end + unit.len()..];
    }
    Some(Millis(millis.round() as u64))
}

/// `512m`, `1gb`, `64b`: sizes in a compose file, in powers of 1024.
pub(crate) fn compose_bytes(text: &str) -> Option<Bytes> {
    let text = text.trim().to_ascii_lowercase();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let shift = match text[end..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return None,
    };
    Some(Bytes((number * (1u64 << shift) as f64).round() as u64))
}

/// `128Mi`, `1G`, `1e9`, `500m`: Kubernetes' quantities as a number.
fn kubernetes(text: &str) -> Option<f64> {
    let text = text.trim();
    let suffixes: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let (number, factor) = suffixes
        .into_iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))
        .unwrap_or((text, 1.0));
    let number: f64 = number.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * factor)
}

/// Bytes as a Kubernetes quantity.
pub(crate) fn kubernetes_bytes(text: &str) -> Option<Bytes> {
    kubernetes(text).map(|bytes| Bytes(bytes.ceil() as u64))
}

/// Cores as a Kubernetes quantity.
pub(crate) fn kubernetes_cores(text: &str) -> Option<Cores> {
    kubernetes(text).map(|cores| Cores((cores * 1000.0).ceil() as u64))
}

/// Cores as a number: `0.5`.
pub(crate) fn cores(text: &str) -> Option<Cores> {
    let cores: f64 = text.trim().parse().ok()?;
    (cores.is_finite() && cores > 0.0).then(|| Cores((cores * 1000.0).ceil() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("1m0s", 60_000),
        ] {
            assert_eq!(duration(text), Some(Millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1x", "-1s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_the_units_of_their_family() {
        assert_eq!(compose_bytes("512m"), Some(Bytes::mib(512)));
        assert_eq!(compose_bytes("1.5GB"), Some(Bytes::mib(1536)));
        assert_eq!(compose_bytes("1024"), Some(Bytes(1024)));
        assert_eq!(compose_bytes("1x"), None);
        assert_eq!(kubernetes_bytes("128Mi"), Some(Bytes::mib(128)));
        assert_eq!(kubernetes_bytes("1G"), Some(Bytes(1_000_000_000)));
        assert_eq!(kubernetes_bytes("1e3"), Some(Bytes(1000)));
        assert_eq!(kubernetes_cores("250m"), Some(Cores(250)));
        assert_eq!(kubernetes_cores("2"), Some(Cores(2000)));
        assert_eq!(kubernetes_cores("much"), None);
        assert_eq!(cores("0.5"), Some(Cores(500)));
    }
}
