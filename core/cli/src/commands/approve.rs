//! `tw approve` and `tw reject`

use std::process::ExitCode;

use tw_api::{ApproveReply, DecideRequest, PlanReply};

use super::plans;
use crate::context::Context;
use crate::text::count;

/// Have a plan that waits applied, if it is still what would happen
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plan, by its digest or the first digits of it; `tw plans` lists those that wait
    plan: String,
    #[command(flatten)]
    who: Who,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Have a plan that waits never applied
#[derive(Debug, clap::Args)]
pub(crate) struct RejectArgs {
    /// The plan, by its digest or the first digits of it
    plan: String,
    #[command(flatten)]
    who: Who,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Who decides, for the history of the jobs.
#[derive(Debug, clap::Args)]
pub(crate) struct Who {
    /// The name to keep beside the user that the controller sees [default: the user behind sudo]
    #[arg(
        long = "as",
        env = "SUDO_USER",
        hide_env = true,
        value_name = "NAME",
        default_value = ""
    )]
    name: String,
    /// Why, in words for those who look back
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl Who {
    pub(crate) fn request(self) -> DecideRequest {
        DecideRequest {
            name: self.name,
            reason: self.reason,
        }
    }
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let digest = plans::find(&client, &args.plan).await?;
    let path = format!("/v1/plans/{digest}/approve");
    let reply: ApproveReply = client.post(&path, &args.who.request()).await?;
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
        false => anstream::println!(
            "Applied plan {}: {}.",
            &digest[..12],
            count(reply.jobs.len(), "job")
        ),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn reject(args: RejectArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let digest = plans::find(&client, &args.plan).await?;
    let path = format!("/v1/plans/{digest}/reject");
    let reply: PlanReply = client.post(&path, &args.who.request()).await?;
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
        false => anstream::println!("Rejected plan {}.", &digest[..12]),
    }
    Ok(ExitCode::SUCCESS)
}
