//! A store's process dies at any moment, and no transaction it acknowledged is lost.
//!
//! The test runs itself again as the process that dies: [`child_that_commits_until_it_is_killed`] is a test
//! only so that the test binary can be asked for it.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tw_store::{
    BootClock, CommitError, Event, Kv, LogLimits, OpenError, Pipeline, Rev, SqliteOptions,
    SqliteStore, Store, Txn, WatchEvent,
};

const STORE_PATH: &str = "TW_STORE_CRASH_PATH";
const LINES: usize = 4;
const DEPTH: usize = 16;

fn options() -> SqliteOptions {
    // Small, so that the log is also compacted while the process dies.
    SqliteOptions {
        log: LogLimits {
            revisions_max: 2000,
            bytes_max: 1 << 20,
        },
    }
}

/// Commits along several pipelines and says what was acknowledged, until it is killed.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(path) = env::var_os(STORE_PATH).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store: Arc<dyn Store> = Arc::new(
            SqliteStore::open(&path, Arc::new(BootClock), options()).expect("the store opens"),
        );
        let lines = (0..LINES).map(|line| tokio::spawn(commit_line(Arc::clone(&store), line)));
        for line in lines.collect::<Vec<_>>() {
            line.await.expect("a line ends with its answer");
        }
    });
}

/// Commits `line/L/0`, `line/L/1`, … with several on their way at once.
async fn commit_line(store: Arc<dyn Store>, line: usize) {
    let (_, rows) = store.list(&prefix(line)).await.expect("listed");
    let pipeline = Pipeline::new(Arc::clone(&store));
    let mut waiting = std::collections::VecDeque::new();
    for n in rows.len().. {
        waiting.push_back((n, pipeline.submit(step(line, n))));
        if waiting.len() < DEPTH {
            continue;
        }
        let (n, answer) = waiting.pop_front().expect("several are waiting");
        match answer.await {
            Ok(rev) => say(&format!("ack {line} {n} {rev}")),
            Err(error) => {
                say(&format!("failed {}", error_kind(&error)));
                let next = store.commit(Txn::new().put("next", "")).await;
                return say(&format!(
                    "then {}",
                    next.as_ref().map_or_else(error_kind, |_| "committed")
                ));
            }
        }
    }
}

fn step(line: usize, n: usize) -> Txn {
    let key = format!("{}{n:06}", prefix(line));
    Txn::new()
        .if_absent(&key)
        .put(key, vec![n as u8; 50 + n % 500])
        .put(format!("last/{line}"), n.to_string())
}

fn prefix(line: usize) -> String {
    format!("line/{line}/")
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("someone reads");
}

fn error_kind(error: &CommitError) -> &'static str {
    match error {
        CommitError::Io { .. } => "io",
        CommitError::Full { .. } => "full",
        CommitError::Aborted => "aborted",
        CommitError::Stopped { .. } => "stopped",
        _ => "other",
    }
}

#[test]
fn a_killed_store_holds_every_acknowledged_transaction_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let mut random = Random(0x5eed);
    let mut acknowledged = Acknowledged::default();
    for round in 0..20 {
        let mut child = spawn(&path, None);
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        read_until_acknowledged(&mut said, &mut acknowledged);
        if round == 0 {
            assert_locked_by(&path, child.id());
        }
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        read_rest(said, &mut acknowledged);
        assert_holds(&path, &acknowledged);
    }
    assert!(
        acknowledged.count > 200,
        "only {} transactions were acknowledged",
        acknowledged.count
    );
}

#[test]
fn a_store_that_cannot_write_stops_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let mut acknowledged = Acknowledged::default();
    let mut child = spawn(&path, Some(2048));
    let said = BufReader::new(child.stdout.take().expect("piped"));
    let failures = read_rest(said, &mut acknowledged);
    assert!(child.wait().expect("ended").success());
    assert!(failures.contains(&"failed io".into()), "{failures:?}");
    let refused = failures
        .iter()
        .filter(|failure| *failure == "then stopped")
        .count();
    assert_eq!(refused, LINES, "nobody can write any more: {failures:?}");
    assert!(acknowledged.count > 10);
    assert_holds(&path, &acknowledged);
}

/// Starts this test binary as the child, with files of at most `blocks` of 512 bytes if given.
fn spawn(path: &Path, blocks: Option<u32>) -> Child {
    let test = env::current_exe().expect("this test");
    let mut command = Command::new("sh");
    let limit = blocks.map_or(String::new(), |blocks| {
        format!("trap '' XFSZ; ulimit -f {blocks};")
    });
    command
        .arg("-c")
        .arg(format!("{limit} exec \"$0\" \"$@\""))
        .arg(test)
        .args([
            "--exact",
            "child_that_commits_until_it_is_killed",
            "--nocapture",
        ])
        .env(STORE_PATH, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().expect("the child starts")
}

/// What the children said, by line: the highest number with its revision.
#[derive(Default)]
struct Acknowledged {
    last: BTreeMap<usize, (usize, Rev)>,
    count: usize,
}

impl Acknowledged {
    /// Takes note of what the child said; returns what it said of a failure.
    fn note(&mut self, said: &str) -> Option<String> {
        let words: Vec<&str> = said.split_whitespace().collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<usize>().ok());
        match (words.first(), number(1), number(2)) {
            (Some(&"ack"), Some(line), Some(n)) => {
                // The last line may have been cut short by the kill: its revision is then missing.
                let rev = Rev(number(3)? as u64);
                self.last.insert(line, (n, rev));
                self.count += 1;
                None
            }
            (Some(&("failed" | "then")), ..) => Some(words.join(" ")),
            _ => None,
        }
    }
}

fn read_until_acknowledged(said: &mut BufReader<ChildStdout>, acknowledged: &mut Acknowledged) {
    let before = acknowledged.count;
    let mut line = String::new();
    while acknowledged.count == before {
        line.clear();
        let length = said.read_line(&mut line).expect("the child speaks");
        assert!(length > 0, "the child ended before it was killed");
        acknowledged.note(&line);
    }
}

fn read_rest(mut said: BufReader<ChildStdout>, acknowledged: &mut Acknowledged) -> Vec<String> {
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("the child spoke");
    let whole = rest.rfind('\n').map_or("", |end| &rest[..=end]);
    whole
        .lines()
        .filter_map(|line| acknowledged.note(line))
        .collect()
}

fn assert_locked_by(path: &Path, pid: u32) {
    let error = SqliteStore::open(path, Arc::new(BootClock), options())
        .err()
        .expect("in use");
    assert!(
        matches!(error, OpenError::Locked { pid: Some(found), .. } if found == pid),
        "{error}"
    );
}

/// Opens the store and holds it against what was acknowledged and against itself.
fn assert_holds(path: &Path, acknowledged: &Acknowledged) {
    let store = SqliteStore::open(path, Arc::new(BootClock), options()).expect("the store opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for (line, (n, rev)) in &acknowledged.last {
            let key = format!("{}{n:06}", prefix(*line));
            let row = store
                .get(&key)
                .await
                .expect("read")
                .unwrap_or_else(|| panic!("{key} was acknowledged"));
            assert_eq!(row.mod_rev, *rev);
        }
        for line in 0..LINES {
            assert_is_prefix(&store, line).await;
        }
        assert_log_leads_to_listing(&store).await;
    });
}

/// What a pipeline committed has no hole, and both rows of each transaction are there.
async fn assert_is_prefix(store: &SqliteStore, line: usize) {
    let (_, rows) = store.list(&prefix(line)).await.expect("listed");
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(*row.key, format!("{}{n:06}", prefix(line)));
    }
    assert!(
        rows.windows(2)
            .all(|pair| pair[0].mod_rev < pair[1].mod_rev),
        "revisions rise along a pipeline"
    );
    let last = store.get(&format!("last/{line}")).await.expect("read");
    let expected = rows.len().checked_sub(1).map(|n| n.to_string());
    assert_eq!(last.map(|row| row.value), expected.map(Into::into));
}

/// The history has no gap, and its newest events are the rows.
async fn assert_log_leads_to_listing(store: &SqliteStore) {
    let (rev, rows) = store.list("").await.expect("listed");
    let rows: BTreeMap<Arc<str>, Kv> = rows
        .into_iter()
        .map(|row| (Arc::clone(&row.key), row))
        .collect();
    let oldest = match store.watch("", Rev::ZERO).next().await.expect("open") {
        WatchEvent::Compacted { oldest } => oldest,
        WatchEvent::Batch(_) | WatchEvent::Progress { .. } => Rev::ZERO,
    };
    let mut watch = store.watch("", oldest);
    for expected in oldest.0 + 1..=rev.0 {
        let Ok(WatchEvent::Batch(batch)) = watch.next().await else {
            panic!("no batch {expected}")
        };
        assert_eq!(batch.rev, Rev(expected));
        for event in batch.events {
            let Event::Put(kv) = event else {
                panic!("nothing is deleted")
            };
            let newest = &rows[&kv.key];
            assert!(*newest == kv || newest.mod_rev > kv.mod_rev);
        }
    }
}

/// A small generator, so that a failing moment comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
