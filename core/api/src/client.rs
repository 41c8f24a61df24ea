//! The one HTTP client: over a Unix socket, or over TCP with a token.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

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
    #[error("nothing was heard of the controller for {0:?}")]
    Silent(Duration),
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
    /// The longest silence; none where a caller waits for as long as it takes.
    silence_max: Option<Duration>,
}

impl Client {
    pub fn new(endpoint: Endpoint) -> Client {
        Client {
            endpoint,
            silence_max: None,
        }
    }

    /// Gives a call up, and a stream of events, once nothing has come for so long. A controller whose machine or network has
    /// gone ends no connection.
    pub fn with_silence_max(mut self, longest: Duration) -> Client {
        self.silence_max = Some(longest);
        self
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
            _ => self.accepted(response, StatusCode::OK).await.map(|_| true),
        }
    }

    /// Opens a stream of server-sent events.
    pub async fn events(&self, path: &str) -> Result<EventStream, ClientError> {
        let response = self
            .send(self.request(Method::GET, path).body(Full::default())?)
            .await?;
        let response = self.accepted(response, StatusCode::OK).await?;
        Ok(EventStream {
            body: self.body_of(response),
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
        let response = self.send(request).await?;
        let response = self
            .accepted(response, StatusCode::SWITCHING_PROTOCOLS)
            .await?;
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let request = self
            .request(method, path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = self.send(request).await?;
        let response = self.accepted(response, StatusCode::OK).await?;
        self.body_of(response).all().await
    }

    /// The response if it has the expected status; what it says otherwise.
    async fn accepted(
        &self,
        response: Response<Incoming>,
        expected: StatusCode,
    ) -> Result<Response<Incoming>, ClientError> {
        let status = response.status();
        if status == expected {
            return Ok(response);
        }
        let body = self.body_of(response).all().await?;
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(refusal) => Err(ClientError::Refused(Box::new(refusal))),
            Err(_) => Err(ClientError::Answer {
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
            }),
        }
    }

    fn body_of(&self, response: Response<Incoming>) -> Body {
        Body {
            incoming: response.into_body(),
            silence_max: self.silence_max,
        }
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
        heard(self.silence_max, self.connect_and_send(request)).await?
    }

    async fn connect_and_send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
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

/// What `waiting` comes to, unless the silence is too long.
async fn heard<T>(
    silence_max: Option<Duration>,
    waiting: impl Future<Output = T>,
) -> Result<T, ClientError> {
    match silence_max {
        None => Ok(waiting.await),
        Some(longest) => timeout(longest, waiting)
            .await
            .map_err(|_| ClientError::Silent(longest)),
    }
}

/// What comes behind the head of an answer.
#[derive(Debug)]
struct Body {
    incoming: Incoming,
    silence_max: Option<Duration>,
}

impl Body {
    /// The next piece; none at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = heard(self.silence_max, self.incoming.frame()).await? {
            if let Ok(piece) = frame?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    async fn all(mut self) -> Result<Bytes, ClientError> {
        let first = self.next().await?.unwrap_or_default();
        let Some(second) = self.next().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(ClientError::Shape)
}

/// A stream of server-sent events, each the JSON of one message.
#[derive(Debug)]
pub struct EventStream {
    body: Body,
    decoder: SseDecoder,
}

impl EventStream {
    /// The next message; none when the controller ended the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(data) = self.decoder.next_event() {
                return parse(data.as_bytes()).map(Some);
            }
            match self.body.next().await? {
                None => return Ok(None),
                Some(piece) => self.decoder.push(&piece),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const SILENCE: Duration = Duration::from_millis(100);

    /// A client of a controller that says `words` to each caller, and then nothing.
    async fn client_of_one_that_says(words: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut caller, _)) = listener.accept().await {
                caller.write_all(words.as_bytes()).await.unwrap();
                held.push(caller);
            }
        });
        let token = "token".to_owned();
        Client::new(Endpoint::Tcp { address, token }).with_silence_max(SILENCE)
    }

    fn is_silent<T>(answer: Result<T, ClientError>) -> bool {
        matches!(answer, Err(ClientError::Silent(SILENCE)))
    }

    #[tokio::test]
    async fn a_controller_that_falls_silent_is_given_up_wherever_it_does() {
        let silent = client_of_one_that_says("").await;
        assert!(is_silent(silent.get_bytes("/").await));
        assert!(is_silent(silent.events("/").await));
        assert!(is_silent(silent.session("/").await));
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        assert!(is_silent(
            client_of_one_that_says(half).await.get_bytes("/").await
        ));
        let refuses = "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nhalf";
        assert!(is_silent(
            client_of_one_that_says(refuses).await.get_bytes("/").await
        ));
        let stream = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ndata: 1\n\n:keep-alive\n\n";
        let client = client_of_one_that_says(stream).await;
        let mut events = client.events("/").await.unwrap();
        assert_eq!(events.next::<u32>().await.unwrap(), Some(1));
        assert!(is_silent(events.next::<u32>().await));
    }
}
