//! `tw`, the one program people type. Each command is a file in `commands`.

mod cache;
mod commands;
mod config;
mod context;
mod failure;
mod follow;
mod junit;
mod log;
mod plan_file;
mod prices;
mod reader;
mod review;
mod running;
mod spec;
mod table;
mod text;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::context::Context;

/// Runs services from source control: evaluates `config.tw` specs, shows what a change would do, and does it.
#[derive(Debug, Parser)]
#[command(
    name = "tw",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Cli {
    /// The state folder of the Twill to talk to [default: the user's state folder]
    #[arg(long, global = true, env = "TW_STATE", value_name = "DIR")]
    state: Option<std::path::PathBuf>,
    /// The configuration file [default: twill.toml in the state folder]
    #[arg(long, global = true, env = "TW_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    #[command(flatten)]
    cache: cache::Args,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(commands::init::Args),
    Import(commands::import::Args),
    Eval(commands::eval::Args),
    Check(commands::check::Args),
    Test(commands::test::Args),
    Diff(commands::diff::Args),
    #[command(hide = true)]
    GitDiff(commands::git_diff::Args),
    History(commands::history::Args),
    Plan(commands::plan::Args),
    Apply(commands::apply::Args),
    Run(commands::run::Args),
    Status(commands::status::Args),
    Logs(commands::logs::Args),
    Exec(commands::exec::Args),
    Cp(commands::cp::Args),
    Stop(commands::stop::Args),
    Restart(commands::restart::Args),
    Rollout(commands::rollout::Args),
    Repos(commands::repos::Args),
    Plans(commands::plans::Args),
    Approve(commands::approve::Args),
    Reject(commands::approve::RejectArgs),
    Rollback(commands::rollback::Args),
    Page(commands::page::Args),
    Events(commands::events::Args),
    Why(commands::why::Args),
    Machines(commands::machines::Args),
    Allowance(commands::allowance::Args),
    Drain(commands::drain::Args),
    Recommend(commands::recommend::Args),
    #[command(subcommand)]
    Secret(commands::secret::Command),
    Simulate(commands::simulate::Args),
    Replay(commands::replay::Args),
    Dev(commands::dev::Args),
    Controller(commands::controller::Args),
    Completions(commands::completions::Args),
}

fn main() -> ExitCode {
    tw_allocator::begin();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print();
            return ExitCode::from(u8::from(usage.use_stderr()));
        }
    };
    if !matches!(cli.command, Command::Controller(_)) {
        log::start("off");
    }
    let context = match Context::new(cli.state, cli.config.as_deref()) {
        Ok(context) => context,
        Err(cause) => return failure::report(&cause),
    };
    cli.cache.settle(context.config().cache.clone());
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(cause) => return failure::report(&cause.into()),
    };
    let outcome = runtime.block_on(run(cli.command, &context));
    // Reads of standard input cannot be cancelled; nothing else is left running.
    runtime.shutdown_background();
    let code = outcome.unwrap_or_else(|cause| failure::report(&cause));
    cache::close();
    code
}

async fn run(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(args) => commands::init::run(args),
        Command::Import(args) => commands::import::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Check(args) => commands::check::run(args),
        Command::Test(args) => commands::test::run(args),
        Command::Diff(args) => commands::diff::run(args, context).await,
        Command::GitDiff(args) => commands::git_diff::run(args),
        Command::History(args) => commands::history::run(args, context).await,
        Command::Plan(args) => commands::plan::run(args, context).await,
        Command::Apply(args) => commands::apply::run(args, context).await,
        Command::Run(args) => commands::run::run(args, context).await,
        Command::Status(args) => commands::status::run(args, context).await,
        Command::Logs(args) => commands::logs::run(args, context).await,
        Command::Exec(args) => commands::exec::run(args, context).await,
        Command::Cp(args) => commands::cp::run(args, context).await,
        Command::Stop(args) => commands::stop::run(args, context).await,
        Command::Restart(args) => commands::restart::run(args, context).await,
        Command::Rollout(args) => commands::rollout::run(args, context).await,
        Command::Why(args) => commands::why::run(args, context).await,
        Command::Repos(args) => commands::repos::run(args, context).await,
        Command::Plans(args) => commands::plans::run(args, context).await,
        Command::Approve(args) => commands::approve::run(args, context).await,
        Command::Reject(args) => commands::approve::reject(args, context).await,
        Command::Page(args) => commands::page::run(args, context).await,
        Command::Rollback(args) => commands::rollback::run(args, context).await,
        Command::Events(args) => commands::events::run(args, context).await,
        Command::Machines(args) => commands::machines::run(args, context).await,
        Command::Allowance(args) => commands::allowance::run(args, context).await,
        Command::Drain(args) => commands::drain::run(args, context).await,
        Command::Recommend(args) => commands::recommend::run(args, context).await,
        Command::Secret(command) => commands::secret::run(command, context).await,
        Command::Simulate(args) => commands::simulate::run(args),
        Command::Replay(args) => commands::replay::run(args),
        Command::Dev(args) => commands::dev::run(args, context).await,
        Command::Controller(args) => commands::controller::run(args, context).await,
        Command::Completions(args) => commands::completions::run(args, Cli::command()),
    }
}
