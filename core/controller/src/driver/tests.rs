//! Commits that fail under a driver that is asked things.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use serde_json::json;
use tw_api::{ApplyRequest, PlanRequest, SubmittedJob};
use tw_model::SourceRef;
use tw_store::{
    BootClock, Kv, Lease, LeaseError, LogLimits, MemoryStore, StoreError, Ticket, Watch,
};

use super::*;

/// A store whose disk is full for a while.
struct Full {
    store: MemoryStore,
    /// Transactions until the disk is full, and for how many it stays so.
    script: Mutex<(usize, usize)>,
    refused: AtomicUsize,
}

impl Full {
    fn new() -> Arc<Full> {
        Arc::new(Full {
            store: MemoryStore::new(Arc::new(BootClock), LogLimits::default()),
            script: Mutex::new((usize::MAX, 0)),
            refused: AtomicUsize::new(0),
        })
    }

    fn refuses(&self) -> bool {
        let mut script = self.script.lock().unwrap();
        match *script {
            (0, 0) => false,
            (0, times) => {
                *script = (0, times - 1);
                true
            }
            (usize::MAX, _) => false,
            (after, times) => {
                *script = (after - 1, times);
                false
            }
        }
    }
}

impl Store for Full {
    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<(Rev, Vec<Kv>), StoreError>> {
        self.store.list(prefix)
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Kv>, StoreError>> {
        self.store.get(key)
    }

    fn submit(&self, txn: tw_store::Txn, ticket: Option<Ticket>) -> Commit {
        let Some(ticket) = ticket else {
            return self.store.submit(txn, None);
        };
        if !ticket.is_aborted() && self.refuses() {
            ticket.fail();
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Commit::ready(Err(CommitError::Full {
                path: "controller.db".into(),
                source: Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
            }));
        }
        self.store.submit(txn, Some(ticket))
    }

    fn watch(&self, prefix: &str, from: Rev) -> Watch {
        self.store.watch(prefix, from)
    }

    fn campaign(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Lease, LeaseError>> {
        self.store.campaign(name, holder, ttl)
    }

    fn keep_alive(&self, lease: &Lease) -> BoxFuture<'_, Result<(), LeaseError>> {
        self.store.keep_alive(lease)
    }

    fn resign(&self, lease: &Lease) -> BoxFuture<'_, Result<(), LeaseError>> {
        self.store.resign(lease)
    }

    fn compact(&self, rev: Rev) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.compact(rev)
    }
}

fn job(name: &str) -> SubmittedJob {
    let spec = json!({ "name": name, "command": ["./serve"] });
    SubmittedJob {
        spec: serde_json::from_value(spec).unwrap(),
        source: SourceRef::default(),
    }
}

async fn apply(driver: &Driver, name: &str) -> Result<(), ErrorBody> {
    let jobs = vec![job(name)];
    let plan = PlanRequest {
        jobs: jobs.clone(),
        ..PlanRequest::default()
    };
    let digest = driver.plan(plan).await?.digest;
    let request = ApplyRequest {
        jobs,
        digest,
        ..ApplyRequest::default()
    };
    driver.apply(request, "root".to_owned()).await.map(drop)
}

async fn rows(store: &dyn Store) -> Vec<Record> {
    recover::list(store).await.unwrap()
}

#[tokio::test]
async fn after_a_failed_commit_the_state_is_what_the_store_holds() {
    let store = Full::new();
    let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
    store
        .commit(tw_store::Txn::new().put("meta/format", "1"))
        .await
        .unwrap();
    let hub = Arc::new(Hub::new());
    let mut config = ControllerConfig::new("/nowhere", "/nowhere/tw.sock");
    config.tick_every = Duration::from_millis(5);
    let (driver, core) = start(&config, shared, Arc::clone(&hub)).await.unwrap();
    let running = tokio::spawn(core.run());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));

    for round in 0..8 {
        *store.script.lock().unwrap() = (round % 3, 1 + round % 2);
        let applies = (0..6).map(|n| {
            let (driver, acknowledged) = (driver.clone(), Arc::clone(&acknowledged));
            async move {
                let name = format!("job-{round}-{n}");
                match apply(&driver, &name).await {
                    Ok(()) => acknowledged.lock().unwrap().push(name),
                    Err(refusal) => assert_eq!(refusal.code, Code::StoreUnavailable, "{refusal}"),
                }
            }
        });
        futures_util::future::join_all(applies).await;
        *store.script.lock().unwrap() = (usize::MAX, 0);
        // Whoever was refused may try again, and nothing is half there.
        for n in 0..6 {
            let name = format!("job-{round}-{n}");
            let mut tries = 0;
            while apply(&driver, &name).await.is_err() {
                tries += 1;
                assert!(tries < 10, "{name} is never taken");
            }
        }
    }
    assert!(store.refused.load(Ordering::Relaxed) >= 8);

    let stored = rows(&*store).await;
    for name in acknowledged.lock().unwrap().iter() {
        let kept = stored
            .iter()
            .any(|row| matches!(row, Record::Job(job) if job.id.name.as_str() == name));
        assert!(kept, "{name} was acknowledged and is lost");
    }
    // What is shown is what is stored.
    let shown = hub.read(|view| view.jobs().map(|(row, _)| row.clone()).collect::<Vec<_>>());
    let jobs: Vec<_> = stored
        .iter()
        .filter_map(|row| match row {
            Record::Job(job) => Some(job.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(shown.len(), 48);
    assert_eq!(shown, jobs);
    drop(driver);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_audit_sees_to_what_no_index_names() {
    let store: Arc<dyn Store> =
        Arc::new(MemoryStore::new(Arc::new(BootClock), LogLimits::default()));
    let format = tw_store::Txn::new().put("meta/format", "1");
    store.commit(format).await.unwrap();
    let config = ControllerConfig::new("/nowhere", "/nowhere/tw.sock");
    let (driver, mut core) = start(&config, store, Arc::new(Hub::new())).await.unwrap();
    let (submitted, _) = tokio::join!(apply(&driver, "web"), async {
        // The plan and the submission; nothing else runs.
        for _ in 0..2 {
            let request = core.inbox.recv().await.unwrap();
            core.serve(request);
        }
        while let Some(answered) = core.queued.next().await {
            core.answered(answered).await.unwrap();
        }
    });
    submitted.unwrap();
    core.audit();
    assert!(core.queued.is_empty(), "nothing is to be done");
    // Behind the back of what is decided, its task is gone.
    let rows = core.state.records();
    let rows = rows.filter(|row| !matches!(row, Record::Task(_)));
    core.state = State::from_records(rows.collect::<Vec<_>>());
    assert_eq!(
        core.state
            .jobs()
            .map(|job| job.live().count())
            .sum::<usize>(),
        0
    );
    core.audit();
    assert_eq!(
        core.state
            .jobs()
            .map(|job| job.live().count())
            .sum::<usize>(),
        1
    );
}
