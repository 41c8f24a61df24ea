//! The agent's side of the controller: registers, follows its stream, sends heartbeats.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tw_api::{
    AgentEvent, ClientError, Heartbeat, HeartbeatReply, MachineSample, PROTO, Register, Registered,
};
use tw_model::{Code, Millis};

use super::ailment::Ailments;
use super::resource::SAMPLE_EVERY;
use super::{Agent, session, strain, task};
use crate::process::{boot_id, boot_ms};

/// The waits between attempts to reach a controller.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// Why a connection to the controller ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the controller ended the stream")]
    StreamEnded,
    #[error("cannot say what this machine is: {0:#}")]
    Machine(anyhow::Error),
}

/// Stays connected for ever. Tasks run on while no controller answers.
pub(super) async fn run(agent: &Arc<Agent>) {
    let mut wait = RETRY_FIRST;
    // For how long something ails the machine has nothing to do with a connection.
    let mut ailments = Ailments::default();
    loop {
        let connected = match register(agent).await {
            Ok(registered) => {
                tracing::info!(epoch = registered.epoch, "registered");
                wait = RETRY_FIRST;
                follow(agent, &registered, &mut ailments).await
            }
            Err(cause) => Err(cause),
        };
        if let Err(cause) = connected {
            let level_is_low = matches!(&cause, LinkError::Client(ClientError::Connect { .. }));
            match level_is_low {
                true => tracing::debug!(%cause, "no controller"),
                false => {
                    tracing::warn!(cause = %crate::error::chain(&cause), "lost the controller")
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_LONGEST);
    }
}

async fn register(agent: &Agent) -> Result<Registered, LinkError> {
    let request = Register {
        proto: PROTO,
        machine: agent.config.name.clone(),
        boot_id: boot_id().map_err(|cause| LinkError::Machine(cause.into()))?,
        agent: agent.mark.clone(),
        capacity: agent.config.capacity().map_err(LinkError::Machine)?,
        facts: agent.config.facts(
            agent.tree.as_ref(),
            agent.users,
            agent.volumes.has_snapshots(),
        ),
        uptime: Millis(boot_ms()),
        reports: agent.reports.newest(),
    };
    Ok(agent.client.post("/v1/agents/register", &request).await?)
}

/// Follows the stream and sends heartbeats until one of the two fails.
async fn follow(
    agent: &Arc<Agent>,
    registered: &Registered,
    ailments: &mut Ailments,
) -> Result<(), LinkError> {
    let path = format!(
        "/v1/agents/{}/stream?epoch={}",
        agent.config.name, registered.epoch
    );
    let mut events = agent.client.events(&path).await?;
    let is_told = Cell::new(false);
    let listen = async {
        while let Some(event) = events.next::<AgentEvent>().await? {
            let tells_all = matches!(event, AgentEvent::Snapshot { .. });
            take(agent, event);
            is_told.set(is_told.get() || tells_all);
        }
        Err(LinkError::StreamEnded)
    };
    tokio::select! {
        ended = listen => ended,
        failed = beat(agent, registered, &is_told, ailments) => failed,
    }
}

fn take(agent: &Arc<Agent>, event: AgentEvent) {
    match event {
        AgentEvent::Snapshot {
            assignments,
            endpoints,
        } => {
            agent.endpoints.set(endpoints);
            task::take_snapshot(agent, assignments);
            agent.tasks.refresh_endpoints(agent);
        }
        AgentEvent::Assign { assignment } => task::assign(agent, *assignment),
        AgentEvent::Forget { task } => agent.tasks.forget(&task),
        AgentEvent::Endpoints { endpoints } => {
            agent.endpoints.set(endpoints);
            agent.tasks.refresh_endpoints(agent);
        }
        AgentEvent::Dial(dial) => {
            tokio::spawn(session::serve(Arc::clone(agent), dial));
        }
    }
}

/// Sends a heartbeat whenever there is something new, and at the latest when one is due.
///
/// What is granted counts once the session has told all that is to run: what has waited to start since before it may have
/// been replaced.
async fn beat(
    agent: &Agent,
    registered: &Registered,
    is_told: &Cell<bool>,
    ailments: &mut Ailments,
) -> Result<(), LinkError> {
    let path = format!("/v1/agents/{}/heartbeat", agent.config.name);
    let every = Duration::from_millis(registered.heartbeat_every_ms.max(10));
    let mut usage_due = Instant::now();
    loop {
        let (sample, history) = match usage_due <= Instant::now() {
            true => {
                usage_due = Instant::now() + SAMPLE_EVERY;
                let strained = strain::is_short_of_memory();
                let sample = MachineSample {
                    tasks: agent.resources.usage(),
                    notes: agent.resources.notes(),
                    strained,
                    ailments: ailments.look(&agent.config.state, strained, Instant::now()),
                };
                (Some(sample), agent.resources.reports())
            }
            false => Default::default(),
        };
        let heartbeat = Heartbeat {
            epoch: registered.epoch,
            session: registered.session,
            reports: agent.reports.pending(),
            sample,
            history,
        };
        // Read before the heartbeat leaves: what is granted for it counts from here.
        let sent_at = boot_ms();
        match agent
            .client
            .post::<_, HeartbeatReply>(&path, &heartbeat)
            .await
        {
            Ok(reply) => {
                agent.reports.acknowledge(reply.acknowledged_seq);
                agent.resources.acknowledge(reply.acknowledged_history);
                if reply.granted && is_told.get() {
                    agent.grants.note(sent_at);
                }
            }
            // A decision of the controller was lost with its write; the same reports are sent again.
            Err(ClientError::Refused(body)) if body.code == Code::StoreUnavailable => {}
            Err(cause) => return Err(cause.into()),
        }
        tokio::select! {
            () = agent.reports.added.notified() => {}
            () = tokio::time::sleep(every) => {}
        }
    }
}
