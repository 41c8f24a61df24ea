//! A controller that says what a test tells it to say, and remembers what the agent said.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tw_api::{
    AgentEvent, Assignment, Connection, ErrorBody, Heartbeat, HeartbeatReply, LimitNote, PROTO,
    Register, Registered, SESSION_PROTOCOL,
};
use tw_model::{
    Code, JobSpec, Phase, TaskId, TaskRecord, TaskReport, TaskState, TaskUsage, Timestamp,
};

use crate::common::PATIENCE;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How often a stream says something when there is nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What the test and the server share.
#[derive(Default)]
struct Shared {
    /// Whether answers to heartbeats grant terms.
    grants: bool,
    reports: Vec<TaskReport>,
    usage: Vec<TaskUsage>,
    notes: Vec<LimitNote>,
    registrations: Vec<Register>,
    stream: Option<mpsc::UnboundedSender<AgentEvent>>,
    packages: HashMap<String, Bytes>,
    /// By namespace, job and name.
    secrets: HashMap<String, Vec<u8>>,
    sessions: HashMap<String, oneshot::Sender<Connection>>,
    heartbeat_every_ms: u64,
    /// Whether the next heartbeat is never answered.
    loses_heartbeat: bool,
}

pub(crate) struct Controller {
    pub(crate) socket: PathBuf,
    shared: Arc<Mutex<Shared>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Controller {
    pub(crate) fn start(folder: &Path) -> Controller {
        Controller::start_hearing(folder, Duration::from_millis(100))
    }

    /// A controller that wants to hear from its agent so often.
    pub(crate) fn start_hearing(folder: &Path, every: Duration) -> Controller {
        let socket = folder.join("controller.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            heartbeat_every_ms: every.as_millis() as u64,
            ..Shared::default()
        }));
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Controller {
            socket,
            shared,
            server,
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Shared) -> T) -> T {
        look(&mut self.shared.lock().unwrap())
    }

    /// Waits until the agent follows the stream, and sends an event.
    pub(crate) async fn say(&self, event: AgentEvent) {
        let stream = self.wait_for(|shared| shared.stream.clone()).await;
        stream.send(event).unwrap();
    }

    /// Forgets the stream and the usage, so that both are awaited from a new agent.
    pub(crate) fn forget_stream(&self) {
        self.with(|shared| (shared.stream, shared.usage) = (None, Vec::new()));
    }

    /// Answers heartbeats with grants from now on.
    pub(crate) fn grant(&self) {
        self.with(|shared| shared.grants = true);
    }

    /// Takes the next heartbeat and says nothing, as one whose machine goes in that moment.
    pub(crate) fn lose_next_heartbeat(&self) {
        self.with(|shared| shared.loses_heartbeat = true);
    }

    pub(crate) fn add_package(&self, archive: Vec<u8>) -> String {
        let digest = blake3::hash(&archive).to_hex().to_string();
        self.with(|shared| shared.packages.insert(digest.clone(), archive.into()));
        digest
    }

    /// Sets a secret of a job of the default namespace.
    pub(crate) fn set_secret(&self, job: &str, name: &str, value: &[u8]) {
        let key = format!("default/{job}/{name}");
        self.with(|shared| shared.secrets.insert(key, value.to_owned()));
    }

    /// The agent's connection for a session.
    pub(crate) fn expect_session(&self, name: &str) -> oneshot::Receiver<Connection> {
        let (sender, receiver) = oneshot::channel();
        self.with(|shared| shared.sessions.insert(name.to_owned(), sender));
        receiver
    }

    /// Waits for a report on a task that `look` finds something in.
    pub(crate) async fn report<T>(
        &self,
        task: &TaskId,
        look: impl Fn(&TaskReport) -> Option<T>,
    ) -> T {
        self.wait_for(|shared| {
            shared
                .reports
                .iter()
                .filter(|report| report.task == *task)
                .find_map(&look)
        })
        .await
    }

    /// Everything that was said of a task so far.
    pub(crate) fn reports_of(&self, task: &TaskId) -> Vec<Phase> {
        let is_of = |report: &&TaskReport| report.task == *task;
        self.with(|shared| {
            let reports = shared.reports.iter().filter(is_of);
            let phases: Vec<Phase> = reports.map(|report| report.phase.clone()).collect();
            phases
        })
    }

    /// Forgets what was said of a task, so that a long test does not drown in it.
    pub(crate) fn drop_reports_of(&self, task: &TaskId) {
        self.with(|shared| shared.reports.retain(|report| report.task != *task));
    }

    /// Waits until what is to be known of limits is as wanted.
    pub(crate) async fn notes<T>(&self, look: impl Fn(&[LimitNote]) -> Option<T>) -> T {
        self.wait_for(|shared| look(&shared.notes)).await
    }

    pub(crate) async fn usage<T>(&self, look: impl Fn(&TaskUsage) -> Option<T>) -> T {
        self.wait_for(|shared| shared.usage.iter().find_map(&look))
            .await
    }

    /// The newest registration, once there are `count`.
    pub(crate) async fn registration(&self, count: usize) -> Register {
        self.wait_for(|shared| shared.registrations.get(count - 1).cloned())
            .await
    }

    async fn wait_for<T>(&self, mut look: impl FnMut(&mut Shared) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.with(&mut look) {
                return found;
            }
            if tokio::time::Instant::now() > deadline {
                panic!(
                    "waited in vain; reported so far: {:#?}",
                    self.with(|shared| shared.reports.clone())
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn serve(listener: UnixListener, shared: Arc<Mutex<Shared>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection.with_upgrades());
    }
}

async fn answer(
    shared: Arc<Mutex<Shared>>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    if let ["agents", _, "sessions", session] = parts[..] {
        let waiting = shared.lock().unwrap().sessions.remove(session);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let (Some(waiting), Ok(upgraded)) = (waiting, upgrade.await) {
                // The test may have ended.
                let _gone = waiting.send(TokioIo::new(upgraded));
            }
        });
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let response = response
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, SESSION_PROTOCOL);
        return Ok(response.body(whole(Bytes::new())).unwrap());
    }
    let body = request.into_body().collect().await?.to_bytes();
    let is_heartbeat = matches!(parts[..], ["agents", _, "heartbeat"]);
    if is_heartbeat && std::mem::take(&mut shared.lock().unwrap().loses_heartbeat) {
        std::future::pending::<()>().await;
    }
    let mut shared = shared.lock().unwrap();
    Ok(match parts[..] {
        ["agents", "register"] => {
            let register: Register = serde_json::from_slice(&body).unwrap();
            shared.registrations.push(register);
            reply(&Registered {
                proto: PROTO,
                epoch: 1,
                session: 1,
                heartbeat_every_ms: shared.heartbeat_every_ms,
            })
        }
        ["agents", _, "heartbeat"] => {
            let heartbeat: Heartbeat = serde_json::from_slice(&body).unwrap();
            let acknowledged_seq = heartbeat
                .reports
                .iter()
                .map(|report| report.seq)
                .max()
                .unwrap_or(0);
            shared.reports.extend(heartbeat.reports);
            if let Some(sample) = heartbeat.sample.filter(|sample| !sample.tasks.is_empty()) {
                shared.usage = sample.tasks;
                shared.notes = sample.notes;
            }
            reply(&HeartbeatReply {
                acknowledged_seq,
                acknowledged_history: 0,
                granted: shared.grants,
            })
        }
        ["agents", _, "stream"] => {
            let (sender, receiver) = mpsc::unbounded_channel::<AgentEvent>();
            shared.stream = Some(sender);
            let events = stream::unfold(receiver, |mut receiver| async {
                let data = match tokio::time::timeout(KEEP_ALIVE, receiver.recv()).await {
                    Ok(event) => format!("data: {}\n\n", serde_json::to_string(&event?).unwrap()),
                    Err(_nothing_new) => ":\n\n".to_owned(),
                };
                Some((
                    Ok::<_, Infallible>(Frame::data(Bytes::from(data))),
                    receiver,
                ))
            });
            Response::new(BodyExt::boxed_unsync(StreamBody::new(events)))
        }
        ["agents", _, "secrets", namespace, job, name] => {
            match shared.secrets.get(&format!("{namespace}/{job}/{name}")) {
                Some(value) => Response::new(whole(value.clone().into())),
                None => {
                    let refusal = ErrorBody::new(Code::SecretMissing, "it has no value");
                    let body = serde_json::to_vec(&refusal.with_hint("set it")).unwrap();
                    let response = Response::builder().status(404);
                    response.body(whole(body.into())).unwrap()
                }
            }
        }
        ["packages", digest] => match shared.packages.get(digest) {
            Some(archive) => Response::new(whole(archive.clone())),
            None => Response::builder()
                .status(404)
                .body(whole("no such package".into()))
                .unwrap(),
        },
        _ => Response::builder()
            .status(404)
            .body(whole(Bytes::new()))
            .unwrap(),
    })
}

fn whole(bytes: Bytes) -> Body {
    BodyExt::boxed_unsync(Full::new(bytes))
}

fn reply(value: &impl serde::Serialize) -> Response<Body> {
    Response::new(whole(serde_json::to_vec(value).unwrap().into()))
}

/// An assignment of the only task of a job.
pub(crate) fn assignment(name: &str, spec: Value) -> Assignment {
    let mut fields = json!({"name": name});
    fields
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    let spec: JobSpec = serde_json::from_value(fields).unwrap();
    Assignment {
        task: TaskRecord {
            state: TaskState::Starting,
            machine: Some("machine-1".parse().unwrap()),
            machine_epoch: 1,
            ..TaskRecord::pending(TaskId::new(spec.id(), 0, 1), 1, Timestamp(0))
        },
        spec: Arc::new(spec),
        plan: String::new(),
        revision: String::new(),
    }
}
