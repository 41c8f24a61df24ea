//! `tw machines`

use std::io::IsTerminal;
use std::process::ExitCode;

use tw_api::{FenceReply, MachineStatus, MachinesReply};
use tw_model::{Bytes, Cores, MachineId, MachineState};

use crate::context::Context;
use crate::failure::advice;
use crate::table::Table;
use crate::text::{GREEN, RED, YELLOW, painted};

/// List the machines: capacity, what is given out, and whether they are there
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Option<Order>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Vouch that nothing runs any more on a lost machine, so that its at-most-one tasks start elsewhere
    ///
    /// Twill never replaces such a task while it may still run. Make sure first that the machine is off, or cut off
    /// from all that its tasks could harm: afterwards there may be two of them.
    Fence(FenceArgs),
}

#[derive(Debug, clap::Args)]
struct FenceArgs {
    /// The machine, as `tw machines` lists it
    machine: MachineId,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

async fn fence(args: FenceArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let machine = &args.machine;
    let question = format!(
        "Is {machine} off, or cut off from everything that its tasks could harm? Tasks of which there must not be \
         two start elsewhere at once."
    );
    if !args.yes && !confirm(&question)? {
        return Err(advice(
            "nothing was fenced".to_owned(),
            "answer yes on a terminal, or add --yes".to_owned(),
        ));
    }
    let path = format!("/v1/machines/{machine}/fence");
    let reply: FenceReply = context
        .client()?
        .post(&path, &serde_json::json!({}))
        .await?;
    if args.json {
        anstream::println!("{}", serde_json::to_string(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("{machine}: {} tasks count as ended", reply.tasks);
    Ok(ExitCode::SUCCESS)
}

/// Asks on a terminal; elsewhere the answer is no.
fn confirm(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    anstream::eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    if let Some(Order::Fence(args)) = args.order {
        return fence(args, context).await;
    }
    let reply: MachinesReply = context.client()?.get("/v1/machines").await?;
    if args.json {
        anstream::println!("{}", serde_json::to_string_pretty(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[
        "MACHINE", "STATE", "TASKS", "CPU", "MEMORY", "DISK", "RACK", "ADDRESS", "OS", "KERNEL",
        "ENFORCES",
    ]);
    for machine in &reply.machines {
        let of = |used: String, all: String| format!("{used}/{all}");
        table.row(vec![
            machine.id.to_string(),
            state(machine),
            machine.tasks.to_string(),
            of(
                Cores(machine.reserved.cpu_millicores).to_string(),
                machine.capacity.cpu.to_string(),
            ),
            of(
                Bytes(machine.reserved.memory_bytes).to_string(),
                machine.capacity.memory.to_string(),
            ),
            of(
                Bytes(machine.reserved.disk_bytes).to_string(),
                machine.capacity.disk.to_string(),
            ),
            machine.facts.rack.clone(),
            machine.facts.address.clone(),
            machine.facts.os.clone(),
            machine.facts.kernel.clone(),
            machine.facts.enforces.join(" "),
        ]);
    }
    table.print();
    Ok(ExitCode::SUCCESS)
}

/// How a machine is, in a few words.
fn state(machine: &MachineStatus) -> String {
    match (machine.state, machine.connected, &machine.drain) {
        (MachineState::Lost, ..) => match machine.spared_until {
            Some(until) => painted(RED, format!("lost, tasks kept until {until}")),
            None => painted(RED, "lost"),
        },
        (MachineState::Up, false, _) => painted(RED, "silent"),
        (MachineState::Up, true, Some(_)) if machine.tasks == 0 => painted(YELLOW, "drained"),
        (MachineState::Up, true, Some(_)) => painted(YELLOW, "draining"),
        (MachineState::Up, true, None) if machine.unsteady => {
            let times = f64::from(machine.flaps_milli) / 1000.0;
            painted(YELLOW, format!("unsteady (gone {times:.1} times)"))
        }
        (MachineState::Up, true, None) if !machine.ailments.is_empty() => {
            let ailments = machine.ailments.iter().map(|one| match one.until {
                Some(until) => format!("{} until {until}", one.what),
                None => one.what.to_string(),
            });
            let words = ailments.collect::<Vec<_>>().join(", ");
            match machine.ailments.iter().any(|one| one.until.is_none()) {
                true => painted(RED, words),
                false => painted(YELLOW, format!("up, {words}")),
            }
        }
        (MachineState::Up, true, None) => match &machine.next_drain {
            Some(drain) => painted(YELLOW, format!("up, drain at {}", drain.since)),
            None => painted(GREEN, "up"),
        },
    }
}
