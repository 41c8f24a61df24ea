//! A server, and the part of an agent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tw_api::{
    AgentEvent, ApiEndpoint, ApplyReply, ApplyRequest, Assignment, Client, ClientError, ErrorBody,
    EventStream, Heartbeat, HeartbeatReply, JobStatus, MachineSample, PlanRequest, Register,
    Registered, SubmittedJob, UsageReports,
};
use tw_controller::{Controller, ControllerConfig, RunError};
use tw_model::{
    Ailment, Bytes, Capacity, Cores, Desired, Endpoint, Exit, MachineFacts, Millis, Phase,
    SourceRef, TaskId, TaskReport, TaskUsage, Timestamp,
};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A moment in the tests' logs.
pub(crate) const AT: Timestamp = Timestamp(1_700_000_000_000_000);

pub(crate) fn config(state_dir: &Path) -> ControllerConfig {
    let mut config = ControllerConfig::new(state_dir, state_dir.join("tw.sock"));
    config.tick_every = Duration::from_millis(20);
    config
}

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) tcp: Option<std::net::SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), RunError>>,
}

impl Server {
    pub(crate) async fn start(config: ControllerConfig) -> Server {
        let client = Client::new(ApiEndpoint::Unix(config.socket.clone()));
        let controller = Controller::start(config)
            .await
            .expect("the controller starts");
        let tcp = controller.tcp_address();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(controller.run(async {
            let _ = stopped.await;
        }));
        Server {
            client,
            tcp,
            stop: Some(stop),
            served,
        }
    }

    /// Stops it gently.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let served = timeout(PATIENCE, self.served)
            .await
            .expect("it ends in time");
        served.expect("it does not panic").expect("it ends well");
    }
}

/// A client of the controller whose state is in this folder.
pub(crate) fn client(state_dir: &Path) -> Client {
    Client::new(ApiEndpoint::Unix(state_dir.join("tw.sock")))
}

/// A job with one field or more changed.
pub(crate) fn job(name: &str, fields: Value) -> SubmittedJob {
    let mut spec = json!({ "name": name, "command": ["./serve"], "stop": { "drain_ms": 0 } });
    for (field, value) in fields.as_object().expect("fields are an object") {
        spec[field] = value.clone();
    }
    SubmittedJob {
        spec: serde_json::from_value(spec).expect("the fields are those of a job"),
        source: SourceRef {
            file: "config.tw".to_owned(),
            line: 3,
            revision: String::new(),
        },
    }
}

pub(crate) async fn plan(client: &Client, jobs: &[SubmittedJob]) -> Value {
    let request = PlanRequest {
        jobs: jobs.to_vec(),
        ..PlanRequest::default()
    };
    client.post("/v1/plan", &request).await.expect("a plan")
}

pub(crate) async fn apply_plan(
    client: &Client,
    jobs: &[SubmittedJob],
    digest: &str,
) -> Result<ApplyReply, ClientError> {
    let request = ApplyRequest {
        jobs: jobs.to_vec(),
        digest: digest.to_owned(),
        ..ApplyRequest::default()
    };
    client.post("/v1/apply", &request).await
}

/// Plans and applies.
pub(crate) async fn apply(client: &Client, jobs: &[SubmittedJob]) -> ApplyReply {
    let plan = plan(client, jobs).await;
    let digest = plan["digest"].as_str().expect("a plan has a digest");
    apply_plan(client, jobs, digest)
        .await
        .expect("it is applied")
}

pub(crate) async fn status(client: &Client, job: &str) -> JobStatus {
    let path = format!("/v1/jobs/default/{job}");
    client.get(&path).await.expect("the job is known")
}

/// Asks until a job is as it should be.
pub(crate) async fn until(
    client: &Client,
    job: &str,
    good: impl Fn(&JobStatus) -> bool,
) -> JobStatus {
    let last = std::cell::RefCell::new(None);
    let wait = async {
        loop {
            let now = status(client, job).await;
            if good(&now) {
                return now;
            }
            last.replace(Some(now));
            sleep(Duration::from_millis(10)).await;
        }
    };
    match timeout(PATIENCE, wait).await {
        Ok(status) => status,
        Err(_) => panic!("{job} stays {:#?}", last.into_inner()),
    }
}

/// The refusal that a call must end in.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorBody {
    match result {
        Err(ClientError::Refused(body)) => *body,
        other => panic!("not refused: {other:?}"),
    }
}

/// The part of an agent.
pub(crate) struct Agent {
    pub(crate) client: Client,
    pub(crate) machine: String,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) stream: EventStream,
}

pub(crate) fn register_message(machine: &str, boot_id: &str, reports: Vec<TaskReport>) -> Register {
    Register {
        proto: tw_api::PROTO,
        machine: machine.parse().expect("a name"),
        boot_id: boot_id.to_owned(),
        agent: String::new(),
        capacity: Capacity {
            cpu: Cores(4000),
            memory: Bytes::gib(4),
            disk: Bytes::gib(100),
            bandwidth: Bytes(0),
            port_first: 20000,
            port_last: 20999,
        },
        facts: MachineFacts {
            address: "127.0.0.1".to_owned(),
            ..MachineFacts::default()
        },
        uptime: Millis(0),
        reports,
    }
}

pub(crate) async fn register(
    client: &Client,
    message: &Register,
) -> Result<Registered, ClientError> {
    client.post("/v1/agents/register", message).await
}

impl Agent {
    /// Registers and opens the stream.
    pub(crate) async fn start(client: &Client, machine: &str) -> Agent {
        let message = register_message(machine, "boot-1", Vec::new());
        let registered = register(client, &message).await.expect("it may register");
        let stream = open_stream(client, machine, registered.epoch)
            .await
            .expect("a stream");
        Agent {
            client: client.clone(),
            machine: machine.to_owned(),
            epoch: registered.epoch,
            seq: 0,
            stream,
        }
    }

    /// The agent of machine "m1", and the task of a job "web" of one that it is to run.
    pub(crate) async fn with_web(client: &Client) -> (Agent, TaskId) {
        let mut agent = Agent::start(client, "m1").await;
        apply(client, &[job("web", json!({}))]).await;
        let row = agent.assigned(|one| one.task.desired == Desired::Run).await;
        (agent, row.task.id)
    }

    pub(crate) async fn next(&mut self) -> AgentEvent {
        let event = timeout(PATIENCE, self.stream.next()).await;
        event
            .expect("an event in time")
            .expect("an event")
            .expect("the stream goes on")
    }

    /// Waits for the next snapshot.
    pub(crate) async fn snapshot(&mut self) -> (Vec<Assignment>, Vec<Endpoint>) {
        loop {
            if let AgentEvent::Snapshot {
                assignments,
                endpoints,
            } = self.next().await
            {
                return (assignments, endpoints);
            }
        }
    }

    /// Waits for a row that is as it should be.
    pub(crate) async fn assigned(&mut self, good: impl Fn(&Assignment) -> bool) -> Assignment {
        loop {
            let found = match self.next().await {
                AgentEvent::Assign { assignment } => vec![*assignment],
                AgentEvent::Snapshot { assignments, .. } => assignments,
                _ => continue,
            };
            if let Some(found) = found.into_iter().find(|one| good(one)) {
                return found;
            }
        }
    }

    pub(crate) fn report(&mut self, task: &TaskId, phase: Phase) -> TaskReport {
        self.seq += 1;
        TaskReport {
            seq: self.seq,
            task: task.clone(),
            phase,
        }
    }

    pub(crate) async fn say(&mut self, task: &TaskId, phase: Phase) -> u64 {
        let report = self.report(task, phase);
        self.send(vec![report], Vec::new())
            .await
            .expect("it is heard")
            .acknowledged_seq
    }

    pub(crate) async fn send(
        &self,
        reports: Vec<TaskReport>,
        usage: Vec<TaskUsage>,
    ) -> Result<HeartbeatReply, ClientError> {
        self.send_sample(reports, usage, BTreeSet::new()).await
    }

    /// Says what ails the machine.
    pub(crate) async fn ail(&self, ailments: &[Ailment]) {
        let ailments = ailments.iter().copied().collect();
        let sent = self.send_sample(Vec::new(), Vec::new(), ailments).await;
        sent.expect("it is heard");
    }

    async fn send_sample(
        &self,
        reports: Vec<TaskReport>,
        usage: Vec<TaskUsage>,
        ailments: BTreeSet<Ailment>,
    ) -> Result<HeartbeatReply, ClientError> {
        let path = format!("/v1/agents/{}/heartbeat", self.machine);
        let sample = MachineSample {
            tasks: usage,
            notes: Vec::new(),
            strained: false,
            ailments,
        };
        let heartbeat = Heartbeat {
            epoch: self.epoch,
            session: 0,
            reports,
            sample: Some(sample),
            history: UsageReports::default(),
        };
        self.client.post(&path, &heartbeat).await
    }
}

impl Agent {
    /// Sends what jobs used; returns up to where it is kept.
    pub(crate) async fn report_use(&self, history: UsageReports) -> u64 {
        let path = format!("/v1/agents/{}/heartbeat", self.machine);
        let heartbeat = Heartbeat {
            epoch: self.epoch,
            session: 0,
            reports: Vec::new(),
            sample: None,
            history,
        };
        let reply: HeartbeatReply = self.client.post(&path, &heartbeat).await.expect("taken");
        reply.acknowledged_history
    }
}

pub(crate) async fn open_stream(
    client: &Client,
    machine: &str,
    epoch: u64,
) -> Result<EventStream, ClientError> {
    client
        .events(&format!("/v1/agents/{machine}/stream?epoch={epoch}"))
        .await
}

pub(crate) fn running() -> Phase {
    Phase::Running { started_at: AT }
}

pub(crate) fn exited(code: i32) -> Phase {
    Phase::Exited {
        exit: Exit {
            code: Some(code),
            ..Exit::default()
        },
        at: AT,
        detail: String::new(),
    }
}

/// A folder of its own for a test.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    /// Where the controller keeps its state; it makes this itself.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }
}
