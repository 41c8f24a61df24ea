//! Seeded histories of a whole cluster: every invariant holds, every fault and transition occurs, and planted bugs
//! are found.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

use tw_scheduler::simulate::{Coverage, Sabotage, SimulationConfig, run};

/// How many histories every test run sees; `examples/simulate.rs` runs more.
const SEEDS: u64 = 60;

/// What the table allows and no controller asks or no agent says, or what these few histories need not have.
const NEVER: [&str; 7] = [
    // Others take the room of a task between its plan and its turn.
    "changes in place that had to move",
    // Only a task that runs can take too long.
    "event starting TimedOut",
    // A task that was said to run has started.
    "event running NeverStarted",
    // Reports come in order, so that of the start comes first; only an agent that begins anew tells the newest alone.
    "event starting Healthy",
    "event starting Unhealthy",
    "event starting Succeeded",
    "event starting Ended",
];

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
        let missing = coverage.missing();
        let missing: Vec<&String> = missing
            .iter()
            .filter(|what| !NEVER.contains(&what.as_str()))
            .collect();
        assert!(missing.is_empty(), "{missing:?} are missing:\n{coverage}");
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let config = SimulationConfig::default();
    assert_eq!(run(7, &config), run(7, &config));
}

/// A simulator that finds nothing proves nothing, and one that finds something else does not watch what it should.
#[test]
fn planted_bugs_are_found() {
    let next = AtomicUsize::new(0);
    let find_all = || {
        while let Some(sabotage) = Sabotage::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let config = SimulationConfig {
                sabotage: Some(*sabotage),
                ..peopled(*sabotage)
            };
            let found = (1..=SEEDS).find_map(|seed| run(seed, &config).err());
            let found = found.unwrap_or_else(|| {
                panic!("{sabotage:?} was not found in {SEEDS} histories");
            });
            let words = words_of(*sabotage);
            assert!(
                words.iter().any(|words| found.what.contains(words)),
                "{sabotage:?} is to be found as one of {words:?}, and this was: {found}"
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

#[test]
fn without_the_bug_nothing_is_found_where_more_people_ask() {
    if let Err(violation) = run(1, &peopled(Sabotage::IgnorePause)) {
        panic!("{violation}");
    }
}

/// Histories in which a bug is found, without the bug.
fn peopled(sabotage: Sabotage) -> SimulationConfig {
    let usual = SimulationConfig::default();
    SimulationConfig {
        // Few updates are paused: it takes more people for one to be.
        requests: match sabotage {
            Sabotage::IgnorePause => usual.requests * 8,
            _ => usual.requests,
        },
        ..usual
    }
}

/// What the check says that is to find a planted bug; where more than one is meant to, whichever comes first.
fn words_of(sabotage: Sabotage) -> &'static [&'static str] {
    const TWICE_STARTED: &str = "was started a second time";
    const TWO_RUN: &str = " still runs on ";
    const NO_EXTRA_YET: &str = " tasks more, and these are down: ";
    match sabotage {
        // An agent may forget a report that was not durable, and then nobody hears of it.
        Sabotage::ReplyBeforeDurable => &["was granted", "the update of "],
        Sabotage::PublishBeforeDurable => &[TWICE_STARTED],
        Sabotage::LostCommit => &["the state and the store differ", "the store lacks"],
        Sabotage::IgnoreFence => &["is back and counts as lost"],
        Sabotage::KeepStale => &["and nobody wants it"],
        Sabotage::ForgetTasks => &["was lost, and its machine was not", TWICE_STARTED],
        Sabotage::ReversedPortions => &[TWICE_STARTED, "without its version"],
        Sabotage::KeepRefused => &["the state and the store differ"],
        Sabotage::DoublePlacement => &["2 tasks of "],
        Sabotage::ForgetRequires => &["which it may not be"],
        Sabotage::ForgetApart => &[" shares machine-"],
        Sabotage::Overcommit => &["holds more than it has", " shares port "],
        Sabotage::ForgetUnsettled => &["does not count as stable", "the update of "],
        // The next of the run is placed as if it had ended.
        Sabotage::ForgetTimeout => &["has run for too long", " are in fewer than "],
        Sabotage::OutOfTurn => &["run at the same time"],
        Sabotage::TwoDaemons => &[" has two tasks of "],
        Sabotage::ForgetNextRun => &["is due, and did not begin"],
        Sabotage::ForgetTerm => &[TWO_RUN],
        Sabotage::GrantAfterCheck => &[TWO_RUN],
        Sabotage::LostTombstone => &[TWICE_STARTED],
        Sabotage::OldEpochRow => &[TWICE_STARTED],
        Sabotage::LateKill => &[TWO_RUN],
        Sabotage::RateLimitOffByOne | Sabotage::RefillTooFast => &["tasks of a job were stopped"],
        Sabotage::TotalLimitOffByOne | Sabotage::TotalRefillTooFast => {
            &["tasks of all jobs were stopped"]
        }
        Sabotage::EvictAnyone => &["make room for its equal or less"],
        // The room is still held by those who make it.
        Sabotage::TakePromisedRoom => &["that was promised to", "holds more than it has"],
        Sabotage::HastyFence => &[TWO_RUN],
        Sabotage::SkipBudgetInDrain => &[" may be down, and these are: "],
        Sabotage::ForgetDrain => &["which was to be empty"],
        Sabotage::IgnorePause => &["makes way in a paused update"],
        Sabotage::Stampede => &["are replaced at once although"],
        Sabotage::ForgetFlaps => &["is on a machine that keeps going away"],
        // Whom it takes may be one that an extra task is yet to stand in for.
        Sabotage::LeavePart => &[" makes way on ", NO_EXTRA_YET],
        Sabotage::EvictBeforeSurge => &[NO_EXTRA_YET],
        Sabotage::LateRegistration => &["was lost, and its machine was not"],
        Sabotage::ApplyStale => &["what was applied is not what was reviewed"],
        Sabotage::ReplaceUnplanned => &[
            " is replaced, and the plan of version ",
            ", and the plan does not name it",
        ],
    }
}
