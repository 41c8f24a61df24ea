//! `tw diff` over the history of edits that the tests review: each commit against the one before, as a process of its
//! own. One JSON line a figure.
//!
//! With a warm cache the side before is known, as where someone works or where CI keeps its cache; with an empty one
//! both sides are evaluated.

#[path = "../tests/review/edits.rs"]
mod edits;
#[path = "../tests/support/ran.rs"]
mod ran;
#[path = "../tests/review/repository.rs"]
mod repository;

use std::time::Instant;

use repository::Repository;
use serde_json::{Value, json};

/// A commit counts as one of a shared module from so many importers on.
const IMPORTERS: u64 = 200;
const GOAL_SECONDS: f64 = 1.5;

/// One `tw diff`.
struct Run {
    subject: &'static str,
    seconds: f64,
    importers: u64,
    jobs: usize,
}

fn main() {
    let mut repository = edits::begin();
    repository.tw(&["diff"]).exits(0);
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for (subject, edit) in edits::EDITS {
        edit(&repository);
        repository.commit(subject);
        let run = diff(&repository, subject);
        if run.importers >= IMPORTERS {
            std::fs::remove_dir_all(repository.cache()).expect("the cache");
            cold.push(diff(&repository, subject));
        }
        warm.push(run);
    }
    print("review.diff.every_commit", &warm, None);
    let shared = warm.iter().filter(|run| run.importers >= IMPORTERS);
    let shared: Vec<&Run> = shared.collect();
    for run in &shared {
        let name = "review.diff.module_with_200_importers";
        print(name, std::slice::from_ref(*run), Some(GOAL_SECONDS));
    }
    print(
        "review.diff.module_with_200_importers_empty_cache",
        &cold,
        None,
    );
}

fn diff(repository: &Repository, subject: &'static str) -> Run {
    let start = Instant::now();
    let ran = repository.tw(&["diff", "HEAD~1", "HEAD", "--json"]);
    let seconds = start.elapsed().as_secs_f64();
    let answer = ran.json();
    let modules = answer["modules"].as_array().into_iter().flatten();
    Run {
        subject,
        seconds,
        importers: modules
            .filter_map(|module| module["importers"].as_u64())
            .max()
            .unwrap_or(0),
        jobs: answer["jobs"].as_array().map_or(0, Vec::len),
    }
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn print(bench: &str, runs: &[Run], goal_seconds: Option<f64>) {
    let mut sorted: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    sorted.sort_by(f64::total_cmp);
    let slowest = runs.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let Some(slowest) = slowest else { return };
    let round = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    let figure: Value = json!({
        "bench": bench, "commits": runs.len(), "p50_seconds": round(sorted[sorted.len() / 2]),
        "max_seconds": round(slowest.seconds), "goal_seconds": goal_seconds, "slowest": slowest.subject,
        "importers": slowest.importers, "changed_jobs": slowest.jobs,
    });
    println!("{figure}");
}
