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

    /// Two of its bounds that no version satisfies together, as they are written; none where some version satisfies all.
    pub fn contradiction(&self) -> Option<(&str, &str)> {
        let parts: Vec<&str> = self.0.split(',').map(str::trim).collect();
        let bounds: Vec<Limits> = bounds(&self.0)?.into_iter().map(Limits::of).collect();
        // Where any two of them have something in common, all have.
        let pairs = (0..bounds.len()).flat_map(|one| (0..one).map(move |other| (other, one)));
        let mut torn = pairs.filter(|(one, other)| !bounds[*one].meet(&bounds[*other]));
        torn.next().map(|(one, other)| (parts[one], parts[other]))
    }
}

/// The versions that a bound takes: those between two, with or without these.
struct Limits {
    lowest: Option<Edge>,
    highest: Option<Edge>,
}

struct Edge {
    version: Vec<u64>,
    is_in: bool,
}

impl Limits {
    fn of((bound, limit): (Bound, Vec<u64>)) -> Limits {
        let edge = |version: &[u64], is_in| {
            let version = version.to_vec();
            Some(Edge { version, is_in })
        };
        let (lowest, highest) = match bound {
            Bound::AtLeast => (edge(&limit, true), None),
            Bound::Above => (edge(&limit, false), None),
            Bound::AtMost => (None, edge(&limit, true)),
            Bound::Below => (None, edge(&limit, false)),
            Bound::Within => {
                let mut next = limit.clone();
                let last = next.last_mut().map(|part| part.checked_add(1));
                let next = last.flatten().map(|last| {
                    next.pop();
                    next.push(last);
                    next
                });
                (edge(&limit, true), next.and_then(|next| edge(&next, false)))
            }
        };
        Limits { lowest, highest }
    }

    fn meet(&self, other: &Limits) -> bool {
        let in_order = |lowest: &Option<Edge>, highest: &Option<Edge>| {
            let (Some(lowest), Some(highest)) = (lowest, highest) else {
                return true;
            };
            match compare(&lowest.version, &highest.version) {
                Ordering::Less => true,
                Ordering::Equal => lowest.is_in && highest.is_in,
                Ordering::Greater => false,
            }
        };
        in_order(&self.lowest, &other.highest) && in_order(&other.lowest, &self.highest)
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
    if bounds(&text).is_none() {
        return Err(Refusal {
            message: format!("'{text}' is not a range of versions"),
            hint: "for example \">=6.1, <7\", or \"12\" for every 12.x",
        });
    }
    let range = VersionRange(text);
    match range.contradiction() {
        None => Ok(range.0),
        Some((one, other)) => Err(Refusal {
            message: format!("no version is both '{one}' and '{other}'"),
            hint: "leave one of the two out, or turn a sign around, as in \">=6.1, <7\"",
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
    fn bounds_that_leave_no_version_are_found() {
        let found = |text: &str| {
            let range = VersionRange(text.to_owned());
            let found = range.contradiction();
            found.map(|(one, other)| format!("{one} | {other}"))
        };
        for (text, pair) in [
            (">=12, <11", ">=12 | <11"),
            (">6, <=6.0", ">6 | <=6.0"),
            (">=6, <9, ==7, >8", "==7 | >8"),
            ("12, 13", "12 | 13"),
            ("6.1, >=6.2", "6.1 | >=6.2"),
            ("<6, 6", "<6 | 6"),
        ] {
            assert_eq!(found(text).as_deref(), Some(pair), "{text}");
            let Err(refused) = version_range(text.to_owned()) else {
                panic!("{text} is taken");
            };
            assert!(refused.message.starts_with("no version is both"), "{text}");
        }
        for text in [
            "",
            "12",
            ">=12, <=12",
            ">11, <11.1",
            "6.1, >6.1.5, <6.2",
            "6, 6.1",
            ">=6, >=7, <8",
        ] {
            assert_eq!(found(text), None, "{text}");
            assert!(version_range(text.to_owned()).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_range_contains_nothing() {
        for text in [">=", "6.x", ">=6.1 <7", "~6", "6,", "=6"] {
            assert!(bounds(text).is_none(), "{text}");
            assert!(!contains(text, "6.1"), "{text}");
        }
    }
}
