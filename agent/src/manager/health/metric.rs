//! Numbers that a task counts: read from its page or its file, and held against their bounds.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use tw_model::{Autoscale, HealthCheck, MetricCheck, MetricSelector, Number, Remedy};

use super::slow_file::{Readers, SlowFile};
use crate::helper::record::{self, STARTED_FILE, StartedRecord};

/// The most that is read of a page or a file.
pub(super) const PAGE_BYTES_MAX: u64 = 4 << 20;

/// The bounds of a metric, and what has been read of it.
#[derive(Debug)]
pub(super) struct Bound {
    check: MetricCheck,
    selector: MetricSelector,
    /// Readings not older than the time over which a rise counts, and the one before them.
    readings: VecDeque<(Instant, f64)>,
    /// What was read last, until it is taken.
    number: Option<f64>,
    file: SlowFile,
}

impl Bound {
    /// None for checks that read no metric.
    pub(super) fn of(check: &HealthCheck) -> Option<Bound> {
        let HealthCheck::Metric(check) = check else {
            return None;
        };
        Some(Bound {
            selector: check.metric.parse().ok()?,
            check: check.clone(),
            readings: VecDeque::new(),
            number: None,
            file: SlowFile::default(),
        })
    }

    /// What was read since this was asked last, if the job's number of tasks follows it.
    pub(super) fn take_followed(
        &mut self,
        autoscale: Option<&Autoscale>,
    ) -> Option<Option<Number>> {
        let followed = autoscale?.metric.as_ref()?;
        (*followed == self.check.metric).then(|| {
            let number = self.number.take().filter(|number| *number >= 0.0)?;
            // The cast stops at the largest number that there is.
            Some(Number((number * 1e6).round() as u64))
        })
    }

    /// Reads a file as the task in `folder` sees it.
    pub(super) async fn read_file(
        &mut self,
        readers: &Readers,
        folder: &Path,
        path: &str,
    ) -> Result<String, String> {
        let (folder, file) = (folder.to_owned(), path.to_owned());
        let read = self
            .file
            .read(readers, move || read_in_task(&folder, &file));
        read.await.map_err(|cause| format!("{path}: {cause}"))
    }

    pub(super) fn remedy(&self) -> Option<Remedy> {
        self.check.remedy
    }

    /// Takes a page; answers in which way the metric is beyond its bounds. An error says why nothing can be said.
    pub(super) fn check(&mut self, page: &str, now: Instant) -> Result<Option<String>, String> {
        let name = &self.check.metric;
        let found = self
            .selector
            .sum(page)
            .filter(|number| number.is_finite())
            .ok_or_else(|| format!("there is no number {name}"))?;
        let (number, rose) = match self.check.over {
            None => (found, String::new()),
            Some(over) => (
                self.rise(found, over.as_duration(), now),
                format!(" more within {over}"),
            ),
        };
        self.number = Some(number);
        let above = self.check.above.filter(|most| number > most.as_f64());
        let below = self.check.below.filter(|least| number < least.as_f64());
        let said = |word: &str, bound| {
            let name = &self.check.metric;
            Some(format!(
                "{name} is {}{rose}, {word} {bound}",
                rounded(number)
            ))
        };
        Ok(match (above, below) {
            (Some(most), _) => said("above", most),
            // A rise has to be watched for the whole time before it can be too small.
            (None, Some(least)) if self.has_watched_long_enough(now) => said("below", least),
            _ => None,
        })
    }

    /// By how much a counter has risen within `over`. One that is smaller than before has begun again at 0.
    fn rise(&mut self, found: f64, over: Duration, now: Instant) -> f64 {
        self.readings.push_back((now, found));
        while let Some((at, _)) = self.readings.get(1)
            && now.duration_since(*at) >= over
        {
            self.readings.pop_front();
        }
        let numbers = self.readings.iter().map(|(_, number)| *number);
        let steps = numbers.clone().zip(numbers.skip(1));
        steps
            .map(|(before, after)| match after < before {
                true => after,
                false => after - before,
            })
            .sum()
    }

    fn has_watched_long_enough(&self, now: Instant) -> bool {
        let Some(over) = self.check.over else {
            return true;
        };
        self.readings
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) >= over.as_duration())
    }
}

/// Six digits are enough for a reader.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// No link and no device of the task is followed out of its root, nor waited for.
fn read_in_task(folder: &Path, path: &str) -> io::Result<String> {
    let started: StartedRecord = record::read(folder, STARTED_FILE)
        .map_err(io::Error::other)?
        .ok_or_else(|| io::Error::other("the task has not started"))?;
    let gone = || io::Error::other("the task has ended");
    let _alive = started.task.open()?.ok_or_else(gone)?;
    let root = rustix::fs::open(
        format!("/proc/{}/root", started.task.pid),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // The process that the root was taken of may have been another by then.
    let _the_same = started.task.open()?.ok_or_else(gone)?;
    let file = rustix::fs::openat2(
        &root,
        path.trim_start_matches('/'),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if !kind.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = Vec::new();
    File::from(file)
        .take(PAGE_BYTES_MAX)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(fields: serde_json::Value) -> Bound {
        let mut check = serde_json::json!({"type": "metric", "metric": "n", "file": "/tmp/n"});
        let all = check.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        Bound::of(&serde_json::from_value(check).unwrap()).unwrap()
    }

    #[test]
    fn a_number_is_held_against_both_bounds() {
        let mut bound = bound(serde_json::json!({
            "above_millionths": 500_000, "below_millionths": 100_000,
        }));
        let now = Instant::now();
        assert_eq!(bound.check("n 0.5", now), Ok(None));
        assert_eq!(
            bound.check("n 0.75", now).unwrap().as_deref(),
            Some("n is 0.75, above 0.5")
        );
        assert_eq!(
            bound.check("n 0", now).unwrap().as_deref(),
            Some("n is 0, below 0.1")
        );
        assert!(bound.check("m 1", now).is_err());
        assert!(bound.check("n NaN", now).is_err());
    }

    #[test]
    fn the_rise_of_a_counter_counts_over_its_time_and_past_a_restart() {
        let mut bound = bound(serde_json::json!({
            "above_millionths": 10_000_000, "over_ms": 60_000,
        }));
        let begin = Instant::now();
        let mut at = |seconds: u64, number: u64| {
            let page = format!("n {number}");
            bound
                .check(&page, begin + Duration::from_secs(seconds))
                .unwrap()
        };
        assert_eq!(at(0, 1000), None, "what was before is not a rise");
        assert_eq!(at(20, 1008), None);
        assert_eq!(
            at(40, 1012).as_deref(),
            Some("n is 12 more within 1m, above 10")
        );
        assert_eq!(at(90, 1013), None, "the first eight were too long ago");
        assert_eq!(at(110, 9), None, "it began again");
        assert!(at(115, 12).is_some());
    }

    #[test]
    fn too_small_a_rise_is_known_only_after_the_whole_time() {
        let mut bound = bound(serde_json::json!({
            "below_millionths": 1_000_000, "over_ms": 10_000,
        }));
        let begin = Instant::now();
        let mut at = |seconds: u64| {
            bound
                .check("n 5", begin + Duration::from_secs(seconds))
                .unwrap()
        };
        assert_eq!(at(0), None);
        assert_eq!(at(5), None);
        assert!(at(10).is_some());
    }
}
