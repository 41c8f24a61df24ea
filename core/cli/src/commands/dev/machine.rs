//! What this machine is and has.

use tw_model::Bytes;

/// What each of `agents` may give out, if they share this machine: (cores, memory).
pub(super) fn share(agents: u32) -> (f64, Bytes) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let memory = memory_total().unwrap_or(Bytes::gib(1)).scale(0.8);
    (
        cores / f64::from(agents),
        Bytes(memory.0 / u64::from(agents)),
    )
}

fn memory_total() -> Option<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(Bytes(kib * 1024))
}
