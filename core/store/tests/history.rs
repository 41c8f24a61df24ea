//! Usage history through its public interface.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tw_store::OpenError;
use tw_store::history::{Bucket, History, HistoryOptions, Recorded, Sample};

const SECOND_US: i64 = 1_000_000;

fn open(folder: &Path, options: HistoryOptions) -> History {
    History::open(&folder.join("history.db"), options).expect("a history")
}

fn every_second() -> HistoryOptions {
    HistoryOptions {
        bucket_width: Duration::from_secs(1),
        ..HistoryOptions::default()
    }
}

fn sample(series: &str, source: &str, seq: u64, at_us: i64) -> Sample {
    Sample {
        series: series.into(),
        source: source.into(),
        seq,
        at_us,
        cpu_millicores: 100,
        memory_bytes: 1000,
        oom_kills: 0,
        throttled_us: 0,
    }
}

#[test]
fn samples_of_several_tasks_add_up_in_buckets() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), every_second());
    let batch = [
        Sample {
            cpu_millicores: 300,
            memory_bytes: 10,
            throttled_us: 5,
            ..sample("web", "web.0#1", 1, 100)
        },
        Sample {
            cpu_millicores: 100,
            memory_bytes: 90,
            oom_kills: 1,
            ..sample("web", "web.1#1", 1, 999_999)
        },
        Sample {
            cpu_millicores: 50,
            memory_bytes: 20,
            throttled_us: 7,
            ..sample("web", "web.0#1", 2, SECOND_US)
        },
        sample("worker", "worker.0#1", 1, -1),
    ];
    assert_eq!(
        history.record(&batch).expect("recorded"),
        Recorded {
            counted: 4,
            repeated: 0
        }
    );

    let web = history.range("web", 0, 2 * SECOND_US).expect("read");
    let first = Bucket {
        start_us: 0,
        width_us: SECOND_US,
        samples: 2,
        cpu_sum_millicores: 400,
        cpu_max_millicores: 300,
        memory_max_bytes: 90,
        oom_kills: 1,
        throttled_us: 5,
    };
    assert_eq!(web[0], first);
    assert_eq!(web[0].cpu_avg_millicores(), 200);
    assert_eq!(
        (web[1].start_us, web[1].samples, web[1].throttled_us),
        (SECOND_US, 1, 7)
    );
    assert_eq!(web.len(), 2);
    assert_eq!(
        history.range("worker", -SECOND_US, 0).expect("read")[0].start_us,
        -SECOND_US
    );
    assert_eq!(history.range("nobody", 0, i64::MAX).expect("read"), []);
    assert_eq!(history.series("w").expect("read"), ["web", "worker"]);
    assert_eq!(history.series("web").expect("read"), ["web"]);
}

#[test]
fn a_range_includes_the_buckets_it_cuts() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), every_second());
    let batch: Vec<Sample> = (0..10)
        .map(|n| sample("web", "a", n, n as i64 * SECOND_US))
        .collect();
    history.record(&batch).expect("recorded");
    let starts = |from, to| -> Vec<i64> {
        history
            .range("web", from, to)
            .expect("read")
            .iter()
            .map(|bucket| bucket.start_us / SECOND_US)
            .collect()
    };
    assert_eq!(starts(2 * SECOND_US, 4 * SECOND_US), [2, 3]);
    assert_eq!(starts(2 * SECOND_US + 1, 4 * SECOND_US + 1), [2, 3, 4]);
    assert_eq!(starts(2 * SECOND_US - 1, 4 * SECOND_US - 1), [1, 2, 3]);
    assert_eq!(starts(i64::MIN, i64::MAX).len(), 10);
}

#[test]
fn what_a_source_repeats_is_counted_once_also_after_reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), every_second());
    let batch: Vec<Sample> = (1..=5)
        .map(|n| sample("web", "web.0#1", n, n as i64))
        .collect();
    history.record(&batch[..3]).expect("recorded");
    assert_eq!(
        history.record(&batch).expect("recorded"),
        Recorded {
            counted: 2,
            repeated: 3
        }
    );
    drop(history);

    let history = open(folder.path(), every_second());
    assert_eq!(
        history.record(&batch).expect("recorded"),
        Recorded {
            counted: 0,
            repeated: 5
        }
    );
    let other = [sample("web", "web.0#2", 1, 6)];
    assert_eq!(
        history.record(&other).expect("recorded"),
        Recorded {
            counted: 1,
            repeated: 0
        }
    );
    assert_eq!(
        history.range("web", 0, SECOND_US).expect("read")[0].samples,
        6
    );
}

#[test]
fn a_new_width_leaves_old_buckets_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let wide = HistoryOptions {
        bucket_width: Duration::from_secs(300),
        ..HistoryOptions::default()
    };
    open(folder.path(), wide)
        .record(&[sample("web", "a", 1, 299 * SECOND_US)])
        .expect("recorded");
    let history = open(folder.path(), every_second());
    history
        .record(&[sample("web", "a", 2, 299 * SECOND_US)])
        .expect("recorded");
    let widths = |from, to| -> Vec<i64> {
        history
            .range("web", from, to)
            .expect("read")
            .iter()
            .map(|bucket| bucket.width_us / SECOND_US)
            .collect()
    };
    assert_eq!(widths(0, 300 * SECOND_US), [300, 1]);
    assert_eq!(
        widths(298 * SECOND_US, 299 * SECOND_US),
        [300],
        "an old wide bucket is found from within"
    );
}

#[test]
fn prune_drops_what_ended_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), every_second());
    history
        .record(&[sample("old", "a", 1, 0), sample("web", "b", 1, SECOND_US)])
        .expect("recorded");
    history
        .record(&[sample("web", "b", 2, 2 * SECOND_US)])
        .expect("recorded");
    assert_eq!(history.prune(SECOND_US - 1).expect("pruned"), 0);
    assert_eq!(history.prune(2 * SECOND_US).expect("pruned"), 2);
    assert_eq!(history.series("").expect("read"), ["web"]);
    assert_eq!(
        history
            .range("web", i64::MIN, i64::MAX)
            .expect("read")
            .len(),
        1
    );
}

#[test]
fn rows_are_bounded_and_the_oldest_go_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(
        folder.path(),
        HistoryOptions {
            rows_max: 100,
            ..every_second()
        },
    );
    for n in 0..1000_i64 {
        history
            .record(&[sample("web", "a", n as u64, n * SECOND_US)])
            .expect("recorded");
        let rows = history.range("web", i64::MIN, i64::MAX).expect("read");
        assert!(
            rows.len() <= 100 && rows.len() >= ((n + 1) as usize).min(94),
            "{} rows",
            rows.len()
        );
        assert_eq!(
            rows.last().map(|row| row.start_us),
            Some(n * SECOND_US),
            "the newest stays"
        );
    }
}

#[test]
fn bytes_are_bounded_and_the_file_shrinks() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.db");
    let many = |history: &History, round: i64| {
        let batch: Vec<Sample> = (0..2000)
            .map(|n| sample(&format!("job/{n}"), "a", round as u64, round * SECOND_US))
            .collect();
        history.record(&batch).expect("recorded");
    };
    let history = open(folder.path(), every_second());
    for round in 0..10 {
        many(&history, round);
    }
    drop(history);
    let before = std::fs::metadata(&path).expect("the file").len();
    assert!(before > 900_000, "{before} bytes");

    let bytes_max = 500_000;
    let history = open(
        folder.path(),
        HistoryOptions {
            bytes_max,
            ..every_second()
        },
    );
    for round in 10..14 {
        many(&history, round);
    }
    assert_eq!(
        history
            .range("job/7", 13 * SECOND_US, 14 * SECOND_US)
            .expect("read")
            .len(),
        1
    );
    assert_eq!(
        history
            .range("job/7", 0, 5 * SECOND_US)
            .expect("read")
            .len(),
        0
    );
    drop(history);
    let after = std::fs::metadata(&path).expect("the file").len();
    assert!(after <= bytes_max, "{after} bytes");
}

#[test]
fn a_history_is_not_taken_for_a_store_and_has_one_user() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.db");
    let history = open(folder.path(), every_second());
    let error = History::open(&path, every_second()).err().expect("in use");
    assert!(
        matches!(error, OpenError::Locked { pid, .. } if pid == Some(std::process::id())),
        "{error}"
    );
    drop(history);
    let clock = std::sync::Arc::new(tw_store::BootClock);
    let error = tw_store::SqliteStore::open(&path, clock, Default::default())
        .err()
        .expect("not a store");
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// However batches are cut, repeated and reordered within a few, the sums are those of each sample once.
    #[test]
    fn delivery_at_least_once_adds_up_to_once(
        mut deliveries in prop::collection::vec((0_usize..40, 0_usize..6), 1..60),
    ) {
        let samples: Vec<Sample> = (0..48)
            .map(|n| Sample { cpu_millicores: n, ..sample("web", "a", n, n as i64 * SECOND_US / 4) })
            .collect();
        deliveries.push((0, samples.len()));
        let folder = tempfile::tempdir().expect("a folder");
        let history = open(folder.path(), every_second());
        for (start, length) in deliveries {
            let end = (start + length).min(samples.len());
            history.record(&samples[start..end]).expect("recorded");
        }
        let buckets = history.range("web", 0, i64::MAX).expect("read");
        prop_assert_eq!(buckets.iter().map(|bucket| bucket.samples).sum::<u64>(), 48);
        prop_assert_eq!(buckets.iter().map(|bucket| bucket.cpu_sum_millicores).sum::<u64>(), 47 * 48 / 2);
        prop_assert_eq!(buckets.len(), 12);
    }
}
