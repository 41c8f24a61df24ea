//! `tw-agent`: one on each machine.

use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tw_agent::manager::volume::Volumes;
use tw_agent::manager::{self, AgentConfig, ControllerAddress, Place, ordinary, upgrade};
use tw_model::{Bytes, Cores, JobId, MachineId};

/// How long work that is under way may take when the agent ends.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Runs the tasks that a controller assigns to this machine.
#[derive(Debug, Parser)]
#[command(name = "tw-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground; tasks outlive it
    Run(Box<RunArgs>),
    /// Say what tasks of this user would lack here: nothing for root. Fails where they would have no sandbox
    Check {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
    /// Let a running agent begin anew with the program that is installed now; its tasks go on
    Upgrade {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
    /// Show the volumes of an agent, or put one back to what a version of its job left
    Volumes(VolumesArgs),
    /// End every task of an agent that does not run, and remove its cgroups
    Clean {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        #[arg(long, value_name = "NAME")]
        cgroup: String,
    },
}

#[derive(Debug, clap::Args)]
struct VolumesArgs {
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Whose volume is rolled back, such as web.0
    #[arg(long, value_name = "TASK", value_parser = parse_task)]
    task: Option<(JobId, u32)>,
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
    /// The version of the job whose data it shall have again; none of its tasks may run
    #[arg(long, value_name = "VERSION")]
    roll_back_to: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The machine's name
    #[arg(long)]
    name: MachineId,
    /// Where the agent keeps everything
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// unix:PATH, or http://ADDRESS:PORT with --token-file
    #[arg(long, value_name = "URL")]
    controller: String,
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The agent's subtree in the cgroup hierarchies
    #[arg(long, value_name = "NAME", default_value = "twill")]
    cgroup: String,
    /// Cores that tasks may be given [default: all]
    #[arg(long, value_name = "CORES")]
    cpu: Option<f64>,
    /// Memory that tasks may be given, in bytes [default: all]
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// Disk that tasks may be given, in bytes [default: what is free]
    #[arg(long, value_name = "BYTES")]
    disk: Option<u64>,
    /// Network bandwidth that may be kept free for tasks, in bytes per second [default: the fastest interface's]
    #[arg(long, value_name = "BYTES")]
    bandwidth: Option<u64>,
    /// Where the machine stands, as jobs may be spread over racks, clusters, data centres and regions
    #[arg(long, default_value = "")]
    rack: String,
    #[arg(long, default_value = "")]
    cluster: String,
    #[arg(long, default_value = "")]
    datacenter: String,
    #[arg(long, default_value = "")]
    region: String,
    /// The host profile that the machine is in
    #[arg(long, default_value = "")]
    profile: String,
    /// A label that jobs may require; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Platform runtimes for tasks, as NAME/VERSION
    #[arg(long, value_name = "DIR", default_value = "/opt/twill/runtimes")]
    runtimes: PathBuf,
    /// Where tasks of this machine are reached
    #[arg(long, default_value = "127.0.0.1")]
    address: String,
    /// Serve a page of metrics for Prometheus at http://ADDRESS:PORT/metrics, to everyone who can reach it
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<std::net::SocketAddr>,
    /// Ports that tasks may be given, FIRST-LAST
    #[arg(long, value_name = "RANGE", default_value = "20000-29999", value_parser = parse_ports)]
    ports: (u16, u16),
    /// Say whether this program could run so, and change nothing: asked of it before a running agent makes room for it
    #[arg(long)]
    check: bool,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not a label such as disk=nvme")),
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let refuse = || format!("'{text}' is not a range of ports such as 20000-29999");
    let (first, last) = text.split_once('-').ok_or_else(refuse)?;
    let (first, last) = (
        first.parse().map_err(|_| refuse())?,
        last.parse().map_err(|_| refuse())?,
    );
    match first <= last {
        true => Ok((first, last)),
        false => Err(refuse()),
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print();
            return ExitCode::from(u8::from(usage.use_stderr()));
        }
    };
    start_log();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            tracing::error!("{cause:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let args = match command {
        Command::Check { state } => return check(&state),
        Command::Clean { state, cgroup } => return manager::clean(&state, &cgroup),
        Command::Upgrade { state } => return upgrade(&state),
        Command::Volumes(args) => return volumes(&args),
        Command::Run(args) => *args,
    };
    let is_check = args.check;
    let config = AgentConfig {
        controller: controller(&args)?,
        name: args.name,
        state: std::path::absolute(args.state)?,
        cgroup: args.cgroup,
        cpu: args.cpu.map(|cores| Cores((cores * 1000.0) as u64)),
        memory: args.memory.map(Bytes),
        disk: args.disk.map(Bytes),
        bandwidth: args.bandwidth.map(Bytes),
        place: Place {
            rack: args.rack,
            cluster: args.cluster,
            datacenter: args.datacenter,
            region: args.region,
            profile: args.profile,
            labels: args.label.into_iter().collect(),
        },
        runtimes: args.runtimes,
        address: args.address,
        metrics: args.metrics,
        ports: args.ports,
    };
    if is_check {
        return check_run(&config);
    }
    let state = config.state.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut is_upgrade = false;
        let shutdown = async {
            while !is_upgrade {
                tokio::select! {
                    _ = term.recv() => break,
                    _ = int.recv() => break,
                    _ = hangup.recv() => is_upgrade = upgrade::is_possible(&state).await,
                }
            }
        };
        manager::run(config, shutdown).await?;
        match is_upgrade {
            true => Err(begin_anew()),
            false => Ok(()),
        }
    });
    // What reads a file that never answers is not waited for.
    runtime.shutdown_timeout(ENDS_WITHIN);
    ended
}

fn check(state: &Path) -> anyhow::Result<()> {
    for lack in ordinary::lacks(&std::path::absolute(state)?)? {
        let line = format!("{}\t{}\n", lack.what, lack.remedy);
        std::io::stdout().write_all(line.as_bytes())?;
    }
    Ok(())
}

/// Says that this program can take over from a running agent.
fn check_run(config: &AgentConfig) -> anyhow::Result<()> {
    manager::check_run(config)?;
    let line = format!("{} can run\n", upgrade::program_version());
    Ok(std::io::stdout().write_all(line.as_bytes())?)
}

fn upgrade(state: &Path) -> anyhow::Result<()> {
    let version = upgrade::ask(state)?;
    let line = format!("the agent in {} is {version} now\n", state.display());
    Ok(std::io::stdout().write_all(line.as_bytes())?)
}

/// Begins anew as the program that is at the place this one was started from.
fn begin_anew() -> anyhow::Error {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let cause = std::process::Command::new(&program).args(arguments).exec();
    anyhow::Error::new(cause).context(format!("cannot run {}", program.display()))
}

fn volumes(args: &VolumesArgs) -> anyhow::Result<()> {
    let volumes = Volumes::beside_agent(&args.state.join("volumes"));
    let Some((job, index)) = &args.task else {
        for volume in volumes.list()? {
            let record = &volume.record;
            let line = format!(
                "{}.{} {} {} used by version {}, snapshots of {:?}\n",
                record.job,
                record.index,
                record.name,
                record.size,
                record.version,
                volume.snapshots()
            );
            std::io::stdout().write_all(line.as_bytes())?;
        }
        return Ok(());
    };
    let (Some(name), Some(version)) = (&args.volume, args.roll_back_to) else {
        anyhow::bail!("--task goes with --volume and --roll-back-to");
    };
    volumes
        .get(job, *index, name)?
        .roll_back(version, &args.state.join("tasks"))?;
    Ok(())
}

fn parse_task(text: &str) -> Result<(JobId, u32), String> {
    let refuse = || format!("'{text}' is not a task such as web.0");
    let (job, index) = text.rsplit_once('.').ok_or_else(refuse)?;
    Ok((
        job.parse().map_err(|_| refuse())?,
        index.parse().map_err(|_| refuse())?,
    ))
}

fn controller(args: &RunArgs) -> anyhow::Result<ControllerAddress> {
    if let Some(path) = args.controller.strip_prefix("unix:") {
        return Ok(ControllerAddress::Unix(path.into()));
    }
    let address = args
        .controller
        .strip_prefix("http://")
        .and_then(|address| address.parse().ok());
    match (address, &args.token_file) {
        (Some(address), Some(token_file)) => Ok(ControllerAddress::Tcp {
            address,
            token_file: token_file.clone(),
        }),
        (Some(_), None) => anyhow::bail!("a controller over TCP needs --token-file"),
        (None, _) => anyhow::bail!(
            "'{}' is not a controller: use unix:PATH or http://ADDRESS:PORT",
            args.controller
        ),
    }
}

/// Text on a terminal, JSON otherwise; `TW_LOG` sets the level.
fn start_log() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("TW_LOG").unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match std::io::stderr().is_terminal() {
        true => log.init(),
        false => log.json().init(),
    }
}
