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
}
