//! What agents see.

use std::time::Duration;

use serde_json::json;
use tw_api::{AgentEvent, EventsReply, MachinesReply, ServicesReply};
use tw_model::{Ailment, Code, Desired, MachineState, Phase, TaskState};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_arrives_and_its_reports_show() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let mut agent = Agent::start(&server.client, "m1").await;
    let (assignments, _) = agent.snapshot().await;
    assert!(assignments.is_empty());

    let web = job("web", json!({ "ports": ["http"] }));
    apply(&server.client, std::slice::from_ref(&web)).await;
    let assignment = agent.assigned(|one| one.task.desired == Desired::Run).await;
    assert_eq!(*assignment.spec, web.spec);
    assert_eq!(assignment.task.machine_epoch, agent.epoch);
    let task = assignment.task.id.clone();
    let port = *assignment
        .task
        .ports
        .values()
        .next()
        .expect("it has a port");
    assert!((20000..=20999).contains(&port));

    assert_eq!(agent.say(&task, Phase::Starting).await, 1);
    assert_eq!(agent.say(&task, running()).await, 2);
    // The answer to a heartbeat says that it is durable, so it shows at once.
    let shown = status(&server.client, "web").await;
    assert_eq!(shown.job.healthy, 1);
    assert_eq!(shown.tasks.len(), 1);
    assert_eq!(shown.tasks[0].state, TaskState::Running);
    assert_eq!(shown.tasks[0].started_at, Some(AT));
    assert_eq!(shown.tasks[0].address.as_deref(), Some("127.0.0.1"));

    let services: ServicesReply = server
        .client
        .get("/v1/services/default/web/http")
        .await
        .unwrap();
    assert_eq!(services.endpoints[0].address, format!("127.0.0.1:{port}"));
    let machines: MachinesReply = server.client.get("/v1/machines").await.unwrap();
    assert!(machines.machines[0].connected);
    assert_eq!(machines.machines[0].reserved.cpu_millicores, 100);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_reports_twice_change_nothing() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let (mut agent, task) = Agent::with_web(&server.client).await;

    let reports = vec![
        agent.report(&task, Phase::Starting),
        agent.report(&task, running()),
        agent.report(&task, exited(1)),
    ];
    let first = agent.send(reports.clone(), Vec::new()).await.unwrap();
    assert_eq!(first.acknowledged_seq, 3);
    let events = |reply: EventsReply| -> Vec<String> {
        let of_task = reply
            .events
            .into_iter()
            .filter(|event| event.task.as_ref() == Some(&task));
        of_task.map(|event| event.kind).collect()
    };
    let path = "/v1/jobs/default/web/events";
    let before = events(server.client.get(path).await.unwrap());
    let second = agent.send(reports, Vec::new()).await.unwrap();
    assert_eq!(second.acknowledged_seq, 3);
    assert_eq!(events(server.client.get(path).await.unwrap()), before);

    // It starts again, once.
    let next = agent
        .assigned(|one| one.task.id.incarnation > task.incarnation)
        .await;
    assert_eq!(next.task.restarts, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reaches_the_agent_and_leaves_discovery_first() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let mut agent = Agent::start(&server.client, "m1").await;
    let jobs = [
        job("redis", json!({ "ports": ["main"] })),
        job("web", json!({ "env": { "REDIS": "{service:redis:main}" } })),
    ];
    apply(&server.client, &jobs).await;
    let redis = agent
        .assigned(|one| one.task.id.job.name.as_str() == "redis")
        .await
        .task;
    agent.say(&redis.id, running()).await;
    let endpoints = loop {
        if let AgentEvent::Endpoints { endpoints } = agent.next().await {
            break endpoints;
        }
    };
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].task, redis.id);

    let stopped: serde_json::Value = server
        .client
        .post("/v1/stop", &json!({"jobs": ["redis"]}))
        .await
        .unwrap();
    assert_eq!(stopped["tasks"], 1);
    let (mut asked, mut hidden) = (false, false);
    while !(asked && hidden) {
        match agent.next().await {
            AgentEvent::Assign { assignment } if assignment.task.id == redis.id => {
                asked = assignment.task.desired == Desired::Stop;
            }
            AgentEvent::Endpoints { endpoints } => hidden = endpoints.is_empty(),
            _ => {}
        }
    }
    agent.say(&redis.id, exited(0)).await;
    let shown = status(&server.client, "redis").await;
    assert!(shown.job.stopped);
    assert_eq!(shown.tasks[0].state, TaskState::Done);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_job_is_done_when_its_task_has_succeeded() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let mut agent = Agent::start(&server.client, "m1").await;
    apply(
        &server.client,
        &[job("nightly", json!({ "kind": "batch" }))],
    )
    .await;
    let task = agent
        .assigned(|one| one.task.desired == Desired::Run)
        .await
        .task
        .id;
    agent.say(&task, running()).await;
    assert_eq!(status(&server.client, "nightly").await.job.done, 0);
    agent.say(&task, exited(0)).await;
    let shown = status(&server.client, "nightly").await;
    assert_eq!((shown.job.done, shown.job.healthy), (1, 0));
    assert_eq!(
        shown.tasks[0].exit.as_ref().and_then(|exit| exit.code),
        Some(0)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_epoch_is_fenced_and_registering_again_keeps_the_tasks() {
    let folder = Folder::new();
    let mut config = config(&folder.state());
    config.lost_after = Duration::from_millis(300);
    let server = Server::start(config).await;
    let (mut agent, task) = Agent::with_web(&server.client).await;
    agent.say(&task, running()).await;

    // Silence: the machine is lost, and its stream ends.
    let lost = until(&server.client, "web", |web| web.tasks[0].id != task).await;
    assert_eq!(lost.tasks[0].state, TaskState::Pending);
    let machines: MachinesReply = server.client.get("/v1/machines").await.unwrap();
    assert_eq!(machines.machines[0].state, MachineState::Lost);
    let late = agent.report(&task, running());
    let fenced = refusal(agent.send(vec![late], Vec::new()).await);
    assert_eq!(fenced.code, Code::AgentFenced);
    let stream = open_stream(&server.client, "m1", agent.epoch).await;
    assert_eq!(refusal(stream).code, Code::AgentFenced);

    let held = agent.report(&task, running());
    let again = register(
        &server.client,
        &register_message("m1", "boot-1", vec![held]),
    )
    .await;
    let epoch = again.unwrap().epoch;
    assert!(epoch > agent.epoch);
    let mut agent = Agent {
        stream: open_stream(&server.client, "m1", epoch).await.unwrap(),
        epoch,
        ..agent
    };
    // The old task is over for good; the agent sees its row and the new one.
    let new = agent
        .assigned(|one| one.task.desired == Desired::Run && one.task.machine_epoch == epoch)
        .await;
    assert_ne!(new.task.id, task);
    assert_eq!(status(&server.client, "web").await.tasks[0].id, new.task.id);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_machine_is_told_to_register() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let mut agent = Agent::start(&server.client, "m1").await;
    agent.machine = "m2".to_owned();
    assert_eq!(
        refusal(agent.send(Vec::new(), Vec::new()).await).code,
        Code::AgentFenced
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_refused_before_its_message_is_read() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let message = json!({ "proto": 99, "shape": "unknown" });
    let refused = refusal(
        server
            .client
            .post::<_, serde_json::Value>("/v1/agents/register", &message)
            .await,
    );
    assert_eq!(
        (refused.code, refused.status()),
        (Code::ProtoUnsupported, 426)
    );
    assert!(refused.message.contains("99"), "{refused}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_of_a_machine_takes_the_place_of_the_first() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let mut agent = Agent::start(&server.client, "m1").await;
    agent.snapshot().await;
    let second = open_stream(&server.client, "m1", agent.epoch)
        .await
        .unwrap();
    let ended = tokio::time::timeout(PATIENCE, agent.stream.next::<AgentEvent>())
        .await
        .unwrap();
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    agent.stream = second;
    agent.snapshot().await;
    apply(&server.client, &[job("web", json!({}))]).await;
    agent.assigned(|one| one.task.desired == Desired::Run).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ails_a_machine_is_kept_and_shown() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let agent = Agent::start(&server.client, "m1").await;
    let shown = async || {
        let all: serde_json::Value = server.client.get("/v1/machines").await.unwrap();
        all["machines"][0]["ailments"].clone()
    };
    assert_eq!(shown().await, json!([]));
    agent.ail(&[Ailment::DiskFull]).await;
    let holds = shown().await;
    assert_eq!(holds[0]["what"], "disk_full");
    assert!(holds[0]["until"].is_null(), "{holds}");
    agent.ail(&[Ailment::DiskFull]).await;
    assert_eq!(shown().await, holds, "said again, it is no news");
    agent.ail(&[]).await;
    let over = shown().await;
    assert_eq!(over[0]["since"], holds[0]["since"]);
    assert!(over[0]["until"].is_string(), "{over}");
    server.stop().await;
}
