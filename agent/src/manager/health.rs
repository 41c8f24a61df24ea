//! Health checks: asked from outside the task, one loop a check, one verdict a task.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tw_api::Assignment;
use tw_model::{HealthCheck, Phase};

use super::{Agent, session};

/// The most that is read of an HTTP answer; its status is in the first line.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Checks a task until this future is dropped, and reports each change of its health.
pub(super) async fn watch(agent: Arc<Agent>, assignment: Arc<Assignment>, folder: PathBuf) {
    let checks = &assignment.spec.health;
    let (results, mut received) = mpsc::channel(checks.len().max(1));
    let loops = tokio::task::JoinSet::from_iter(checks.iter().cloned().enumerate().map(
        |(number, check)| {
            let (agent, assignment) = (Arc::clone(&agent), Arc::clone(&assignment));
            let (folder, results) = (folder.clone(), results.clone());
            async move {
                loop {
                    let result = ask(&agent, &assignment, &check, &folder).await;
                    if results.send((number, result)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(check.every().as_duration()).await;
                }
            }
        },
    ));
    let mut verdict = Verdict::new(checks.iter().map(HealthCheck::failures).collect());
    while let Some((number, result)) = received.recv().await {
        if let Some((healthy, detail)) = verdict.add(number, result) {
            agent
                .reports
                .add(&assignment.task.id, Phase::Health { healthy, detail });
        }
    }
    drop(loops);
}

/// What the checks of a task come to.
struct Verdict {
    /// Failures in a row that each check is allowed before it counts.
    allowed: Vec<u32>,
    /// Failures in a row; none before the first answer.
    failed: Vec<Option<u32>>,
    healthy: Option<bool>,
}

impl Verdict {
    fn new(allowed: Vec<u32>) -> Verdict {
        Verdict {
            failed: vec![None; allowed.len()],
            allowed,
            healthy: None,
        }
    }

    /// Takes the result of a check; answers where the task's health changes.
    fn add(&mut self, number: usize, result: Result<(), String>) -> Option<(bool, String)> {
        let detail = match result {
            Ok(()) => {
                self.failed[number] = Some(0);
                String::new()
            }
            Err(detail) => {
                self.failed[number] = Some(self.failed[number].unwrap_or(0) + 1);
                detail
            }
        };
        let failing = self
            .failed
            .iter()
            .zip(&self.allowed)
            .any(|(failed, allowed)| failed.is_some_and(|count| count >= *allowed));
        let passing = self.failed.iter().all(|failed| *failed == Some(0));
        let now = match (failing, passing) {
            (true, _) => false,
            (false, true) => true,
            (false, false) => return None,
        };
        if self.healthy == Some(now) {
            return None;
        }
        self.healthy = Some(now);
        Some((now, detail))
    }
}

async fn ask(
    agent: &Agent,
    assignment: &Assignment,
    check: &HealthCheck,
    folder: &std::path::Path,
) -> Result<(), String> {
    let limit = check.timeout().as_duration();
    let asked = async {
        match check {
            HealthCheck::Http(check) => http(port(assignment, &check.port)?, &check.path).await,
            HealthCheck::Tcp(check) => connect(port(assignment, &check.port)?).await.map(drop),
            HealthCheck::Command(check) => {
                session::command(&agent.helper, folder, &check.command.0).await
            }
        }
    };
    timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {}", check.timeout())))
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

async fn http(port: u16, path: &str) -> Result<(), String> {
    let mut stream = connect(port).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: twill-health\r\nConnection: close\r\n\r\n"
    );
    let broke = |cause: std::io::Error| format!("GET {path} on port {port}: {cause}");
    stream.write_all(request.as_bytes()).await.map_err(broke)?;
    let mut answer = Vec::new();
    // Read to its end, so that the server does not see its caller hang up.
    (&mut stream)
        .take(ANSWER_BYTES_MAX)
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
        Some(200..=399) if line.starts_with("HTTP/1") => Ok(()),
        Some(status) => Err(format!("GET {path} on port {port} answered {status}")),
        None => Err(format!("GET {path} on port {port} did not answer in HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_healthy_when_all_checks_pass_and_unhealthy_when_one_fails_often_enough() {
        let mut verdict = Verdict::new(vec![1, 2]);
        assert_eq!(verdict.add(0, Ok(())), None);
        assert_eq!(verdict.add(1, Ok(())), Some((true, String::new())));
        assert_eq!(verdict.add(1, Err("slow".to_owned())), None);
        assert_eq!(
            verdict.add(1, Err("slow".to_owned())),
            Some((false, "slow".to_owned()))
        );
        assert_eq!(verdict.add(0, Ok(())), None);
        assert_eq!(verdict.add(1, Ok(())), Some((true, String::new())));
    }

    #[test]
    fn a_task_that_never_passes_becomes_unhealthy() {
        let mut verdict = Verdict::new(vec![2]);
        assert_eq!(verdict.add(0, Err("refused".to_owned())), None);
        assert_eq!(
            verdict.add(0, Err("refused".to_owned())),
            Some((false, "refused".to_owned()))
        );
    }
}
