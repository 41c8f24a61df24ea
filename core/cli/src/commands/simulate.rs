//! `tw simulate`

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use flate2::read::MultiGzDecoder;
use serde_json::json;
use tw_scheduler::simulate::{
    BadRow, Fill, TraceError, TracePlacement, TraceRows, place_trace, read_machines, read_tasks,
    shuffled,
};

use crate::failure::advice;
use crate::table::Table;
use crate::text::count;

/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How many broken rows of a file are told one by one.
const BAD_ROWS_SHOWN: usize = 10;

/// Place the tasks of a file on the machines of another, and say how full the machines get
///
/// The search is the one that the controller uses. Tasks are submitted in the order of their file and never end.
///
/// MACHINES is a CSV file with the columns cpu, memory and, if there are such, rack and count. TASKS is a CSV file
/// with the columns job, cpu, memory and, if there are such, count, anti_affinity (true, false, machine or rack) and
/// priority; or task events of the Google 2011 trace as they are. Both may be compressed with gzip, and only the
/// ratio of their amounts matters.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The machines
    #[arg(long, value_name = "FILE")]
    machines: PathBuf,
    /// The tasks
    #[arg(long, value_name = "FILE")]
    tasks: PathBuf,
    /// Shuffle the machines; the same number gives the same result
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Refuse files with rows that cannot be read, instead of leaving these out
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let machines = read(&args.machines, read_machines)?;
    let tasks = read(&args.tasks, read_tasks)?;
    let bad = [(&args.machines, &machines.bad), (&args.tasks, &tasks.bad)];
    bad.iter().for_each(|(path, rows)| tell_bad(path, rows));
    let bad_rows: usize = bad.iter().map(|(_, rows)| rows.len()).sum();
    if args.strict && bad_rows > 0 {
        return Err(advice(
            format!("{} cannot be read", count(bad_rows, "row")),
            "mend them, or leave out --strict to go without them",
        ));
    }
    for (path, rows) in [
        (&args.machines, machines.rows.len()),
        (&args.tasks, tasks.rows.len()),
    ] {
        if rows == 0 {
            let message = format!("{} has no row that can be used", path.display());
            return Err(advice(message, "`tw simulate --help` names the columns"));
        }
    }
    let machines = match args.seed {
        Some(seed) => shuffled(machines.rows, seed),
        None => machines.rows,
    };
    let begun = Instant::now();
    let found = place_trace(&machines, &tasks.rows, &|| begun.elapsed());
    match args.json {
        true => print_json(&found, &bad),
        false => print_text(&found),
    }
    Ok(ExitCode::SUCCESS)
}

fn read<T>(
    path: &Path,
    rows: impl FnOnce(Vec<String>) -> Result<TraceRows<T>, TraceError>,
) -> anyhow::Result<TraceRows<T>> {
    let lines = lines(path).with_context(|| format!("{} cannot be read", path.display()))?;
    rows(lines).map_err(|cause| {
        let message = format!("{}: {cause}", path.display());
        advice(message, "`tw simulate --help` names the columns")
    })
}

/// The lines of a file, which may be compressed. Bytes that are no text become marks that no row can hold.
fn lines(path: &Path) -> std::io::Result<Vec<String>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut bytes = Vec::new();
    match file.fill_buf()?.starts_with(&GZIP) {
        true => MultiGzDecoder::new(file).read_to_end(&mut bytes)?,
        false => file.read_to_end(&mut bytes)?,
    };
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(str::to_owned).collect())
}

fn tell_bad(path: &Path, rows: &[BadRow]) {
    for row in rows.iter().take(BAD_ROWS_SHOWN) {
        anstream::eprintln!("{}:{}: {}", path.display(), row.line, row.why);
    }
    if let Some(more) = rows
        .len()
        .checked_sub(BAD_ROWS_SHOWN)
        .filter(|more| *more > 0)
    {
        anstream::eprintln!("{}: {more} more such rows", path.display());
    }
}

fn print_json(found: &TracePlacement, bad: &[(&PathBuf, &Vec<BadRow>)]) {
    let unplaced = found.unplaced.iter();
    let unplaced: Vec<_> = unplaced
        .map(|(reason, tasks)| json!({"reason": reason, "tasks": tasks}))
        .collect();
    let bad = bad.iter().flat_map(|(path, rows)| {
        rows.iter()
            .map(move |row| json!({"file": path, "line": row.line, "message": row.why}))
    });
    let bad: Vec<_> = bad.collect();
    let filled = |fill: &Fill| json!({"cpu": fill.cpu, "memory": fill.memory, "tasks": fill.tasks});
    let micros = |percent| found.percentile(percent).as_nanos() as f64 / 1000.0;
    let reply = json!({
        "version": 1,
        "placed": found.placed,
        "unplaced": unplaced,
        "first_failure": found.first_failure.as_ref().map(filled),
        "placements_per_second": found.placements_per_second().round(),
        "decision_us": {"p50": micros(50), "p99": micros(99)},
        "filled": filled(&found.last),
        "bad_rows": bad,
    });
    anstream::println!("{reply:#}");
}

fn print_text(found: &TracePlacement) {
    let unplaced: u64 = found.unplaced.values().sum();
    anstream::println!(
        "{} of {} tasks placed: {:.1}% of all CPU and {:.1}% of all memory are given out.",
        found.placed,
        found.placed + unplaced,
        100.0 * found.last.cpu,
        100.0 * found.last.memory,
    );
    if let Some(first) = &found.first_failure {
        anstream::println!(
            "The first task that found no machine came after {} tasks, at {:.1}% of CPU and {:.1}% of memory.",
            first.tasks,
            100.0 * first.cpu,
            100.0 * first.memory,
        );
        let mut table = Table::new(&["TASKS", "WITHOUT A MACHINE BECAUSE"]);
        for (reason, tasks) in &found.unplaced {
            table.row(vec![tasks.to_string(), (*reason).to_owned()]);
        }
        table.print();
    }
    anstream::println!(
        "{:.0} placements a second; half of the decisions took {:?}, one in a hundred longer than {:?}.",
        found.placements_per_second(),
        found.percentile(50),
        found.percentile(99),
    );
}
