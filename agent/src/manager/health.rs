//! Health checks: asked from outside the task, one loop a check, one verdict a task.

mod metric;
mod pace;
mod slow_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tw_api::Assignment;
use tw_model::{HealthCheck, Phase, Remedy};

use super::disk::{self, Layers};
use super::{Agent, session};
use metric::Bound;
use pace::Pace;
pub(super) use slow_file::Readers;

/// The most that is read of an HTTP answer; its status is in the first line.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Checks a task until this future is dropped, and reports each change of its health.
pub(super) async fn watch(agent: Arc<Agent>, assignment: Arc<Assignment>, folder: PathBuf) {
    let checks = &assignment.spec.health;
    let (results, mut received) = mpsc::channel(checks.len() + 1);
    let mut loops = tokio::task::JoinSet::from_iter(checks.iter().cloned().enumerate().map(
        |(number, check)| {
            let (agent, assignment) = (Arc::clone(&agent), Arc::clone(&assignment));
            let (folder, results) = (folder.clone(), results.clone());
            async move {
                let mut bound = Bound::of(&check);
                let mut pace = Pace::new(check.every().as_duration(), Instant::now());
                loop {
                    let result = ask(&agent, &assignment, &check, &mut bound, &folder).await;
                    let autoscale = assignment.spec.autoscale.as_ref();
                    let read = bound
                        .as_mut()
                        .and_then(|bound| bound.take_followed(autoscale));
                    if let Some(number) = read {
                        agent.resources.follow(&assignment.task.id, number);
                    }
                    let counts = pace.counts(result.is_ok(), Instant::now());
                    if counts && results.send((number, result)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pace.wait(Instant::now())).await;
                }
            }
        },
    ));
    let mut allowed: Vec<u32> = checks.iter().map(HealthCheck::failures).collect();
    allowed.push(1);
    let mut verdict = Verdict::new(allowed);
    // Nobody waits for it: a task is well until it has written too much.
    let disk = checks.len();
    verdict.failed[disk] = Some((0, Failure::default()));
    if disk::is_to_count(&folder) {
        let meter = agent.tree.cpu_meter(&assignment.task.id.folder_name());
        let layers = Layers::new(folder.clone(), assignment.spec.resources.disk, meter);
        loops.spawn(watch_disk(layers, disk, results.clone()));
    }
    while let Some((number, result)) = received.recv().await {
        if let Some(news) = verdict.add(number, result) {
            let phase = Phase::Health {
                healthy: news.healthy,
                detail: news.detail,
                remedy: news.remedy,
            };
            agent.reports.add(&assignment.task.id, phase);
        }
    }
    drop(loops);
}

/// Takes what each check found, by the check's number.
type Results = mpsc::Sender<(usize, Result<(), Failure>)>;

/// Tells when a task holds more than its scratch space, and when it does no more.
async fn watch_disk(mut layers: Layers, number: usize, results: Results) {
    let (most, mut was_beyond) = (layers.most(), false);
    loop {
        let is_beyond = layers.hold_more().await;
        let result = match is_beyond {
            false => Ok(()),
            true => Err(Failure {
                detail: format!("it has written more than the {most} of its scratch space (disk)"),
                remedy: Some(Remedy::Restart),
            }),
        };
        let is_news = is_beyond || was_beyond;
        if is_news && results.send((number, result)).await.is_err() {
            return;
        }
        was_beyond = is_beyond;
    }
}

/// Why a check has failed, and what it asks for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Failure {
    detail: String,
    remedy: Option<Remedy>,
}

impl From<String> for Failure {
    fn from(detail: String) -> Failure {
        Failure {
            detail,
            remedy: None,
        }
    }
}

/// A change of a task's health.
#[derive(Clone, Debug, PartialEq)]
struct News {
    healthy: bool,
    detail: String,
    remedy: Option<Remedy>,
}

/// What the checks of a task come to.
struct Verdict {
    /// Failures in a row that each check is allowed before it counts.
    allowed: Vec<u32>,
    /// Failures in a row, and the last of them; none before the first answer.
    failed: Vec<Option<(u32, Failure)>>,
    /// What was said last.
    said: Option<(bool, Option<Remedy>)>,
}

impl Verdict {
    fn new(allowed: Vec<u32>) -> Verdict {
        Verdict {
            failed: vec![None; allowed.len()],
            allowed,
            said: None,
        }
    }

    /// Takes the result of a check; answers where the task's health, or what it needs, changes.
    fn add(&mut self, number: usize, result: Result<(), Failure>) -> Option<News> {
        let before = self.failed[number].take().map_or(0, |(count, _)| count);
        self.failed[number] = Some(match result {
            Ok(()) => (0, Failure::default()),
            Err(failure) => (before + 1, failure),
        });
        let failing = self.failed.iter().flatten().zip(&self.allowed);
        let failing = failing.filter(|((count, _), allowed)| count >= *allowed);
        let failing: Vec<&Failure> = failing.map(|((_, failure), _)| failure).collect();
        let passing = self
            .failed
            .iter()
            .all(|failed| matches!(failed, Some((0, _))));
        let remedy = failing
            .iter()
            .fold(None, |more, failure| Remedy::most(more, failure.remedy));
        let healthy = match (failing.is_empty(), passing) {
            (false, _) => false,
            (true, true) => true,
            (true, false) => return None,
        };
        if self.said == Some((healthy, remedy)) {
            return None;
        }
        self.said = Some((healthy, remedy));
        // The reason is the check that asks for it.
        let reason = failing.into_iter().find(|failure| failure.remedy == remedy);
        Some(News {
            healthy,
            detail: reason.map_or(String::new(), |failure| failure.detail.clone()),
            remedy,
        })
    }
}

async fn ask(
    agent: &Agent,
    assignment: &Assignment,
    check: &HealthCheck,
    bound: &mut Option<Bound>,
    folder: &Path,
) -> Result<(), Failure> {
    let limit = check.timeout().as_duration();
    let asked = async {
        match check {
            HealthCheck::Http(check) => {
                http(
                    port(assignment, &check.port)?,
                    &check.path,
                    "1.1",
                    ANSWER_BYTES_MAX,
                )
                .await?;
            }
            HealthCheck::Tcp(check) => drop(connect(port(assignment, &check.port)?).await?),
            HealthCheck::Command(check) => {
                session::command(&agent.helper, folder, &check.command.0).await?;
            }
            HealthCheck::Metric(check) => {
                let Some(bound) = bound else { return Ok(None) };
                let page = match (&check.port, &check.file) {
                    (Some(name), _) => page(port(assignment, name)?, &check.path).await?,
                    (None, Some(file)) => {
                        bound
                            .read_file(&agent.file_readers, folder, &file.0)
                            .await?
                    }
                    (None, None) => return Err("it names neither a page nor a file".to_owned()),
                };
                return bound.check(&page, Instant::now());
            }
        }
        Ok(None)
    };
    let late = |_| Err(format!("no answer within {}", check.timeout()));
    match timeout(limit, asked).await.unwrap_or_else(late)? {
        Some(detail) => Err(Failure {
            detail,
            remedy: bound.as_ref().and_then(Bound::remedy),
        }),
        None => Ok(()),
    }
}

fn port(assignment: &Assignment, name: &tw_model::PortName) -> Result<u16, String> {
    assignment
        .task
        .ports
        .get(name)
        .copied()
        .ok_or_else(|| format!("the task has no port '{name}'"))
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    TcpStream::connect(("127.0.0.1", port))
        .await
        .map_err(|cause| format!("port {port}: {cause}"))
}

/// A page of metrics. Asked for in HTTP/1.0, whose answers come in one piece.
async fn page(port: u16, path: &str) -> Result<String, String> {
    let answer = http(port, path, "1.0", metric::PAGE_BYTES_MAX).await?;
    let text = String::from_utf8_lossy(&answer);
    let body = text
        .split_once("\r\n\r\n")
        .or_else(|| text.split_once("\n\n"));
    Ok(body.map_or("", |(_, body)| body).to_owned())
}

/// Asks with GET; answers all that came, of an answer that says that all is well.
async fn http(port: u16, path: &str, version: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut stream = connect(port).await?;
    let request = format!(
        "GET {path} HTTP/{version}\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: twill-health\r\nConnection: close\r\n\r\n"
    );
    let broke = |cause: std::io::Error| format!("GET {path} on port {port}: {cause}");
    stream.write_all(request.as_bytes()).await.map_err(broke)?;
    let mut answer = Vec::new();
    // Read to its end, so that the server does not see its caller hang up.
    (&mut stream)
        .take(bytes_max)
        .read_to_end(&mut answer)
        .await
        .map_err(broke)?;
    let line = String::from_utf8_lossy(
        answer
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default(),
    );
    let status: Option<u16> = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    match status {
        Some(200..=399) if line.starts_with("HTTP/1") => Ok(answer),
        Some(status) => Err(format!("GET {path} on port {port} answered {status}")),
        None => Err(format!("GET {path} on port {port} did not answer in HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(words: &str) -> Result<(), Failure> {
        Err(words.to_owned().into())
    }

    fn news(healthy: bool, detail: &str, remedy: Option<Remedy>) -> Option<News> {
        let detail = detail.to_owned();
        Some(News {
            healthy,
            detail,
            remedy,
        })
    }

    #[test]
    fn a_task_is_healthy_when_all_checks_pass_and_unhealthy_when_one_fails_often_enough() {
        let mut verdict = Verdict::new(vec![1, 2]);
        let well = || news(true, "", None);
        assert_eq!(verdict.add(0, Ok(())), None);
        assert_eq!(verdict.add(1, Ok(())), well());
        assert_eq!(verdict.add(1, bad("slow")), None);
        assert_eq!(verdict.add(1, bad("slow")), news(false, "slow", None));
        assert_eq!(verdict.add(0, Ok(())), None);
        assert_eq!(verdict.add(1, Ok(())), well());
    }

    #[test]
    fn a_task_that_never_passes_becomes_unhealthy() {
        let mut verdict = Verdict::new(vec![2]);
        assert_eq!(verdict.add(0, bad("refused")), None);
        assert_eq!(verdict.add(0, bad("refused")), news(false, "refused", None));
    }

    #[test]
    fn the_check_that_asks_for_most_decides_and_gives_the_reason() {
        let mut verdict = Verdict::new(vec![1, 1, 1]);
        let beyond = |detail: &str, remedy| {
            Err(Failure {
                detail: detail.to_owned(),
                remedy,
            })
        };
        assert_eq!(verdict.add(0, bad("slow")), news(false, "slow", None));
        assert_eq!(
            verdict.add(1, beyond("errors", Some(Remedy::Restart))),
            news(false, "errors", Some(Remedy::Restart))
        );
        assert_eq!(
            verdict.add(2, beyond("disk", Some(Remedy::Move))),
            news(false, "disk", Some(Remedy::Move))
        );
        assert_eq!(
            verdict.add(2, Ok(())),
            news(false, "errors", Some(Remedy::Restart))
        );
        assert_eq!(verdict.add(1, Ok(())), news(false, "slow", None));
    }
}
