//! Secrets: fetched for each start, passed on in memory, kept nowhere.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use tw_api::{Assignment, ClientError};
use tw_model::Code;

use super::Agent;
use super::launch::Refusal;
use crate::sandbox::secrets::{SecretValues, seal};

/// The values of the task's secrets, sealed; none for a task that has no secrets.
pub(super) async fn fetch(
    agent: &Agent,
    assignment: &Assignment,
) -> Result<Option<OwnedFd>, Refusal> {
    let (job, secrets) = (&assignment.task.id.job, &assignment.spec.secrets);
    if secrets.is_empty() {
        return Ok(None);
    }
    let mut values = SecretValues::new();
    for secret in secrets {
        let path = format!(
            "/v1/agents/{}/secrets/{}/{}/{}",
            agent.config.name, job.namespace, job.name, secret.name
        );
        let value = agent.client.get_bytes(&path).await.map_err(refusal)?;
        values.insert(secret.name.to_string(), value.into());
    }
    let sealed = seal(&values).context("cannot hold the secrets in memory")?;
    Ok(Some(sealed))
}

fn refusal(cause: ClientError) -> Refusal {
    match cause.refusal() {
        Some(body) if body.code == Code::SecretMissing => {
            let hint = body.hint.iter().map(|hint| format!("; {hint}"));
            Refusal::new(body.code, body.message.clone() + &hint.collect::<String>())
        }
        _ => Refusal::from(anyhow::Error::from(cause).context("cannot fetch a secret")),
    }
}
