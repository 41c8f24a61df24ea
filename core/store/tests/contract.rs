//! What every store promises, held against each implementation.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::time::timeout;
use tw_store::{
    BootClock, CommitError, Epoch, Event, Found, Guard, InvalidTxn, Kv, LeaseError, LogLimits,
    ManualClock, MemoryStore, Pipeline, Rev, SqliteOptions, SqliteStore, Store, StoreError,
    TXN_BYTES_MAX, TXN_OPS_MAX, Txn, Watch, WatchEvent,
};

/// A store under test, and what belongs to it.
struct Subject {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    _folder: Option<TempDir>,
}

type Open = fn(LogLimits) -> Subject;

fn memory(log: LogLimits) -> Subject {
    let clock = Arc::new(ManualClock::default());
    Subject {
        store: Arc::new(MemoryStore::new(clock.clone(), log)),
        clock,
        _folder: None,
    }
}

fn sqlite(log: LogLimits) -> Subject {
    let clock = Arc::new(ManualClock::default());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store =
        SqliteStore::open(&path, clock.clone(), SqliteOptions { log }).expect("a new store");
    Subject {
        store: Arc::new(store),
        clock,
        _folder: Some(folder),
    }
}

/// Makes one test a scenario and an implementation.
macro_rules! contract {
    ($($scenario:ident)*) => {
        mod memory_store { $(#[test] fn $scenario() { super::run(super::$scenario(super::memory)) })* }
        mod sqlite_store { $(#[test] fn $scenario() { super::run(super::$scenario(super::sqlite)) })* }
    };
}

contract! {
    a_listing_shows_rows_in_order_with_their_revisions
    a_prefix_is_matched_by_characters
    a_guard_that_fails_changes_nothing_and_says_what_was_found
    a_transaction_beyond_the_limits_is_refused
    a_transaction_without_effect_takes_no_revision
    a_deleted_key_comes_back_as_a_new_one
    commits_keep_the_order_of_submission
    a_dropped_answer_withdraws_nothing
    a_watch_says_everything_once_from_any_revision
    a_watch_that_is_cancelled_all_the_time_misses_nothing
    a_watch_reports_progress_past_other_keys
    a_watch_can_start_at_any_listing
    a_watch_across_compaction_says_compacted
    a_watch_from_the_future_says_compacted
    a_store_compacts_itself_within_its_limits
    a_watch_ends_when_the_store_closes
    a_lease_fences_with_rising_epochs
    a_lease_expires_and_can_be_kept_alive
    a_resigned_lease_is_free_at_once
    a_pipeline_commits_nothing_after_a_failure_until_reset
    a_pipeline_reset_aborts_what_is_queued
    random_transactions_agree_with_a_model
}

fn run(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        timeout(Duration::from_secs(60), scenario)
            .await
            .expect("no scenario hangs")
    });
}

const TTL: Duration = Duration::from_secs(10);

async fn a_listing_shows_rows_in_order_with_their_revisions(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    assert_eq!(store.list("").await.expect("listed"), (Rev(0), vec![]));
    let first = store
        .commit(Txn::new().put("b", "1").put("a/2", "2").put("a/1", "3"))
        .await
        .expect("committed");
    let second = store
        .commit(Txn::new().put("a/2", "4"))
        .await
        .expect("committed");
    assert_eq!((first, second), (Rev(1), Rev(2)));

    let (rev, rows) = store.list("a/").await.expect("listed");
    assert_eq!(rev, second);
    assert_eq!(
        rows,
        vec![kv("a/1", "3", first, first), kv("a/2", "4", first, second)]
    );
    assert_eq!(
        store.get("b").await.expect("read"),
        Some(kv("b", "1", first, first))
    );
    assert_eq!(store.get("a/").await.expect("read"), None);
}

async fn a_prefix_is_matched_by_characters(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let keys = [
        "a",
        "a/",
        "a/\u{7f}",
        "a/\u{d7ff}",
        "a/\u{10ffff}z",
        "a0",
        "A/x",
        "b",
        "\u{10ffff}",
    ];
    for key in keys {
        store
            .commit(Txn::new().put(key, ""))
            .await
            .expect("committed");
    }
    for prefix in [
        "",
        "a",
        "a/",
        "a/\u{d7ff}",
        "a/\u{10ffff}",
        "\u{10ffff}",
        "%",
        "_",
    ] {
        let mut expected: Vec<&str> = keys
            .iter()
            .copied()
            .filter(|key| key.starts_with(prefix))
            .collect();
        expected.sort_unstable();
        let (_, rows) = store.list(prefix).await.expect("listed");
        let found: Vec<&str> = rows.iter().map(|row| &*row.key).collect();
        assert_eq!(found, expected, "prefix {prefix:?}");
    }
}

async fn a_guard_that_fails_changes_nothing_and_says_what_was_found(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let rev = store
        .commit(Txn::new().put("a", "1").if_absent("a"))
        .await
        .expect("committed");

    let txn = Txn::new()
        .if_at("a", rev)
        .if_absent("a")
        .put("a", "2")
        .put("b", "2");
    let (index, guard, found) = conflict(store.commit(txn).await);
    assert_eq!(
        (index, guard, found),
        (1, Guard::Absent { key: "a".into() }, Found::At(rev))
    );

    let (_, _, found) = conflict(
        store
            .commit(Txn::new().if_at("missing", rev).delete("a"))
            .await,
    );
    assert_eq!(found, Found::Absent);
    let (_, _, found) = conflict(
        store
            .commit(Txn::new().if_at("a", Rev(9)).delete("a"))
            .await,
    );
    assert_eq!(found, Found::At(rev));
    let (_, _, found) = conflict(
        store
            .commit(Txn::new().if_held("shard", Epoch(1)).delete("a"))
            .await,
    );
    assert_eq!(found, Found::Unheld);

    assert_eq!(
        store.list("").await.expect("listed"),
        (rev, vec![kv("a", "1", rev, rev)])
    );
    store
        .commit(Txn::new().if_at("a", rev).if_absent("b").put("a", "2"))
        .await
        .expect("guards hold");
}

async fn a_transaction_beyond_the_limits_is_refused(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let of = |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.put(format!("k{n}"), "v"));
    store
        .commit(of(TXN_OPS_MAX))
        .await
        .expect("as many as allowed");
    let error = store
        .commit(of(TXN_OPS_MAX + 1))
        .await
        .expect_err("one too many");
    assert!(
        matches!(error, CommitError::TooLarge { ops: 101, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("at most 100 operations"),
        "{error}"
    );

    let sized = |bytes: usize| Txn::new().put("k", vec![0; bytes - 1]);
    store
        .commit(sized(TXN_BYTES_MAX))
        .await
        .expect("as large as allowed");
    let error = store
        .commit(sized(TXN_BYTES_MAX + 1))
        .await
        .expect_err("one byte too many");
    assert!(
        matches!(error, CommitError::TooLarge { bytes, .. } if bytes == TXN_BYTES_MAX + 1),
        "{error}"
    );

    let error = store
        .commit(Txn::new().put("", "v"))
        .await
        .expect_err("no key");
    assert!(
        matches!(error, CommitError::Invalid(InvalidTxn::EmptyKey)),
        "{error}"
    );
    let error = store
        .commit(Txn::new().put("k", "v").delete("k"))
        .await
        .expect_err("one key twice");
    assert!(
        matches!(error, CommitError::Invalid(InvalidTxn::RepeatedKey { .. })),
        "{error}"
    );
    assert_eq!(store.list("").await.expect("listed").0, Rev(2));
}

async fn a_transaction_without_effect_takes_no_revision(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let rev = store
        .commit(Txn::new().put("a", "1"))
        .await
        .expect("committed");
    assert_eq!(store.commit(Txn::new()).await.expect("committed"), rev);
    assert_eq!(
        store
            .commit(Txn::new().delete("b"))
            .await
            .expect("committed"),
        rev
    );
    assert_eq!(
        store
            .commit(Txn::new().if_at("a", rev))
            .await
            .expect("guarded"),
        rev
    );
    conflict(store.commit(Txn::new().if_absent("a")).await);
    assert_eq!(store.list("").await.expect("listed").0, rev);
}

async fn a_deleted_key_comes_back_as_a_new_one(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    store
        .commit(Txn::new().put("a", "1"))
        .await
        .expect("committed");
    store
        .commit(Txn::new().delete("a"))
        .await
        .expect("committed");
    assert_eq!(store.get("a").await.expect("read"), None);
    let rev = store
        .commit(Txn::new().if_absent("a").put("a", "2"))
        .await
        .expect("committed");
    assert_eq!(
        store.get("a").await.expect("read"),
        Some(kv("a", "2", rev, rev))
    );
}

async fn commits_keep_the_order_of_submission(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let answers: Vec<_> = (0..500)
        .map(|n| store.commit(Txn::new().put("a", n.to_string())))
        .collect();
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await.expect("committed"), Rev(n as u64 + 1));
    }
    let row = store.get("a").await.expect("read").expect("exists");
    assert_eq!(row.value, "499");
}

async fn a_dropped_answer_withdraws_nothing(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    drop(store.commit(Txn::new().put("a", "1")));
    let rev = store.commit(Txn::new()).await.expect("committed");
    assert_eq!(rev, Rev(1));
    assert!(store.get("a").await.expect("read").is_some());
}

async fn a_watch_says_everything_once_from_any_revision(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    for n in 0..40 {
        store.commit(change(n)).await.expect("committed");
    }
    let (at, _) = store.list("").await.expect("listed");
    let mut watches: Vec<(Rev, Watch)> = (0..=at.0)
        .map(|from| (Rev(from), store.watch("a/", Rev(from))))
        .collect();
    let later: Vec<_> = (40..80).map(|n| store.commit(change(n))).collect();
    let mut end = at;
    for answer in later {
        end = answer.await.expect("committed");
    }
    let whole = told_until(&mut store.watch("a/", Rev::ZERO), end).await;
    assert!(
        whole.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "revisions rise"
    );
    assert_eq!(
        whole.len(),
        80,
        "each of the 80 transactions changes something below a/"
    );
    for (from, watch) in &mut watches {
        let rest: Vec<_> = whole
            .iter()
            .filter(|(rev, _)| rev > from)
            .cloned()
            .collect();
        assert_eq!(told_until(watch, end).await, rest, "from {from}");
    }
}

async fn a_watch_that_is_cancelled_all_the_time_misses_nothing(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let mut watch = store.watch("a/", Rev::ZERO);
    let mut told = Vec::new();
    let mut answers = Vec::new();
    for n in 0..200 {
        answers.push(store.commit(change(n)));
        if let Ok(next) = timeout(Duration::from_micros(n % 7 * 10), watch.next()).await {
            told.extend(batch(next.expect("the store is open")));
        }
    }
    let mut end = Rev::ZERO;
    for answer in answers {
        end = answer.await.expect("committed");
    }
    if told.last().is_none_or(|(rev, _)| *rev < end) {
        told.extend(told_until(&mut watch, end).await);
    }
    assert_eq!(
        told,
        told_until(&mut store.watch("a/", Rev::ZERO), end).await
    );
}

async fn a_watch_reports_progress_past_other_keys(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let mut watch = store.watch("a/", Rev::ZERO);
    let rev = store
        .commit(Txn::new().put("b/1", ""))
        .await
        .expect("committed");
    assert_eq!(
        watch.next().await.expect("open"),
        WatchEvent::Progress { rev }
    );
    let quiet = timeout(Duration::from_millis(20), watch.next()).await;
    assert!(quiet.is_err(), "progress is told once: {quiet:?}");
    let rev = store
        .commit(Txn::new().put("b/2", "").put("a/1", "x"))
        .await
        .expect("committed");
    let (told, events) = batch(watch.next().await.expect("open")).expect("a batch");
    assert_eq!(
        (told, events),
        (rev, vec![Event::Put(kv("a/1", "x", rev, rev))])
    );
}

async fn a_watch_can_start_at_any_listing(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let mut answers = Vec::new();
    for n in 0..400 {
        answers.extend((0..20).map(|m| store.commit(change(n * 20 + m))));
        let (rev, _) = store.list("c").await.expect("listed");
        let mut watch = store.watch("", rev);
        answers.push(store.commit(change(n)));
        let next = watch.next().await.expect("open");
        assert!(
            matches!(&next, WatchEvent::Batch(batch) if batch.rev == rev.next()),
            "from {rev}: {next:?}"
        );
    }
    for answer in answers {
        answer.await.expect("committed");
    }
}

async fn a_watch_across_compaction_says_compacted(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    for n in 0..10 {
        store.commit(change(n)).await.expect("committed");
    }
    let mut behind = store.watch("", Rev(3));
    store.compact(Rev(6)).await.expect("compacted");
    store
        .compact(Rev(4))
        .await
        .expect("compacting less than before changes nothing");
    let compacted = WatchEvent::Compacted { oldest: Rev(6) };
    assert_eq!(behind.next().await.expect("open"), compacted);
    assert_eq!(
        behind.next().await.expect("open"),
        compacted,
        "it says nothing else"
    );
    assert_eq!(
        store.watch("", Rev(5)).next().await.expect("open"),
        compacted
    );
    assert_eq!(
        told_until(&mut store.watch("", Rev(6)), Rev(10))
            .await
            .len(),
        4
    );
    let error = store.compact(Rev(11)).await.expect_err("not reached");
    assert!(
        matches!(
            error,
            StoreError::NoSuchRevision {
                asked: Rev(11),
                newest: Rev(10)
            }
        ),
        "{error}"
    );
    assert_eq!(
        store.list("").await.expect("listed").0,
        Rev(10),
        "keys and their revisions stay"
    );
    store.commit(change(10)).await.expect("committed");
}

async fn a_watch_from_the_future_says_compacted(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let rev = store
        .commit(Txn::new().put("a", ""))
        .await
        .expect("committed");
    let mut watch = store.watch("", Rev(7));
    assert_eq!(
        watch.next().await.expect("open"),
        WatchEvent::Compacted { oldest: rev }
    );
}

async fn a_store_compacts_itself_within_its_limits(open: Open) {
    let Subject { store, .. } = &open(LogLimits {
        revisions_max: 32,
        bytes_max: 1 << 20,
    });
    for n in 0..100 {
        store.commit(change(n)).await.expect("committed");
    }
    let Ok(WatchEvent::Compacted { oldest }) = store.watch("", Rev(60)).next().await else {
        panic!("40 revisions are more than the log keeps");
    };
    assert!(oldest >= Rev(68) && oldest <= Rev(72), "{oldest}");
    let value = vec![7; 100 << 10];
    for n in 0..40 {
        store
            .commit(Txn::new().put(format!("a/{n}"), value.clone()))
            .await
            .expect("committed");
    }
    let Ok(WatchEvent::Compacted { oldest }) = store.watch("", Rev(125)).next().await else {
        panic!("15 batches of 100 KiB are more than the log keeps");
    };
    assert!(oldest >= Rev(130) && oldest <= Rev(132), "{oldest}");
    assert_eq!(
        told_until(&mut store.watch("", oldest), Rev(140))
            .await
            .len() as u64,
        140 - oldest.0
    );
}

async fn a_watch_ends_when_the_store_closes(open: Open) {
    let Subject { store, _folder, .. } = open(LogLimits::default());
    let mut watch = store.watch("", Rev::ZERO);
    let answer = store.commit(Txn::new().put("a", ""));
    drop(store);
    assert_eq!(
        answer.await.expect("what was submitted is committed"),
        Rev(1)
    );
    assert!(batch(watch.next().await.expect("told before the end")).is_some());
    assert!(matches!(watch.next().await, Err(StoreError::Closed)));
    assert!(matches!(watch.next().await, Err(StoreError::Closed)));
}

async fn a_lease_fences_with_rising_epochs(open: Open) {
    let Subject { store, clock, .. } = &open(LogLimits::default());
    let first = store.campaign("shard", "one", TTL).await.expect("free");
    assert!(first.epoch > Epoch(0));
    store
        .commit(Txn::new().if_held("shard", first.epoch).put("a", "1"))
        .await
        .expect("held");

    clock.advance(TTL / 2);
    let error = store.campaign("shard", "two", TTL).await.expect_err("held");
    assert!(
        matches!(&error, LeaseError::Held { by, remaining, .. } if by == "one" && *remaining == TTL / 2),
        "{error}"
    );
    let again = store
        .campaign("shard", "one", TTL)
        .await
        .expect("its holder may win again");
    assert!(again.epoch > first.epoch);
    let (_, _, found) = conflict(
        store
            .commit(Txn::new().if_held("shard", first.epoch).put("a", "2"))
            .await,
    );
    assert_eq!(found, Found::Held(again.epoch));

    // A campaign fences what is submitted after it, also before it is answered.
    let before = store.commit(Txn::new().if_held("shard", again.epoch).put("a", "3"));
    let third = store.campaign("shard", "one", TTL);
    let after = store.commit(Txn::new().if_held("shard", again.epoch).put("a", "4"));
    before.await.expect("submitted in time");
    third.await.expect("won");
    conflict(after.await);
    let other = store
        .campaign("other", "two", TTL)
        .await
        .expect("another name is another lease");
    conflict(store.commit(Txn::new().if_held("shard", other.epoch)).await);
}

async fn a_lease_expires_and_can_be_kept_alive(open: Open) {
    let Subject { store, clock, .. } = &open(LogLimits::default());
    let lease = store.campaign("shard", "one", TTL).await.expect("free");
    for _ in 0..3 {
        clock.advance(TTL - Duration::from_micros(1));
        store.keep_alive(&lease).await.expect("not expired");
    }
    clock.advance(TTL);
    conflict(store.commit(Txn::new().if_held("shard", lease.epoch)).await);
    let error = store.keep_alive(&lease).await.expect_err("expired");
    assert!(
        matches!(
            error,
            LeaseError::Lost {
                found: Found::Unheld,
                ..
            }
        ),
        "{error}"
    );
    let next = store.campaign("shard", "two", TTL).await.expect("expired");
    assert!(next.epoch > lease.epoch);
    let error = store.keep_alive(&lease).await.expect_err("won by another");
    assert!(
        matches!(error, LeaseError::Lost { found: Found::Held(epoch), .. } if epoch == next.epoch),
        "{error}"
    );
}

async fn a_resigned_lease_is_free_at_once(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let lease = store.campaign("shard", "one", TTL).await.expect("free");
    store.resign(&lease).await.expect("held");
    conflict(store.commit(Txn::new().if_held("shard", lease.epoch)).await);
    let next = store.campaign("shard", "two", TTL).await.expect("free");
    store
        .resign(&lease)
        .await
        .expect_err("an old epoch cannot resign for a new one");
    store
        .commit(Txn::new().if_held("shard", next.epoch))
        .await
        .expect("still held");
}

async fn a_pipeline_commits_nothing_after_a_failure_until_reset(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let (pipeline, other) = (
        Pipeline::new(Arc::clone(store)),
        Pipeline::new(Arc::clone(store)),
    );
    let first = pipeline.submit(Txn::new().put("a", "1"));
    let failing = pipeline.submit(Txn::new().if_absent("a").put("b", "1"));
    let after = [
        pipeline.submit(Txn::new().put("c", "1")),
        pipeline.submit(Txn::new().put("d", "1")),
    ];
    let beside = other.submit(Txn::new().put("e", "1"));
    let alone = store.commit(Txn::new().put("f", "1"));

    first.await.expect("before the failure");
    conflict(failing.await);
    for answer in after {
        assert!(matches!(answer.await, Err(CommitError::Aborted)));
    }
    beside.await.expect("another pipeline goes on");
    alone.await.expect("what is in no pipeline goes on");
    assert!(pipeline.is_failed() && !other.is_failed());
    assert!(matches!(
        pipeline.submit(Txn::new().put("g", "1")).await,
        Err(CommitError::Aborted)
    ));

    let (newest, rows) = store.list("").await.expect("listed");
    assert_eq!(
        rows.iter().map(|row| &*row.key).collect::<Vec<_>>(),
        ["a", "e", "f"]
    );
    assert_eq!(pipeline.reset().await.expect("the store goes on"), newest);
    assert!(!pipeline.is_failed());
    pipeline
        .submit(Txn::new().put("g", "1"))
        .await
        .expect("open again");

    let large = pipeline.submit(Txn::new().put("h", vec![0; TXN_BYTES_MAX]));
    let after = pipeline.submit(Txn::new().put("i", "1"));
    assert!(matches!(large.await, Err(CommitError::TooLarge { .. })));
    assert!(
        matches!(after.await, Err(CommitError::Aborted)),
        "every kind of failure aborts"
    );
}

async fn a_pipeline_reset_aborts_what_is_queued(open: Open) {
    let Subject { store, .. } = &open(LogLimits::default());
    let pipeline = Pipeline::new(Arc::clone(store));
    let answers: Vec<_> = (0..300)
        .map(|n| pipeline.submit(Txn::new().put(format!("a/{n:03}"), "")))
        .collect();
    let barrier = pipeline.reset().await.expect("the store goes on");
    let (listed, rows) = store.list("a/").await.expect("listed");
    assert_eq!(listed, barrier, "nothing lands after the reset");
    for (n, answer) in answers.into_iter().enumerate() {
        match answer.await {
            Ok(_) => assert!(n < rows.len(), "what was committed is a prefix"),
            Err(error) => assert!(
                n >= rows.len() && matches!(error, CommitError::Aborted),
                "{n}: {error}"
            ),
        }
    }
    pipeline
        .submit(Txn::new().put("b", ""))
        .await
        .expect("open again");
}

/// What the model of a random transaction may do to one of a few keys.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    GuardAbsent(u8),
    GuardAt(u8, u64),
    GuardCurrent(u8),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        4 => (0_u8..6, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (0_u8..6).prop_map(Step::Delete),
        1 => (0_u8..6).prop_map(Step::GuardAbsent),
        1 => (0_u8..6, 0_u64..20).prop_map(|(key, rev)| Step::GuardAt(key, rev)),
        3 => (0_u8..6).prop_map(Step::GuardCurrent),
    ];
    prop::collection::vec(prop::collection::vec(step, 0..5), 1..40)
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<String, (u8, Rev, Rev)>,
    rev: Rev,
}

impl Model {
    /// Returns the transaction that the steps mean now.
    fn txn(&self, steps: &[Step]) -> Txn {
        let at = |key: &str| self.rows.get(key).map(|(_, _, mod_rev)| *mod_rev);
        let mut txn = Txn::new();
        for step in steps {
            let key = match step {
                Step::Put(key, _) | Step::Delete(key) => key_of(*key),
                Step::GuardAbsent(key) | Step::GuardAt(key, _) | Step::GuardCurrent(key) => {
                    key_of(*key)
                }
            };
            let used = txn.ops.iter().any(|op| op.key() == key);
            txn = match step {
                Step::Put(_, value) if !used => txn.put(key, vec![*value]),
                Step::Delete(_) if !used => txn.delete(key),
                Step::Put(..) | Step::Delete(_) => txn,
                Step::GuardAbsent(_) => txn.if_absent(key),
                Step::GuardAt(_, rev) => txn.if_at(key, Rev(*rev)),
                Step::GuardCurrent(_) => match at(&key) {
                    Some(rev) => txn.if_at(key, rev),
                    None => txn.if_absent(key),
                },
            };
        }
        txn
    }

    /// Returns the revision, or the index of the guard that fails.
    fn apply(&mut self, txn: &Txn) -> Result<Rev, usize> {
        for (index, guard) in txn.guards.iter().enumerate() {
            let holds = match guard {
                Guard::Absent { key } => !self.rows.contains_key(key),
                Guard::At { key, rev } => self.rows.get(key).is_some_and(|row| row.2 == *rev),
                Guard::Held { .. } => false,
            };
            if !holds {
                return Err(index);
            }
        }
        let rev = self.rev.next();
        for op in &txn.ops {
            match op {
                tw_store::Op::Put { key, value } => {
                    let create_rev = self.rows.get(key).map_or(rev, |row| row.1);
                    self.rows.insert(key.clone(), (value[0], create_rev, rev));
                    self.rev = rev;
                }
                tw_store::Op::Delete { key } => {
                    if self.rows.remove(key).is_some() {
                        self.rev = rev;
                    }
                }
            }
        }
        Ok(self.rev)
    }

    fn kvs(&self) -> Vec<Kv> {
        let rows = self.rows.iter();
        rows.map(|(key, (value, create, modified))| kv(key, vec![*value], *create, *modified))
            .collect()
    }
}

fn key_of(number: u8) -> String {
    format!(
        "{}/{number}",
        if number.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        }
    )
}

async fn random_transactions_agree_with_a_model(open: Open) {
    let cases = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(64)
    };
    let mut runner = proptest::test_runner::TestRunner::new(cases);
    let result = runner.run(&(steps(), any::<prop::sample::Index>()), |(steps, from)| {
        std::thread::scope(|scope| {
            let case = scope.spawn(|| run(agrees_with_model(open, &steps, from)));
            case.join()
                .map_err(|_| TestCaseError::fail("the store and its model disagree"))
        })
    });
    result.expect("every random history agrees");
}

async fn agrees_with_model(open: Open, steps: &[Vec<Step>], from: prop::sample::Index) {
    let Subject { store, .. } = &open(LogLimits::default());
    let mut model = Model::default();
    let mut listings = vec![(Rev::ZERO, vec![])];
    let mut answers = Vec::new();
    for steps in steps {
        let txn = model.txn(steps);
        let expected = model.apply(&txn);
        answers.push((store.commit(txn), expected));
        listings.push((model.rev, model.kvs()));
    }
    for (answer, expected) in answers {
        match answer.await {
            Err(CommitError::Conflict { index, .. }) => assert_eq!(expected, Err(index)),
            answer => assert_eq!(Ok(answer.expect("only conflicts fail")), expected),
        }
    }
    assert_eq!(
        store.list("").await.expect("listed"),
        (model.rev, model.kvs())
    );

    // A watch from any listing folds to the newest one.
    let (rev, rows) = from.get(&listings);
    for prefix in ["even/", ""] {
        let mut folded: BTreeMap<Arc<str>, Kv> = rows
            .iter()
            .filter(|row| row.key.starts_with(prefix))
            .map(|row| (Arc::clone(&row.key), row.clone()))
            .collect();
        for (_, events) in told_until(&mut store.watch(prefix, *rev), model.rev).await {
            fold(&mut folded, events);
        }
        let (_, listed) = store.list(prefix).await.expect("listed");
        assert_eq!(folded.into_values().collect::<Vec<_>>(), listed);
    }
}

fn fold(rows: &mut BTreeMap<Arc<str>, Kv>, events: Vec<Event>) {
    for event in events {
        match event {
            Event::Put(kv) => {
                rows.insert(Arc::clone(&kv.key), kv);
            }
            Event::Delete { key } => {
                rows.remove(&key).expect("only keys that exist are deleted");
            }
        }
    }
}

/// Reads a watch until it has said everything up to `end`.
async fn told_until(watch: &mut Watch, end: Rev) -> Vec<(Rev, Vec<Event>)> {
    let mut told = Vec::new();
    let mut at = Rev::ZERO;
    while at < end {
        // A watch that starts at the end has nothing to say.
        let Ok(next) = timeout(Duration::from_millis(500), watch.next()).await else {
            break;
        };
        match next.expect("the store is open") {
            WatchEvent::Batch(batch) => {
                at = batch.rev;
                told.push((batch.rev, batch.events));
            }
            WatchEvent::Progress { rev } => at = rev,
            WatchEvent::Compacted { oldest } => panic!("compacted at {oldest}"),
        }
    }
    told
}

fn batch(event: WatchEvent) -> Option<(Rev, Vec<Event>)> {
    match event {
        WatchEvent::Batch(batch) => Some((batch.rev, batch.events)),
        WatchEvent::Progress { .. } | WatchEvent::Compacted { .. } => None,
    }
}

/// A transaction that changes something below `a/` and something else.
fn change(n: u64) -> Txn {
    Txn::new()
        .put(format!("a/{}", n % 5), n.to_string())
        .put("b", "")
        .put("c", n.to_string())
}

fn kv(key: &str, value: impl Into<Bytes>, create_rev: Rev, mod_rev: Rev) -> Kv {
    Kv {
        key: key.into(),
        value: value.into(),
        mod_rev,
        create_rev,
    }
}

fn conflict(result: Result<Rev, CommitError>) -> (usize, Guard, Found) {
    match result {
        Err(CommitError::Conflict {
            index,
            guard,
            found,
        }) => (index, guard, found),
        other => panic!("not a conflict: {other:?}"),
    }
}

#[test]
fn the_machines_clock_moves_forward() {
    use tw_store::Clock;
    let before = BootClock.now();
    std::thread::sleep(Duration::from_millis(2));
    assert!(BootClock.now() >= before + Duration::from_millis(2));
}
