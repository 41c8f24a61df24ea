//! `tw allowance`

use std::process::ExitCode;

use tw_api::{AllowanceRequest, AllowancesReply};
use tw_model::{Bytes, Cores, Name};

use crate::context::Context;
use crate::failure::advice;
use crate::table::Table;
use crate::text::{RED, painted};

/// List what teams may ask for and how much of it is used, or set it
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
    /// Set how much the jobs that are charged to an allowance may ask for together
    ///
    /// What runs already is never stopped for that: a lower allowance stands only against growth.
    Set(SetArgs),
    /// Remove an allowance that no job is charged to
    Remove {
        /// As `tw allowance` lists it
        name: Name,
    },
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// The name that jobs give as `allowance=`
    name: Name,
    /// Cores
    #[arg(long, value_name = "CORES")]
    cpu: f64,
    /// Memory, in GiB
    #[arg(long, value_name = "GIB")]
    memory_gib: f64,
    /// Count only jobs of this priority and above; what is set for others stays as it is
    #[arg(long, value_name = "PRIORITY", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    from_priority: u32,
}

impl SetArgs {
    fn request(self) -> anyhow::Result<AllowanceRequest> {
        let cpu = amount("--cpu", self.cpu, 1000.0)?;
        let memory = amount("--memory-gib", self.memory_gib, (1u64 << 30) as f64)?;
        Ok(AllowanceRequest::Set {
            name: self.name,
            from_priority: self.from_priority,
            cpu: Cores(cpu),
            memory: Bytes(memory),
        })
    }
}

/// So many units of an amount that a person gave.
fn amount(flag: &str, given: f64, units: f64) -> anyhow::Result<u64> {
    let amount = given * units;
    if !(0.0..=1e18).contains(&amount) {
        return Err(advice(
            format!("{flag}={given} is no amount"),
            "give a number from 0 on".to_owned(),
        ));
    }
    Ok(amount.round() as u64)
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let path = "/v1/allowances";
    let reply: AllowancesReply = match args.order {
        None => client.get(path).await?,
        Some(Order::Set(set)) => client.post(path, &set.request()?).await?,
        Some(Order::Remove { name }) => {
            client
                .post(path, &AllowanceRequest::Remove { name })
                .await?
        }
    };
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
        false => print(&reply),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(reply: &AllowancesReply) {
    if reply.allowances.is_empty() {
        anstream::println!(
            "No allowances: jobs may ask for what they like. `tw allowance set` sets one."
        );
        return;
    }
    let mut table = Table::new(&["ALLOWANCE", "FROM PRIORITY", "CPU", "MEMORY"]);
    let of = |used: String, all: String, over: bool| {
        let words = format!("{used}/{all}");
        match over {
            true => painted(RED, &words),
            false => words,
        }
    };
    for one in &reply.allowances {
        let (used, band) = (one.after, one.band);
        table.row(vec![
            one.allowance.to_string(),
            band.from_priority.to_string(),
            of(
                used.cpu.to_string(),
                band.cpu.to_string(),
                used.cpu > band.cpu,
            ),
            of(
                used.memory.to_string(),
                band.memory.to_string(),
                used.memory > band.memory,
            ),
        ]);
    }
    table.print();
}
