//! `tw machines`

use std::process::ExitCode;

use tw_api::MachinesReply;
use tw_model::{Bytes, Cores, MachineState};

use crate::context::Context;
use crate::table::Table;
use crate::text::{GREEN, RED, YELLOW, painted};

/// List the machines: capacity, what is given out, and whether they are there
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
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
            match (machine.state, machine.connected, &machine.drain) {
                (MachineState::Lost, ..) => painted(RED, "lost"),
                (MachineState::Up, false, _) => painted(RED, "silent"),
                (MachineState::Up, true, None) => painted(GREEN, "up"),
                (MachineState::Up, true, Some(_)) if machine.tasks == 0 => {
                    painted(YELLOW, "drained")
                }
                (MachineState::Up, true, Some(_)) => painted(YELLOW, "draining"),
            },
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
