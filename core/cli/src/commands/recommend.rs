//! `tw recommend`

mod chart;
mod svg;
mod totals;
mod write;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tw_api::{Client, JobHistory, JobsReply, UsageReply};
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
    /// Draw use against the limits; a single job is drawn anyway
    #[arg(long)]
    chart: bool,
    /// Draw the job's use against its limits into FILE
    #[arg(long, value_name = "FILE", requires = "job")]
    svg: Option<PathBuf>,
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
    replies.sort_by_key(urgency);
    if args.write.is_wanted() {
        let found = replies.iter().map(|reply| found(reply, prices));
        let found: Vec<write::Found> = found.collect::<Result<_, _>>()?;
        return write::run(&args.write, &found, args.json);
    }
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&replies)?),
        false => {
            let charts = args.chart || args.job.is_some();
            replies
                .iter()
                .try_for_each(|reply| print(reply, prices, charts))?;
            if replies.len() > 1 {
                let totals = totals::Totals::of(replies.iter().map(|reply| {
                    let tasks = tasks(reply) as u64;
                    (request(reply), tasks, suggestion(reply))
                }));
                anstream::println!("\n{}", totals.text(prices)?);
            }
        }
    }
    if let (Some(file), Some(reply)) = (&args.svg, replies.first()) {
        let drawn = svg::draw(reply, &chart::curves(reply, suggestion(reply).as_ref()));
        let writing = || format!("writing the chart to {}", file.display());
        std::fs::write(file, drawn).with_context(writing)?;
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
    Ok(write::Found {
        job: reply.job.clone(),
        suggestion,
        evidence: evidence(reply, suggestion.as_ref(), prices)?,
    })
}

fn request(reply: &UsageReply) -> LimitSet {
    LimitSet {
        cpu: Cores(reply.cpu_request_millicores),
        memory: Bytes(reply.memory_request_bytes),
    }
}

/// Jobs that should get more come first, then those that could have less, those that fit, and those not known yet.
fn urgency(reply: &UsageReply) -> u8 {
    match suggestion(reply) {
        Some(found) if found.needs_more() => 0,
        Some(found) if found.cpu.suggested().is_some() || found.memory.suggested().is_some() => 1,
        Some(_) => 2,
        None => 3,
    }
}

/// What would fit every task of the job; none while there is too little history. What the controller knows of all
/// machines counts, else what the machines of the running tasks found each.
fn suggestion(reply: &UsageReply) -> Option<Suggestion> {
    let known = reply.history.as_ref().and_then(|history| {
        Some(LimitSet {
            cpu: history.cpu_recommended?,
            memory: history.memory_recommended?,
        })
    });
    let found = || {
        let cpu = reply.tasks.iter().filter_map(|task| task.cpu_recommended);
        let memory = reply
            .tasks
            .iter()
            .filter_map(|task| task.memory_recommended);
        Some(LimitSet {
            cpu: cpu.max()?,
            memory: memory.max()?,
        })
    };
    Some(Suggestion::of(request(reply), known.or_else(found)?))
}

fn print(reply: &UsageReply, prices: Option<Prices>, charts: bool) -> Result<(), PriceHole> {
    let found = suggestion(reply);
    let confidence = match (&reply.history, &found) {
        (Some(history), Some(_)) => format!(" {DIM}confidence {}{DIM:#}", history.confidence),
        _ => String::new(),
    };
    anstream::println!("{BOLD}{}{BOLD:#}{confidence}", reply.job);
    if reply.tasks.is_empty() && reply.history.is_none() {
        anstream::println!("  no task is running, and nothing is known of earlier ones");
        print_notes(reply);
        return Ok(());
    }
    let request = request(reply);
    let reasons = reply.history.as_ref().filter(|_| found.is_some());
    match &found {
        Some(found) => {
            print_advice("cpu", request.cpu, found.cpu);
            print_reason(reasons.map(|history| history.cpu_reason.as_str()));
            print_advice("memory", request.memory, found.memory);
            print_reason(reasons.map(|history| history.memory_reason.as_str()));
        }
        None => {
            anstream::println!("  cpu: {}, no suggestion yet", request.cpu);
            anstream::println!("  memory: {}, no suggestion yet", request.memory);
        }
    }
    anstream::println!("  {}", evidence(reply, found.as_ref(), prices)?);
    print_notes(reply);
    if charts {
        let columns = chart::columns_in(super::exec::terminal_width().unwrap_or(usize::MAX));
        for curve in chart::curves(reply, found.as_ref()) {
            anstream::println!();
            chart::lines(&curve, columns)
                .iter()
                .for_each(|line| anstream::println!("  {line}"));
        }
    }
    Ok(())
}

fn print_notes(reply: &UsageReply) {
    for note in &reply.notes {
        anstream::println!("  {YELLOW}{note}{YELLOW:#}");
    }
}

fn print_reason(reason: Option<&str>) {
    if let Some((_, found)) = reason.and_then(|reason| reason.split_once(": ")) {
        anstream::println!("    {DIM}{found}{DIM:#}");
    }
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

/// Running tasks, or else as many as the job is to have.
fn tasks(reply: &UsageReply) -> usize {
    match reply.tasks.len() {
        0 => reply.replicas as usize,
        running => running,
    }
}

/// How much is known, what the suggestion would have done, and what it saves.
fn evidence(
    reply: &UsageReply,
    found: Option<&Suggestion>,
    prices: Option<Prices>,
) -> Result<String, PriceHole> {
    let longest = reply.tasks.iter().map(|task| task.history_ms).max();
    let (span, samples, ooms) = match &reply.history {
        Some(history) => (Millis(history.span_ms), history.samples, history.ooms),
        None => (
            Millis(longest.unwrap_or(0)),
            reply.tasks.iter().map(|task| task.samples).sum(),
            reply.tasks.iter().map(|task| task.ooms).sum(),
        ),
    };
    let mut said = vec![format!(
        "{}, {}, {} {}",
        long(span),
        crate::text::count(tasks(reply), "task"),
        with_commas(samples),
        if samples == 1 { "sample" } else { "samples" }
    )];
    if found.is_some() {
        said.extend(reply.history.as_ref().map(exceeded));
    }
    if ooms > 0 {
        said.push(format!("ran out of memory {}", times(ooms)));
    }
    if let Some(found) = found {
        let tasks = tasks(reply) as u64;
        let totals = totals::Totals::of([(request(reply), tasks, Some(*found))]);
        said.extend(totals.more(prices)?);
        said.extend(totals.less(prices)?);
    }
    let wait = Millis(reply.history_min_ms).saturating_sub(span);
    if found.is_none() && wait > Millis(0) {
        said.push(format!(
            "a suggestion needs {} of history: {} to go",
            long(Millis(reply.history_min_ms)),
            long(wait)
        ));
    }
    Ok(said.join("; "))
}

/// What would have happened under the suggested values.
fn exceeded(history: &JobHistory) -> String {
    let memory = format!(
        "would have been exceeded {}",
        times(history.memory_exceeded)
    );
    match history.cpu_exceeded {
        0 => memory,
        above => format!(
            "{memory}, CPU in {:.2}% of the time",
            above as f64 * 100.0 / history.cpu_samples.max(1) as f64
        ),
    }
}

fn times(number: u64) -> String {
    match number {
        1 => "once".to_owned(),
        _ => format!("{} times", with_commas(number)),
    }
}

/// A length of time as people say it: whole days, hours or minutes.
fn long(span: Millis) -> String {
    let units = [
        (86_400_000, "day"),
        (3_600_000, "hour"),
        (60_000, "minute"),
        (1000, "second"),
    ];
    let unit = units.iter().find(|(length, _)| span.0 >= *length);
    unit.map_or_else(
        || "no time".to_owned(),
        |(length, name)| {
            crate::text::count((span.0 as f64 / *length as f64).round() as usize, name)
        },
    )
}

/// `4,032`.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_reads_as_a_sentence() {
        let reply: UsageReply = serde_json::from_value(serde_json::json!({
            "version": 1, "job": "web", "cpu_request_millicores": 1000,
            "memory_request_bytes": 3_u64 << 30, "history_min_ms": 86_400_000_u64,
            "replicas": 3, "tasks": [],
            "history": {
                "span_ms": 14_u64 * 86_400_000, "samples": 4032, "confidence": "high",
                "cpu_recommended": 990, "memory_recommended": 1_u64 << 30,
                "cpu_reason": "", "memory_reason": "", "memory_exceeded": 0,
                "cpu_exceeded": 0, "cpu_samples": 40320, "ooms": 0, "measured": [], "points": [],
            },
        }))
        .unwrap();
        let found = suggestion(&reply);
        assert_eq!(
            evidence(&reply, found.as_ref(), None).unwrap(),
            "14 days, 3 tasks, 4,032 samples; would have been exceeded 0 times; saves 6 GiB"
        );
    }

    #[test]
    fn the_wait_is_told_in_whole_units() {
        assert_eq!(long(Millis::hours(23)), "23 hours");
        assert_eq!(long(Millis(90_000)), "2 minutes");
        assert_eq!(long(Millis(86_400_000)), "1 day");
        assert_eq!(with_commas(1_234_567), "1,234,567");
    }
}
