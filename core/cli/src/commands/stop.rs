//! `tw stop`

use std::process::ExitCode;

use tw_model::JobId;

use crate::context::{Context, job_path};

/// Stop jobs: their tasks end, each with its grace, and are not started again
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Jobs, as NAME or NAMESPACE/NAME
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<JobId>,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    for job in &args.jobs {
        let _: serde_json::Value = client
            .post(&format!("{}/stop", job_path(job)), &serde_json::json!({}))
            .await?;
        anstream::println!("{job} is stopping");
    }
    Ok(ExitCode::SUCCESS)
}
