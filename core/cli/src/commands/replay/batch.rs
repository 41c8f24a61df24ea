//! Traces of batch tasks: a run a row, as Nextflow's trace files hold them.

use std::io::BufRead;

use tw_model::{Millis, Timestamp};
use tw_scheduler::replay::batch::Run;

use super::row::{Broken, Columns, Row, each};

const WORKFLOW: usize = 0;
const PROCESS: usize = 1;
const MEMORY: usize = 2;
const PEAK: usize = 3;
const REALTIME: usize = 4;
const SUBMIT: usize = 5;
const STATUS: usize = 6;

/// An exbibyte: more is a mistake.
const BYTES_MAX: f64 = (1_u64 << 60) as f64;

/// A hundred years, and the year 5138.
const REALTIME_MS_MAX: f64 = 3.2e12;
const SUBMIT_MS_MAX: f64 = 1e14;

/// Reads the completed runs with a measured peak, and counts those that were left out.
pub(super) fn read(
    lines: impl BufRead,
    columns: &Columns,
) -> std::io::Result<(Vec<Run>, usize, Broken)> {
    let (mut runs, mut left_out) = (Vec::new(), 0);
    let broken = each(lines, columns, |row| {
        match run(row)? {
            Some(run) => runs.push(run),
            None => left_out += 1,
        }
        Ok(())
    })?;
    Ok((runs, left_out, broken))
}

/// A run; none if it did not complete, or its peak or its request was not measured.
fn run(row: &Row<'_>) -> Result<Option<Run>, String> {
    let missing = |column| matches!(row.text(column), b"" | b"-" | b"0");
    if row.text(STATUS) != b"COMPLETED" || missing(PEAK) || missing(MEMORY) {
        return Ok(None);
    }
    let name = |column| String::from_utf8_lossy(row.text(column)).into_owned();
    Ok(Some(Run {
        task: format!("{}/{}", name(WORKFLOW), name(PROCESS)),
        submitted: Timestamp(row.number(SUBMIT, "submit", SUBMIT_MS_MAX)? as i64 * 1000),
        took: Millis(row.number(REALTIME, "realtime", REALTIME_MS_MAX)? as u64),
        request_bytes: row.number(MEMORY, "memory", BYTES_MAX)?,
        peak_bytes: row.number(PEAK, "peak_rss", BYTES_MAX)?,
    }))
}
