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

/// How a machine is, in a few words: whether it is there, what ails it, and when it is to be emptied.
fn state(machine: &MachineStatus) -> String {
    if machine.state == MachineState::Lost {
        return match machine.spared_until {
            Some(until) => painted(RED, format!("lost, tasks kept until {until}")),
            None => painted(RED, "lost"),
        };
    }
    let presence = match &machine.drain {
        _ if !machine.connected => "silent".to_owned(),
        Some(_) if machine.tasks == 0 => "drained".to_owned(),
        Some(_) => "draining".to_owned(),
        None if machine.unsteady => {
            let times = f64::from(machine.flaps_milli) / 1000.0;
            format!("unsteady (gone {times:.1} times)")
        }
        None => "up".to_owned(),
    };
    let ailments = machine.ailments.iter().map(|one| match one.until {
        Some(until) => format!("{} until {until}", one.what),
        None => one.what.to_string(),
    });
    let planned = machine.next_drain.iter();
    let planned = planned.map(|drain| format!("drain at {}", drain.since));
    let words = std::iter::once(presence).chain(ailments).chain(planned);
    let words = words.collect::<Vec<_>>().join(", ");
    let ails = machine.ailments.iter().any(|one| one.until.is_none());
    let colour = match words.as_str() {
        "up" => GREEN,
        _ if ails || !machine.connected => RED,
        _ => YELLOW,
    };
    painted(colour, words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is said of a machine that is up, but for this.
    fn said(changes: serde_json::Value) -> String {
        let nothing = json!({"cpu_millicores": 0, "memory_bytes": 0, "disk_bytes": 0});
        let mut capacity = nothing.clone();
        capacity["port_first"] = 1.into();
        capacity["port_last"] = 2.into();
        let mut machine = json!({
            "id": "m1", "state": "up", "epoch": 1, "tasks": 0, "connected": true,
            "changed_at": "2026-01-01T00:00:00Z", "capacity": capacity, "reserved": nothing,
            "facts": {
                "address": "", "os": "", "kernel": "", "rack": "", "cluster": "",
                "datacenter": "", "region": "", "labels": {}, "enforces": [],
            },
        });
        for (name, value) in changes.as_object().unwrap() {
            machine[name] = value.clone();
        }
        let machine = serde_json::from_value(machine).unwrap();
        anstream::adapter::strip_str(&state(&machine)).to_string()
    }

    #[test]
    fn a_planned_drain_and_what_ails_a_machine_show_beside_all_else() {
        let drain = json!({
            "reason": "", "by": "", "since": "2026-01-02T00:00:00Z", "deadline": null,
        });
        let disk = json!([{"what": "disk_full", "since": "2026-01-01T00:00:00Z"}]);
        for (changes, expected) in [
            (json!({}), "up"),
            (
                json!({"next_drain": drain}),
                "up, drain at 2026-01-02T00:00:00.000Z",
            ),
            (
                json!({"next_drain": drain, "unsteady": true, "flaps_milli": 2000}),
                "unsteady (gone 2.0 times), drain at 2026-01-02T00:00:00.000Z",
            ),
            (
                json!({"next_drain": drain, "ailments": disk}),
                "up, disk full, drain at 2026-01-02T00:00:00.000Z",
            ),
            (
                json!({"drain": drain, "ailments": disk}),
                "drained, disk full",
            ),
            (json!({"drain": drain, "tasks": 1}), "draining"),
            (
                json!({"connected": false, "next_drain": drain}),
                "silent, drain at 2026-01-02T00:00:00.000Z",
            ),
        ] {
            assert_eq!(said(changes), expected);
        }
    }
}
