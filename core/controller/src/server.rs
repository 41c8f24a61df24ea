//! Connections: who is at the other end, and requests served one after another.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tracing::Instrument;

use crate::app::Stopping;
use crate::caller::Caller;

/// How long a caller may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may go on once the controller stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait before the next try when no connection can be taken, as with too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves until the controller stops.
pub(crate) async fn serve(
    socket: &UnixListener,
    tcp: Option<TcpListener>,
    mut doors: mpsc::Receiver<TcpListener>,
    router: Router,
    stopping: Stopping,
) {
    let server = Arc::new(Server {
        router,
        stopping: stopping.clone(),
        requests: AtomicU64::new(0),
    });
    let mut tcp = tcp;
    let mut connections = JoinSet::new();
    let mut stopped = std::pin::pin!(stopping.wait());
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) => {
                        let caller = Caller::Unix { uid: peer.uid() };
                        connections.spawn(Arc::clone(&server).connection(stream, caller));
                    }
                    Err(cause) => tracing::warn!(%cause, "a caller cannot be told"),
                },
                Err(cause) => pause(&cause).await,
            },
            Some(listener) = doors.recv(), if tcp.is_none() => tcp = Some(listener),
            accepted = accept(tcp.as_ref()) => match accepted {
                Ok(stream) => {
                    connections.spawn(Arc::clone(&server).connection(stream, Caller::Tcp));
                }
                Err(cause) => pause(&cause).await,
            },
            Some(_) = connections.join_next() => {}
            () = &mut stopped => break,
        }
    }
    let ended = timeout(STOP_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::info!(
            left = connections.len(),
            "cutting connections that did not end"
        );
        connections.shutdown().await;
    }
}

async fn accept(tcp: Option<&TcpListener>) -> std::io::Result<tokio::net::TcpStream> {
    match tcp {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn pause(cause: &std::io::Error) {
    tracing::warn!(%cause, "a connection cannot be taken");
    sleep(ACCEPT_PAUSE).await;
}

struct Server {
    router: Router,
    stopping: Stopping,
    requests: AtomicU64,
}

impl Server {
    async fn connection<S>(self: Arc<Server>, stream: S, caller: Caller)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let server = Arc::clone(&self);
            async move { server.answer(request.map(Body::new), caller).await }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let mut stopped = std::pin::pin!(self.stopping.wait());
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = &mut stopped => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(cause) = ended {
            tracing::debug!(%cause, "a caller's connection broke");
        }
    }

    async fn answer(&self, mut request: Request, caller: Caller) -> Result<Response, Infallible> {
        let id = self.request_id(&request);
        let span = tracing::info_span!(
            "request",
            id = id.to_str().unwrap_or_default(),
            method = %request.method(),
            path = request.uri().path(),
            %caller,
        );
        request.extensions_mut().insert(caller);
        let answered = async {
            let begun = std::time::Instant::now();
            let answered = self.router.clone().oneshot(request).await;
            let status = answered
                .as_ref()
                .map_or(0, |response| response.status().as_u16());
            tracing::debug!(
                status,
                elapsed_us = begun.elapsed().as_micros() as u64,
                "answered"
            );
            answered
        };
        let mut response = answered.instrument(span).await?;
        response.headers_mut().insert(REQUEST_ID, id);
        Ok(response)
    }

    /// The caller's own id, if it is a plain one, so that its log and this one can be joined.
    fn request_id(&self, request: &Request) -> HeaderValue {
        let given = request.headers().get(REQUEST_ID);
        let plain = given.filter(|id| {
            let text = id.as_bytes();
            (1..=64).contains(&text.len())
                && text
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        });
        plain
            .cloned()
            .unwrap_or_else(|| HeaderValue::from(self.requests.fetch_add(1, Ordering::Relaxed)))
    }
}
