//! `tw recommend`

mod write;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tw_api::{Client, JobsReply, UsageReply};
use tw_model::{Bytes, Cores, JobId, Millis, PriceHole, Prices};
use tw_scheduler::limits::LimitSet;
use tw_scheduler::recommend::{Advice, Suggestion};

use crate::context::{Context, job_path};
use crate::prices;
use crate::text::{BOLD, DIM, YELLOW};

/// Suggest resources from measured use, with the evidence
///
/// Jobs that should get more come first. Nothing is suggested before a job has the history that its spec asks for.
/// With --write, --patch or --branch the suggestions go into the specs, at the expressions that set the values; what the
/// edits do is found out by evaluation first. Exit code: 0 all are written, 1 some are not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job, as NAME or NAMESPACE/NAME; without it all jobs
    #[arg(conflicts_with = "all")]
    job: Option<JobId>,
    /// All jobs, as without a name
    #[arg(long)]
    all: bool,
    /// Show savings in money: a TOML file with `[prices]`, `cpu_core_month` and `memory_gib_month`
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Take the suggestions from FILE, as --json printed them, and ask no controller
    #[arg(long, value_name = "FILE", conflicts_with_all = ["job", "all"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    write: write::WriteArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let prices = args.prices.as_deref().map(prices::read).transpose()?;
    let mut replies = match &args.from {
        Some(file) => read_replies(file)?,
        None => ask(&context.client()?, args.job.clone()).await?,
    };
    replies.sort_by_key(|reply| !suggestion(reply).is_some_and(|found| found.needs_more()));
    if args.write.is_wanted() {
        let found = replies.iter().map(|reply| found(reply, prices));
        let found: Vec<write::Found> = found.collect::<Result<_, _>>()?;
        return write::run(&args.write, &found, args.json);
    }
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&replies)?),
        false => replies.iter().try_for_each(|reply| print(reply, prices))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &Client, job: Option<JobId>) -> anyhow::Result<Vec<UsageReply>> {
    let jobs = match job {
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
    let mut replies = Vec::new();
    for job in &jobs {
        replies.push(client.get(&format!("{}/usage", job_path(job))).await?);
    }
    Ok(replies)
}

fn read_replies(file: &Path) -> anyhow::Result<Vec<UsageReply>> {
    let reading = || {
        format!(
            "reading the suggestions in {}, which `tw recommend --json` prints",
            file.display()
        )
    };
    let text = std::fs::read_to_string(file).with_context(reading)?;
    serde_json::from_str(&text).with_context(reading)
}

fn found(reply: &UsageReply, prices: Option<Prices>) -> Result<write::Found, PriceHole> {
    let suggestion = suggestion(reply);
    let saved = match suggestion {
        Some(found) => saved(reply, &found, prices)?,
        None => None,
    };
    let saved = saved.map_or_else(String::new, |saved| format!("; {saved}"));
    Ok(write::Found {
        job: reply.job.clone(),
        suggestion,
        evidence: format!("{}{saved}", evidence(reply)),
    })
}

fn request(reply: &UsageReply) -> LimitSet {
    LimitSet {
        cpu: Cores(reply.cpu_request_millicores),
        memory: Bytes(reply.memory_request_bytes),
    }
}

/// What would fit every task of the job; none while there is too little history.
fn suggestion(reply: &UsageReply) -> Option<Suggestion> {
    let cpu = reply.tasks.iter().filter_map(|task| task.cpu_recommended);
    let memory = reply
        .tasks
        .iter()
        .filter_map(|task| task.memory_recommended);
    let wanted = LimitSet {
        cpu: cpu.max()?,
        memory: memory.max()?,
    };
    Some(Suggestion::of(request(reply), wanted))
}

fn print(reply: &UsageReply, prices: Option<Prices>) -> Result<(), PriceHole> {
    anstream::println!("{BOLD}{}{BOLD:#}", reply.job);
    if reply.tasks.is_empty() {
        anstream::println!("  no task is running");
        return Ok(());
    }
    let request = request(reply);
    match suggestion(reply) {
        Some(found) => {
            print_advice("cpu", request.cpu, found.cpu);
            print_advice("memory", request.memory, found.memory);
            if let Some(saved) = saved(reply, &found, prices)? {
                anstream::println!("  {saved}");
            }
        }
        None => {
            anstream::println!("  cpu: {}, no suggestion yet", request.cpu);
            anstream::println!("  memory: {}, no suggestion yet", request.memory);
        }
    }
    anstream::println!("  {DIM}{}{DIM:#}", evidence(reply));
    Ok(())
}

fn print_advice<T: std::fmt::Display + Copy>(name: &str, request: T, advice: Advice<T>) {
    match advice {
        Advice::Keep => anstream::println!("  {name}: {request} fits"),
        Advice::Less(fits) => anstream::println!("  {name}: {request} → {BOLD}{fits}{BOLD:#}"),
        Advice::More(fits) => {
            anstream::println!("  {name}: {request} → {YELLOW}{fits}{YELLOW:#}, it runs short")
        }
    }
}

/// What all running tasks together would need less, and what that costs in a month.
fn saved(
    reply: &UsageReply,
    found: &Suggestion,
    prices: Option<Prices>,
) -> Result<Option<String>, PriceHole> {
    let less = |request: u64, suggested: Option<u64>| {
        let saved = request.saturating_sub(suggested.unwrap_or(request));
        saved * reply.tasks.len() as u64
    };
    let cpu = Cores(less(
        reply.cpu_request_millicores,
        found.cpu.suggested().map(|cores| cores.0),
    ));
    let memory = Bytes(less(
        reply.memory_request_bytes,
        found.memory.suggested().map(|bytes| bytes.0),
    ));
    if cpu == Cores::ZERO && memory == Bytes::ZERO {
        return Ok(None);
    }
    let money = match prices {
        Some(prices) => {
            let month = prices.month(cpu.0 as i64, memory.0 as i64, 0)?;
            format!(", {month:.2} a month")
        }
        None => String::new(),
    };
    Ok(Some(format!("saves {cpu} cores and {memory}{money}")))
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
