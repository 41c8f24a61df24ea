//! What happened to jobs, as a list and as streams of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tw_api::EventsReply;
use tw_model::{EventRecord, JobId, Name};

use crate::app::{App, Stopping};
use crate::reply::{Answer, Asked, Refusal, Reply, job_id, job_not_found};
use crate::status::SHAPE;

/// The longest silence on a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AfterQuery {
    /// Only events with a higher number.
    #[serde(default)]
    after: u64,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(path): Path<(String, String)>,
    Asked(query): Asked<AfterQuery>,
) -> Answer<EventsReply> {
    let id = job_id(&path)?;
    let events = app.hub.read(|view| {
        let (_, job) = view.job(&id)?;
        let newer = job.events.values().filter(|event| event.seq > query.after);
        Some(newer.map(|event| (**event).clone()).collect())
    });
    Ok(Reply(EventsReply {
        version: SHAPE,
        events: events.ok_or_else(|| job_not_found(&id))?,
    }))
}

/// Follows one job from a number on.
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    Path(path): Path<(String, String)>,
    Asked(query): Asked<AfterQuery>,
) -> Result<impl IntoResponse, Refusal> {
    let id = job_id(&path)?;
    if app.hub.read(|view| view.job(&id).is_none()) {
        return Err(job_not_found(&id).into());
    }
    let (backlog, news) = app.hub.follow(Some((&id, query.after)));
    let follower = Follower {
        ready: backlog.into(),
        news,
        wanted: Wanted {
            namespace: Some(id.namespace.clone()),
            job: Some(id.name),
        },
    };
    Ok(server_sent(follower.into_stream(), app.stopping.clone()))
}

/// Which events a follower wants; all where nothing is said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    namespace: Option<Name>,
    job: Option<Name>,
}

impl Wanted {
    fn holds(&self, job: &JobId) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|name| *name == job.namespace)
            && self.job.as_ref().is_none_or(|name| *name == job.name)
    }
}

/// Follows what happens from now on.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Asked(wanted): Asked<Wanted>,
) -> impl IntoResponse {
    let (_, news) = app.hub.follow(None);
    let follower = Follower {
        ready: VecDeque::new(),
        news,
        wanted,
    };
    server_sent(follower.into_stream(), app.stopping.clone())
}

struct Follower {
    ready: VecDeque<Arc<EventRecord>>,
    news: broadcast::Receiver<Arc<EventRecord>>,
    wanted: Wanted,
}

impl Follower {
    /// Ends when the follower falls too far behind; it comes back with the last number it saw.
    async fn next(&mut self) -> Option<Arc<EventRecord>> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        loop {
            let event = self.news.recv().await.ok()?;
            if self.wanted.holds(&event.job) {
                return Some(event);
            }
        }
    }

    fn into_stream(self) -> impl Stream<Item = Arc<EventRecord>> + Send + 'static {
        futures_util::stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((event, follower))
        })
    }
}

/// Writes a stream of messages as server-sent events, with comments where it is silent.
pub(super) fn server_sent<T: Serialize + Send + 'static>(
    messages: impl Stream<Item = T> + Send + 'static,
    stopping: Stopping,
) -> impl IntoResponse {
    use futures_util::StreamExt;
    let until = async move { stopping.wait().await };
    let events = messages.take_until(Box::pin(until)).map(|message| {
        let event = Event::default().json_data(message);
        Ok::<_, Infallible>(event.unwrap_or_else(|cause| {
            tracing::error!(%cause, "a message cannot be written");
            Event::default().comment("a message could not be written")
        }))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
