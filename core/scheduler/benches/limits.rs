//! How long it takes to replay a month of 489 jobs under every policy, on all cores: one JSON line.
//!
//! The use is made up; reading a trace is not part of it (`tw replay` prints its own time).

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tw_scheduler::replay::usage::{Requested, Usage, replay};

const JOBS: usize = 489;
const SAMPLES: usize = 30 * 288;

fn main() {
    let jobs: Vec<Usage> = (0..JOBS).map(job).collect();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    std::hint::black_box(replay(job));
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let line = format!(
        r#"{{"bench":"limits.replay","jobs":{JOBS},"days":30,"policies":7,"threads":{threads},"seconds":{seconds:.2},"samples_per_second":{:.0}}}"#,
        (JOBS * SAMPLES) as f64 / seconds
    );
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A daily wave with bursts, different for each job.
fn job(index: usize) -> Usage {
    let mut state = index as u64 * 7919 + 1;
    let mut chance = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let height = 100.0 + 7900.0 * chance() * chance();
    let mut usage = Usage {
        name: index.to_string(),
        requests: vec![Requested {
            from_sample: 0,
            cpu_millicores: 3.0 * height,
            memory_mib: 3.0 * height,
        }],
        ..Usage::default()
    };
    for sample in 0..SAMPLES {
        let hour = (sample % 288) as f32 / 12.0;
        let wave = 0.6 - 0.4 * (hour / 24.0 * std::f32::consts::TAU).cos();
        let burst = if chance() < 0.01 { 1.0 + chance() } else { 1.0 };
        usage
            .cpu_millicores
            .push(height * wave * burst * (0.9 + 0.2 * chance()));
        usage
            .memory_mib
            .push(height * (0.5 + wave / 4.0) * burst * (0.98 + 0.04 * chance()));
    }
    usage
}
