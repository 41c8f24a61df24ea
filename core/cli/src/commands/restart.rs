//! `tw restart`

use std::process::ExitCode;

use tw_model::JobId;

use crate::context::{Context, job_path};

/// Restart the tasks of a job, stage by stage as in an update; of a job with a schedule, begin a run now
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME
    job: JobId,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let path = format!("{}/restart", job_path(&args.job));
    let _: serde_json::Value = context
        .client()?
        .post(&path, &serde_json::json!({}))
        .await?;
    anstream::println!(
        "{} restarts; `tw status {}` shows how far it is",
        args.job,
        args.job
    );
    Ok(ExitCode::SUCCESS)
}
