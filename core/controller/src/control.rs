//! Asks applications what may be done to their tasks.
//!
//! Every half second the jobs with open offers are asked over HTTP, each at the first healthy endpoint of its
//! controller that answers. What does not answer in time, or not in the form below, has said nothing, and its job is asked
//! anew; nobody else waits for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Method, Request};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tw_model::{Desired, JobId, Name, TaskState, Timestamp, Version};
use tw_scheduler::Consultation;

use crate::app::App;
use crate::clock;

/// The time between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long an application may take for its answer, however many endpoints it has.
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

/// What is known of a job's application from the rounds before.
#[derive(Default)]
struct Asked {
    /// A round is under way.
    open: bool,
    /// The number of the endpoint that the next round begins with.
    first: usize,
    /// Why the last round brought no answer; empty where it did.
    words: String,
}

/// How a round ended.
struct Round {
    job: JobId,
    first: usize,
    outcome: Result<(), String>,
}

/// Asks for ever. Every job has rounds of its own: an application that hangs delays no other's questions.
pub(crate) async fn run(app: Arc<App>) {
    let mut asked: HashMap<JobId, Asked> = HashMap::new();
    let mut rounds = FuturesUnordered::new();
    let mut times = interval(ASK_EVERY);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(round) = rounds.next() => note(&mut asked, round),
            _ = times.tick() => {
                let Ok(consultations) = app.driver.consultations().await else {
                    continue;
                };
                let waiting: HashSet<&JobId> = consultations.iter().map(|one| &one.job).collect();
                asked.retain(|job, asked| asked.open || waiting.contains(job));
                for one in consultations {
                    let asked = asked.entry(one.job.clone()).or_default();
                    if !std::mem::replace(&mut asked.open, true) {
                        rounds.push(consult(&app, one, asked.first));
                    }
                }
            }
        }
    }
}

/// Notes how a round ended, and says why it brought nothing, once.
fn note(asked: &mut HashMap<JobId, Asked>, round: Round) {
    let words = round.outcome.err().unwrap_or_default();
    let job = round.job;
    let asked = asked.entry(job.clone()).or_default();
    asked.open = false;
    asked.first = round.first;
    if asked.words != words && !words.is_empty() {
        tracing::warn!(%job, words, "its controller does not decide");
    }
    asked.words = words;
}

/// Asks one application, from its endpoint number `first` on, and passes its answer on; an error says in words why there
/// is none.
async fn consult(app: &App, consultation: Consultation, mut first: usize) -> Round {
    let job = consultation.job.clone();
    let by = match &consultation.control.job {
        Some(name) => JobId::new(job.namespace.clone(), name.clone()),
        None => job.clone(),
    };
    let control = &consultation.control;
    let endpoints: Vec<String> = app.hub.read(|view| {
        let all = view.endpoints(&by);
        let all = all.filter(|endpoint| endpoint.port == control.port);
        all.map(|endpoint| endpoint.address).collect()
    });
    let heard = match endpoints.is_empty() {
        true => Err(format!(
            "no healthy task of {by} has port '{}'",
            control.port
        )),
        false => match serde_json::to_vec(&question(&consultation)) {
            Ok(body) => ask_in_turn(&endpoints, &mut first, &control.path, body.into()).await,
            Err(cause) => Err(format!("the question cannot be written: {cause}")),
        },
    };
    let outcome = match heard {
        Ok(approved) => pass_on(app, job.clone(), approved).await,
        Err(words) => Err(words),
    };
    Round {
        job,
        first,
        outcome,
    }
}

/// Passes an answer on.
async fn pass_on(app: &App, job: JobId, approved: Vec<String>) -> Result<(), String> {
    match app.driver.task_control(job, approved).await {
        Ok(unknown) if unknown.is_empty() => Ok(()),
        Ok(unknown) => Err(unknown_words(&unknown)),
        Err(refusal) => Err(refusal.to_string()),
    }
}

/// Names what was approved and never offered: no more of it than fits a line, whatever an application sends.
fn unknown_words(unknown: &[String]) -> String {
    const NAMED_MAX: usize = 3;
    const CHARACTERS_MAX: usize = 80;
    let named = unknown.iter().take(NAMED_MAX);
    let named: Vec<String> = named
        .map(|id| match id.char_indices().nth(CHARACTERS_MAX) {
            Some((end, _)) => format!("{}…", &id[..end]),
            None => id.clone(),
        })
        .collect();
    let more = match unknown.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = named.join(", ");
    format!("it approves what it was not offered: {named}{more}")
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

/// Asks the endpoints in turn, from the one numbered `first` on, until one answers. All together have [`ANSWER_WITHIN`].
///
/// Afterwards `first` is who answered. After one that hung it is the next, so that every endpoint is asked in time.
async fn ask_in_turn(
    endpoints: &[String],
    first: &mut usize,
    path: &str,
    question: Bytes,
) -> Result<Vec<String>, String> {
    let in_turn = async {
        let mut outcome = Err("there is nobody to ask".to_owned());
        for _ in endpoints {
            *first %= endpoints.len();
            outcome = ask(&endpoints[*first], path, question.clone()).await;
            if outcome.is_ok() {
                break;
            }
            *first += 1;
        }
        outcome
    };
    match timeout(ANSWER_WITHIN, in_turn).await {
        Ok(outcome) => outcome,
        Err(_) => {
            *first += 1;
            let count = endpoints.len();
            Err(format!(
                "no answer in {ANSWER_WITHIN:?}, of {count} endpoints that are asked in turn"
            ))
        }
    }
}

/// Sends a question and reads the answer.
async fn ask(address: &str, path: &str, question: Bytes) -> Result<Vec<String>, String> {
    let failed = |what: &str, cause: &dyn std::fmt::Display| format!("{address} {what}: {cause}");
    let stream = TcpStream::connect(address)
        .await
        .map_err(|cause| failed("cannot be reached", &cause))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|cause| failed("speaks no HTTP", &cause))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, address)
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(question))
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
    use tokio::time::Instant;

    use super::*;

    /// A server that reads a little of every call, writes these bytes, and then hangs or goes.
    async fn serve(bytes: Vec<u8>, hangs: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _read = stream.read(&mut [0; 4096]).await;
                let _written = stream.write_all(&bytes).await;
                if hangs {
                    open.push(stream);
                }
            }
        });
        address
    }

    /// What one round makes of such servers, the endpoint that the next begins with, and how long it took.
    async fn round(
        endpoints: &[String],
        mut first: usize,
    ) -> (Result<Vec<String>, String>, usize, Duration) {
        let began = Instant::now();
        let heard = ask_in_turn(endpoints, &mut first, "/x", Bytes::from_static(b"{}")).await;
        (heard, first, began.elapsed())
    }

    fn http(body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    }

    #[tokio::test]
    async fn an_answer_is_read() {
        let good = serve(http(r#"{"approve": ["b", "a"], "later": 1}"#), true).await;
        assert_eq!(round(&[good], 0).await.0.unwrap(), ["b", "a"]);
        let closes = b"HTTP/1.0 200 OK\r\n\r\n{\"approve\": [\"a\"]}".to_vec();
        let closes = serve(closes, false).await;
        for _ in 0..50 {
            let heard = round(std::slice::from_ref(&closes), 0).await.0;
            assert_eq!(heard.unwrap(), ["a"]);
        }
    }

    #[tokio::test]
    async fn bad_company_has_said_nothing() {
        let none = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec();
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_vec();
        let cases = [
            (Vec::new(), true, "no answer in 2s"),
            (Vec::new(), false, "broke off"),
            (b"SSH-2.0-x\r\n".to_vec(), true, "broke off"),
            (none, true, "answered 500"),
            (half, true, "no answer in 2s"),
            (http("[]"), true, "something else"),
            (http(r#"{"approve": "all"}"#), true, "something else"),
            (http(&" ".repeat(ANSWER_BYTES_MAX + 1)), true, "too much"),
        ];
        let refused = cases.map(async |(bytes, hangs, words)| {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            let (heard, _, took) = round(&[serve(bytes, hangs).await], 0).await;
            let refused = heard.unwrap_err();
            assert!(refused.contains(words), "{shown:?}: {refused}");
            assert!(took < ANSWER_WITHIN * 2, "{shown:?}: {took:?}");
        });
        futures_util::future::join_all(refused).await;
    }

    #[tokio::test]
    async fn all_endpoints_together_have_the_time_of_one_and_all_have_their_turn() {
        let hangs = serve(Vec::new(), true).await;
        let (heard, next, took) = round(&vec![hangs.clone(); 50], 0).await;
        assert!(heard.is_err() && took < ANSWER_WITHIN * 2, "{took:?}");
        assert_eq!(next, 1);
        let gone = "127.0.0.1:1".to_owned();
        let good = serve(http(r#"{"approve": ["a"]}"#), true).await;
        let endpoints = [hangs, gone, good];
        let (heard, next, _) = round(&endpoints, next).await;
        assert_eq!((heard.unwrap(), next), (vec!["a".to_owned()], 2));
        let (heard, next, _) = round(&endpoints[..2], next + 2).await;
        assert!(heard.is_err() && next == 1, "fewer than before: {next}");
    }

    #[test]
    fn a_liar_fills_no_log() {
        let one = unknown_words(&["web.7#9/update/v2".to_owned()]);
        assert_eq!(
            one,
            "it approves what it was not offered: web.7#9/update/v2"
        );
        let many = vec!["é".repeat(100_000); 10_000];
        let words = unknown_words(&many);
        assert!(words.len() < 600, "{}", words.len());
        assert!(words.ends_with("… and 9997 more"), "{words}");
    }
}
