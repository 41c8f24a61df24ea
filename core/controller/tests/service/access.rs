//! Who is let in.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use tw_api::{ApiEndpoint, Client};
use tw_controller::{Controller, RunError};
use tw_model::Code;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn callers_over_tcp_show_the_token() {
    let folder = Folder::new();
    let mut config = config(&folder.state());
    config.listen = Some("127.0.0.1:0".parse().unwrap());
    let token_path = config.token_path();
    let server = Server::start(config).await;
    let address = server.tcp.expect("it listens");
    let with = |token: &str| {
        Client::new(ApiEndpoint::Tcp {
            address,
            token: token.to_owned(),
        })
    };
    let token = std::fs::read_to_string(&token_path).unwrap();
    let _: Value = with(token.trim()).get("/v1/jobs").await.unwrap();
    for wrong in ["", "x", &token.trim()[1..]] {
        for path in ["/v1/jobs", "/", "/v1/health", "/nowhere"] {
            let denied = refusal(with(wrong).get::<Value>(path).await);
            assert_eq!((denied.code, denied.status()), (Code::AuthDenied, 403));
            assert!(!denied.message.contains(token.trim()));
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_listened_to() {
    let folder = Folder::new();
    let mut open = config(&folder.state());
    open.listen = Some("0.0.0.0:0".parse().unwrap());
    let refused = Controller::start(open).await.map(drop);
    assert!(
        matches!(refused, Err(RunError::NotLoopback { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_and_the_folder_belong_to_one_controller() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let config = config(&folder.state());
    let server = Server::start(config.clone()).await;
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&config.state_dir), 0o700);
    assert_eq!(mode(&config.socket), 0o600);
    assert_eq!(mode(&config.token_path()), 0o600);

    let second = Controller::start(config.clone()).await.map(drop);
    assert!(matches!(second, Err(RunError::Open(_))), "{second:?}");
    let elsewhere = Folder::new();
    let mut same_socket = crate::support::config(&elsewhere.state());
    same_socket.socket = config.socket.clone();
    let second = Controller::start(same_socket).await.map(drop);
    assert!(
        matches!(second, Err(RunError::SocketInUse { .. })),
        "{second:?}"
    );
    let _: Value = server.client.get("/v1/jobs").await.unwrap();
    server.stop().await;
    assert!(!config.socket.exists());
}

/// Asks over a Unix socket as another user, whom only this thread becomes.
fn ask_as(uid: u32, socket: &Path) -> std::io::Result<String> {
    let socket = socket.to_owned();
    let asked = std::thread::spawn(move || {
        let uid = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(b"GET /v1/jobs HTTP/1.1\r\nhost: tw\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.join().expect("the thread does not panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_are_refused_even_where_they_reach_the_socket() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    // Only root can become someone else to try.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = Folder::new();
    let mut config = config(&folder.state());
    config.socket = folder.0.path().join("tw.sock");
    let server = Server::start(config.clone()).await;
    set_permissions(folder.0.path(), Permissions::from_mode(0o755)).unwrap();
    assert!(
        ask_as(65534, &config.socket).is_err(),
        "the socket is its owner's alone"
    );
    set_permissions(&config.socket, Permissions::from_mode(0o666)).unwrap();

    let answer = ask_as(65534, &config.socket).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(
        answer.contains("\"auth.denied\"") && answer.contains("65534"),
        "{answer}"
    );
    let answer = ask_as(0, &config.socket).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.stop().await;
}
