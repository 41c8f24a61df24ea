//! `tw dev`

mod ending;
mod layout;
mod machine;
mod supervisor;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tw_api::MachinesReply;

use crate::context::Context;
use crate::failure::advice;
use layout::Layout;

/// Run Twill on this machine: a controller and one or more agents
///
/// Everything it makes is in the state folder, its socket included. Without root, tasks run as your own user and
/// in sandboxes that lack some of what root can give: what, is said at the start.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Return when it is ready; it goes on in the background. May be repeated
    #[arg(long, conflicts_with = "stop")]
    detach: bool,
    /// End what runs in the background, and its tasks: each gets its grace, up to a minute
    #[arg(long)]
    stop: bool,
    /// With --stop: kill the tasks, which then count as failed
    #[arg(long, requires = "stop")]
    now: bool,
    /// How many agents to run, each as if it were a machine of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50))]
    agents: u32,
    /// How long a machine may be silent before its tasks are placed elsewhere, in seconds [default: 5]
    #[arg(long, env = "TW_LOST_AFTER", value_name = "SECONDS")]
    lost_after: Option<f64>,
    /// Take a machine away, as a power cut would: its agent and its tasks end at once
    #[arg(long, value_name = "MACHINE", conflicts_with_all = ["detach", "stop"])]
    take: Option<String>,
    /// Bring a machine back that was taken away
    #[arg(long, value_name = "MACHINE", conflicts_with_all = ["detach", "stop", "take"])]
    give_back: Option<String>,
    /// Specs to apply when it is ready
    #[arg(value_name = "SPEC")]
    specs: Vec<PathBuf>,
}

/// How long a start may take.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let layout = Layout::new(context.state_dir()?);
    if args.stop {
        return stop(&layout, args.now, context).await;
    }
    if let Some(machine) = &args.take {
        layout.mark_taken(machine)?;
        supervisor::notify(&layout)?;
        anstream::println!("{machine} is taken away");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(machine) = &args.give_back {
        layout.mark_given_back(machine)?;
        supervisor::notify(&layout)?;
        anstream::println!("{machine} comes back");
        return Ok(ExitCode::SUCCESS);
    }
    layout.prepare()?;
    supervisor::say_what_is_missing(&layout).await?;
    match args.detach {
        true => detach(&args, &layout, context).await,
        false => foreground(&args, layout, context).await,
    }
}

async fn detach(args: &Args, layout: &Layout, context: &Context) -> anyhow::Result<ExitCode> {
    if layout.supervisor()?.is_none() {
        let settings = supervisor::Settings::new(args, context);
        let mut supervisor = supervisor::spawn_detached(layout, &settings)?;
        wait_ready(args.agents, context, || match supervisor.try_wait() {
            Ok(Some(status)) => Err(supervisor::failed_start(layout, status)),
            _ => Ok(()),
        })
        .await?;
    }
    wait_ready(args.agents, context, || Ok(())).await?;
    anstream::println!(
        "Twill runs in {} with {}",
        layout.root().display(),
        crate::text::count(args.agents as usize, "agent")
    );
    apply_specs(args, context).await
}

/// Supervises on the calling thread, which its processes do not outlive. When it cannot become ready, its
/// processes end with it; tasks of before go on.
async fn foreground(args: &Args, layout: Layout, context: &Context) -> anyhow::Result<ExitCode> {
    let ready = tokio::spawn(announce(
        args.clone(),
        layout.root().to_owned(),
        context.clone(),
    ));
    let settings = supervisor::Settings::new(args, context);
    let client = context.client()?;
    let supervisor = supervisor::run(layout, settings, &client);
    tokio::select! {
        ended = supervisor => ended?,
        failed = ready => failed.context("the wait for readiness ended")??,
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that it is ready, applies what was named, and then never ends by itself.
async fn announce(args: Args, root: PathBuf, context: Context) -> anyhow::Result<()> {
    wait_ready(args.agents, &context, || Ok(())).await?;
    anstream::println!(
        "Twill runs in {} with {}; Ctrl-C ends it",
        root.display(),
        crate::text::count(args.agents as usize, "agent")
    );
    apply_specs(&args, &context).await?;
    std::future::pending().await
}

async fn apply_specs(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    if args.specs.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    super::apply::apply(&args.specs, None, context).await
}

/// Waits until the controller answers, all machines are up, and they take tasks again that an end had drained.
async fn wait_ready(
    agents: u32,
    context: &Context,
    mut check: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let client = context.client()?;
    let begun = Instant::now();
    loop {
        check()?;
        let machines = client.get::<MachinesReply>("/v1/machines").await;
        let machines = machines.map_or(Vec::new(), |reply| reply.machines);
        let up = machines.iter().filter(|machine| machine.connected).count();
        if up >= agents as usize {
            return ending::let_tasks_in(&client, &machines).await;
        }
        if begun.elapsed() > READY_WITHIN {
            let message = format!(
                "not ready after {} s: {up} of {agents} machines are up",
                READY_WITHIN.as_secs()
            );
            return Err(advice(
                message,
                format!("its log is in {}/log", context.state_dir()?.display()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stop(layout: &Layout, now: bool, context: &Context) -> anyhow::Result<ExitCode> {
    match layout.supervisor()? {
        None => {
            // The supervisor may have been killed: whatever it left behind is ended here.
            supervisor::clean(layout).await?;
            anstream::println!("Nothing runs in {}", layout.root().display());
        }
        Some(pid) => {
            if !now {
                ending::end_tasks_if_possible(&context.client()?).await;
            }
            supervisor::end(layout, pid).await?;
            anstream::println!("Ended");
        }
    }
    Ok(ExitCode::SUCCESS)
}
