//! Following jobs until they have settled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tw_api::{Client, EventsReply, JobStatus};
use tw_model::{JobId, RolloutState, TaskState, Version};

use crate::commands::events;
use crate::context::job_path;
use crate::failure::advice;
use crate::text::{GREEN, RED, painted};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How a job stands.
enum Standing {
    Settling,
    Settled,
    Failed(String),
}

/// Prints the events of the jobs until all have settled; false when one has failed.
pub(crate) async fn until_settled(
    client: &Client,
    jobs: &[JobId],
    within: Duration,
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let mut next_event: BTreeMap<&JobId, u64> = BTreeMap::new();
    let mut followed: BTreeMap<&JobId, Version> = BTreeMap::new();
    let mut open: Vec<&JobId> = jobs.iter().collect();
    let mut all_well = true;
    while !open.is_empty() {
        let mut still_open = Vec::new();
        for job in open {
            let status: JobStatus = client.get(&job_path(job)).await?;
            print_events(client, job, &mut next_event).await?;
            let followed = *followed.entry(job).or_insert(status.job.version);
            let standing = match status.job.version {
                version if version != followed => Standing::Failed(format!(
                    "version {followed} gave way to version {version} before it had settled"
                )),
                _ => standing(&status),
            };
            match standing {
                Standing::Settling => still_open.push(job),
                Standing::Settled => anstream::println!("{} {job}", painted(GREEN, "settled")),
                Standing::Failed(why) => {
                    anstream::println!("{} {job}: {why}", painted(RED, "failed"));
                    all_well = false;
                }
            }
        }
        open = still_open;
        if !open.is_empty() && begun.elapsed() > within {
            let names: Vec<String> = open.iter().map(|job| job.to_string()).collect();
            return Err(advice(
                format!(
                    "not settled after {} s: {}",
                    within.as_secs(),
                    names.join(", ")
                ),
                format!(
                    "`tw status {}` says why; it goes on without being followed",
                    names[0]
                ),
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(all_well)
}

async fn print_events<'a>(
    client: &Client,
    job: &'a JobId,
    next: &mut BTreeMap<&'a JobId, u64>,
) -> anyhow::Result<()> {
    let after = next
        .get(job)
        .map(|seq| format!("?after={seq}"))
        .unwrap_or_default();
    let reply: EventsReply = client
        .get(&format!("{}/events{after}", job_path(job)))
        .await?;
    for event in &reply.events {
        anstream::println!("{}", events::line(event));
        next.insert(job, event.seq);
    }
    Ok(())
}

fn standing(status: &JobStatus) -> Standing {
    let job = &status.job;
    match &job.rollout {
        Some(rollout) if rollout.state == RolloutState::Halted => {
            return Standing::Failed(rollout.reason.clone());
        }
        Some(rollout) if rollout.rollback => {
            return Standing::Failed(format!("rolled back: {}", rollout.reason));
        }
        Some(_) => return Standing::Settling,
        None if job.stopped => return Standing::Failed("it was stopped".to_owned()),
        None => {}
    }
    // It runs when it is time, and nobody waits for that.
    if job.schedule.is_some() {
        return Standing::Settled;
    }
    if job.kind == "batch" {
        let failed = status
            .tasks
            .iter()
            .find(|task| task.state == TaskState::Failed);
        return match failed {
            _ if job.done >= job.replicas => Standing::Settled,
            Some(task) => Standing::Failed(format!("{}: {}", task.id, task.reason)),
            None => Standing::Settling,
        };
    }
    match job.healthy >= job.replicas {
        true => Standing::Settled,
        false => Standing::Settling,
    }
}
