//! `tw recommend`

use std::process::ExitCode;

use tw_api::{JobsReply, UsageReply};
use tw_model::{Bytes, Cores, JobId, Millis, TaskUsage};

use crate::context::{Context, job_path};
use crate::text::{BOLD, DIM};

/// Suggest resources from measured use, with the evidence
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME; without it all jobs
    job: Option<JobId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let jobs = match args.job {
        Some(job) => vec![job],
        None => {
            let reply: JobsReply = client.get("/v1/jobs").await?;
            reply
                .jobs
                .into_iter()
                .map(|job| JobId::new(job.namespace, job.name))
                .collect()
        }
    };
    let mut replies: Vec<UsageReply> = Vec::new();
    for job in &jobs {
        replies.push(client.get(&format!("{}/usage", job_path(job))).await?);
    }
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&replies)?),
        false => replies.iter().for_each(print),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(reply: &UsageReply) {
    anstream::println!("{BOLD}{}{BOLD:#}", reply.job);
    if reply.tasks.is_empty() {
        anstream::println!("  no task is running");
        return;
    }
    let most = |value: fn(&TaskUsage) -> Option<u64>| reply.tasks.iter().filter_map(value).max();
    let cpu = most(|task| task.cpu_recommended.map(|cores| cores.0));
    let memory = most(|task| task.memory_recommended.map(|bytes| bytes.0));
    let shown = [
        (
            "cpu",
            Cores(reply.cpu_request_millicores).to_string(),
            cpu.map(|cores| Cores(cores).to_string()),
        ),
        (
            "memory",
            Bytes(reply.memory_request_bytes).to_string(),
            memory.map(|bytes| Bytes(bytes).to_string()),
        ),
    ];
    for (name, request, suggestion) in shown {
        match suggestion {
            Some(suggestion) if suggestion == request => {
                anstream::println!("  {name}: {request} fits")
            }
            Some(suggestion) => {
                anstream::println!("  {name}: {request} → {BOLD}{suggestion}{BOLD:#}")
            }
            None => anstream::println!("  {name}: {request}, no suggestion yet"),
        }
    }
    anstream::println!("  {DIM}{}{DIM:#}", evidence(reply));
}

fn evidence(reply: &UsageReply) -> String {
    let history = Millis(
        reply
            .tasks
            .iter()
            .map(|task| task.history_ms)
            .max()
            .unwrap_or(0),
    );
    let samples: u64 = reply.tasks.iter().map(|task| task.samples).sum();
    let ooms: u64 = reply.tasks.iter().map(|task| task.ooms).sum();
    let wait = Millis(reply.history_min_ms).saturating_sub(history);
    let waiting = match wait.0 {
        0 => String::new(),
        _ => format!(
            "; a suggestion needs {}, {wait} to go",
            Millis(reply.history_min_ms)
        ),
    };
    let tasks = crate::text::count(reply.tasks.len(), "task");
    format!("{history} of history, {tasks}, {samples} samples, {ooms} times out of memory{waiting}")
}
