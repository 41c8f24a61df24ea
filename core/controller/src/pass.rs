//! Browsers that may look at the pages: one-time codes, and the cookies that they are exchanged for.
//!
//! A cookie lets its holder look, and nothing else: every other address wants the token. Neither outlives the
//! controller.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{COOKIE, HOST, ORIGIN};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::clock;
use crate::error::RunError;
use crate::listen::bind_loopback;
use crate::random;

/// How long a code may be used.
const CODE_LIFETIME: Duration = Duration::from_secs(120);
/// How long a browser may look.
pub(crate) const PASS_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// How many codes, and how many browsers, are known at a time; the oldest make room.
const KNOWN_MAX: usize = 64;
/// The name of the cookie.
pub(crate) const COOKIE_NAME: &str = "twill";

/// A secret, by its hash, and when it ends.
type Known = (blake3::Hash, Duration);

/// What is known of browsers.
#[derive(Default)]
pub(crate) struct Passes(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    codes: Vec<Known>,
    passes: Vec<Known>,
}

impl Passes {
    /// Makes a code for one browser.
    pub(crate) fn code(&self) -> io::Result<String> {
        let mut inner = self.0.lock().expect("no holder panics");
        add(&mut inner.codes, CODE_LIFETIME)
    }

    /// Exchanges a code for a pass; none for a code that is unknown, used, or too old.
    pub(crate) fn exchange(&self, code: &str) -> io::Result<Option<String>> {
        let mut inner = self.0.lock().expect("no holder panics");
        let Some(at) = find(&inner.codes, code) else {
            return Ok(None);
        };
        inner.codes.remove(at);
        add(&mut inner.passes, PASS_LIFETIME).map(Some)
    }

    /// Whether a request shows a pass.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter();
        let cookies = cookies.filter_map(|value| value.to_str().ok());
        let mut shown = cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == COOKIE_NAME);
        let inner = self.0.lock().expect("no holder panics");
        shown.any(|(_, pass)| find(&inner.passes, pass).is_some())
    }
}

fn add(known: &mut Vec<Known>, lifetime: Duration) -> io::Result<String> {
    let secret = random::hex::<32>()?;
    let now = clock::boot();
    known.retain(|(_, end)| *end > now);
    if known.len() >= KNOWN_MAX {
        known.remove(0);
    }
    known.push((blake3::hash(secret.as_bytes()), now + lifetime));
    Ok(secret)
}

fn find(known: &[Known], secret: &str) -> Option<usize> {
    // Hashes are compared in constant time.
    let hash = blake3::hash(secret.as_bytes());
    let now = clock::boot();
    known
        .iter()
        .position(|(other, end)| *other == hash && *end > now)
}

/// Why a browser's request is not looked at.
///
/// A name that an attacker's server gives to this machine is not this machine's, and a page of another origin has
/// nothing to ask here.
pub(crate) fn foreign(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(HOST).filter(|host| is_this_machine(host)) else {
        return Some("the pages are at 127.0.0.1 or localhost, under no other name");
    };
    let origin = headers.get(ORIGIN).map(|origin| origin.as_bytes());
    if origin.is_some_and(|origin| origin != format!("http://{host}").as_bytes()) {
        return Some("a page of another origin asks");
    }
    None
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Where browsers come in: the port that the controller listens on, or one that is opened when it is first needed.
pub(crate) struct Door {
    open: tokio::sync::Mutex<Option<SocketAddr>>,
    listeners: mpsc::Sender<TcpListener>,
}

impl Door {
    /// Makes a door that may be open already, and what takes the listener of one that opens later.
    pub(crate) fn new(open: Option<SocketAddr>) -> (Door, mpsc::Receiver<TcpListener>) {
        let (listeners, opened) = mpsc::channel(1);
        let door = Door {
            open: tokio::sync::Mutex::new(open),
            listeners,
        };
        (door, opened)
    }

    /// The address, opening a port if there is none yet.
    pub(crate) async fn address(&self) -> Result<SocketAddr, RunError> {
        let mut open = self.open.lock().await;
        if let Some(address) = *open {
            return Ok(address);
        }
        let asked = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = |source| RunError::Listen {
            address: asked,
            source,
        };
        let listener = bind_loopback(asked).await?;
        let address = listener.local_addr().map_err(listen)?;
        self.listeners
            .send(listener)
            .await
            .map_err(|_| listen(io::ErrorKind::NotConnected.into()))?;
        *open = Some(address);
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: axum::http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn a_code_is_good_for_one_browser() {
        let passes = Passes::default();
        let code = passes.code().unwrap();
        assert_eq!(passes.exchange("").unwrap(), None);
        let pass = passes.exchange(&code).unwrap().unwrap();
        assert_eq!(passes.exchange(&code).unwrap(), None);
        let with = |cookie: String| passes.admits(&headers(&[("cookie", &cookie)]));
        assert!(with(format!("twill={pass}")));
        assert!(with(format!("other=1; twill={pass}")));
        assert!(!with(format!("twill={code}")) && !with(format!("Twill={pass}")));
        assert!(!with("twill=".to_owned()) && !passes.admits(&HeaderMap::new()));
    }

    #[test]
    fn only_this_machine_under_its_own_name_is_looked_at() {
        let refused = |pairs: &[(&str, &str)]| foreign(&headers(pairs)).is_some();
        for host in [
            "127.0.0.1:7070",
            "localhost:7070",
            "[::1]:7070",
            "localhost",
        ] {
            assert!(!refused(&[("host", host)]), "{host}");
        }
        for host in [
            "evil.example:7070",
            "127.0.0.1.evil.example",
            "localhost.evil:1",
            "",
            "10.0.0.1",
        ] {
            assert!(refused(&[("host", host)]), "{host}");
        }
        let host = ("host", "127.0.0.1:7070");
        assert!(refused(&[]));
        assert!(!refused(&[host, ("origin", "http://127.0.0.1:7070")]));
        for origin in [
            "http://127.0.0.1:8080",
            "https://127.0.0.1:7070",
            "http://evil.example",
            "null",
        ] {
            assert!(refused(&[host, ("origin", origin)]), "{origin}");
        }
    }
}
