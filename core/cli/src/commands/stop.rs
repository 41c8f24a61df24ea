//! `tw stop`

use std::process::ExitCode;

use tw_api::{StopReply, StopRequest};
use tw_model::JobId;

use crate::context::Context;

/// Stop jobs: their tasks end, each with its grace, and are not started again
///
/// All of these jobs end, or none: where they hold a large share of all tasks, that has to be confirmed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Jobs, as NAME or NAMESPACE/NAME
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<JobId>,
    /// Confirm that many tasks end, by the digest that the refusal names
    #[arg(long, value_name = "DIGEST")]
    confirm_destructive: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let request = StopRequest {
        jobs: args.jobs,
        confirm_destructive: args.confirm_destructive,
    };
    let _: StopReply = context.client()?.post("/v1/stop", &request).await?;
    for job in &request.jobs {
        anstream::println!("{job} is stopping");
    }
    Ok(ExitCode::SUCCESS)
}
