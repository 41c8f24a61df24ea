//! The one HTTP client: over a Unix socket, or over TCP with a token.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use crate::{ErrorBody, SESSION_PROTOCOL, SseDecoder};

/// Where a controller listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The caller is known by its user id.
    Unix(PathBuf),
    /// The caller is known by its token.
    Tcp { address: SocketAddr, token: String },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Tcp { address, .. } => write!(f, "http://{address}"),
        }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no controller answers at {endpoint}")]
    Connect {
        endpoint: String,
        source: std::io::Error,
    },
    #[error("the connection to the controller broke")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written")]
    Request(#[from] hyper::http::Error),
    #[error("{0}")]
    Refused(Box<ErrorBody>),
    #[error("the controller answered {status} with something that is not an answer: {body}")]
    Answer { status: StatusCode, body: String },
    #[error("the controller's answer is not of the expected shape; is it of another release?")]
    Shape(#[source] serde_json::Error),
}

impl ClientError {
    /// The refusal, where the controller refused.
    pub fn refusal(&self) -> Option<&ErrorBody> {
        match self {
            ClientError::Refused(body) => Some(body),
            _ => None,
        }
    }
}

/// An upgraded connection.
pub type Connection = TokioIo<hyper::upgrade::Upgraded>;

/// Calls a controller. Cheap to clone; every call has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
}

impl Client {
    pub fn new(endpoint: Endpoint) -> Client {
        Client { endpoint }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.get_bytes(path).await?)
    }

    /// The body as it is.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Shape)?;
        parse(&self.call(Method::POST, path, body.into()).await?)
    }

    /// Sends bytes as they are.
    pub async fn put_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        parse(&self.call(Method::PUT, path, body).await?)
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.call(Method::DELETE, path, Bytes::new()).await?)
    }

    /// Whether there is something at an address, without fetching it.
    pub async fn exists(&self, path: &str) -> Result<bool, ClientError> {
        let request = self.request(Method::HEAD, path).body(Full::default())?;
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => accepted(response, StatusCode::OK).await.map(|_| true),
        }
    }

    /// Opens a stream of server-sent events.
    pub async fn events(&self, path: &str) -> Result<EventStream, ClientError> {
        let response = self
            .send(self.request(Method::GET, path).body(Full::default())?)
            .await?;
        let response = accepted(response, StatusCode::OK).await?;
        Ok(EventStream {
            body: response.into_body(),
            decoder: SseDecoder::default(),
        })
    }

    /// Opens a session's connection; the other side speaks frames from then on.
    pub async fn session(&self, path: &str) -> Result<Connection, ClientError> {
        let request = self
            .request(Method::GET, path)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, SESSION_PROTOCOL)
            .body(Full::default())?;
        let response = accepted(self.send(request).await?, StatusCode::SWITCHING_PROTOCOLS).await?;
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let request = self
            .request(method, path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = accepted(self.send(request).await?, StatusCode::OK).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "twill");
        match &self.endpoint {
            Endpoint::Unix(_) => request,
            Endpoint::Tcp { token, .. } => request.header(AUTHORIZATION, format!("Bearer {token}")),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |source| ClientError::Connect {
            endpoint: self.endpoint.to_string(),
            source,
        };
        match &self.endpoint {
            Endpoint::Unix(path) => {
                exchange(connect_unix(path).await.map_err(unreachable)?, request).await
            }
            Endpoint::Tcp { address, .. } => {
                exchange(
                    TcpStream::connect(address).await.map_err(unreachable)?,
                    request,
                )
                .await
            }
        }
    }
}

/// Connects through the folder's descriptor, so that a path may be longer than a socket's address.
async fn connect_unix(path: &Path) -> std::io::Result<UnixStream> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return UnixStream::connect(path).await;
    };
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let folder = std::fs::File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).join(name);
    UnixStream::connect(short).await
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(cause) = connection.with_upgrades().await {
            tracing::debug!(%cause, "connection to the controller ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

/// The response if it has the expected status; what it says otherwise.
async fn accepted(
    response: Response<Incoming>,
    expected: StatusCode,
) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status == expected {
        return Ok(response);
    }
    let body = response.into_body().collect().await?.to_bytes();
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(refusal) => Err(ClientError::Refused(Box::new(refusal))),
        Err(_) => Err(ClientError::Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        }),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(ClientError::Shape)
}

/// A stream of server-sent events, each the JSON of one message.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    decoder: SseDecoder,
}

impl EventStream {
    /// The next message; none when the controller ended the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(data) = self.decoder.next_event() {
                return parse(data.as_bytes()).map(Some);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        self.decoder.push(&bytes);
                    }
                }
            }
        }
    }
}
