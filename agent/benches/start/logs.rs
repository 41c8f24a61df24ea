//! What a task can print, and what keeping it costs beside rotating a file and compressing it.

use std::io;
use std::process::{Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::json;

use crate::tasks::Bench;
use crate::{print, profile};

/// One task prints the numbers up to this, one a line, as fast as it can.
const LINES: u64 = 30_000_000;

pub(crate) fn throughput(bench: &Bench) -> io::Result<()> {
    let last = LINES.to_string();
    let printed_mb = printed_bytes(LINES) as f64 / 1e6;
    bench.refill()?;
    let before = bench.helpers_cpu_seconds()?;
    let printing = bench.run_unread(&["seq", "1", &last])?;
    let helper_s = bench.helpers_cpu_seconds()? - before;
    let gzip_s = gzip_seconds(&last)?;
    print(json!({
        "bench": "agent.log",
        "printed_mb": printed_mb,
        "mb_per_second": printed_mb / printing.seconds,
        "dropped_mb": printing.dropped_bytes as f64 / 1e6,
        // The printing program's own time is not the log's.
        "log_cores": helper_s / printing.seconds,
        "log_cpu_ms_a_mb": helper_s * 1000.0 / printed_mb,
        "gzip_cpu_ms_a_mb": gzip_s * 1000.0 / printed_mb,
        "profile": profile(),
    }))
}

/// Bytes of the lines 1 to `last`.
fn printed_bytes(last: u64) -> u64 {
    let mut bytes = 0;
    let (mut first, mut digits) = (1, 1);
    while first <= last {
        let end = last.min(first * 10 - 1);
        bytes += (end - first + 1) * (digits + 1);
        (first, digits) = (first * 10, digits + 1);
    }
    bytes
}

/// What `gzip` takes for the same lines, as a rotated log is compressed; without writing the file first.
fn gzip_seconds(last: &str) -> io::Result<f64> {
    let mut seq = Command::new("seq")
        .args(["1", last])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = seq.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let before = children_seconds()?;
    let status = Command::new("gzip")
        .arg("-6")
        .stdin(lines)
        .stdout(Stdio::null())
        .status()?;
    // The time of `seq` is not among it: it is reaped behind.
    let used = children_seconds()? - before;
    seq.wait()?;
    match status.success() {
        true => Ok(used),
        false => Err(io::Error::other("gzip failed")),
    }
}

fn children_seconds() -> io::Result<f64> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let us = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    Ok(us as f64 / 1e6)
}
