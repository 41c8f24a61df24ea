//! Ends tasks in order before `tw dev` ends, and lets them in again when it is back.
//!
//! A kill of an agent's tasks is a power cut to the controller, and their end a failure. So the machines are drained
//! first: tasks get their signal and their grace, and none of them has failed. The drain names its reason, by which the
//! next start finds it and takes it back.

use std::time::{Duration, Instant};

use tw_api::{Client, DrainReply, DrainRequest, MachineStatus, MachinesReply};
use tw_model::MachineId;

use crate::commands::drain::tasks_on;
use crate::text::count;

/// The reason of the drains that end with the next start.
const REASON: &str = "`tw dev` ended";

/// How long tasks may take to end, all together. What is left then is killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// After how long the tasks that are waited for are named.
const NAMED_AFTER: Duration = Duration::from_secs(1);

/// How many of them are named.
const NAMED_MAX: usize = 5;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// As much of an orderly end as there can be: where the controller does not answer, tasks will be killed.
pub(super) async fn end_tasks_if_possible(client: &Client) {
    if let Err(cause) = end_tasks(client).await {
        anstream::eprintln!("Tasks are killed, for they cannot be asked to end: {cause:#}");
    }
}

/// Asks every task of the machines that answer to end, and waits until all have or the patience is over.
async fn end_tasks(client: &Client) -> anyhow::Result<()> {
    let connected = connected(client).await?;
    let (drained, open): (Vec<_>, Vec<_>) = connected
        .into_iter()
        .partition(|machine| machine.drain.is_some());
    // At once, so that no task moves from one to another.
    let open: Vec<MachineId> = open.into_iter().map(|machine| machine.id).collect();
    drain(client, open, REASON.to_owned(), None).await?;
    for machine in drained.into_iter().filter(|machine| machine.tasks > 0) {
        let Some(theirs) = machine.drain else {
            continue;
        };
        let lasts_ms = theirs.lasts.map(|lasts| lasts.0);
        drain(client, vec![machine.id], theirs.reason, lasts_ms).await?;
    }
    until_ended(client).await
}

/// Lets tasks in again where the last end kept them out.
pub(super) async fn let_tasks_in(
    client: &Client,
    machines: &[MachineStatus],
) -> anyhow::Result<()> {
    let ours = machines.iter().filter(|machine| {
        let drain = machine.drain.as_ref();
        drain.is_some_and(|drain| drain.reason == REASON)
    });
    let machines: Vec<MachineId> = ours.map(|machine| machine.id.clone()).collect();
    if !machines.is_empty() {
        let order = DrainRequest::End { machines };
        let _: DrainReply = client.post("/v1/drain", &order).await?;
    }
    Ok(())
}

async fn drain(
    client: &Client,
    machines: Vec<MachineId>,
    reason: String,
    lasts_ms: Option<u64>,
) -> anyhow::Result<()> {
    if machines.is_empty() {
        return Ok(());
    }
    let order = DrainRequest::Begin {
        machines,
        reason,
        within_ms: Some(0),
        lasts_ms,
        starts: None,
    };
    let _: DrainReply = client.post("/v1/drain", &order).await?;
    Ok(())
}

async fn connected(client: &Client) -> anyhow::Result<Vec<MachineStatus>> {
    let reply: MachinesReply = client.get("/v1/machines").await?;
    let mut machines = reply.machines;
    machines.retain(|machine| machine.connected);
    Ok(machines)
}

async fn until_ended(client: &Client) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut is_named = false;
    loop {
        let mut machines = connected(client).await?;
        machines.retain(|machine| machine.tasks > 0);
        let left: u32 = machines.iter().map(|machine| machine.tasks).sum();
        if left == 0 {
            return Ok(());
        }
        let machines: Vec<MachineId> = machines.into_iter().map(|machine| machine.id).collect();
        if begun.elapsed() >= PATIENCE {
            anstream::eprintln!(
                "Not ended within {} s, and killed: {}",
                PATIENCE.as_secs(),
                names(client, &machines).await?
            );
            return Ok(());
        }
        if !is_named && begun.elapsed() >= NAMED_AFTER {
            anstream::eprintln!(
                "Waiting for {} to end, as long as their jobs grant: {}. `tw dev --stop --now` kills them",
                count(left as usize, "task"),
                names(client, &machines).await?
            );
            is_named = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The tasks that are on these machines, the first few by name.
async fn names(client: &Client, machines: &[MachineId]) -> anyhow::Result<String> {
    let tasks = tasks_on(client, machines).await?;
    let all: Vec<_> = tasks.iter().flat_map(|(_, tasks)| tasks).collect();
    let first = all.iter().take(NAMED_MAX);
    let mut names: Vec<String> = first.map(|task| task.to_string()).collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    Ok(names.join(", "))
}
