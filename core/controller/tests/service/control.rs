//! Applications that are asked before their tasks are stopped.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tw_api::{Client, SubmittedJob};
use tw_model::{Desired, MachineFacts};

use crate::support::*;

/// A job that runs where this port is free, and that has a say.
fn controlled(name: &str, command: &str) -> SubmittedJob {
    let fields = json!({
        "command": [command], "ports": ["http"], "task_control": { "port": "http" },
    });
    job(name, fields)
}

/// A machine on which only this port is given to tasks, with a task of a job that is to be updated.
async fn updating(client: &Client, machine: &str, name: &str, listens: SocketAddr) {
    let mut message = register_message(machine, "boot-1", Vec::new());
    message.capacity.port_first = listens.port();
    message.capacity.port_last = listens.port();
    message.facts = MachineFacts {
        address: listens.ip().to_string(),
        ..MachineFacts::default()
    };
    let registered = register(client, &message).await.expect("it may register");
    let stream = open_stream(client, machine, registered.epoch).await;
    let mut agent = Agent {
        client: client.clone(),
        machine: machine.to_owned(),
        epoch: registered.epoch,
        seq: 0,
        stream: stream.expect("a stream"),
    };
    apply(client, &[controlled(name, "./one")]).await;
    let row = agent.assigned(|one| one.task.desired == Desired::Run).await;
    assert_eq!(row.task.ports.values().next(), Some(&listens.port()));
    agent.say(&row.task.id, running()).await;
    apply(client, &[controlled(name, "./two")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_hangs_delays_no_other_question() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hangs.local_addr().unwrap();
    updating(&server.client, "m1", "hangs", address).await;
    let (held, _) = timeout(PATIENCE, hangs.accept()).await.unwrap().unwrap();

    let address = answers.local_addr().unwrap();
    updating(&server.client, "m2", "answers", address).await;
    let began = Instant::now();
    for _ in 0..4 {
        let (mut stream, _) = timeout(PATIENCE, answers.accept()).await.unwrap().unwrap();
        let _read = stream.read(&mut [0; 4096]).await.unwrap();
        let nothing = b"HTTP/1.0 200 OK\r\n\r\n{\"approve\": []}";
        stream.write_all(nothing).await.unwrap();
    }
    // Four questions half a second apart; each would take two seconds more if it waited for the other's answer.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(held);
    server.stop().await;
}
