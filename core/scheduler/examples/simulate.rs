//! Runs seeded histories of a whole cluster: `simulate [--seed N] [--seeds COUNT] [--requests COUNT]`.
//!
//! Prints what the histories went through, and the first invariant that did not hold.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tw_scheduler::simulate::{Coverage, SimulationConfig, run};

fn main() -> ExitCode {
    let (first, count, config) = match arguments() {
        Ok(arguments) => arguments,
        Err(what) => {
            say(&what);
            return ExitCode::FAILURE;
        }
    };
    let started = Instant::now();
    let (coverage, failed) = run_all(first, count, &config);
    say(&coverage.to_string());
    let took = started.elapsed().as_secs_f64();
    say(&format!(
        "{count} seeds from {first}, {failed} failed, {took:.1} s"
    ));
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs histories on all cores. Returns what they went through together, and how many failed.
fn run_all(first: u64, count: u64, config: &SimulationConfig) -> (Coverage, u64) {
    let next = AtomicU64::new(first);
    let total = Mutex::new((Coverage::default(), 0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let outcome = run(seed, config);
            let mut total = total.lock().expect("no history panics");
            match outcome {
                Ok(one) => total.0.add(&one),
                Err(violation) => {
                    total.1 += 1;
                    say(&violation.to_string());
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (0..cores).for_each(|_| {
            scope.spawn(work);
        });
    });
    total.into_inner().expect("no history panics")
}

/// The first seed, how many, and how much happens in each.
fn arguments() -> Result<(u64, u64, SimulationConfig), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (mut first, mut count) = (1, 20);
    let mut config = SimulationConfig::default();
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("'{}' needs a number", pair[0]));
        };
        let number = value
            .parse()
            .map_err(|_| format!("'{value}' is not a number"))?;
        match name.as_str() {
            "--seed" => (first, count) = (number, 1),
            "--seeds" => count = number,
            "--requests" => {
                config.requests =
                    u32::try_from(number).map_err(|_| format!("{number} requests are too many"))?;
            }
            _ => {
                return Err(format!(
                    "'{name}' is not known: use --seed N, --seeds COUNT or --requests COUNT"
                ));
            }
        }
    }
    Ok((first, count, config))
}

fn say(text: &str) {
    use std::io::Write;
    // Nobody listens any more: nothing is lost.
    let _ = writeln!(std::io::stdout(), "{text}");
}
