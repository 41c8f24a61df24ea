//! What only a store in a file promises: it outlives its process, has one writer, and refuses what is
//! damaged instead of beginning anew.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;
use tw_store::{
    BootClock, CommitError, Epoch, LogLimits, OpenError, Rev, SqliteOptions, SqliteStore, Store,
    StoreError, Txn, WatchEvent,
};

/// A folder with a store's file in it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Place {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    fn open(&self) -> SqliteStore {
        self.try_open().expect("the store opens")
    }

    fn try_open(&self) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(&self.path(), Arc::new(BootClock), SqliteOptions::default())
    }

    fn refusal(&self) -> OpenError {
        self.try_open().err().expect("the store is refused")
    }

    /// Makes a store with some rows and closes it.
    async fn filled(rows: usize) -> Self {
        let place = Place::new();
        fill(&place.open(), 0..rows).await;
        place
    }

    fn sql(&self, statement: &str) {
        Connection::open(self.path())
            .and_then(|file| file.execute_batch(statement))
            .expect("plain SQLite");
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("the folder");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    }
}

async fn fill(store: &SqliteStore, rows: std::ops::Range<usize>) {
    let answers: Vec<_> = rows
        .map(|n| store.commit(Txn::new().put(format!("row/{n:05}"), format!("{n:0>200}"))))
        .collect();
    for answer in answers {
        answer.await.expect("committed");
    }
}

/// Asserts that a file is refused as damaged, by a message that names it and says what helps, and stays as it is.
fn assert_refused_as_damaged(place: &Place) -> String {
    let before = fs::read(place.path()).expect("the file");
    let error = place.refusal();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Damaged(_)), "{text}");
    assert!(
        text.contains("store.db") && text.contains("backup"),
        "{text}"
    );
    assert_eq!(
        fs::read(place.path()).expect("the file"),
        before,
        "it was left as it is"
    );
    text
}

#[tokio::test]
async fn everything_survives_closing_and_opening() {
    let place = Place::new();
    let (rev, rows, epoch) = {
        let store = place.open();
        fill(&store, 0..50).await;
        store
            .commit(Txn::new().delete("row/00003"))
            .await
            .expect("committed");
        let lease = store
            .campaign("shard", "one", Duration::from_secs(3600))
            .await
            .expect("free");
        let (rev, rows) = store.list("").await.expect("listed");
        (rev, rows, lease.epoch)
    };
    assert_eq!(
        place.names(),
        ["store.db", "store.db.lock"],
        "a closed store leaves no log behind"
    );

    let store = place.open();
    assert_eq!(store.list("").await.expect("listed"), (rev, rows));
    let stale = store.commit(Txn::new().if_held("shard", epoch)).await;
    assert!(
        matches!(stale, Err(CommitError::Conflict { .. })),
        "leases end with the process"
    );
    let lease = store
        .campaign("shard", "two", Duration::from_secs(1))
        .await
        .expect("free");
    assert!(lease.epoch > epoch && epoch > Epoch(0), "epochs do not");

    let mut watch = store.watch("row/", Rev(48));
    for expected in 49..=51 {
        let event = watch.next().await.expect("open");
        assert!(
            matches!(&event, WatchEvent::Batch(batch) if batch.rev == Rev(expected)),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn a_watch_reads_a_long_past_from_the_file() {
    let place = Place::filled(9000).await;
    let store = place.open();
    let mut watch = store.watch("row/", Rev::ZERO);
    fill(&store, 9000..9100).await;
    for expected in 1..=9100 {
        let event = watch.next().await.expect("open");
        assert!(
            matches!(&event, WatchEvent::Batch(batch) if batch.rev == Rev(expected)),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn what_was_compacted_stays_so_and_a_fully_compacted_store_opens() {
    let place = Place::filled(20).await;
    place.open().compact(Rev(20)).await.expect("compacted");
    let store = place.open();
    let event = store.watch("", Rev(19)).next().await.expect("open");
    assert_eq!(event, WatchEvent::Compacted { oldest: Rev(20) });
    assert_eq!(store.list("").await.expect("listed").1.len(), 20);
}

#[tokio::test]
async fn a_bounded_log_bounds_the_file() {
    let place = Place::new();
    let log = LogLimits {
        revisions_max: 1 << 40,
        bytes_max: 1 << 20,
    };
    let store = SqliteStore::open(&place.path(), Arc::new(BootClock), SqliteOptions { log })
        .expect("a store");
    let value = vec![1; 64 << 10];
    for n in 0..400 {
        store
            .commit(Txn::new().put(format!("row/{}", n % 4), value.clone()))
            .await
            .expect("committed");
    }
    drop(store);
    let size = fs::metadata(place.path()).expect("the file").len();
    assert!(size < 4 << 20, "25 MiB written, {size} bytes kept");
}

#[test]
fn a_second_writer_is_refused_and_told_who_has_it() {
    let place = Place::new();
    let store = place.open();
    let error = place.refusal();
    let own = std::process::id();
    assert!(
        matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == own),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("process {own}")),
        "{error}"
    );
    drop(store);
    place.open();
}

#[test]
fn a_file_of_a_later_release_is_refused() {
    let place = Place::new();
    place.open();
    place.sql("PRAGMA user_version = 99");
    let error = place.refusal();
    assert!(
        matches!(
            error,
            OpenError::Newer {
                found: 99,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_database_of_another_kind_is_refused() {
    let place = Place::new();
    place.sql("CREATE TABLE t (x)");
    let error = place.refusal();
    assert!(
        matches!(error, OpenError::Foreign { found: 0, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_never_made_anew() {
    let empty = Place::filled(100).await;
    fs::write(empty.path(), "").expect("written");
    assert!(assert_refused_as_damaged(&empty).contains("empty"));

    let garbage = Place::filled(100).await;
    overwrite(&garbage.path(), 0, &[0xa5; 4096]);
    assert_refused_as_damaged(&garbage);

    let short = Place::filled(1000).await;
    let size = fs::metadata(short.path()).expect("the file").len();
    let file = OpenOptions::new()
        .write(true)
        .open(short.path())
        .expect("the file");
    file.set_len(size / 2).expect("cut");
    assert_refused_as_damaged(&short);

    let zeroed = Place::filled(1000).await;
    overwrite(&zeroed.path(), 5 * 4096, &[0; 4096]);
    assert_refused_as_damaged(&zeroed);

    let missing_log = Place::filled(100).await;
    missing_log.sql("DELETE FROM log WHERE revision > 90");
    assert!(assert_refused_as_damaged(&missing_log).contains("revision 90"));
}

#[tokio::test]
async fn a_log_without_its_database_is_refused() {
    let place = Place::filled(10).await;
    fs::rename(place.path(), place.folder.path().join("store.db-wal")).expect("renamed");
    let error = place.refusal();
    assert!(
        matches!(&error, OpenError::Damaged(damage) if damage.found.contains("missing")),
        "{error}"
    );
    assert!(!place.path().exists(), "nothing was made in its place");
}

#[tokio::test]
async fn a_changed_value_is_refused_when_it_is_read() {
    let place = Place::filled(100).await;
    place.sql("UPDATE kv SET value = zeroblob(200) WHERE key = 'row/00042'");
    let store = place.open();
    let error = store.list("row/").await.expect_err("one row is damaged");
    assert!(
        matches!(&error, StoreError::Damaged(damage) if damage.found.contains("row/00042")),
        "{error}"
    );
    store.get("row/00042").await.expect_err("the damaged row");
    store.get("row/00041").await.expect("another row");

    place_sql_closed(
        store,
        &place,
        "UPDATE log SET events = (SELECT events FROM log WHERE revision = 8) WHERE revision = 7",
    );
    let store = place.open();
    let mut watch = store.watch("", Rev(6));
    let error = watch.next().await.expect_err("the log is damaged");
    assert!(
        matches!(&error, StoreError::Damaged(damage) if damage.found.contains("revision 7")),
        "{error}"
    );
}

#[tokio::test]
async fn a_backup_is_restored_in_the_place_of_a_damaged_store() {
    let place = Place::new();
    let backup = place.folder.path().join("copy.db");
    let store = place.open();
    fill(&store, 0..100).await;
    assert_eq!(store.backup_to(&backup).await.expect("copied"), Rev(100));
    fill(&store, 100..200).await;
    assert_eq!(
        store.backup_to(&backup).await.expect("copied again"),
        Rev(200),
        "the newer copy replaces the older"
    );
    let saved = store.list("").await.expect("listed");
    fill(&store, 200..300).await;
    let log = place.folder.path().join("store.db-wal");
    let log_when_open = fs::read(&log).expect("the write-ahead log");
    let error = SqliteStore::restore(&place.path(), &backup).expect_err("the store is open");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(store);

    overwrite(&place.path(), 0, &[0; 100]);
    assert_refused_as_damaged(&place);
    fs::write(&log, log_when_open).expect("as after a crash");
    let kept = SqliteStore::restore(&place.path(), &backup)
        .expect("restored")
        .expect("the damaged file is kept");
    assert!(kept.exists());
    let store = place.open();
    assert_eq!(store.list("").await.expect("listed"), saved);
    let mut watch = store.watch("", Rev(300));
    assert_eq!(
        watch.next().await.expect("open"),
        WatchEvent::Compacted { oldest: Rev(200) }
    );
    fill(&store, 300..310).await;
    drop(store);

    overwrite(&backup, 4096 * 3, &[0xff; 4096]);
    let error = SqliteStore::restore(&place.path(), &backup).expect_err("the copy is damaged");
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    assert_eq!(
        place.open().list("").await.expect("listed").0,
        Rev(210),
        "the store was left as it is"
    );
}

#[tokio::test]
async fn a_backup_of_a_busy_store_is_consistent() {
    let place = Place::new();
    let store = Arc::new(place.open());
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 0..2000 {
                // Both rows change together or not at all.
                let txn = Txn::new()
                    .put("left", n.to_string())
                    .put("right", n.to_string());
                store.commit(txn).await.expect("committed");
            }
        }
    });
    for n in 0..5 {
        let copy = Place::new();
        let rev = store.backup_to(&copy.path()).await.expect("copied");
        let (copied, rows) = copy.open().list("").await.expect("listed");
        assert_eq!(copied, rev, "copy {n}");
        assert!(
            rows.windows(2).all(|pair| pair[0].value == pair[1].value),
            "copy {n}"
        );
    }
    writing.await.expect("written");
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    file.write_all_at(bytes, offset).expect("written");
}

fn place_sql_closed(store: SqliteStore, place: &Place, statement: &str) {
    drop(store);
    place.sql(statement);
}
