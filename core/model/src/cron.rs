//! When a line of a crontab fires, in a time zone.
//!
//! Five fields as in `crontab(5)`: minute, hour, day of the month, month, day of the week. Where both kinds of days are
//! restricted, a day that satisfies either will do. Beyond that `L` is the last day of a month, `5L` its last Friday,
//! and `1#2` its second Monday.
//!
//! Where clocks are set forward, a line with fixed hours fires as much later as the clocks were set, so that a nightly
//! run is not lost; where they are set back it fires once. A line that fires in every hour (`*` in the hours) follows
//! the time that passes instead: nothing is made up, and the hour that comes twice counts twice.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::Timestamp;

/// How many days ahead a line is looked for: `0 0 29 2 1` fires once in 28 years, in 40 around 2100.
const DAYS_AHEAD_MAX: u32 = 41 * 366;

/// Why a text is not the line of a crontab.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("it has {0} fields, and a line of a crontab has five")]
    Fields(usize),
    #[error("'{item}' is not a {field}")]
    Item { item: String, field: &'static str },
    #[error("'{item}' is not a {field}: it goes from {first} to {last}")]
    Range {
        item: String,
        field: &'static str,
        first: u8,
        last: u8,
    },
    #[error("no such day ever comes")]
    Never,
}

/// A line of a crontab, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    /// The last day of the month, whatever its number.
    last_day: bool,
    months: u64,
    weekdays: u64,
    /// A day of the week with the number that it is of its kind in the month; 0 is the last.
    numbered: Vec<(u8, u8)>,
    any_day: bool,
    any_weekday: bool,
    /// Whether it fires in every hour.
    every_hour: bool,
}

/// What a field may hold.
struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    /// Names of the values, from the first on.
    names: &'static [&'static str],
}

const MINUTE: Field = Field {
    name: "minute",
    first: 0,
    last: 59,
    names: &[],
};
const HOUR: Field = Field {
    name: "hour",
    first: 0,
    last: 23,
    names: &[],
};
const DAY: Field = Field {
    name: "day of the month",
    first: 1,
    last: 31,
    names: &[],
};
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
/// Sunday is both 0 and 7.
const WEEKDAY: Field = Field {
    name: "day of the week",
    first: 0,
    last: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Cron {
    /// Takes a line apart. A line that never fires is an error.
    pub fn parse(line: &str) -> Result<Cron, CronError> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(CronError::Fields(fields.len()));
        };
        let mut cron = Cron {
            minutes: MINUTE.bits(minutes)?,
            hours: HOUR.bits(hours)?,
            days: 0,
            last_day: false,
            months: MONTH.bits(months)?,
            weekdays: 0,
            numbered: Vec::new(),
            any_day: is_any(days),
            any_weekday: is_any(weekdays),
            every_hour: hours.starts_with('*'),
        };
        for item in days.split(',') {
            match item {
                "L" | "l" => cron.last_day = true,
                item => cron.days |= DAY.item(item)?,
            }
        }
        for item in weekdays.split(',') {
            match numbered(item)? {
                Some(numbered) => cron.numbered.push(numbered),
                None => cron.weekdays |= WEEKDAY.item(item)?,
            }
        }
        // Sunday is day 0 from here on.
        cron.weekdays = (cron.weekdays | cron.weekdays >> 7) & 0x7f;
        let start = Date::constant(2000, 1, 1);
        match cron.day_from(start) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never),
        }
    }

    /// The first moment after another at which it fires in a time zone.
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let moment = jiff::Timestamp::from_microsecond(after.0).ok()?;
        // A moment of yesterday's calendar may come late, where clocks were set forward by midnight.
        let mut day = zone.to_datetime(moment).date().yesterday().ok()?;
        for _ in 0..DAYS_AHEAD_MAX {
            day = self.day_from(day)?;
            let found = self.moments_of(day, zone);
            if let Some(next) = found.into_iter().find(|moment| *moment > after) {
                return Some(next);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// The first day, from one on, on which it fires.
    fn day_from(&self, from: Date) -> Option<Date> {
        let mut day = from;
        for _ in 0..DAYS_AHEAD_MAX {
            if self.is_day(day) {
                return Some(day);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn is_day(&self, day: Date) -> bool {
        if !has(self.months, day.month()) {
            return false;
        }
        let weekday = day.weekday().to_sunday_zero_offset();
        let last = day.days_in_month();
        let number = (day.day() + 6) / 7;
        let in_month = has(self.days, day.day()) || (self.last_day && day.day() == last);
        let in_week = has(self.weekdays, weekday)
            || self.numbered.iter().any(|(wanted, nth)| {
                let right = match nth {
                    0 => day.day() + 7 > last,
                    nth => number == *nth as i8,
                };
                *wanted as i8 == weekday && right
            });
        match (self.any_day, self.any_weekday) {
            (true, true) => true,
            (true, false) => in_week,
            (false, true) => in_month,
            (false, false) => in_month || in_week,
        }
    }

    /// The moments of a day of the calendar at which it fires, in order.
    fn moments_of(&self, day: Date, zone: &TimeZone) -> Vec<Timestamp> {
        let mut moments = Vec::new();
        for hour in (0..24).filter(|hour| has(self.hours, *hour)) {
            for minute in (0..60).filter(|minute| has(self.minutes, *minute)) {
                let time = day.to_datetime(Time::constant(hour, minute, 0, 0));
                self.add_moments(time, zone, &mut moments);
            }
        }
        moments.sort();
        moments.dedup();
        moments
    }

    fn add_moments(&self, time: DateTime, zone: &TimeZone, moments: &mut Vec<Timestamp>) {
        let ambiguous = zone.to_ambiguous_timestamp(time);
        let found = match ambiguous.offset() {
            AmbiguousOffset::Gap { .. } if self.every_hour => return,
            AmbiguousOffset::Fold { .. } if self.every_hour => {
                moments.extend(ambiguous.later().ok().map(timestamp));
                ambiguous.earlier()
            }
            _ => ambiguous.compatible(),
        };
        moments.extend(found.ok().map(timestamp));
    }
}

fn timestamp(moment: jiff::Timestamp) -> Timestamp {
    Timestamp(moment.as_microsecond())
}

/// A time zone by its IANA name.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

fn has(bits: u64, value: i8) -> bool {
    bits >> value & 1 == 1
}

fn is_any(field: &str) -> bool {
    matches!(field, "*" | "?")
}

/// `5L` or `1#2`; none where the item is of neither form.
fn numbered(item: &str) -> Result<Option<(u8, u8)>, CronError> {
    let (day, nth) = match (item.split_once('#'), item.strip_suffix(['L', 'l'])) {
        (Some((day, nth)), _) => {
            let nth: Option<u8> = nth.parse().ok().filter(|nth| (1..=5).contains(nth));
            let wrong = || CronError::Item {
                item: item.to_owned(),
                field: WEEKDAY.name,
            };
            (day, nth.ok_or_else(wrong)?)
        }
        (None, Some(day)) => (day, 0),
        (None, None) => return Ok(None),
    };
    Ok(Some((WEEKDAY.value(day, item)? % 7, nth)))
}

impl Field {
    /// The values of a list of items.
    fn bits(&self, field: &str) -> Result<u64, CronError> {
        let mut bits = 0;
        for item in field.split(',') {
            bits |= self.item(item)?;
        }
        Ok(bits)
    }

    /// The values of one item: `*`, `3`, `1-5`, each perhaps with a step.
    fn item(&self, item: &str) -> Result<u64, CronError> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if is_any(range) => (
                self.first,
                self.last.min(if self.last == 7 { 6 } else { 59 }),
            ),
            Some((first, last)) => (self.value(first, item)?, self.value(last, item)?),
            // From there on, where there is a step.
            None if step.is_some() => (self.value(range, item)?, self.last),
            None => {
                let value = self.value(range, item)?;
                (value, value)
            }
        };
        let step: usize = match step.map(str::parse) {
            None => 1,
            Some(Ok(step)) if step > 0 => step,
            Some(_) => return Err(self.wrong(item)),
        };
        if first > last {
            return Err(self.wrong(item));
        }
        let values = (first..=last).step_by(step);
        Ok(values.fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str, item: &str) -> Result<u8, CronError> {
        let lower = text.to_ascii_lowercase();
        if let Some(place) = self.names.iter().position(|name| *name == lower) {
            return Ok(self.first + place as u8);
        }
        let value: u64 = text.parse().map_err(|_| self.wrong(item))?;
        match (u64::from(self.first)..=u64::from(self.last)).contains(&value) {
            true => Ok(value as u8),
            false => Err(CronError::Range {
                item: item.to_owned(),
                field: self.name,
                first: self.first,
                last: self.last,
            }),
        }
    }

    fn wrong(&self, item: &str) -> CronError {
        CronError::Item {
            item: item.to_owned(),
            field: self.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        timestamp(text.parse().unwrap())
    }

    /// The next moments at which a line fires.
    fn fires(line: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone) = (Cron::parse(line).unwrap(), time_zone(zone).unwrap());
        let mut moment = at(after);
        let mut found = Vec::new();
        for _ in 0..count {
            moment = cron.next_after(moment, &zone).unwrap();
            let text = jiff::Timestamp::from_microsecond(moment.0).unwrap();
            found.push(text.to_string());
        }
        found
    }

    #[test]
    fn lines_fire_when_crontab_says() {
        let after = "2026-01-01T00:00:00Z";
        let cases = [
            ("30 2 * * *", "2026-01-01T02:30:00Z", "2026-01-02T02:30:00Z"),
            (
                "*/20 * * * *",
                "2026-01-01T00:20:00Z",
                "2026-01-01T00:40:00Z",
            ),
            (
                "0 9 * * mon-fri",
                "2026-01-01T09:00:00Z",
                "2026-01-02T09:00:00Z",
            ),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"),
            ("0 0 29 2 1", "2026-02-02T00:00:00Z", "2026-02-09T00:00:00Z"),
            ("0 0 L * *", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"),
            ("0 0 * * 5L", "2026-01-30T00:00:00Z", "2026-02-27T00:00:00Z"),
            (
                "0 0 * * 1#2",
                "2026-01-12T00:00:00Z",
                "2026-02-09T00:00:00Z",
            ),
            (
                "0 0 1 jan,jul ?",
                "2026-07-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            ("0 0 * * 7", "2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"),
            (
                "5/30 1-2 * * *",
                "2026-01-01T01:05:00Z",
                "2026-01-01T01:35:00Z",
            ),
        ];
        for (line, first, second) in cases {
            assert_eq!(fires(line, "UTC", after, 2), [first, second], "{line}");
        }
    }

    #[test]
    fn a_nightly_run_is_neither_lost_nor_doubled_where_clocks_are_set() {
        // Berlin: 2:00 becomes 3:00 on 2026-03-29, 3:00 becomes 2:00 on 2026-10-25.
        let spring = fires("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(spring, ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = fires("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn what_fires_every_hour_follows_the_time_that_passes() {
        let spring = fires("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        let hours = ["00:30", "01:30", "02:30"].map(|hour| format!("2026-03-29T{hour}:00Z"));
        assert_eq!(spring, hours);
        let autumn = fires("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3);
        let hours = ["00:30", "01:30", "02:30"].map(|hour| format!("2026-10-25T{hour}:00Z"));
        assert_eq!(autumn, hours);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (line, said) in [
            ("* * * *", "it has 4 fields"),
            ("60 * * * *", "'60' is not a minute: it goes from 0 to 59"),
            ("* 25 * * *", "not a hour"),
            ("0 0 30 2 *", "no such day ever comes"),
            ("0 0 31 4,6,9,11 *", "no such day ever comes"),
            ("*/0 * * * *", "'*/0' is not a minute"),
            ("5-1 * * * *", "'5-1' is not a minute"),
            ("0 0 * * 1#6", "'1#6' is not a day of the week"),
            ("0 0 * foo *", "'foo' is not a month"),
        ] {
            let error = Cron::parse(line).unwrap_err().to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    proptest! {
        /// What comes next fires at its moment, and nothing between would have, counted minute by minute.
        #[test]
        fn next_is_the_first_minute_that_matches(
            minute in 0u8..60, hour in 0u8..24, every in prop::sample::select(vec![true, false]),
            start in 1_700_000_000i64..1_800_000_000,
        ) {
            let hours = if every { "*".to_owned() } else { hour.to_string() };
            let cron = Cron::parse(&format!("{minute} {hours} * * *")).unwrap();
            let after = Timestamp(start * 1_000_000);
            let next = cron.next_after(after, &TimeZone::UTC).unwrap();
            let fires = |seconds: i64| {
                let (at_hour, at_minute) = (seconds / 3600 % 24, seconds / 60 % 60);
                seconds % 60 == 0 && at_minute == i64::from(minute) && (every || at_hour == i64::from(hour))
            };
            let seconds = next.0 / 1_000_000;
            prop_assert!(fires(seconds));
            prop_assert!((start + 1..seconds).all(|between| !fires(between)));
        }
    }
}
