//! `tw rollback`

use std::process::ExitCode;

use tw_api::{ApproveReply, PlanReply, RollbackRequest};
use tw_controller::plan::Plan;
use tw_model::JobId;

use super::approve::Who;
use super::{apply, plans};
use crate::context::{Context, job_path};
use crate::failure::advice;

/// Bring a job back to how a commit of its branch has it
///
/// The controller evaluates that commit and plans the job; the plan is shown, asked for, and applied like any other.
/// The branch stays as it is: revert the commit there as well, or its next one brings the job forward again. A job that
/// follows no branch goes back to a version that ran before with `tw rollout rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME
    job: JobId,
    /// The commit, by any expression of git; HEAD is the newest one of the branch
    #[arg(long, value_name = "REV")]
    to: String,
    /// Do not ask
    #[arg(long)]
    auto_approve: bool,
    #[command(flatten)]
    who: Who,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let path = format!("{}/rollback", job_path(&args.job));
    let request = RollbackRequest { revision: args.to };
    let reply: PlanReply = client.post(&path, &request).await?;
    let plan: Option<Plan> = reply.plan.clone().map(serde_json::from_value).transpose()?;
    if plan.is_none_or(|plan| plan.jobs.is_empty()) {
        anstream::println!(
            "Nothing to do: {} is as {} has it.",
            args.job,
            reply.record.commit.short()
        );
        return Ok(ExitCode::SUCCESS);
    }
    plans::print(&reply)?;
    let digest = &reply.record.digest;
    if !args.auto_approve && !apply::confirmed()? {
        anstream::println!(
            "Nothing was applied; the plan waits: `tw approve {}`.",
            &digest[..12]
        );
        return Ok(ExitCode::FAILURE);
    }
    let path = format!("/v1/plans/{digest}/approve");
    let reply: ApproveReply = client.post(&path, &args.who.request()).await?;
    match reply.jobs.first() {
        Some(job) => anstream::println!(
            "Applied: {} goes back, as version {}.",
            job.job,
            job.version
        ),
        None => return Err(advice("nothing was applied", "`tw plans --all` says why")),
    }
    Ok(ExitCode::SUCCESS)
}
