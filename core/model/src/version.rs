//! Ranges of versions, as `requires` names them: `>=6.1, <7`.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::values::{Refusal, text_type};

/// Bounds that a version must satisfy, all of them. Empty takes any version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionRange(pub String);

#[derive(Clone, Copy)]
enum Bound {
    AtLeast,
    Above,
    AtMost,
    Below,
    /// Equal in every part that the bound names: `12` takes `12` and `12.4`.
    Within,
}

impl VersionRange {
    /// Whether `version` is in the range. Of a version such as `6.1.0-28-amd64` the numbers before the first `-` count;
    /// parts that one side lacks count as 0.
    pub fn contains(&self, version: &str) -> bool {
        let version = numbers(version);
        bounds(&self.0).is_some_and(|bounds| {
            bounds.iter().all(|(bound, limit)| match bound {
                Bound::AtLeast => compare(&version, limit) != Ordering::Less,
                Bound::Above => compare(&version, limit) == Ordering::Greater,
                Bound::AtMost => compare(&version, limit) != Ordering::Greater,
                Bound::Below => compare(&version, limit) == Ordering::Less,
                Bound::Within => {
                    let named: Vec<u64> = version.iter().copied().take(limit.len()).collect();
                    compare(&named, limit) == Ordering::Equal
                }
            })
        })
    }

    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bounds of a text; none where it is no range.
fn bounds(text: &str) -> Option<Vec<(Bound, Vec<u64>)>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|part| bound(part.trim())).collect()
}

fn bound(text: &str) -> Option<(Bound, Vec<u64>)> {
    let forms = [
        (">=", Bound::AtLeast),
        ("<=", Bound::AtMost),
        ("==", Bound::Within),
        (">", Bound::Above),
        ("<", Bound::Below),
        ("", Bound::Within),
    ];
    let (sign, bound) = forms.into_iter().find(|(sign, _)| text.starts_with(sign))?;
    let limit = text[sign.len()..].trim();
    let parts: Option<Vec<u64>> = limit.split('.').map(|part| part.parse().ok()).collect();
    Some((bound, parts?))
}

/// The numbers of a version, up to the first part that is none.
fn numbers(version: &str) -> Vec<u64> {
    let plain = version
        .split(['-', '+', ' ', '~'])
        .next()
        .unwrap_or_default();
    plain
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

fn compare(left: &[u64], right: &[u64]) -> Ordering {
    let part = |version: &[u64], index: usize| version.get(index).copied().unwrap_or(0);
    (0..left.len().max(right.len()))
        .map(|index| part(left, index).cmp(&part(right, index)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

text_type!(VersionRange, version_range);

fn version_range(text: String) -> Result<String, Refusal> {
    match bounds(&text) {
        Some(_) => Ok(text),
        None => Err(Refusal {
            message: format!("'{text}' is not a range of versions"),
            hint: "for example \">=6.1, <7\", or \"12\" for every 12.x",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(range: &str, version: &str) -> bool {
        VersionRange(range.to_owned()).contains(version)
    }

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(contains(">=6.1", "6.1.0-28-amd64"));
        assert!(contains(">=6.1", "6.18.5"));
        assert!(!contains(">=6.10", "6.9.7"));
        assert!(contains(">=6.1, <7", "6.99"));
        assert!(!contains(">=6.1, <7", "7.0"));
        assert!(contains("12", "12.4") && contains("12", "12") && !contains("12", "1.2"));
        assert!(contains("== 22.04", "22.04.3") && !contains("22.04", "22.10"));
        assert!(contains(">6", "6.1") && !contains(">6", "6.0") && contains("<=6.0", "6"));
        assert!(contains("", "anything"));
    }

    #[test]
    fn what_is_no_range_contains_nothing() {
        for text in [">=", "6.x", ">=6.1 <7", "~6", "6,", "=6"] {
            assert!(bounds(text).is_none(), "{text}");
            assert!(!contains(text, "6.1"), "{text}");
        }
    }
}
