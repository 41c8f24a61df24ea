//! Sessions: the controller joins a client's upgraded connection to an agent's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tw_api::{
    Dial, ErrorBody, Frame, FrameError, FrameKind, SessionRequest, discard, read_frame, write_frame,
};
use tw_model::{Code, Exit, MachineId, TaskId};

use crate::driver::Driver;
use crate::hub::{Hub, unreachable};
use crate::random;

/// How long a client may take to say what it wants.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

type Connection = TokioIo<Upgraded>;

/// The sessions that wait for their agent.
pub(crate) struct Sessions {
    hub: Arc<Hub>,
    dial_timeout: Duration,
    waiting: Mutex<HashMap<String, Waiting>>,
}

struct Waiting {
    machine: MachineId,
    answer: oneshot::Sender<Connection>,
}

impl Sessions {
    pub(crate) fn new(hub: Arc<Hub>, dial_timeout: Duration) -> Sessions {
        Sessions {
            hub,
            dial_timeout,
            waiting: Mutex::default(),
        }
    }

    /// Serves a client's connection to its end. What `by` does in a task is in the events of its job: a command does
    /// not begin before that is durable.
    pub(crate) async fn serve(&self, mut client: Connection, by: &str, driver: &Driver) {
        let opened = self.open(&mut client, by, driver).await;
        let joined = match opened {
            Ok((mut agent, None)) => tokio::io::copy_bidirectional(&mut client, &mut agent)
                .await
                .map(drop),
            Ok((agent, Some(audit))) => {
                let how = relay(client, agent).await;
                audit.end(driver, &how).await;
                Ok(())
            }
            Err(refusal) => refuse(&mut client, &refusal).await,
        };
        if let Err(cause) = joined {
            tracing::debug!(%cause, "a session's connection broke");
        }
    }

    /// Takes an agent's connection for a session that waits for it.
    pub(crate) fn claim(&self, machine: &MachineId, session: &str) -> Result<Claim, ErrorBody> {
        let mut waiting = self.lock();
        let fits = waiting
            .get(session)
            .is_some_and(|waiting| waiting.machine == *machine);
        match fits.then(|| waiting.remove(session)).flatten() {
            Some(waiting) => Ok(Claim(waiting.answer)),
            None => Err(ErrorBody::new(
                Code::RequestNotFound,
                format!("no session {session} waits for machine {machine}"),
            )
            .with_hint("its client may have given up")),
        }
    }

    async fn open(
        &self,
        client: &mut Connection,
        by: &str,
        driver: &Driver,
    ) -> Result<(Connection, Option<Audit>), ErrorBody> {
        let request = read_request(client).await?;
        let machine = self.machine_of(request.task())?;
        let audit = Audit::of(&request, by);
        if let Some(audit) = &audit {
            audit.begin(driver).await?;
        }
        match self.dial(&machine, request).await {
            Ok(agent) => Ok((agent, audit)),
            Err(refusal) => {
                if let Some(audit) = audit {
                    audit.end(driver, &refusal.message).await;
                }
                Err(refusal)
            }
        }
    }

    /// Asks the agent of a machine to open its side, and waits for it.
    async fn dial(
        &self,
        machine: &MachineId,
        request: SessionRequest,
    ) -> Result<Connection, ErrorBody> {
        let session = random::hex::<16>().map_err(|cause| {
            ErrorBody::new(
                Code::AgentUnreachable,
                format!("the session has no name: {cause}"),
            )
        })?;
        tracing::info!(%session, task = %request.task(), %machine, "a session opens");
        let (answer, agent) = oneshot::channel();
        let place = Waiting {
            machine: machine.clone(),
            answer,
        };
        self.lock().insert(session.clone(), place);
        let _forget = Forget {
            sessions: self,
            session: &session,
        };
        self.hub.dial(
            machine,
            Dial {
                session: session.clone(),
                request,
            },
        )?;
        match timeout(self.dial_timeout, agent).await {
            Ok(Ok(agent)) => Ok(agent),
            _ => Err(ErrorBody::new(
                Code::AgentUnreachable,
                format!(
                    "the agent of machine {machine} did not open the session within {:?}",
                    self.dial_timeout
                ),
            )
            .with_hint("try again; its log says more")),
        }
    }

    fn machine_of(&self, task: &TaskId) -> Result<MachineId, ErrorBody> {
        let machine = self.hub.read(|view| {
            let row = view.task(task).ok_or_else(|| task_not_found(task))?;
            row.machine.clone().ok_or_else(|| {
                ErrorBody::new(
                    Code::TaskNotFound,
                    format!("task {task} has no machine yet: {}", row.state),
                )
                .with_hint("it has neither logs nor processes before it starts")
            })
        })?;
        match self.hub.is_connected(&machine) {
            true => Ok(machine),
            false => Err(unreachable(&machine)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().expect("no holder panics")
    }
}

/// What is written down of a command in a task.
struct Audit {
    task: TaskId,
    /// Who ran what.
    what: String,
}

impl Audit {
    /// None for sessions that only read.
    fn of(request: &SessionRequest, by: &str) -> Option<Audit> {
        let SessionRequest::Exec(request) = request else {
            return None;
        };
        let words: Vec<String> = request.argv.iter().map(|word| quoted(word)).collect();
        let tools = if request.debug { "as a debugger " } else { "" };
        Some(Audit {
            task: request.task.clone(),
            what: format!("{by} {tools}ran `{}`", words.join(" ")),
        })
    }

    async fn begin(&self, driver: &Driver) -> Result<(), ErrorBody> {
        driver
            .note(self.task.clone(), "task.exec", self.what.clone())
            .await
    }

    async fn end(&self, driver: &Driver, how: &str) {
        let message = format!("{}: {how}", self.what);
        let noted = driver.note(self.task.clone(), "task.exec_ended", message);
        if let Err(cause) = noted.await {
            tracing::warn!(task = %self.task, %cause, "cannot record the end of a command");
        }
    }
}

/// A word as a shell would need it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.escape_debug()),
    }
}

/// Carries bytes both ways until the agent has said its last; answers how the command ended, or why it did not begin.
async fn relay(client: Connection, agent: Connection) -> String {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_agent, mut to_agent) = tokio::io::split(agent);
    let up = async {
        // Either end may go at any time; the other one then tells how it went.
        let _gone = tokio::io::copy(&mut from_client, &mut to_agent).await;
        let _gone = to_agent.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut last = None;
        while let Ok(Some(frame)) = read_frame(&mut from_agent).await {
            last = ending_of(&frame);
            // A client that has gone: the agent ends the command and says so.
            let _gone = write_frame(&mut to_client, &frame).await;
        }
        let _gone = to_client.shutdown().await;
        last
    };
    let last = tokio::select! {
        () = up => None,
        last = down => last,
    };
    drop((from_agent, to_agent));
    discard(&mut from_client).await;
    last.unwrap_or_else(|| "the connection ended first".to_owned())
}

/// What the last frame of a command says of it; none for frames before that.
fn ending_of(frame: &Frame) -> Option<String> {
    match frame.kind {
        FrameKind::Exit => Some(frame.parse::<Exit>().ok()?.to_string()),
        FrameKind::Error => Some(frame.parse::<ErrorBody>().ok()?.message),
        _ => None,
    }
}

/// The right to join an agent's connection to a session.
pub(crate) struct Claim(oneshot::Sender<Connection>);

impl Claim {
    pub(crate) fn join(self, agent: Connection) {
        if self.0.send(agent).is_err() {
            tracing::debug!("a session's client had gone when its agent came");
        }
    }
}

/// Takes a session off the list when its client goes, however it goes.
struct Forget<'a> {
    sessions: &'a Sessions,
    session: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.sessions.lock().remove(self.session);
    }
}

async fn read_request(client: &mut Connection) -> Result<SessionRequest, ErrorBody> {
    let invalid = |message: String| ErrorBody::new(Code::RequestInvalid, message);
    let frame = match timeout(OPEN_TIMEOUT, read_frame(client)).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Ok(None)) => return Err(invalid("the session ended before it began".to_owned())),
        Ok(Err(cause)) => return Err(invalid(cause.to_string())),
        Err(_) => {
            return Err(invalid(format!(
                "no frame said within {OPEN_TIMEOUT:?} what the session is for"
            )));
        }
    };
    if frame.kind != FrameKind::Open {
        return Err(invalid(format!(
            "a session begins with an Open frame, not {:?}",
            frame.kind
        )));
    }
    frame.parse().map_err(|cause| match cause {
        FrameError::Json(json) => invalid(format!("the Open frame cannot be read: {json}")),
        other => invalid(other.to_string()),
    })
}

async fn refuse(client: &mut Connection, refusal: &ErrorBody) -> std::io::Result<()> {
    tracing::debug!(code = %refusal.code, message = %refusal.message, "refused a session");
    if let Err(cause) = write_frame(client, &Frame::json(FrameKind::Error, refusal)).await {
        tracing::debug!(%cause, "a refused session's client had gone");
    }
    client.shutdown().await
}

fn task_not_found(task: &TaskId) -> ErrorBody {
    ErrorBody::new(Code::TaskNotFound, format!("there is no task {task}")).with_hint(format!(
        "`tw status {}` lists its tasks; of those that ended, the last few are kept",
        task.job
    ))
}
