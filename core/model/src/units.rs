//! Quantities with their unit in the type.

use std::fmt;
use std::ops::{Add, Mul, Sub};

use serde::{Deserialize, Serialize};

macro_rules! quantity {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            pub const ZERO: $name = $name(0);

            pub fn saturating_sub(self, other: $name) -> $name {
                $name(self.0.saturating_sub(other.0))
            }

            /// Multiplies by a non-negative factor, rounding up.
            pub fn scale(self, factor: f64) -> $name {
                $name((self.0 as f64 * factor).ceil() as u64)
            }
        }

        impl Add for $name {
            type Output = $name;
            fn add(self, other: $name) -> $name {
                $name(self.0.saturating_add(other.0))
            }
        }

        impl Sub for $name {
            type Output = $name;
            fn sub(self, other: $name) -> $name {
                self.saturating_sub(other)
            }
        }

        impl Mul<u64> for $name {
            type Output = $name;
            fn mul(self, count: u64) -> $name {
                $name(self.0.saturating_mul(count))
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = $name>>(values: I) -> $name {
                values.fold($name::ZERO, Add::add)
            }
        }
    };
}

quantity! {
    /// Processor time in thousandths of one core.
    Cores
}
quantity! {
    /// Memory or disk, in bytes.
    Bytes
}
quantity! {
    /// A length of time in milliseconds.
    Millis
}

quantity! {
    /// A number without a unit, in millionths.
    Number
}

impl Number {
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for Number {
    /// With at most six decimals: `0.5`, `20`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&trim_decimals(format!("{:.6}", self.as_f64())))
    }
}

impl Cores {
    pub const fn milli(millicores: u64) -> Cores {
        Cores(millicores)
    }
}

impl fmt::Display for Cores {
    /// Cores with at most three decimals: `0.5`, `2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&trim_decimals(format!("{:.3}", self.0 as f64 / 1000.0)))
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

impl Bytes {
    pub const fn mib(mebibytes: u64) -> Bytes {
        Bytes(mebibytes * MIB)
    }

    pub const fn gib(gibibytes: u64) -> Bytes {
        Bytes(gibibytes * GIB)
    }
}

impl fmt::Display for Bytes {
    /// The largest unit that keeps the number at 1 or more: `256 MiB`, `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            n if n >= TIB => (TIB, "TiB"),
            n if n >= GIB => (GIB, "GiB"),
            n if n >= MIB => (MIB, "MiB"),
            n if n >= KIB => (KIB, "KiB"),
            n => return f.pad(&format!("{n} B")),
        };
        let number = trim_decimals(format!("{:.1}", self.0 as f64 / unit as f64));
        f.pad(&format!("{number} {name}"))
    }
}

impl Millis {
    pub const fn seconds(seconds: u64) -> Millis {
        Millis(seconds * 1000)
    }

    pub const fn minutes(minutes: u64) -> Millis {
        Millis(minutes * 60_000)
    }

    pub const fn hours(hours: u64) -> Millis {
        Millis(hours * 3_600_000)
    }

    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl fmt::Display for Millis {
    /// Two units at most: `1h30m`, `5s`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&crate::duration::format_millis(self.0))
    }
}

/// A moment in UTC, in microseconds since 1970, for people and for records.
///
/// Never compared to measure elapsed time on one machine: clocks are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// So long after this; the last moment that there is where that is too long.
    pub fn plus(self, span: Millis) -> Timestamp {
        let micros = span.0.saturating_mul(1000);
        Timestamp(self.0.saturating_add_unsigned(micros))
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Millis {
        Millis((self.0.saturating_sub(earlier.0)).max(0) as u64 / 1000)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => f.pad(&format!("{moment:.3}")),
            Err(_) => f.pad("out of range"),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Timestamp, jiff::Error> {
        Ok(Timestamp(text.parse::<jiff::Timestamp>()?.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let moment =
            jiff::Timestamp::from_microsecond(self.0).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&moment)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn trim_decimals(number: String) -> String {
    match number.contains('.') {
        true => number
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(Bytes::mib(256).to_string(), "256 MiB");
        assert_eq!(Bytes(1536 * MIB).to_string(), "1.5 GiB");
        assert_eq!(Bytes(12).to_string(), "12 B");
        assert_eq!(Cores::milli(500).to_string(), "0.5");
        assert_eq!(Cores::milli(2000).to_string(), "2");
    }

    #[test]
    fn timestamps_keep_their_microseconds_through_json() {
        let moment = Timestamp(1_700_000_000_123_456);
        let text = serde_json::to_string(&moment).unwrap();
        assert_eq!(text, "\"2023-11-14T22:13:20.123456Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), moment);
    }
}
