//! `tw replay`

mod batch;
mod lines;
mod row;
mod usage;

use std::io::BufRead;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use tw_scheduler::replay::batch::BatchReport;
use tw_scheduler::replay::usage::{Usage, UsageReport, UsageTally, WARM_UP_DAYS};

use self::row::{Broken, Columns};
use crate::failure::advice;
use crate::table::Table;
use crate::text::{BOLD, DIM};

/// Show what limits would have cost, and when they would have been too low, on recorded use
///
/// Runs every policy over a trace, knowing the past only: the request, Kubernetes' VPA (90th and 99th percentile), KRR,
/// Autopilot's moving window, Twill, and an oracle that knows the next 24 hours.
///
/// A trace is a CSV file, plain or compressed with xz, of one of two kinds, known by its header. Samples of services
/// every five minutes: job, sample, cpu_millicores, memory_mib, cpu_request_millicores, memory_request_mib. Or runs of
/// batch tasks: wf, process, memory, peak_rss, realtime, submit, status, as Nextflow writes them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trace
    #[arg(value_name = "TRACE.csv[.xz]")]
    trace: PathBuf,
    /// Leave out rows that are broken, rather than refuse the trace
    #[arg(long)]
    skip_broken: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The columns by which a trace of services, or of batch runs, is known.
const USAGE_COLUMNS: [&str; 6] = [
    "job",
    "sample",
    "cpu_millicores",
    "memory_mib",
    "cpu_request_millicores",
    "memory_request_mib",
];
const BATCH_COLUMNS: [&str; 7] = [
    "wf", "process", "memory", "peak_rss", "realtime", "submit", "status",
];

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let name = args.trace.display().to_string();
    let mut lines = lines::open(&args.trace).with_context(|| format!("reading {name}"))?;
    let mut header = String::new();
    lines
        .read_line(&mut header)
        .with_context(|| format!("reading {name}"))?;
    let reading = || format!("reading {name}");
    if let Some(columns) = Columns::find(&header, &USAGE_COLUMNS) {
        let (jobs, broken) = usage::read(lines, &columns).with_context(reading)?;
        settle(&broken, args.skip_broken)?;
        let report = replay_usage(&jobs)?;
        match args.json {
            true => print_json(&report)?,
            false => print_usage(&report, started),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(columns) = Columns::find(&header, &BATCH_COLUMNS) {
        let (runs, left_out, broken) = batch::read(lines, &columns).with_context(reading)?;
        settle(&broken, args.skip_broken)?;
        if runs.is_empty() {
            return Err(advice(
                format!("{name} has no completed run with a measured peak"),
                "rows count whose status is COMPLETED and whose peak_rss is above 0",
            ));
        }
        let report = tw_scheduler::replay::batch::replay(&runs);
        match args.json {
            true => print_json(&report)?,
            false => print_batch(&report, left_out, started),
        }
        return Ok(ExitCode::SUCCESS);
    }
    Err(unknown(&name, header.trim_end()))
}

fn unknown(name: &str, header: &str) -> anyhow::Error {
    let found: String = header.chars().take(120).collect();
    advice(
        format!("{name} is no trace that can be replayed: its header is `{found}`"),
        format!(
            "use of services has the columns {}; runs of batch tasks have {}",
            USAGE_COLUMNS.join(","),
            BATCH_COLUMNS.join(",")
        ),
    )
}

/// Refuses a trace with broken rows, or says how many are left out.
fn settle(broken: &Broken, skip: bool) -> anyhow::Result<()> {
    if broken.count == 0 {
        return Ok(());
    }
    let rows = crate::text::count(broken.count, "broken row");
    if skip {
        anstream::eprintln!("{rows} left out");
        return Ok(());
    }
    let mut message = format!("the trace has {rows}:");
    for (line, problem) in &broken.first {
        message += &format!("\n  line {line}: {problem}");
    }
    if broken.count > broken.first.len() {
        message += &format!("\n  and {} more", broken.count - broken.first.len());
    }
    Err(advice(
        message,
        "mend them, or leave them out with --skip-broken",
    ))
}

/// Replays the jobs on all cores. The sums are taken in the jobs' order: the same trace gives the same figures.
fn replay_usage(jobs: &[Usage]) -> anyhow::Result<UsageReport> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            match jobs.get(index) {
                Some(job) => done.push((index, tw_scheduler::replay::usage::replay(job))),
                None => return done,
            }
        }
    };
    let mut tallies: Vec<(usize, UsageTally)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<_>>| {
            worker.join().expect("a worker does not panic")
        };
        workers.into_iter().flat_map(join).collect()
    });
    tallies.sort_by_key(|(index, _)| *index);
    let mut sum = UsageTally::default();
    tallies.iter().for_each(|(_, tally)| sum.add(tally));
    let report = sum.report(jobs.len());
    if report.job_days == 0 {
        return Err(advice(
            "no job-day of the trace counts",
            format!(
                "policies learn for {WARM_UP_DAYS} days; after that a whole day counts whose 95th percentile of use \
                 is at least 25 millicores or 64 MiB"
            ),
        ));
    }
    Ok(report)
}

fn print_json(report: &impl serde::Serialize) -> anyhow::Result<()> {
    anstream::println!("{}", serde_json::to_string(report)?);
    Ok(())
}

fn print_usage(report: &UsageReport, started: Instant) {
    let jobs = crate::text::count(report.jobs, "job");
    anstream::println!(
        "{BOLD}{jobs}, {} active job-days after {WARM_UP_DAYS} days of learning{BOLD:#}\n",
        report.job_days
    );
    let mut cpu = Table::new(&[
        "cpu",
        "footprint",
        "slack",
        "samples over",
        "load over",
        "changes/day",
        "unchanged days",
    ]);
    let mut memory = Table::new(&[
        "memory",
        "footprint",
        "slack",
        "OOMs/day",
        "OOM-free days",
        "changes/day",
    ]);
    for policy in &report.policies {
        cpu.row(vec![
            policy.name.to_owned(),
            percent(policy.cpu.footprint, 1),
            percent(policy.cpu.slack, 1),
            percent(policy.cpu.exceeded_samples, 3),
            percent(policy.cpu.exceeded_load, 3),
            format!("{:.2}", policy.cpu.changes_per_day),
            percent(policy.cpu.unchanged_days, 1),
        ]);
        memory.row(vec![
            policy.name.to_owned(),
            percent(policy.memory.footprint, 1),
            percent(policy.memory.slack, 1),
            format!("{:.4}", policy.memory.ooms_per_day),
            percent(policy.memory.oom_free_days, 2),
            format!("{:.2}", policy.memory.changes_per_day),
        ]);
    }
    cpu.print();
    anstream::println!();
    memory.print();
    print_took(started);
}

fn print_batch(report: &BatchReport, left_out: usize, started: Instant) {
    let runs = crate::text::count(report.runs, "run");
    anstream::println!("{BOLD}{runs}{BOLD:#}, {left_out} without a measured peak left out\n");
    let mut table = Table::new(&["memory", "waste", "failures per 1,000 runs"]);
    for policy in &report.policies {
        table.row(vec![
            policy.name.to_owned(),
            format!("{:.1} GiB hours", policy.waste_gib_hours),
            format!("{:.2}", policy.failures_per_1000),
        ]);
    }
    table.print();
    print_took(started);
}

fn print_took(started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    anstream::println!("\n{DIM}replayed in {seconds:.1} s{DIM:#}");
}

fn percent(share: f64, decimals: usize) -> String {
    format!("{:.decimals$}%", share * 100.0)
}
