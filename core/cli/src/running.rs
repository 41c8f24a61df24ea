//! What runs in the cluster, as its controller tells it.

use tw_api::{Client, JobsReply, SpecReply};
use tw_model::JobId;
use tw_spec::RunningJob;

use crate::context::job_path;

/// The jobs that are wanted now, each with its spec and where that came from.
pub(crate) async fn jobs(client: &Client) -> anyhow::Result<Vec<RunningJob>> {
    let reply: JobsReply = client.get("/v1/jobs").await?;
    let mut jobs = Vec::new();
    for job in reply.jobs.into_iter().filter(|job| !job.stopped) {
        let id = JobId::new(job.namespace, job.name);
        jobs.push(self::job(client, &id).await?);
    }
    Ok(jobs)
}

/// One job as it is wanted now.
pub(crate) async fn job(client: &Client, id: &JobId) -> anyhow::Result<RunningJob> {
    let spec: SpecReply = client.get(&format!("{}/spec", job_path(id))).await?;
    Ok(RunningJob {
        spec: spec.job.spec,
        source: spec.job.source,
    })
}
