//! `tw events`

use std::process::ExitCode;

use tw_api::EventsReply;
use tw_model::{EventRecord, JobId};

use crate::context::{Context, job_path};
use crate::text::{BOLD, DIM};

/// Show what happened to a job
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME
    job: JobId,
    /// Go on with what happens next
    #[arg(short, long)]
    follow: bool,
    /// Print JSON; one event a line with --follow
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let path = format!("{}/events", job_path(&args.job));
    let reply: EventsReply = client.get(&path).await?;
    if args.json && !args.follow {
        anstream::println!("{}", serde_json::to_string_pretty(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    let show = |event: &EventRecord| match args.json {
        true => anstream::println!("{}", serde_json::to_string(event).unwrap_or_default()),
        false => anstream::println!("{}", line(event)),
    };
    reply.events.iter().for_each(show);
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let mut last = reply.events.last().map(|event| event.seq);
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let reply: EventsReply = client.get(&after(&path, last)).await?;
        reply.events.iter().for_each(show);
        last = reply.events.last().map(|event| event.seq).or(last);
    }
}

fn after(path: &str, last: Option<u64>) -> String {
    last.map_or_else(|| path.to_owned(), |seq| format!("{path}?after={seq}"))
}

/// One event as a line of text.
pub(crate) fn line(event: &EventRecord) -> String {
    let task = event
        .task
        .as_ref()
        .map(|task| format!(" {BOLD}{task}{BOLD:#}"))
        .unwrap_or_default();
    let machine = event
        .machine
        .as_ref()
        .map(|machine| format!(" {DIM}on {machine}{DIM:#}"))
        .unwrap_or_default();
    let message = match event.message.is_empty() {
        true => String::new(),
        false => format!(": {}", event.message),
    };
    format!(
        "{DIM}{}{DIM:#} {}{task}{machine}{message}",
        event.at, event.kind
    )
}
