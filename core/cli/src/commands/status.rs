//! `tw status`

use std::process::ExitCode;

use tw_api::{Client, JobStatus, JobSummary, JobsReply, PlansReply, ScaleStatus, TaskStatus};
use tw_model::{JobId, PlanState, RolloutState, RunOutcome, RunRecord, TaskState};

use crate::context::{Context, TaskSelector, job_path};
use crate::table::Table;
use crate::text::{self, BOLD, DIM, GREEN, RED, YELLOW, painted};

/// Show the jobs, or the tasks of one job
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME, or one of its tasks, such as web.0; without it all jobs are listed
    #[arg(value_name = "JOB|TASK")]
    job: Option<TaskSelector>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    match args.job {
        None => {
            let reply: JobsReply = client.get("/v1/jobs").await?;
            match args.json {
                true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
                false => {
                    print_jobs(&reply);
                    print_outage(&reply);
                    print_waiting(&client).await?;
                }
            }
        }
        Some(job) => {
            let mut status: JobStatus = client.get(&job_path(&job.job)).await?;
            let is_meant = |task: &TaskStatus| job.index.is_none_or(|index| index == task.index);
            status.tasks.retain(is_meant);
            if status.tasks.is_empty() && job.index.is_some() {
                return Err(job.no_such_task());
            }
            match args.json {
                true => anstream::println!("{}", serde_json::to_string_pretty(&status)?),
                false => print_job(&status),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_jobs(reply: &JobsReply) {
    if reply.jobs.is_empty() {
        anstream::println!("No jobs yet. `tw run PATH` runs the specs of a folder.");
        return;
    }
    let mut table = Table::new(&["JOB", "KIND", "STATE", "TASKS", "VERSION", "SOURCE"]);
    for job in &reply.jobs {
        table.row(vec![
            name(job),
            job.kind.clone(),
            job_state(job),
            progress(job),
            job.version.to_string(),
            source(job),
        ]);
    }
    table.print();
}

/// Says that a large part of the fleet is gone, and what becomes of its tasks.
fn print_outage(reply: &JobsReply) {
    let Some(outage) = &reply.outage else {
        return;
    };
    anstream::println!(
        "{RED}outage{RED:#}: {} of a large part of the fleet that was lost at once; their tasks are replaced slowly, \
         from {} to {}, and live on where a machine comes back before",
        text::count(outage.machines as usize, "machine"),
        outage.next_at,
        outage.last_at
    );
}

/// Says that plans wait for someone.
async fn print_waiting(client: &Client) -> anyhow::Result<()> {
    let reply: PlansReply = client.get("/v1/plans").await?;
    let plans = reply.plans.iter();
    let waiting = plans
        .filter(|plan| plan.state == PlanState::Waiting)
        .count();
    if waiting > 0 {
        anstream::println!(
            "{YELLOW}waiting{YELLOW:#}: {} to be approved; `tw plans` lists them",
            text::count(waiting, "plan")
        );
    }
    Ok(())
}

fn print_job(status: &JobStatus) {
    let job = &status.job;
    anstream::println!(
        "{BOLD}{}{BOLD:#} {} version {} from {}: {}, {}",
        name(job),
        job.kind,
        job.version,
        source(job),
        job_state(job),
        progress(job)
    );
    if let Some(rollout) = &job.rollout {
        let reason = match rollout.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", rollout.reason),
        };
        anstream::println!(
            "{YELLOW}update{YELLOW:#} from version {} to {}: stage {} of {}, {} updated{reason}",
            rollout.from,
            rollout.to,
            rollout.stage,
            rollout.stages,
            text::count(rollout.updated as usize, "task")
        );
    }
    if let Some(scale) = &job.scale {
        anstream::println!("{}", scale_line(scale, job.replicas));
    }
    print_runs(&status.runs);
    let mut table = Table::new(&[
        "TASK", "STATE", "HEALTH", "MACHINE", "ADDRESS", "RESTARTS", "CPU", "MEMORY", "LIMIT",
        "SINCE",
    ]);
    for task in &status.tasks {
        table.row(task_row(task));
    }
    table.print();
    for task in status.tasks.iter().filter(|task| !task.reason.is_empty()) {
        anstream::println!("{DIM}{}: {}{DIM:#}", task.id, task.reason);
    }
    for note in &status.notes {
        anstream::println!("{YELLOW}note{YELLOW:#}: {note}");
    }
}

/// How many tasks there are for the load, and why.
fn scale_line(scale: &ScaleStatus, tasks: u32) -> String {
    let why = match (&scale.since, scale.reason.is_empty()) {
        (Some(since), false) => format!("{} (since {since})", scale.reason),
        _ => "as the spec begins".to_owned(),
    };
    format!(
        "scales from {} to {}, now {}: {why}",
        scale.min,
        scale.max,
        text::count(tasks as usize, "task")
    )
}

/// How many of the runs are shown.
const RUNS_SHOWN: usize = 10;

fn print_runs(runs: &[RunRecord]) {
    if runs.is_empty() {
        return;
    }
    let mut table = Table::new(&["RUN", "OUTCOME", "DUE", "BEGAN", "TOOK", ""]);
    for run in runs.iter().rev().take(RUNS_SHOWN) {
        let took = run.ended_at.map(|ended| ended.since(run.began_at));
        table.row(vec![
            run.number.to_string(),
            outcome(run),
            run.due_at.to_string(),
            run.began_at.to_string(),
            took.map(|took| took.to_string()).unwrap_or_default(),
            run.reason.clone(),
        ]);
    }
    table.print();
    anstream::println!();
}

fn outcome(run: &RunRecord) -> String {
    let style = match run.outcome {
        RunOutcome::Done => GREEN,
        RunOutcome::Failed => RED,
        RunOutcome::Running => YELLOW,
        RunOutcome::Replaced | RunOutcome::Stopped => DIM,
    };
    painted(style, run.outcome)
}

fn task_row(task: &TaskStatus) -> Vec<String> {
    let usage = task.usage.as_ref().filter(|_| !task.state.is_terminal());
    let ports: Vec<String> = task
        .ports
        .iter()
        .map(|(name, port)| format!("{name}:{port}"))
        .collect();
    let state = match &task.exit {
        Some(exit) if task.state == TaskState::Failed => {
            format!("{} ({exit})", text::state(task.state))
        }
        _ => text::state(task.state),
    };
    vec![
        task.id.to_string(),
        state,
        match task.healthy {
            None => String::new(),
            Some(true) => painted(GREEN, "healthy"),
            Some(false) => painted(RED, "unhealthy"),
        },
        task.machine
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        format!(
            "{} {}",
            task.address.clone().unwrap_or_default(),
            ports.join(" ")
        )
        .trim()
        .to_owned(),
        task.restarts.to_string(),
        usage
            .map(|usage| format!("{}/{}", usage.cpu, usage.cpu_limit))
            .unwrap_or_default(),
        usage
            .map(|usage| usage.memory.to_string())
            .unwrap_or_default(),
        usage
            .map(|usage| usage.memory_limit.to_string())
            .unwrap_or_default(),
        task.started_at
            .map(|moment| moment.to_string())
            .unwrap_or_default(),
    ]
}

fn name(job: &JobSummary) -> String {
    JobId::new(job.namespace.clone(), job.name.clone()).to_string()
}

fn source(job: &JobSummary) -> String {
    let revision: String = job.source.revision.chars().take(8).collect();
    match revision.is_empty() {
        true => format!("{}:{}", job.source.file, job.source.line),
        false => format!("{}:{} at {revision}", job.source.file, job.source.line),
    }
}

/// How many of the tasks are as they should be.
fn progress(job: &JobSummary) -> String {
    if let Some(schedule) = &job.schedule {
        let next = schedule.next_at;
        return next.map_or_else(String::new, |next| format!("next run at {next}"));
    }
    match job.kind.as_str() {
        "batch" => format!("{} of {} done", job.done, job.replicas),
        _ => format!("{} of {} healthy", job.healthy, job.replicas),
    }
}

fn job_state(job: &JobSummary) -> String {
    if let Some(schedule) = job.schedule.as_ref().filter(|_| !job.stopped) {
        return match schedule.run.as_ref().map(|run| run.outcome) {
            Some(RunOutcome::Running) => painted(YELLOW, "run under way"),
            Some(RunOutcome::Failed) => painted(RED, "last run failed"),
            _ => painted(GREEN, "scheduled"),
        };
    }
    match &job.rollout {
        _ if job.stopped => painted(DIM, "stopped"),
        Some(rollout) if rollout.state == RolloutState::Halted => painted(RED, "update halted"),
        Some(rollout) if rollout.state == RolloutState::Paused => painted(YELLOW, "update paused"),
        Some(rollout) if rollout.rollback => painted(YELLOW, "rolling back"),
        Some(_) => painted(YELLOW, "updating"),
        None if job.kind == "batch" && job.done >= job.replicas => painted(GREEN, "done"),
        None if job.healthy >= job.replicas => painted(GREEN, "running"),
        None => painted(YELLOW, "settling"),
    }
}
