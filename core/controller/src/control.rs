//! Asks applications what may be done to their tasks.
//!
//! Every half second the jobs with open offers are asked over HTTP, each at the first healthy endpoint of its
//! controller that answers. What does not answer in time, or not in the form below, has said nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Method, Request};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tw_model::{Desired, JobId, Name, TaskState, Timestamp, Version};
use tw_scheduler::Consultation;

use crate::app::App;
use crate::clock;

/// The time between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long an application may take for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The longest answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// The most ids of an answer that are read.
const APPROVALS_MAX: usize = 10_000;

/// `POST` to the application: what waits for its word.
#[derive(Debug, Serialize)]
struct Question {
    version: u32,
    namespace: Name,
    job: Name,
    now: Timestamp,
    operations: Vec<AskedOperation>,
    tasks: Vec<AskedTask>,
}

#[derive(Debug, Serialize)]
struct AskedOperation {
    id: String,
    task: String,
    index: u32,
    operation: tw_model::Operation,
    /// The version that the task will have afterwards.
    to: Version,
    deadline: Timestamp,
    approved: bool,
}

/// The newest task of an index.
#[derive(Debug, Serialize)]
struct AskedTask {
    id: String,
    index: u32,
    version: Version,
    state: TaskState,
    healthy: Option<bool>,
    leaves: bool,
}

/// What the application answers: the operations that it approves, in the order in which it wants them done. All others
/// wait; its newest answer counts.
#[derive(Debug, Deserialize)]
struct Answer {
    approve: Vec<String>,
}

/// Asks for ever.
pub(crate) async fn run(app: Arc<App>) {
    let mut said: HashMap<JobId, String> = HashMap::new();
    loop {
        sleep(ASK_EVERY).await;
        let Ok(consultations) = app.driver.consultations().await else {
            continue;
        };
        said.retain(|job, _| consultations.iter().any(|one| one.job == *job));
        let asked = consultations.into_iter().map(|one| consult(&app, one));
        for (job, outcome) in futures_util::future::join_all(asked).await {
            let words = outcome.err().unwrap_or_default();
            if said.insert(job.clone(), words.clone()).as_ref() != Some(&words) && !words.is_empty()
            {
                tracing::warn!(%job, words, "its controller does not decide");
            }
        }
    }
}

/// Asks one application and passes its answer on; an error says in words why there is none.
async fn consult(app: &App, consultation: Consultation) -> (JobId, Result<(), String>) {
    let job = consultation.job.clone();
    let by = match &consultation.control.job {
        Some(name) => JobId::new(job.namespace.clone(), name.clone()),
        None => job.clone(),
    };
    let port = &consultation.control.port;
    let endpoints: Vec<String> = app.hub.read(|view| {
        let all = view
            .endpoints(&by)
            .filter(|endpoint| endpoint.port == *port);
        all.map(|endpoint| endpoint.address).collect()
    });
    let question = question(&consultation);
    let mut outcome = Err(format!("no healthy task of {by} has port '{port}'"));
    for address in endpoints {
        let asked = ask(&address, &consultation.control.path, &question);
        outcome = match timeout(ANSWER_WITHIN, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{address} does not answer")),
        };
        if outcome.is_ok() {
            break;
        }
    }
    let approved = match outcome {
        Ok(approved) => approved,
        Err(words) => return (job, Err(words)),
    };
    let taken = app.driver.task_control(job.clone(), approved).await;
    let words = match taken {
        Ok(unknown) if unknown.is_empty() => Ok(()),
        Ok(unknown) => Err(format!(
            "it approves what it was not offered: {}",
            unknown.join(", ")
        )),
        Err(refusal) => Err(refusal.to_string()),
    };
    (job, words)
}

fn question(consultation: &Consultation) -> Question {
    let operations = consultation.operations.iter().map(|one| AskedOperation {
        id: one.id.clone(),
        task: one.task.to_string(),
        index: one.task.index,
        operation: one.operation,
        to: one.to,
        deadline: one.deadline,
        approved: one.approved,
    });
    let tasks = consultation.tasks.iter().map(|row| AskedTask {
        id: row.id.to_string(),
        index: row.id.index,
        version: row.version,
        state: row.state,
        healthy: row.healthy,
        leaves: row.desired == Desired::Stop,
    });
    Question {
        version: 1,
        namespace: consultation.job.namespace.clone(),
        job: consultation.job.name.clone(),
        now: clock::wall(),
        operations: operations.collect(),
        tasks: tasks.collect(),
    }
}

/// Sends a question and reads the answer.
async fn ask(address: &str, path: &str, question: &Question) -> Result<Vec<String>, String> {
    let failed = |what: &str, cause: &dyn std::fmt::Display| format!("{address} {what}: {cause}");
    let stream = TcpStream::connect(address)
        .await
        .map_err(|cause| failed("cannot be reached", &cause))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|cause| failed("speaks no HTTP", &cause))?;
    let body = serde_json::to_vec(question).map_err(|cause| failed("cannot be asked", &cause))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, address)
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .map_err(|cause| failed("cannot be asked", &cause))?;
    let answered = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|cause| failed("broke off", &cause))?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX)
            .await
            .map_err(|cause| failed("answered too much, or broke off", &cause))?;
        if !status.is_success() {
            return Err(format!("{address} answered {status}"));
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|cause| failed("answered something else than {\"approve\": […]}", &cause))?;
        match answer.approve.len() {
            count if count > APPROVALS_MAX => Err(format!("{address} approves {count} operations")),
            _ => Ok(answer.approve),
        }
    };
    tokio::pin!(answered);
    tokio::select! {
        answered = &mut answered => answered,
        ended = connection => match ended {
            // What came before it was closed is an answer, as in HTTP/1.0.
            Ok(()) => answered.await,
            Err(cause) => Err(failed("broke off", &cause)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What `ask` makes of a server that reads a little, writes these bytes, and then hangs or goes.
    async fn against(bytes: Vec<u8>, hangs: bool) -> Result<Vec<String>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _read = stream.read(&mut [0; 4096]).await;
            let _written = stream.write_all(&bytes).await;
            if hangs {
                std::future::pending::<()>().await;
            }
        });
        let question = Question {
            version: 1,
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            now: Timestamp(0),
            operations: Vec::new(),
            tasks: Vec::new(),
        };
        let asked = timeout(Duration::from_millis(500), ask(&address, "/x", &question)).await;
        server.abort();
        asked.unwrap_or_else(|_| Err("does not answer".to_owned()))
    }

    fn http(body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    }

    #[tokio::test]
    async fn an_answer_is_read_and_bad_company_has_said_nothing() {
        let good = against(http(r#"{"approve": ["b", "a"], "later": 1}"#), true).await;
        assert_eq!(good.unwrap(), ["b", "a"]);
        for _ in 0..50 {
            let closes = b"HTTP/1.0 200 OK\r\n\r\n{\"approve\": [\"a\"]}".to_vec();
            assert_eq!(against(closes, false).await.unwrap(), ["a"]);
        }
        for (bytes, hangs, words) in [
            (Vec::new(), true, "does not answer"),
            (Vec::new(), false, "broke off"),
            (b"SSH-2.0-x\r\n".to_vec(), true, "broke off"),
            (
                b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec(),
                true,
                "answered 500",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_vec(),
                true,
                "does not answer",
            ),
            (http("[]"), true, "something else"),
            (http(r#"{"approve": "all"}"#), true, "something else"),
            (http(&" ".repeat(ANSWER_BYTES_MAX + 1)), true, "too much"),
        ] {
            let refused = against(bytes.clone(), hangs).await.unwrap_err();
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            assert!(refused.contains(words), "{shown:?}: {refused}");
        }
    }
}
