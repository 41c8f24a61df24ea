//! Following jobs until they have settled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tw_api::{Client, EventsReply, JobStatus};
use tw_model::{JobId, RolloutState, TaskState, Version};

use crate::commands::events;
use crate::context::job_path;
use crate::failure::advice;
use crate::text::{CYAN, GREEN, RED, painted};

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
                version if version != followed => Standing::Failed(gave_way(&status, followed)),
                _ => standing(&status),
            };
            match standing {
                Standing::Settling => still_open.push(job),
                Standing::Settled => anstream::println!("{} {job}", painted(GREEN, "settled")),
                Standing::Failed(why) => {
                    anstream::println!("{} {job}: {why}", painted(RED, "failed"));
                    anstream::println!("  {CYAN}hint{CYAN:#}: {}", what_helps(job, &status));
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
    let known = next.get(job);
    let after = known.map(|seq| format!("?after={seq}")).unwrap_or_default();
    let reply: EventsReply = client
        .get(&format!("{}/events{after}", job_path(job)))
        .await?;
    // What came before the newest submission is history.
    let mut newest = reply.events.iter();
    let newest = newest.rposition(|event| event.kind == "job.submitted");
    let begin = newest.filter(|_| known.is_none()).unwrap_or(0);
    for event in &reply.events[begin..] {
        anstream::println!("{}", events::line(event));
        next.insert(job, event.seq);
    }
    Ok(())
}

/// Why a version is not the wanted one any more.
fn gave_way(status: &JobStatus, followed: Version) -> String {
    let version = status.job.version;
    match &status.job.rollout {
        Some(rollout) if rollout.rollback => {
            format!("version {followed} is rolled back: {}", rollout.reason)
        }
        _ => format!("version {followed} gave way to version {version} before it had settled"),
    }
}

/// What someone may do about a job that has failed.
fn what_helps(job: &JobId, status: &JobStatus) -> String {
    let logs = format!("`tw logs {job}` shows what its tasks said");
    let rollout = status.job.rollout.as_ref();
    match rollout.is_some_and(|rollout| rollout.state == RolloutState::Halted) {
        true => format!("{logs}; apply a cure, or go back with `tw rollout rollback {job}`"),
        false => logs,
    }
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
