//! `tw rollout`

use std::process::ExitCode;

use clap::Subcommand;
use tw_api::{RolloutReply, RolloutRequest};
use tw_model::{JobId, Version};

use crate::context::{Context, job_path};

/// Pause, resume, abort or roll back the update of a job
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Take no further step until the update is resumed
    Pause(Job),
    /// Go on with a paused update, or try a halted one again
    Resume(Job),
    /// End the update where it is: some tasks have the new version, the others keep theirs
    Abort(Job),
    /// Go back to the last version that all tasks ran healthily, or to one that is named
    ///
    /// A job that follows a branch goes back to one of its commits with `tw rollback`.
    Rollback {
        #[command(flatten)]
        job: Job,
        /// The version to go back to, as `tw status JOB --json` and the job's events number it
        #[arg(long, value_name = "VERSION")]
        to: Option<Version>,
    },
}

#[derive(Debug, clap::Args)]
struct Job {
    /// The job, as NAME or NAMESPACE/NAME
    job: JobId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (job, request) = match args.order {
        Order::Pause(job) => (job, RolloutRequest::Pause),
        Order::Resume(job) => (job, RolloutRequest::Resume),
        Order::Abort(job) => (job, RolloutRequest::Abort),
        Order::Rollback { job, to } => (job, RolloutRequest::Rollback { to }),
    };
    let Job { job, json } = job;
    let path = format!("{}/rollout", job_path(&job));
    let reply: RolloutReply = context.client()?.post(&path, &request).await?;
    if json {
        anstream::println!("{}", serde_json::to_string(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    let version = reply.job_version;
    let done = match request {
        RolloutRequest::Pause => format!("the update to version {version} waits"),
        RolloutRequest::Resume => format!("the update to version {version} goes on"),
        RolloutRequest::Abort => format!("the update to version {version} has ended where it is"),
        RolloutRequest::Rollback { .. } => format!("goes back, as version {version}"),
    };
    anstream::println!("{job}: {done}; `tw status {job}` shows how far it is");
    Ok(ExitCode::SUCCESS)
}
