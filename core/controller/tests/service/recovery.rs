//! What is left after the worst.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};
use tw_api::HealthReply;
use tw_controller::{Controller, RecordsError, RunError};
use tw_model::{Desired, TaskState};
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
    let mut agent = Agent::start(&server.client, "m1").await;
    apply(&server.client, &[job("web", json!({}))]).await;
    let task = agent
        .assigned(|one| one.task.desired == Desired::Run)
        .await
        .task
        .id;
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
