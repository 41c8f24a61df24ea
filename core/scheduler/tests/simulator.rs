//! Seeded histories of a whole cluster: every invariant holds, every fault and transition occurs, and planted bugs
//! are found.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

use tw_scheduler::simulate::{Coverage, Sabotage, SimulationConfig, run};

/// How many histories every test run sees; `examples/simulate.rs` runs more.
const SEEDS: u64 = 20;

/// `TW_SEED=N` runs that one history alone.
fn seeds() -> Vec<u64> {
    match std::env::var("TW_SEED") {
        Ok(seed) => vec![seed.parse().expect("TW_SEED is a number")],
        Err(_) => (1..=SEEDS).collect(),
    }
}

#[test]
fn histories_keep_every_invariant() {
    let seeds = seeds();
    let mut coverage = Coverage::default();
    for seed in &seeds {
        match run(*seed, &SimulationConfig::default()) {
            Ok(one) => {
                let faults: u64 = one.faults.values().sum();
                assert!(faults >= 30, "seed {seed} had only {faults} faults");
                coverage.add(&one);
            }
            Err(violation) => panic!("{violation}\nagain: TW_SEED={seed}\n{coverage}"),
        }
    }
    if seeds.len() > 1 {
        assert_eq!(coverage.missing(), Vec::<String>::new(), "{coverage}");
        assert!(coverage.others["updates done"] > 0, "{coverage}");
        assert!(coverage.others["updates halted"] > 0, "{coverage}");
        for what in [
            "runs done",
            "runs failed",
            "runs skipped",
            "runs replaced",
            "tasks that made room",
            "tasks beyond the wanted number",
            "stages that are parts of the fleet",
        ] {
            assert!(coverage.others.contains_key(what), "no {what}: {coverage}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let config = SimulationConfig::default();
    assert_eq!(run(7, &config), run(7, &config));
}

/// A simulator that finds nothing proves nothing.
#[test]
fn planted_bugs_are_found() {
    let next = AtomicUsize::new(0);
    let find_all = || {
        while let Some(sabotage) = Sabotage::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let usual = SimulationConfig::default();
            let config = SimulationConfig {
                sabotage: Some(*sabotage),
                // Few updates are paused: it takes more people for one to be.
                requests: match sabotage {
                    Sabotage::IgnorePause => usual.requests * 8,
                    _ => usual.requests,
                },
                ..usual
            };
            let found = (1..=SEEDS).find_map(|seed| run(seed, &config).err());
            assert!(
                found.is_some(),
                "{sabotage:?} was not found in {SEEDS} histories"
            );
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    // A panic of any of them is one of the scope.
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(find_all);
        }
    });
}
