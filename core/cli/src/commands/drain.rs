//! `tw drain`

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use tw_api::{Client, DrainReply, DrainRequest, JobsReply, MachineStatus, MachinesReply};
use tw_model::{MachineId, Millis, Timestamp};

use crate::context::Context;
use crate::failure::advice;

const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Empty machines for maintenance: their tasks move within their jobs' budgets, and nothing new is placed there
///
/// A machine keeps empty until the drain is cancelled, also when it restarts. Without a deadline, tasks for which
/// there is no room elsewhere stay; with one, the machines are empty by then.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct Args {
    /// Machines, as `tw machines` lists them
    #[arg(value_name = "MACHINE", group = "which")]
    machines: Vec<MachineId>,
    /// All machines of a rack
    #[arg(long, value_name = "RACK", group = "which")]
    rack: Vec<String>,
    /// When the machines must be empty, from now on, such as 30m or 2h
    #[arg(long, value_name = "TIME", conflicts_with = "cancel")]
    deadline: Option<Millis>,
    /// All machines of a cluster
    #[arg(long, value_name = "CLUSTER", group = "which")]
    cluster: Vec<String>,
    /// All machines
    #[arg(long, group = "which")]
    all: bool,
    /// How long the maintenance lasts; tasks that endure it (`maintenance` of their spec) come back to their machine
    #[arg(long = "for", value_name = "TIME", conflicts_with = "cancel")]
    lasts: Option<Millis>,
    /// One machine after the other: empty it, run this command with TW_MACHINE set, let tasks in again, go on
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["cancel", "detach", "json"])]
    each: Option<String>,
    /// Why, in words for people
    #[arg(long, default_value = "", conflicts_with = "cancel")]
    reason: String,
    /// Let the machines take tasks again
    #[arg(long)]
    cancel: bool,
    /// Return at once, not when the machines are empty
    #[arg(long)]
    detach: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let machines = chosen(&client, &args).await?;
    if let Some(command) = &args.each {
        return one_by_one(&client, &args, machines, command).await;
    }
    let request = match args.cancel {
        true => DrainRequest::End { machines },
        false => begin(&args, machines),
    };
    let reply: DrainReply = client.post("/v1/drain", &request).await?;
    if args.json {
        anstream::println!("{}", serde_json::to_string(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<String> = reply.machines.iter().map(MachineId::to_string).collect();
    let names = names.join(", ");
    if args.cancel {
        anstream::println!("{names}: tasks may be placed there again");
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("{names}: {} tasks are to leave", reply.tasks);
    match args.detach {
        true => Ok(ExitCode::SUCCESS),
        false => until_empty(&client, &reply.machines).await,
    }
}

fn begin(args: &Args, machines: Vec<MachineId>) -> DrainRequest {
    DrainRequest::Begin {
        machines,
        reason: args.reason.clone(),
        within_ms: args.deadline.map(|deadline| deadline.0),
        lasts_ms: args.lasts.map(|lasts| lasts.0),
    }
}

/// Empties each machine, runs the command, and lets tasks in again, one machine after the other. Stops at the first
/// that fails, and leaves that one drained.
async fn one_by_one(
    client: &Client,
    args: &Args,
    machines: Vec<MachineId>,
    command: &str,
) -> anyhow::Result<ExitCode> {
    let count = machines.len();
    for (number, machine) in machines.into_iter().enumerate() {
        anstream::println!("{machine}, {} of {count}", number + 1);
        let only = vec![machine.clone()];
        let _: DrainReply = client.post("/v1/drain", &begin(args, only.clone())).await?;
        let emptied = until_empty(client, &only).await?;
        if emptied != ExitCode::SUCCESS {
            return Ok(emptied);
        }
        let status = tokio::process::Command::new("sh")
            .args(["-c", command])
            .env("TW_MACHINE", machine.as_str())
            .status()
            .await?;
        if !status.success() {
            return Err(advice(
                format!("the command for {machine} ended with {status}"),
                format!("{machine} stays empty: `tw drain {machine} --cancel` lets tasks in again"),
            ));
        }
        let end = DrainRequest::End { machines: only };
        let _: DrainReply = client.post("/v1/drain", &end).await?;
        until_well(client, &machine).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until a machine is there again and every job has its tasks.
async fn until_well(client: &Client, machine: &MachineId) -> anyhow::Result<()> {
    loop {
        let all: MachinesReply = client.get("/v1/machines").await?;
        let mut rows = all.machines.iter();
        let is_back = rows.any(|row| row.id == *machine && row.connected);
        let jobs: JobsReply = client.get("/v1/jobs").await?;
        let mut jobs = jobs.jobs.iter();
        let is_short = jobs.any(|job| !job.stopped && job.healthy + job.done < job.replicas);
        if is_back && !is_short {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The machines that are named, and those of the racks and clusters that are.
async fn chosen(client: &Client, args: &Args) -> anyhow::Result<Vec<MachineId>> {
    let mut chosen: BTreeSet<MachineId> = args.machines.iter().cloned().collect();
    if args.all || !args.cluster.is_empty() {
        let all: MachinesReply = client.get("/v1/machines").await?;
        let meant = |row: &MachineStatus| args.all || args.cluster.contains(&row.facts.cluster);
        let meant = all.machines.into_iter().filter(meant);
        chosen.extend(meant.map(|row| row.id));
        if chosen.is_empty() {
            return Err(advice(
                "no machine is meant by that".to_owned(),
                "`tw machines --json` shows the cluster of each".to_owned(),
            ));
        }
    }
    if !args.rack.is_empty() {
        let all: MachinesReply = client.get("/v1/machines").await?;
        for rack in &args.rack {
            let here = all
                .machines
                .iter()
                .filter(|machine| machine.facts.rack == *rack);
            let here: Vec<MachineId> = here.map(|machine| machine.id.clone()).collect();
            if here.is_empty() {
                let racks: BTreeSet<&str> = all
                    .machines
                    .iter()
                    .map(|machine| machine.facts.rack.as_str())
                    .filter(|rack| !rack.is_empty())
                    .collect();
                let known = Vec::from_iter(racks).join(", ");
                return Err(advice(
                    format!("no machine is in rack '{rack}'"),
                    match known.is_empty() {
                        true => "the machines of this cluster name no racks".to_owned(),
                        false => format!("these are the racks: {known}"),
                    },
                ));
            }
            chosen.extend(here);
        }
    }
    Ok(chosen.into_iter().collect())
}

/// Says how far the drain is until nothing is left on the machines.
async fn until_empty(client: &Client, machines: &[MachineId]) -> anyhow::Result<ExitCode> {
    let mut said = u32::MAX;
    loop {
        let all: MachinesReply = client.get("/v1/machines").await?;
        let ours: Vec<&MachineStatus> = all
            .machines
            .iter()
            .filter(|machine| machines.contains(&machine.id))
            .collect();
        let left: u32 = ours.iter().map(|machine| machine.tasks).sum();
        if left == 0 {
            anstream::println!("empty; `tw drain --cancel` lets tasks in again");
            return Ok(ExitCode::SUCCESS);
        }
        if ours.iter().all(|machine| machine.drain.is_none()) {
            anstream::println!("someone cancelled the drain; {left} tasks are there");
            return Ok(ExitCode::FAILURE);
        }
        if left != said {
            let deadline = ours
                .iter()
                .filter_map(|machine| machine.drain.as_ref()?.deadline)
                .max();
            anstream::println!("{left} tasks left{}", by(deadline));
            said = left;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn by(deadline: Option<Timestamp>) -> String {
    deadline.map_or(String::new(), |deadline| format!(", empty by {deadline}"))
}
