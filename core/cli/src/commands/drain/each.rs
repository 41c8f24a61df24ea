//! `tw drain --each`: maintenance of machines one after the other.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tw_api::{Client, DrainReply, DrainRequest, JobStatus, JobsReply, MachinesReply, WhyReply};
use tw_model::{JobId, MachineId};

use super::{Args, LOOK_EVERY, begin, until_empty};
use crate::context::job_path;
use crate::failure::advice;

/// Empties each machine, runs the command, lets tasks in again, and goes on once all is as well as before. Stops at
/// the first machine where that fails, and says how to go on.
pub(super) async fn one_by_one(
    client: &Client,
    args: &Args,
    machines: &[MachineId],
    command: &str,
) -> anyhow::Result<ExitCode> {
    let done = match &args.from {
        Some(from) => position(machines, from)?,
        None => 0,
    };
    let mut interrupts = Interrupts::new()?;
    let before = Standing::read(client).await?;
    for (number, machine) in machines.iter().enumerate().skip(done) {
        anstream::println!("{machine}, {} of {}", number + 1, machines.len());
        let emptied = tokio::select! {
            emptied = empty(client, args, machine) => emptied?,
            () = interrupts.next() => return Err(still_drained("interrupted", machine)),
        };
        if !emptied {
            return Err(still_drained("the drain was cancelled", machine));
        }
        run_command(command, machine, &mut interrupts).await?;
        let end = DrainRequest::End {
            machines: vec![machine.clone()],
        };
        let _: DrainReply = client.post("/v1/drain", &end).await?;
        tokio::select! {
            well = until_well(client, args, machine, &before) => well.map_err(|cause| {
                advice(format!("{machine} takes tasks again, but {cause}"), how_to_go_on(machines.get(number + 1)))
            })?,
            () = interrupts.next() => {
                let message = format!("interrupted; {machine} is done and takes tasks again");
                return Err(advice(message, how_to_go_on(machines.get(number + 1))));
            }
        }
        anstream::println!("{machine} is done");
    }
    Ok(ExitCode::SUCCESS)
}

fn position(machines: &[MachineId], from: &MachineId) -> anyhow::Result<usize> {
    let found = machines.iter().position(|machine| machine == from);
    found.ok_or_else(|| {
        let names: Vec<&str> = machines.iter().map(MachineId::as_str).collect();
        let these = format!("these are, in their order: {}", names.join(", "));
        advice(
            format!("{from} is none of the machines that are meant"),
            these,
        )
    })
}

/// Whether it became empty; not if someone cancelled the drain.
async fn empty(client: &Client, args: &Args, machine: &MachineId) -> anyhow::Result<bool> {
    let only = vec![machine.clone()];
    let _: DrainReply = client.post("/v1/drain", &begin(args, only.clone())).await?;
    until_empty(client, &only).await
}

/// Runs the command for an empty machine. An interrupt waits for its end, since half a maintenance is worse than none;
/// a second one does not.
async fn run_command(
    command: &str,
    machine: &MachineId,
    interrupts: &mut Interrupts,
) -> anyhow::Result<()> {
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .env("TW_MACHINE", machine.as_str())
        .spawn()?;
    let status = tokio::select! {
        status = child.wait() => status?,
        () = interrupts.next() => {
            anstream::eprintln!("interrupted; the command for {machine} is waited for, until the next interrupt");
            tokio::select! {
                _ = child.wait() => {}
                () = interrupts.next() => {}
            }
            return Err(still_drained("interrupted", machine));
        }
    };
    match status.success() {
        true => Ok(()),
        false => Err(still_drained(
            &format!("the command for {machine} ended with {status}"),
            machine,
        )),
    }
}

fn still_drained(why: &str, machine: &MachineId) -> anyhow::Error {
    advice(
        format!("{why}; {machine} stays drained"),
        format!(
            "the same command with --from {machine} goes on; `tw drain {machine} --cancel` lets tasks in again"
        ),
    )
}

fn how_to_go_on(next: Option<&MachineId>) -> String {
    match next {
        Some(next) => format!("once all is well, the same command with --from {next} goes on"),
        None => "it was the last machine".to_owned(),
    }
}

/// What was well at a moment: the machines that were there, and how many tasks each job lacked.
struct Standing {
    machines: Vec<MachineId>,
    lacks: BTreeMap<JobId, u32>,
}

impl Standing {
    async fn read(client: &Client) -> anyhow::Result<Standing> {
        let machines: MachinesReply = client.get("/v1/machines").await?;
        let machines = machines.machines.into_iter().filter(|row| row.connected);
        let jobs: JobsReply = client.get("/v1/jobs").await?;
        // The runs of a job with a schedule come and go.
        let jobs = jobs.jobs.into_iter();
        let steady = jobs.filter(|job| !job.stopped && job.schedule.is_none());
        Ok(Standing {
            machines: machines.map(|row| row.id).collect(),
            lacks: steady
                .map(|job| {
                    let lacks = job.replicas.saturating_sub(job.healthy + job.done);
                    (JobId::new(job.namespace, job.name), lacks)
                })
                .collect(),
        })
    }

    /// The jobs that lack more tasks than they did, by how many more.
    fn worse_than(&self, before: &Standing) -> Vec<(&JobId, u32)> {
        let jobs = self.lacks.iter().filter_map(|(job, lacks)| {
            // A job that is new is not of this step's making.
            let more = lacks.saturating_sub(*before.lacks.get(job)?);
            (more > 0).then_some((job, more))
        });
        jobs.collect()
    }
}

/// Waits until a machine is there again, if it was, and no job lacks more tasks than before.
async fn until_well(
    client: &Client,
    args: &Args,
    machine: &MachineId,
    before: &Standing,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let now = Standing::read(client).await?;
        let is_back = now.machines.contains(machine) || !before.machines.contains(machine);
        let worse = now.worse_than(before);
        if is_back && worse.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= Duration::from_millis(args.wait.0) {
            let mut found = Vec::new();
            if !is_back {
                found.push("it has not come back".to_owned());
            }
            for (job, more) in worse {
                found.push(format!(
                    "{job} lacks {more} more than before ({})",
                    reason(client, job).await?
                ));
            }
            anyhow::bail!("within {} {}", args.wait, found.join("; "));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why a job lacks tasks.
async fn reason(client: &Client, job: &JobId) -> anyhow::Result<String> {
    let why: WhyReply = client.get(&format!("{}/why", job_path(job))).await?;
    if let Some(waiting) = why.waiting.into_iter().next() {
        return Ok(waiting.message);
    }
    let status: JobStatus = client.get(&job_path(job)).await?;
    let mut tasks = status.tasks.iter();
    let unwell = tasks.find(|task| task.healthy == Some(false) || !task.reason.is_empty());
    Ok(match unwell {
        Some(task) if task.reason.is_empty() => format!("{} is not healthy", task.id),
        Some(task) => format!("{}: {}", task.id, task.reason),
        None => format!("`tw status {job}` shows them"),
    })
}

/// SIGINT and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> std::io::Result<Interrupts> {
        Ok(Interrupts {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
