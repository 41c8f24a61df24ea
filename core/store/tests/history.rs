//! Usage history through its public interface.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tw_store::OpenError;
use tw_store::history::{Bucket, History, HistoryOptions, Recorded, Sample, TIERS, Usage};

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
        width: None,
        usage: Usage::sample(100, 1000),
    }
}

#[test]
fn samples_of_several_tasks_add_up_in_buckets() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), every_second());
    let batch = [
        Sample {
            usage: Usage {
                throttled_us: 5,
                ..Usage::sample(300, 10)
            },
            ..sample("web", "web.0#1", 1, 100)
        },
        Sample {
            usage: Usage {
                oom_kills: 1,
                ..Usage::sample(100, 90)
            },
            ..sample("web", "web.1#1", 1, 999_999)
        },
        Sample {
            usage: Usage {
                throttled_us: 7,
                ..Usage::sample(50, 20)
            },
            ..sample("web", "web.0#1", 2, SECOND_US)
        },
        sample("worker", "worker.0#1", 1, -1),
    ];
    assert_eq!(
        history.record(&batch).expect("recorded"),
        Recorded {
            counted: 4,
            repeated: 0,
            refused: 0,
        }
    );

    let web = history.range("web", 0, 2 * SECOND_US).expect("read");
    let first = Bucket {
        start_us: 0,
        width_us: SECOND_US,
        usage: {
            let mut sum = Usage::sample(300, 10);
            sum.merge(&Usage::sample(100, 90));
            (sum.oom_kills, sum.throttled_us) = (1, 5);
            sum
        },
    };
    assert_eq!(web[0], first);
    assert_eq!(web[0].cpu_avg_millicores(), 200);
    assert_eq!(
        (
            web[1].start_us,
            web[1].usage.samples,
            web[1].usage.throttled_us
        ),
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
            repeated: 3,
            refused: 0,
        }
    );
    drop(history);

    let history = open(folder.path(), every_second());
    assert_eq!(
        history.record(&batch).expect("recorded"),
        Recorded {
            counted: 0,
            repeated: 5,
            refused: 0,
        }
    );
    let other = [sample("web", "web.0#2", 1, 6)];
    assert_eq!(
        history.record(&other).expect("recorded"),
        Recorded {
            counted: 1,
            repeated: 0,
            refused: 0,
        }
    );
    assert_eq!(
        history.range("web", 0, SECOND_US).expect("read")[0]
            .usage
            .samples,
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
            .map(|n| Sample { usage: Usage::sample(n, 1000), ..sample("web", "a", n, n as i64 * SECOND_US / 4) })
            .collect();
        deliveries.push((0, samples.len()));
        let folder = tempfile::tempdir().expect("a folder");
        let history = open(folder.path(), every_second());
        for (start, length) in deliveries {
            let end = (start + length).min(samples.len());
            history.record(&samples[start..end]).expect("recorded");
        }
        let buckets = history.range("web", 0, i64::MAX).expect("read");
        prop_assert_eq!(buckets.iter().map(|bucket| bucket.usage.samples).sum::<u64>(), 48);
        prop_assert_eq!(buckets.iter().map(|bucket| bucket.usage.cpu_sum_millicores).sum::<u64>(), 47 * 48 / 2);
        prop_assert_eq!(buckets.len(), 12);
    }

    /// Whatever is merged into wider buckets, sums, counts and peaks stay what they were.
    #[test]
    fn compaction_loses_when_and_never_how_much(
        samples in prop::collection::vec((0_i64..90 * 86_400, 0_u64..4000, 0_u64..1 << 34), 1..80),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let history = open(folder.path(), HistoryOptions::default());
        let now_us = 90 * 86_400 * SECOND_US;
        let mut sum = Usage::default();
        for (seq, (at, cpu, memory)) in samples.iter().enumerate() {
            let usage = Usage::sample(*cpu, *memory);
            sum.merge(&usage);
            let one = Sample { usage, ..sample("web", "a", seq as u64, at * SECOND_US) };
            history.record(&[one]).expect("recorded");
        }
        let before = history.range("web", 0, now_us).expect("read").len() as u64;
        let fewer = history.compact(&TIERS, now_us).expect("compacted");
        let after = history.range("web", 0, now_us).expect("read");
        prop_assert_eq!(after.len() as u64, before - fewer);
        let mut again = Usage::default();
        after.iter().for_each(|bucket| again.merge(&bucket.usage));
        prop_assert_eq!(again, sum);
        let day_us = 86_400 * SECOND_US;
        for bucket in &after {
            let age_us = now_us - bucket.start_us;
            prop_assert!(age_us <= 36 * day_us || bucket.width_us == day_us, "{:?}", bucket);
        }
    }

    /// Slots are posted once each, whatever the clock does and however often it is asked.
    #[test]
    fn each_slot_is_posted_once(steps in prop::collection::vec((0_i64..40, 1_i64..200), 1..40)) {
        let folder = tempfile::tempdir().expect("a folder");
        let history = open(folder.path(), every_second());
        let width = Duration::from_secs(60);
        let (mut recorded, mut posted) = (0, 0);
        let mut now = 0;
        for (seq, (back, forth)) in steps.iter().enumerate() {
            now += forth;
            history.record(&[sample("web", "a", seq as u64, now * SECOND_US)]).expect("recorded");
            recorded += 1;
            // The clock may have gone back a little when it is asked.
            let asked = (now - back) * SECOND_US;
            let (slots, until) = history.unposted("web", width, asked).expect("read");
            posted += slots.iter().map(|slot| slot.usage.samples).sum::<u64>();
            let bodies: Vec<Vec<u8>> = slots.iter().map(|_| b"{}".to_vec()).collect();
            history.post("web", until, &bodies, 1000).expect("posted");
        }
        let (slots, _) = history.unposted("web", width, (now + 60) * SECOND_US).expect("read");
        posted += slots.iter().map(|slot| slot.usage.samples).sum::<u64>();
        prop_assert_eq!(posted, recorded);
    }
}

#[test]
fn a_message_stays_until_it_is_acknowledged_and_the_oldest_go_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), every_second());
    let bodies: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n]).collect();
    history.post("web", 0, &bodies, 4).expect("posted");
    let origin = history.origin().expect("a name");
    drop(history);
    let history = open(folder.path(), every_second());
    assert_eq!(history.origin().expect("a name"), origin);
    let posted = history.posted(10).expect("read");
    assert_eq!(
        posted.iter().map(|(_, body)| body[0]).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    history.acknowledge(posted[1].0).expect("let go");
    assert_eq!(history.posted(1).expect("read")[0].1, [3]);
}

#[test]
fn what_cannot_have_been_measured_is_refused_and_nothing_else_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), every_second());
    let absurd = Usage {
        throttled_us: u64::MAX,
        ..Usage::sample(1, 1)
    };
    let uncounted = Usage {
        samples: 7,
        ..Usage::sample(1, 1)
    };
    let batch = [
        Sample {
            usage: absurd,
            ..sample("web", "a", 1, 0)
        },
        Sample {
            usage: uncounted,
            ..sample("web", "a", 2, 0)
        },
        sample("web", "a", 3, i64::MIN + 1),
        sample("web", "a", 4, i64::MAX),
        sample("web", "a", 5, 0),
    ];
    let recorded = history.record(&batch).expect("recorded");
    assert_eq!((recorded.counted, recorded.refused), (3, 2));
    assert_eq!(history.range("web", 0, SECOND_US).expect("read").len(), 1);
}

#[test]
fn a_file_of_the_first_format_is_read_on_and_one_of_a_later_release_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.db");
    drop(open(folder.path(), every_second()));
    let raw = rusqlite::Connection::open(&path).expect("open");
    raw.execute_batch(
        "ALTER TABLE bucket DROP COLUMN cpu_counts; ALTER TABLE bucket DROP COLUMN stalled_us;
         ALTER TABLE bucket DROP COLUMN disk_bytes; ALTER TABLE bucket DROP COLUMN network_bytes;
         ALTER TABLE bucket DROP COLUMN starts; ALTER TABLE bucket DROP COLUMN ends;
         ALTER TABLE bucket DROP COLUMN ran_ms;
         DROP TABLE outbox; DROP TABLE reported; DROP TABLE origin; DROP TABLE conclusion;
         INSERT INTO series VALUES (1, 'web');
         INSERT INTO bucket VALUES (1, 0, 1000000, 10, 1000, 400, 77, 1, 5);
         PRAGMA user_version = 1;",
    )
    .expect("made old");
    drop(raw);
    let history = open(folder.path(), every_second());
    let old = &history.range("web", 0, SECOND_US).expect("read")[0].usage;
    assert_eq!(
        (old.samples, old.cpu.samples(), old.memory_max_bytes),
        (10, 10, 77)
    );
    drop(history);

    let raw = rusqlite::Connection::open(&path).expect("open");
    raw.execute_batch("PRAGMA user_version = 99")
        .expect("made newer");
    drop(raw);
    let error = History::open(&path, every_second()).err().expect("refused");
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");
}

/// What a job that follows the day used in five minutes of it: 300 samples of a task, around a level of its own.
fn five_minutes(job: u64, slot: u64) -> Usage {
    let mut usage = Usage::default();
    let day = slot as f64 / 288.0;
    let level = 200.0 + 20.0 * job as f64 + 150.0 * (day * std::f64::consts::TAU).sin();
    for second in 0..300_u64 {
        // A fixed pattern stands for noise: a fifth around the level.
        let noise = ((slot * 300 + second).wrapping_mul(2_654_435_761) >> 8) % 400;
        let cpu = level * (0.8 + noise as f64 / 1000.0);
        usage.merge(&Usage::sample(cpu as u64, (300 << 20) + noise * 4096));
    }
    Usage {
        disk_bytes: 1 << 20,
        network_bytes: 3 << 20,
        ..usage
    }
}

/// The size that docs/limits.md states: two days of five minutes, five weeks of hours, the rest days.
#[test]
fn a_year_of_a_thousand_jobs_has_its_stated_size() {
    const JOBS: u64 = 8;
    const DAYS: u64 = 44;
    const DAY_US: i64 = 86_400 * SECOND_US;
    let folder = tempfile::tempdir().expect("a folder");
    let history = open(folder.path(), HistoryOptions::default());
    let days: Vec<Vec<Usage>> = (0..JOBS)
        .map(|job| (0..288).map(|slot| five_minutes(job, slot)).collect())
        .collect();
    for day in 0..DAYS {
        for (job, used) in days.iter().enumerate() {
            let samples = (day * 288..).zip(used).map(|(slot, usage)| Sample {
                usage: usage.clone(),
                ..sample(
                    &format!("job-{job}"),
                    "m",
                    slot + 1,
                    slot as i64 * 300 * SECOND_US,
                )
            });
            let batch: Vec<Sample> = samples.collect();
            history.record(&batch).expect("recorded");
        }
        history
            .compact(&TIERS, (day as i64 + 1) * DAY_US)
            .expect("compacted");
    }
    let range = history.range("job-0", i64::MIN, i64::MAX).expect("read");
    let of_width = |seconds: i64| {
        let found = range
            .iter()
            .filter(|bucket| bucket.width_us == seconds * SECOND_US);
        found.count() as u64
    };
    let rows = (of_width(300), of_width(3600), of_width(86_400));
    assert_eq!(rows, (2 * 288, 33 * 24, DAYS - 35));
    drop(history);
    // The write-ahead log is folded in when the file is closed.
    let bytes = std::fs::metadata(folder.path().join("history.db"))
        .expect("a file")
        .len();
    let row_bytes = bytes / (JOBS * (rows.0 + rows.1 + rows.2));
    let year_mib = (row_bytes * (rows.0 + rows.1 + 330) * 1000) >> 20;
    assert!(year_mib <= 256, "{year_mib} MiB at {row_bytes} bytes a row");
    let options = HistoryOptions::default();
    assert!(options.bytes_max >= year_mib << 20 && options.rows_max >= 1_700_000);
}

#[test]
fn conclusions_outlive_the_process_and_go_with_their_series() {
    let folder = tempfile::tempdir().unwrap();
    let history = open(folder.path(), HistoryOptions::default());
    let measured = [
        sample("default/web|v1", "web.0", 1, 0),
        sample("default/web-2|v1", "web-2.0", 1, 900 * SECOND_US),
    ];
    history.record(&measured).unwrap();
    history.conclude("default/web|", b"old").unwrap();
    history.conclude("default/web|", b"new").unwrap();
    history.conclude("default/web-2|", b"other").unwrap();
    assert_eq!(history.conclusion("default/w").unwrap(), None);
    drop(history);

    let history = open(folder.path(), HistoryOptions::default());
    let kept = |prefix| history.conclusion(prefix).unwrap();
    assert_eq!(kept("default/web|").as_deref(), Some(&b"new"[..]));
    history.prune(600 * SECOND_US).unwrap();
    assert_eq!(kept("default/web|"), None);
    assert_eq!(kept("default/web-2|").as_deref(), Some(&b"other"[..]));
}
