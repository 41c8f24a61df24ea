//! `tw page`

use std::process::ExitCode;

use tw_api::{PageReply, PageRequest};

use super::plans;
use crate::context::Context;

/// Print an address that lets a browser of this machine look at jobs and plans
///
/// It is good for one use within two minutes; the browser may then look for half a day, and change nothing. From
/// another machine, forward the port with `ssh -L`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plan to show, by its digest or the first digits of it
    plan: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let plan = match &args.plan {
        Some(plan) if plan.len() == 64 => Some(plan.clone()),
        Some(plan) => Some(plans::find(&client, plan).await?),
        None => None,
    };
    let reply: PageReply = client.post("/v1/page", &PageRequest { plan }).await?;
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
        false => anstream::println!("{}", reply.url),
    }
    Ok(ExitCode::SUCCESS)
}
