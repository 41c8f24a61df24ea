//! How many transactions and placements a store commits, one JSON line a figure.
//!
//! Every transaction is acknowledged after its sync, so the figures measure the disk as well: the file lies
//! in the target folder, because a temporary folder may be in memory. `cargo bench -p tw-store --bench commit -- decided` (or `writes`,
//! `placements`) measures one part alone.

#[path = "commit/decided.rs"]
mod decided;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tw_store::{BootClock, LogLimits, MemoryStore, SqliteOptions, SqliteStore, Store, Txn};

/// How long each figure is measured.
const MEASURED: Duration = Duration::from_secs(2);

/// About the size of a stored task.
const VALUE_BYTES: usize = 300;

fn main() {
    tw_allocator::begin();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    let asked = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let is_asked = |part: &str| asked.as_deref().is_none_or(|asked| asked == part);
    if is_asked("writes") {
        for callers in [1, 32, 100] {
            let figure = runtime.block_on(measure(in_file(), callers, 1));
            print_writes("sqlite", callers, &figure);
        }
        let figure = runtime.block_on(measure(in_memory(), 100, 1));
        print_writes("memory", 100, &figure);
    }
    if is_asked("placements") {
        let figure = runtime.block_on(measure(in_file(), 100, 36));
        print_placements("sqlite", 100, 36, &figure);
    }
    if is_asked("decided") {
        runtime.block_on(decided::run(in_file(), 100));
    }
}

struct Opened {
    store: Arc<dyn Store>,
    _folder: Option<tempfile::TempDir>,
}

fn in_file() -> Opened {
    let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a folder");
    let path = folder.path().join("store.db");
    let store =
        SqliteStore::open(&path, Arc::new(BootClock), SqliteOptions::default()).expect("a store");
    Opened {
        store: Arc::new(store),
        _folder: Some(folder),
    }
}

fn in_memory() -> Opened {
    Opened {
        store: Arc::new(MemoryStore::new(Arc::new(BootClock), LogLimits::default())),
        _folder: None,
    }
}

/// What all callers saw together.
struct Figure {
    per_second: f64,
    /// Sorted.
    latencies_us: Vec<u64>,
}

impl Figure {
    fn percentile_us(&self, percent: usize) -> u64 {
        let last = self.latencies_us.len().saturating_sub(1);
        self.latencies_us
            .get(last * percent / 100)
            .copied()
            .unwrap_or(0)
    }
}

/// Has every caller commit one transaction of `rows` new rows after another.
async fn measure(opened: Opened, callers: usize, rows: usize) -> Figure {
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            tokio::spawn(call(
                Arc::clone(&opened.store),
                caller,
                rows,
                started + MEASURED,
            ))
        })
        .collect();
    let mut latencies_us = Vec::new();
    for task in tasks {
        latencies_us.extend(task.await.expect("a caller ends"));
    }
    let per_second = latencies_us.len() as f64 / started.elapsed().as_secs_f64();
    latencies_us.sort_unstable();
    Figure {
        per_second,
        latencies_us,
    }
}

async fn call(store: Arc<dyn Store>, caller: usize, rows: usize, until: Instant) -> Vec<u64> {
    let mut latencies_us = Vec::new();
    for n in 0.. {
        let begun = Instant::now();
        if begun >= until {
            break;
        }
        let txn = (0..rows).fold(Txn::new().if_absent(key(caller, n, 0)), |txn, row| {
            txn.put(key(caller, n, row), vec![b'x'; VALUE_BYTES])
        });
        store.commit(txn).await.expect("committed");
        latencies_us.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    latencies_us
}

fn key(caller: usize, n: usize, row: usize) -> String {
    format!("task/default/job-{caller:03}-{n:07}/{row:010}/0000000001")
}

fn print_writes(backend: &str, callers: usize, figure: &Figure) {
    print(&format!(
        r#"{{"bench":"store.commit","backend":"{backend}","callers":{callers},"writes_per_second":{:.0},"p50_us":{},"p99_us":{}}}"#,
        figure.per_second,
        figure.percentile_us(50),
        figure.percentile_us(99),
    ));
}

fn print_placements(backend: &str, callers: usize, tasks: usize, figure: &Figure) {
    print(&format!(
        r#"{{"bench":"store.placements","backend":"{backend}","callers":{callers},"tasks_per_commit":{tasks},"placements_per_second":{:.0},"p50_us":{},"p99_us":{}}}"#,
        figure.per_second * tasks as f64,
        figure.percentile_us(50),
        figure.percentile_us(99),
    ));
}

fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("someone reads");
}
