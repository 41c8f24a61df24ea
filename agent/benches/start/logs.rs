//! What a task can print, and what keeping it costs beside rotating a file and compressing it.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

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
    let rotating = rotate_and_gzip(bench.state(), &last)?;
    print(json!({
        "bench": "agent.log",
        "printed_mb": printed_mb,
        "mb_per_second": printed_mb / printing.seconds,
        "dropped_mb": printing.dropped_bytes as f64 / 1e6,
        // The printing program's own time is not the log's.
        "log_cores": helper_s / printing.seconds,
        "log_cpu_ms_a_mb": helper_s * 1000.0 / printed_mb,
        "rotate_mb_per_second": printed_mb / rotating.seconds,
        "rotate_cores": rotating.cpu_seconds / rotating.seconds,
        "rotate_cpu_ms_a_mb": rotating.cpu_seconds * 1000.0 / printed_mb,
        "times_less_cpu": rotating.cpu_seconds / helper_s,
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

/// What keeping the same lines took another way.
struct Kept {
    seconds: f64,
    cpu_seconds: f64,
}

/// The usual way: into a file of at most 16 MiB, which is then compressed behind the next one.
fn rotate_and_gzip(folder: &Path, last: &str) -> io::Result<Kept> {
    let folder = folder.join("rotated");
    fs::create_dir_all(&folder)?;
    let mut seq = Command::new("seq")
        .args(["1", last])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = seq.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (before, began) = (children_seconds()?, Instant::now());
    let status = Command::new("split")
        .args(["--bytes=16M", "--filter=cat > $FILE; gzip -6 -f $FILE"])
        .stdin(lines)
        .current_dir(&folder)
        .status()?;
    // The time of `seq` is not among it: it is reaped behind.
    let kept = Kept {
        cpu_seconds: children_seconds()? - before,
        seconds: began.elapsed().as_secs_f64(),
    };
    seq.wait()?;
    fs::remove_dir_all(&folder)?;
    match status.success() {
        true => Ok(kept),
        false => Err(io::Error::other("split or gzip failed")),
    }
}

fn children_seconds() -> io::Result<f64> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let us = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    Ok(us as f64 / 1e6)
}
