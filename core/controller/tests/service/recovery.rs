//! What is left after the worst.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};
use tw_api::{AgentEvent, Client, ClientError, HealthReply, PlanRequest};
use tw_controller::{Controller, RecordsError, RunError};
use tw_model::{Desired, Phase, TaskId, TaskState};
use tw_store::{BootClock, SqliteOptions, SqliteStore, Store, Txn};

use crate::support::*;

/// Set for the process that is killed: its state folder.
const STATE: &str = "TW_CONTROLLER_TEST_STATE";

/// Not a test by itself: the process that other tests start and kill.
#[tokio::test(flavor = "multi_thread")]
async fn serve_to_be_killed() {
    let Some(state) = std::env::var_os(STATE) else {
        return;
    };
    tw_controller::run(config(Path::new(&state)), std::future::pending())
        .await
        .unwrap();
}

/// A controller in a process of its own.
struct Process(Child);

impl Process {
    async fn start(state: &Path) -> Process {
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program)
            .args(["--exact", "recovery::serve_to_be_killed"])
            .env(STATE, state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        let answers = async {
            while client(state)
                .get::<HealthReply>("/v1/health")
                .await
                .is_err()
            {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, answers).await.expect("it answers");
        process
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = Folder::new();
    let (state, client) = (folder.state(), client(&folder.state()));
    let process = Process::start(&state).await;
    let mut agent = Agent::start(&client, "m1").await;
    apply(&client, &[job("web", json!({ "replicas": 3 }))]).await;
    let mut tasks = Vec::new();
    while tasks.len() < 3 {
        let new = agent
            .assigned(|one| one.task.desired == Desired::Run)
            .await
            .task
            .id;
        if !tasks.contains(&new) {
            agent.say(&new, running()).await;
            tasks.push(new);
        }
    }
    let mut process = process;
    for round in 0..3u32 {
        apply(&client, &[job(&format!("job-{round}"), json!({}))]).await;
        // At once after the answer: nothing may be left to write.
        process.kill();
        process = Process::start(&state).await;
    }
    for round in 0..3u32 {
        assert_eq!(
            status(&client, &format!("job-{round}")).await.job.version,
            1
        );
    }

    // The agent comes back with its old epoch: nothing restarts.
    agent.stream = open_stream(&client, "m1", agent.epoch).await.unwrap();
    let (assignments, _) = agent.snapshot().await;
    for task in &tasks {
        let row = assignments
            .iter()
            .find(|one| one.task.id == *task)
            .expect("it is kept");
        assert_eq!(
            (row.task.state, row.task.desired),
            (TaskState::Running, Desired::Run)
        );
    }
    agent.say(&tasks[0], running()).await;
    let shown = status(&client, "web").await;
    assert!(
        shown
            .tasks
            .iter()
            .all(|task| task.restarts == 0 && tasks.contains(&task.id))
    );
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_counts_from_the_start_of_the_controller() {
    let folder = Folder::new();
    let mut config = config(&folder.state());
    let server = Server::start(config.clone()).await;
    let (mut agent, task) = Agent::with_web(&server.client).await;
    agent.say(&task, running()).await;
    server.stop().await;

    config.lost_after = Duration::from_millis(600);
    sleep(config.lost_after).await;
    let server = Server::start(config).await;
    assert_eq!(status(&server.client, "web").await.tasks[0].id, task);
    sleep(Duration::from_millis(100)).await;
    agent
        .send(Vec::new(), Vec::new())
        .await
        .expect("its epoch still holds");
    until(&server.client, "web", |web| web.tasks[0].id != task).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_stops_the_start_and_is_left_alone() {
    let folder = Folder::new();
    let config = config(&folder.state());
    let server = Server::start(config.clone()).await;
    apply(&server.client, &[job("web", json!({}))]).await;
    server.stop().await;
    let path = config.state_dir.join("controller.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..8192].fill(0x5a);
    std::fs::write(&path, &bytes).unwrap();

    let refused = Controller::start(config).await.map(drop).unwrap_err();
    assert!(
        matches!(&refused, RunError::Open(tw_store::OpenError::Damaged(_))),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("is damaged"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_history_of_use_is_set_aside_and_the_controller_serves() {
    let folder = Folder::new();
    let config = config(&folder.state());
    let server = Server::start(config.clone()).await;
    apply(&server.client, &[job("web", json!({}))]).await;
    server.stop().await;
    let path = config.state_dir.join("history.db");
    std::fs::write(&path, "no database at all").unwrap();

    let server = Server::start(config.clone()).await;
    let usage: tw_api::UsageReply = server
        .client
        .get("/v1/jobs/default/web/usage")
        .await
        .unwrap();
    assert_eq!(usage.history, None);
    server.stop().await;
    let aside = config.state_dir.join("damaged-history.db");
    assert_eq!(std::fs::read(aside).unwrap(), b"no database at all");
    Server::start(config).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_use_of_a_later_release_stops_the_start_and_is_left_alone() {
    let folder = Folder::new();
    let config = config(&folder.state());
    Server::start(config.clone()).await.stop().await;
    let path = config.state_dir.join("history.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[USER_VERSION].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();

    let refused = Controller::start(config).await.map(drop).unwrap_err();
    assert!(
        matches!(
            &refused,
            RunError::Open(tw_store::OpenError::Newer { found: 99, .. })
        ),
        "{refused:?}"
    );
    let said = refused.to_string();
    assert!(said.contains("has format 99, and this release"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap()[USER_VERSION], [0, 0, 0, 99]);
}

/// Where the header of a SQLite file has the version of its format.
const USER_VERSION: std::ops::Range<usize> = 60..64;

async fn with_row(state: &Path, key: &str, value: &str) {
    let path = state.join("controller.db");
    let store = SqliteStore::open(&path, Arc::new(BootClock), SqliteOptions::default()).unwrap();
    store
        .commit(Txn::new().put(key, value.to_owned()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_release_stop_the_start() {
    let folder = Folder::new();
    let config = config(&folder.state());
    Server::start(config.clone()).await.stop().await;
    with_row(&config.state_dir, "quota/default", "{}").await;
    let refused = Controller::start(config).await.map(drop).unwrap_err();
    assert!(
        matches!(&refused, RunError::Records(RecordsError::Row(_))),
        "{refused:?}"
    );

    let folder = Folder::new();
    let config = crate::support::config(&folder.state());
    Server::start(config.clone()).await.stop().await;
    with_row(&config.state_dir, "meta/format", "2").await;
    let refused = Controller::start(config).await.map(drop).unwrap_err();
    assert!(
        matches!(
            &refused,
            RunError::Records(RecordsError::Newer { found: 2, known: 1 })
        ),
        "{refused:?}"
    );
}

/// How many kills one run of the test has; `TW_TEST_KILLS` asks for more.
const KILLS: u64 = 8;

/// A moment that repeats, from a seed.
fn moment(seed: u64, longest: Duration) -> Duration {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let share = ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
    longest.mul_f64(share)
}

/// What the controller has promised.
#[derive(Clone, Default)]
struct Promises {
    /// The newest version of each job whose apply was answered.
    versions: BTreeMap<String, u64>,
    /// Tasks whose report that they run was acknowledged.
    running: BTreeSet<TaskId>,
}

/// Applies one version of a job after another until the controller is gone.
async fn keep_applying(client: Client, name: String, promises: Arc<Mutex<Promises>>) {
    for number in 0.. {
        let label = format!("{number}-{:?}", std::time::Instant::now());
        let job = job(&name, json!({ "labels": { "N": label }, "replicas": 3 }));
        let request = PlanRequest {
            jobs: vec![job.clone()],
            ..PlanRequest::default()
        };
        let Ok(plan) = client
            .post::<_, serde_json::Value>("/v1/plan", &request)
            .await
        else {
            return;
        };
        let digest = plan["digest"].as_str().unwrap_or_default();
        // A plan may be stale: tasks of the last version start meanwhile.
        match apply_plan(&client, &[job], digest).await {
            Ok(reply) => {
                let version = reply.jobs[0].version;
                promises
                    .lock()
                    .unwrap()
                    .versions
                    .insert(name.clone(), version);
            }
            Err(ClientError::Refused(_)) => {}
            Err(_) => return,
        }
    }
}

/// Starts whatever is assigned until the controller is gone.
async fn keep_running(mut agent: Agent, promises: Arc<Mutex<Promises>>) -> Agent {
    while let Ok(Some(event)) = agent.stream.next::<AgentEvent>().await {
        let rows = match event {
            AgentEvent::Snapshot { assignments, .. } => assignments,
            AgentEvent::Assign { assignment } => vec![*assignment],
            _ => continue,
        };
        for row in rows {
            let id = row.task.id;
            if row.task.state.is_terminal() || promises.lock().unwrap().running.contains(&id) {
                continue;
            }
            let reports = vec![
                agent.report(&id, Phase::Starting),
                agent.report(&id, running()),
            ];
            if agent.send(reports, Vec::new()).await.is_err() {
                return agent;
            }
            promises.lock().unwrap().running.insert(id);
        }
    }
    agent
}

async fn check_promises(client: &Client, promises: &Promises, round: u64) {
    for (name, version) in &promises.versions {
        let shown = status(client, name).await;
        assert!(
            shown.job.version >= *version,
            "kill {round}: {name} is at {}, and {version} was acknowledged",
            shown.job.version
        );
        for task in &shown.tasks {
            assert_eq!(task.restarts, 0, "kill {round}: {} restarted", task.id);
            let acknowledged = promises.running.contains(&task.id);
            assert!(
                !acknowledged || task.state == TaskState::Running,
                "kill {round}: {} was acknowledged to run and is {}",
                task.id,
                task.state
            );
        }
    }
    for task in &promises.running {
        let shown = status(client, task.job.name.as_str()).await;
        let held = shown.tasks.iter().any(|row| row.id == *task);
        assert!(
            held,
            "kill {round}: {task} was acknowledged to run and is gone"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_seeded_moments_break_no_promise() {
    let folder = Folder::new();
    let (state, client) = (folder.state(), client(&folder.state()));
    let asked = std::env::var("TW_TEST_KILLS").ok();
    let kills = asked.map_or(KILLS, |text| {
        text.parse().expect("TW_TEST_KILLS is a number")
    });
    let promises = Arc::new(Mutex::new(Promises::default()));
    let mut process = Process::start(&state).await;
    let mut agent = Agent::start(&client, "m1").await;
    for round in 0..kills {
        let appliers: Vec<_> = (0..4)
            .map(|n| {
                let name = format!("load-{n}");
                tokio::spawn(keep_applying(client.clone(), name, Arc::clone(&promises)))
            })
            .collect();
        let runner = tokio::spawn(keep_running(agent, Arc::clone(&promises)));
        sleep(moment(round, Duration::from_millis(150))).await;
        process.kill();
        for applier in appliers {
            applier.await.unwrap();
        }
        agent = runner.await.unwrap();
        let back = std::time::Instant::now();
        process = Process::start(&state).await;
        assert!(
            back.elapsed() < Duration::from_secs(10),
            "kill {round}: back too late"
        );
        let promised = promises.lock().unwrap().clone();
        check_promises(&client, &promised, round).await;
        agent.stream = open_stream(&client, "m1", agent.epoch).await.unwrap();
    }
    process.kill();
    let promises = promises.lock().unwrap();
    assert!(!promises.versions.is_empty() && !promises.running.is_empty());
}
