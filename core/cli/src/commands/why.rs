//! `tw why`

use std::process::ExitCode;

use tw_api::{WaitingTasks, WhyReply};
use tw_model::JobId;

use crate::context::{Context, job_path};
use crate::text::count;

/// Say why tasks of a job wait, as it is now, and the smallest change that would let them run
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME
    #[arg(value_name = "JOB")]
    job: JobId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let path = format!("{}/why", job_path(&args.job));
    let reply: WhyReply = context.client()?.get(&path).await?;
    if args.json {
        anstream::println!("{}", serde_json::to_string_pretty(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    if reply.waiting.is_empty() {
        anstream::println!("No task of {} waits.", reply.job);
    }
    for waiting in &reply.waiting {
        anstream::println!(
            "{} of {} ({}): {}",
            count(waiting.indexes.len(), "task"),
            reply.job,
            indexes(waiting),
            waiting.message
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The indexes of the tasks, runs of them as `2-5`.
fn indexes(waiting: &WaitingTasks) -> String {
    let runs = waiting.indexes.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        one => one[0].to_string(),
    });
    runs.collect::<Vec<_>>().join(", ")
}
