//! `tw repos`

use std::process::ExitCode;

use tw_api::{Client, RepositoriesReply, RepositoryStatus};
use tw_model::{CommitRef, Name};
use tw_spec::visible;

use crate::context::Context;
use crate::failure::advice;
use crate::table::Table;
use crate::text::{self, BOLD, DIM, GREEN, RED, YELLOW, painted};

/// Show the repositories whose branches are followed, or look at one of them now
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The repository, for its events and what is wrong with it; without it all are listed
    name: Option<Name>,
    /// Fetch the branch now, instead of when it is due
    #[arg(long, requires = "name")]
    fetch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    match args.name {
        None => {
            let reply: RepositoriesReply = client.get("/v1/repositories").await?;
            match args.json {
                true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
                false => print_all(&reply.repositories),
            }
        }
        Some(name) => {
            let repository = match args.fetch {
                true => fetch(&client, &name).await?,
                false => find(&client, &name).await?,
            };
            match args.json {
                true => anstream::println!("{}", serde_json::to_string_pretty(&repository)?),
                false => print_one(&repository),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn fetch(client: &Client, name: &Name) -> anyhow::Result<RepositoryStatus> {
    let path = format!("/v1/repositories/{name}/fetch");
    Ok(client.post(&path, &serde_json::json!({})).await?)
}

async fn find(client: &Client, name: &Name) -> anyhow::Result<RepositoryStatus> {
    let reply: RepositoriesReply = client.get("/v1/repositories").await?;
    let mut repositories = reply.repositories.into_iter();
    repositories
        .find(|repository| repository.name == *name)
        .ok_or_else(|| {
            advice(
                format!("no repository '{name}' is followed"),
                "`tw repos` lists those of twill.toml",
            )
        })
}

fn print_all(repositories: &[RepositoryStatus]) {
    if repositories.is_empty() {
        anstream::println!("No branch is followed. [[repository]] in twill.toml names one.");
        return;
    }
    let mut table = Table::new(&[
        "REPOSITORY",
        "BRANCH",
        "NAMESPACE",
        "MODE",
        "HEAD",
        "APPLIED",
        "FETCHED",
        "STATE",
    ]);
    for repository in repositories {
        table.row(vec![
            repository.name.to_string(),
            repository.branch.clone(),
            repository.namespace.to_string(),
            repository.mode.to_string(),
            short(&repository.head),
            short(&repository.applied),
            repository
                .fetched_at
                .map(|at| at.to_string())
                .unwrap_or_default(),
            state(repository),
        ]);
    }
    table.print();
    for repository in repositories {
        if let Some(trouble) = &repository.trouble {
            let first = trouble.message.lines().next().unwrap_or_default();
            anstream::println!("{DIM}{}: {}{DIM:#}", repository.name, visible(first));
        }
    }
}

fn print_one(repository: &RepositoryStatus) {
    anstream::println!(
        "{BOLD}{}{BOLD:#} {} branch {} into namespace {}, {}: {}",
        repository.name,
        visible(&repository.url),
        repository.branch,
        repository.namespace,
        repository.mode,
        state(repository)
    );
    if let Some(head) = &repository.head {
        anstream::println!("head     {}", commit(head));
    }
    if let Some(applied) = &repository.applied {
        let at = repository.applied_at.map(|at| format!(" at {at}"));
        anstream::println!(
            "applied  {}{}: {}",
            commit(applied),
            at.unwrap_or_default(),
            text::count(repository.jobs, "job")
        );
    }
    for digest in &repository.waiting {
        anstream::println!(
            "waiting  plan {digest}; `tw plans {}` shows it",
            &digest[..12]
        );
    }
    for rule in &repository.reviewed {
        anstream::println!("reviewed commits alone, says {rule}");
    }
    if let Some(trouble) = &repository.trouble {
        anstream::println!("{RED}{}{RED:#} since {}", trouble.code, trouble.since);
        for line in trouble.message.lines() {
            anstream::println!("  {}", visible(line));
        }
    }
    for event in &repository.events {
        anstream::println!(
            "{DIM}{}{DIM:#}  {:<22}  {}",
            event.at,
            event.kind,
            visible(&event.message)
        );
    }
}

fn commit(commit: &CommitRef) -> String {
    format!(
        "{} {} ({})",
        commit.short(),
        visible(&commit.subject),
        visible(&commit.author)
    )
}

fn short(commit: &Option<CommitRef>) -> String {
    commit
        .as_ref()
        .map(|commit| commit.short().to_owned())
        .unwrap_or_default()
}

fn state(repository: &RepositoryStatus) -> String {
    match &repository.trouble {
        Some(trouble) => painted(RED, format!("{} since {}", trouble.code, trouble.since)),
        None if !repository.waiting.is_empty() => painted(
            YELLOW,
            format!("{} waiting", text::count(repository.waiting.len(), "plan")),
        ),
        None if repository.head.is_none() => painted(YELLOW, "not fetched yet"),
        None if repository.head != repository.applied => painted(YELLOW, "not applied"),
        None => painted(GREEN, "applied"),
    }
}
