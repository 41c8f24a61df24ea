//! Sessions between a client and an agent.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tw_api::{
    AgentEvent, Connection, Dial, ErrorBody, ExecRequest, Frame, FrameKind, SessionRequest,
    read_frame, write_frame,
};
use tw_model::{Code, TaskId};

use crate::support::*;

async fn open(server: &Server, task: &TaskId) -> Connection {
    let mut session = server
        .client
        .session("/v1/session")
        .await
        .expect("an upgrade");
    let request = SessionRequest::Exec(ExecRequest {
        task: task.clone(),
        argv: vec!["sh".to_owned()],
        terminal: None,
        debug: false,
        credit: false,
    });
    write_frame(&mut session, &Frame::json(FrameKind::Open, &request))
        .await
        .unwrap();
    session
}

async fn read(session: &mut Connection) -> Frame {
    let frame = timeout(PATIENCE, read_frame(session))
        .await
        .expect("a frame in time");
    frame.unwrap().expect("a frame")
}

async fn dialled(agent: &mut Agent) -> Dial {
    loop {
        if let AgentEvent::Dial(dial) = agent.next().await {
            return dial;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_a_session_hear_each_other() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let (mut agent, task) = Agent::with_web(&server.client).await;
    agent.say(&task, running()).await;

    let mut client = open(&server, &task).await;
    // Sent before the agent is there: it waits.
    write_frame(&mut client, &Frame::new(FrameKind::Stdin, "echo hello\n"))
        .await
        .unwrap();
    let dial = dialled(&mut agent).await;
    assert_eq!(dial.request.task(), &task);
    let path = format!("/v1/agents/m1/sessions/{}", dial.session);
    let mut end = server
        .client
        .session(&path)
        .await
        .expect("the agent is let in");
    assert_eq!(
        read(&mut end).await,
        Frame::new(FrameKind::Stdin, "echo hello\n")
    );
    let big = Frame::new(FrameKind::Stdout, vec![b'x'; 500_000]);
    let (sent, received) = tokio::join!(write_frame(&mut end, &big), read(&mut client));
    sent.unwrap();
    assert_eq!(received, big);
    end.shutdown().await.unwrap();
    let last = timeout(PATIENCE, read_frame(&mut client)).await.unwrap();
    assert_eq!(last.unwrap(), None);

    // A session is joined once.
    assert_eq!(
        refusal(server.client.session(&path).await.map(drop)).code,
        Code::RequestNotFound
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_ends_in_an_error_frame() {
    let folder = Folder::new();
    let mut config = config(&folder.state());
    config.dial_timeout = Duration::from_millis(200);
    let server = Server::start(config).await;
    let (agent, task) = Agent::with_web(&server.client).await;

    let code = async |task: &TaskId| {
        let mut session = open(&server, task).await;
        let frame = read(&mut session).await;
        assert_eq!(frame.kind, FrameKind::Error);
        frame.parse::<ErrorBody>().unwrap().code
    };
    assert_eq!(code(&"web.0#99".parse().unwrap()).await, Code::TaskNotFound);
    // The agent is there and does not answer.
    assert_eq!(code(&task).await, Code::AgentUnreachable);
    drop(agent);
    assert_eq!(code(&task).await, Code::AgentUnreachable);
    // Nothing but an upgrade opens a session.
    let plain = refusal(server.client.get::<serde_json::Value>("/v1/session").await);
    assert_eq!(plain.code, Code::RequestInvalid);
    server.stop().await;
}
