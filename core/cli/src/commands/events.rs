//! `tw events`

use std::process::ExitCode;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tw_api::{Client, EventsReply, RepositoriesReply};
use tw_model::{EventRecord, JobId, Name, RepositoryEvent};
use tw_spec::visible;

use crate::context::{Context, job_path};
use crate::failure::advice;
use crate::reader;
use crate::text::{BOLD, DIM};

/// How often what follows is looked for.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

/// Show what happened to a job, or to the branches that are followed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME; without it the commits and plans of repositories are listed
    job: Option<JobId>,
    /// Only the commits and plans of this repository
    #[arg(long, value_name = "NAME", conflicts_with = "job")]
    repository: Option<Name>,
    /// Go on with what happens next
    #[arg(short, long)]
    follow: bool,
    /// Print JSON; one event a line with --follow
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    match &args.job {
        Some(job) => of_job(job, &args, &client).await,
        None => of_repositories(&args, &client).await,
    }
}

async fn of_job(job: &JobId, args: &Args, client: &Client) -> anyhow::Result<ExitCode> {
    let path = format!("{}/events", job_path(job));
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
    while reader::is_there() {
        tokio::time::sleep(FOLLOW_EVERY).await;
        let reply: EventsReply = client.get(&after(&path, last)).await?;
        reply.events.iter().for_each(show);
        last = reply.events.last().map(|event| event.seq).or(last);
    }
    Ok(ExitCode::SUCCESS)
}

/// An event of a repository, as it is printed.
#[derive(Serialize)]
struct OfRepository {
    repository: Name,
    #[serde(flatten)]
    event: RepositoryEvent,
}

async fn of_repositories(args: &Args, client: &Client) -> anyhow::Result<ExitCode> {
    let events = repository_events(args, client).await?;
    if args.json && !args.follow {
        let answer = serde_json::json!({"version": 1, "events": events});
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    let show = |event: &OfRepository| match args.json {
        true => anstream::println!("{}", serde_json::to_string(event).unwrap_or_default()),
        false => anstream::println!(
            "{DIM}{}{DIM:#} {BOLD}{}{BOLD:#} {:<22} {}",
            event.event.at,
            event.repository,
            event.event.kind,
            visible(&event.event.message)
        ),
    };
    events.iter().for_each(show);
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let key = |one: &OfRepository| {
        let RepositoryEvent { at, kind, message } = &one.event;
        (one.repository.clone(), *at, kind.clone(), message.clone())
    };
    let mut shown: BTreeSet<_> = events.iter().map(key).collect();
    while reader::is_there() {
        tokio::time::sleep(FOLLOW_EVERY).await;
        let events = repository_events(args, client).await?;
        let fresh = events.iter().filter(|event| !shown.contains(&key(event)));
        fresh.for_each(show);
        shown = events.iter().map(key).collect();
    }
    Ok(ExitCode::SUCCESS)
}

/// What the controller keeps of repositories, in the order of time.
async fn repository_events(args: &Args, client: &Client) -> anyhow::Result<Vec<OfRepository>> {
    let reply: RepositoriesReply = client.get("/v1/repositories").await?;
    let wanted = |name: &Name| args.repository.as_ref().is_none_or(|one| one == name);
    let mut repositories = reply.repositories;
    repositories.retain(|repository| wanted(&repository.name));
    if repositories.is_empty() {
        return Err(match &args.repository {
            Some(name) => advice(
                format!("no repository '{name}' is followed"),
                "`tw repos` lists those of twill.toml",
            ),
            None => advice(
                "no branch is followed, so that there are events of jobs alone",
                "name a job: `tw events JOB`",
            ),
        });
    }
    let mut events = Vec::new();
    for repository in repositories {
        let name = repository.name;
        events.extend(repository.events.into_iter().map(|event| OfRepository {
            repository: name.clone(),
            event,
        }));
    }
    events.sort_by_key(|one| one.event.at);
    Ok(events)
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
