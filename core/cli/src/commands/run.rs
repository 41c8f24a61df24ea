//! `tw run`

use std::process::ExitCode;
use std::time::Duration;

use super::apply::{self, Submitted};
use crate::context::Context;
use crate::follow;

/// Apply specs, and follow the jobs until they are healthy or have failed
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    apply: apply::Args,
    /// Stop following after this many seconds, with exit code 1
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    match apply::submit(&args.apply, context).await? {
        Submitted::Refused => Ok(ExitCode::FAILURE),
        Submitted::Nothing => Ok(ExitCode::SUCCESS),
        Submitted::Applied(jobs) => {
            let settled =
                follow::until_settled(&context.client()?, &jobs, Duration::from_secs(args.timeout))
                    .await?;
            Ok(ExitCode::from(u8::from(!settled)))
        }
    }
}
