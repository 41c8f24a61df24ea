//! Runs seeded histories of a whole cluster: `simulate [--seed N] [--seeds COUNT]`.
//!
//! Prints what the histories went through, and the first invariant that did not hold.

use std::process::ExitCode;
use std::time::Instant;

use tw_scheduler::simulate::{Coverage, SimulationConfig, run};

fn main() -> ExitCode {
    let (first, count) = match arguments() {
        Ok(range) => range,
        Err(what) => {
            say(&what);
            return ExitCode::FAILURE;
        }
    };
    let started = Instant::now();
    let mut coverage = Coverage::default();
    let mut failed = 0;
    for seed in first..first + count {
        match run(seed, &SimulationConfig::default()) {
            Ok(one) => coverage.add(&one),
            Err(violation) => {
                failed += 1;
                say(&violation.to_string());
            }
        }
    }
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

/// The first seed, and how many.
fn arguments() -> Result<(u64, u64), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (mut first, mut count) = (1, 20);
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
            _ => {
                return Err(format!(
                    "'{name}' is not known: use --seed N or --seeds COUNT"
                ));
            }
        }
    }
    Ok((first, count))
}

fn say(text: &str) {
    use std::io::Write;
    // Nobody listens any more: nothing is lost.
    let _ = writeln!(std::io::stdout(), "{text}");
}
