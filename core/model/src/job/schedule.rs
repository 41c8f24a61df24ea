//! When the tasks of a batch job run.

use crate::*;

choice! {
    /// What happens when it is time for a run and the one before it has not ended.
    pub enum Overlap {
        /// The new run is left out.
        Skip = "skip",
        /// The new run begins when the one before it has ended.
        Queue = "queue",
        /// The run before it is stopped.
        Replace = "replace",
    }
}

choice! {
    /// What becomes of the runs whose time passed while nothing could be started.
    pub enum Missed {
        /// They are left out.
        Skip = "skip",
        /// One run makes up for all of them.
        RunOnce = "run_once",
    }
}

spec! {
    /// Runs a batch job again and again.
    pub struct Schedule {
        /// Minute, hour, day of the month, month, day of the week, as in a crontab.
        /// Example: `cron="30 2 * * *"`
        cron: CronLine => none;
        /// The time zone in which that is meant, by its IANA name. UTC has no hour that is skipped or comes twice.
        /// Example: `time_zone="Europe/Berlin"`
        time_zone: String = "UTC".to_owned() => none;
        /// What happens when the run before has not ended.
        /// Example: `overlap="queue"`
        overlap: Overlap = Overlap::Skip => none;
        /// What becomes of runs that were missed.
        /// Example: `missed="run_once"`
        missed: Missed = Missed::Skip => none;
    }
    check check_schedule;
}

impl Schedule {
    /// The first moment after another at which a run is due; none where none ever is.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let cron = Cron::parse(&self.cron.0).ok()?;
        cron.next_after(after, &time_zone(&self.time_zone)?)
    }
}

fn check_schedule(schedule: &Schedule, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    match time_zone(&schedule.time_zone) {
        Some(_) => Some(()),
        None => decoder.bad_value(
            &at.field("time_zone"),
            format!("there is no time zone '{}'", schedule.time_zone),
            Some("IANA names are a region and a city: \"Europe/Berlin\"".to_owned()),
        ),
    }
}
