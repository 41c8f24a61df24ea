//! Machines and tasks as people have them in files: the Google 2011 trace as it is, or a plain CSV.
//!
//! A row that cannot be read is named with its line and why; whether the rest is used is the caller's choice.

use std::collections::BTreeMap;
use std::sync::Arc;

use tw_model::{MachineFacts, Requires, Spread};

use super::rng::Rng;

/// The most machines or tasks that one row may stand for.
const COUNT_MAX: u64 = 10_000_000;

/// Machines of one size. Amounts are in the file's own units; only their ratio to what tasks ask for matters.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceMachines {
    pub cpu: f64,
    pub memory: f64,
    /// What the machines say of themselves: of a file no more than their rack, empty where it names none.
    pub facts: MachineFacts,
    pub count: u32,
}

/// What the tasks of one job may not share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Apart {
    /// They may share a machine; they are spread all the same.
    #[default]
    No,
    Machine,
    Rack,
}

/// Tasks of one job that are submitted together.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceTasks {
    /// The job, by a number of its own.
    pub job: u32,
    pub cpu: f64,
    pub memory: f64,
    pub count: u32,
    pub apart: Apart,
    /// What the job requires of its machines. Files name nothing of the kind; none takes any machine.
    pub requires: Option<Arc<Requires>>,
    /// What the tasks of the job are spread over. Files name nothing of the kind.
    pub spread: Option<Spread>,
    /// As the file says; tasks never end, so that nobody makes way for a higher one.
    pub priority: u32,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadRow {
    /// From 1.
    pub line: u64,
    pub why: String,
}

/// A file that is not what it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("the file is empty")]
    Empty,
    #[error("its first line names no column '{missing}'; it says: {found}")]
    NoColumn {
        missing: &'static str,
        found: String,
    },
    #[error(
        "its first line is neither a header with job, cpu and memory nor a row of task events: {found}"
    )]
    UnknownTasks { found: String },
}

/// Rows in the order of the file, and those that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRows<T> {
    pub rows: Vec<T>,
    pub bad: Vec<BadRow>,
}

/// Reads machines: a header with `cpu`, `memory`, and if there are such `rack` and `count` (or `number_of_machines`).
pub fn read_machines(
    lines: impl IntoIterator<Item = String>,
) -> Result<TraceRows<TraceMachines>, TraceError> {
    let mut lines = (1..).zip(lines);
    let (_, header) = lines.next().ok_or(TraceError::Empty)?;
    let columns = Columns::of(&header);
    let cpu = columns.need("cpu", &header)?;
    let memory = columns.need("memory", &header)?;
    let rack = columns.get(&["rack"]);
    let count = columns.get(&["count", "number_of_machines"]);
    Ok(rows(lines, |cells| {
        let machines = TraceMachines {
            cpu: positive(cells, cpu, "cpu")?,
            memory: positive(cells, memory, "memory")?,
            facts: MachineFacts {
                rack: rack.map_or("", |rack| cell(cells, rack)).to_owned(),
                ..MachineFacts::default()
            },
            count: many(cells, count)?,
        };
        Ok(Some(machines))
    }))
}

/// Reads tasks: a header with `job`, `cpu`, `memory`, and if there are such `count`, `anti_affinity` and
/// `priority`; or Google's task events, of which the submits count.
pub fn read_tasks(
    lines: impl IntoIterator<Item = String>,
) -> Result<TraceRows<TraceTasks>, TraceError> {
    let mut lines = (1..).zip(lines).peekable();
    let (_, first) = lines.peek().ok_or(TraceError::Empty)?;
    let first = first.clone();
    let columns = Columns::of(&first);
    let mut jobs = Jobs::default();
    if columns.get(&["job"]).is_some() {
        lines.next();
        let tasks = PlainTasks::of(&columns, &first)?;
        return Ok(rows(lines, |cells| tasks.read(cells, &mut jobs).map(Some)));
    }
    let cells: Vec<&str> = first.split(',').collect();
    if cells.len() != events::COLUMNS || cells[0].parse::<u64>().is_err() {
        return Err(TraceError::UnknownTasks { found: first });
    }
    Ok(rows(lines, |cells| events::read(cells, &mut jobs)))
}

/// The machines in another order, one row each.
pub fn shuffled(machines: Vec<TraceMachines>, seed: u64) -> Vec<TraceMachines> {
    let each = machines.into_iter().flat_map(|machine| {
        let count = machine.count as usize;
        std::iter::repeat_n(
            TraceMachines {
                count: 1,
                ..machine
            },
            count,
        )
    });
    let mut machines: Vec<TraceMachines> = each.collect();
    let mut rng = Rng::new(seed);
    for at in (1..machines.len()).rev() {
        machines.swap(at, rng.range(0, at as u64 + 1) as usize);
    }
    machines
}

/// Numbers for the names of jobs.
#[derive(Default)]
struct Jobs(BTreeMap<String, u32>);

impl Jobs {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = self.0.len() as u32;
        self.0.insert(name.to_owned(), number);
        number
    }
}

/// Where the columns of a plain file of tasks are.
struct PlainTasks {
    job: usize,
    cpu: usize,
    memory: usize,
    count: Option<usize>,
    apart: Option<usize>,
    priority: Option<usize>,
}

impl PlainTasks {
    fn of(columns: &Columns, header: &str) -> Result<PlainTasks, TraceError> {
        Ok(PlainTasks {
            job: columns.need("job", header)?,
            cpu: columns.need("cpu", header)?,
            memory: columns.need("memory", header)?,
            count: columns.get(&["count"]),
            apart: columns.get(&["anti_affinity"]),
            priority: columns.get(&["priority"]),
        })
    }

    fn read(&self, cells: &[&str], jobs: &mut Jobs) -> Result<TraceTasks, String> {
        let name = cell(cells, self.job);
        if name.is_empty() {
            return Err("it names no job".to_owned());
        }
        let apart = match self.apart.map_or("", |apart| cell(cells, apart)) {
            "" | "0" | "false" | "no" | "none" => Apart::No,
            "1" | "true" | "yes" | "machine" => Apart::Machine,
            "rack" => Apart::Rack,
            other => {
                return Err(format!(
                    "anti_affinity is '{other}': use true, false, machine or rack"
                ));
            }
        };
        let priority = match self.priority.map_or("", |priority| cell(cells, priority)) {
            "" => 0,
            text => whole(text, "priority")?,
        };
        Ok(TraceTasks {
            job: jobs.number(name),
            cpu: amount(cells, self.cpu, "cpu")?,
            memory: amount(cells, self.memory, "memory")?,
            count: many(cells, self.count)?,
            apart,
            requires: None,
            spread: None,
            priority,
        })
    }
}

/// Google's task events (clusterdata-2011-2), which have no header.
mod events {
    use super::{Apart, Jobs, TraceTasks, amount, cell, whole};

    pub(super) const COLUMNS: usize = 13;

    const JOB: usize = 2;
    const EVENT: usize = 5;
    const PRIORITY: usize = 8;
    const CPU: usize = 9;
    const MEMORY: usize = 10;
    const DIFFERENT_MACHINES: usize = 12;

    const SUBMIT: u32 = 0;
    const EVENT_LAST: u32 = 8;

    /// None for events that are no submits.
    pub(super) fn read(cells: &[&str], jobs: &mut Jobs) -> Result<Option<TraceTasks>, String> {
        if cells.len() != COLUMNS {
            return Err(format!(
                "it has {} columns, and task events have {COLUMNS}",
                cells.len()
            ));
        }
        match whole(cell(cells, EVENT), "the event type")? {
            SUBMIT => {}
            event if event <= EVENT_LAST => return Ok(None),
            event => return Err(format!("event type {event} is none of 0 to {EVENT_LAST}")),
        }
        let job = cell(cells, JOB);
        if job.is_empty() {
            return Err("it names no job".to_owned());
        }
        let apart = match cell(cells, DIFFERENT_MACHINES) {
            "1" => Apart::Machine,
            _ => Apart::No,
        };
        Ok(Some(TraceTasks {
            cpu: amount(cells, CPU, "the CPU request")?,
            memory: amount(cells, MEMORY, "the memory request")?,
            job: jobs.number(job),
            count: 1,
            apart,
            requires: None,
            spread: None,
            priority: whole(cell(cells, PRIORITY), "priority")?,
        }))
    }
}

/// The columns that a header names.
struct Columns(Vec<String>);

impl Columns {
    fn of(header: &str) -> Columns {
        let header = header.trim_start_matches('\u{feff}');
        let names = header.split(',').map(|name| name.trim().to_lowercase());
        Columns(names.collect())
    }

    fn get(&self, names: &[&str]) -> Option<usize> {
        let mut columns = self.0.iter();
        columns.position(|column| names.contains(&column.as_str()))
    }

    fn need(&self, name: &'static str, header: &str) -> Result<usize, TraceError> {
        self.get(&[name]).ok_or_else(|| TraceError::NoColumn {
            missing: name,
            found: header.chars().take(100).collect(),
        })
    }
}

fn rows<T>(
    lines: impl Iterator<Item = (u64, String)>,
    mut read: impl FnMut(&[&str]) -> Result<Option<T>, String>,
) -> TraceRows<T> {
    let mut found = TraceRows {
        rows: Vec::new(),
        bad: Vec::new(),
    };
    for (line, text) in lines.filter(|(_, text)| !text.trim().is_empty()) {
        let cells: Vec<&str> = text.trim_end().split(',').collect();
        match read(&cells) {
            Ok(row) => found.rows.extend(row),
            Err(why) => found.bad.push(BadRow { line, why }),
        }
    }
    found
}

fn cell<'a>(cells: &[&'a str], column: usize) -> &'a str {
    cells.get(column).map_or("", |text| text.trim())
}

/// A number that is not negative.
fn amount(cells: &[&str], column: usize, name: &str) -> Result<f64, String> {
    let text = cell(cells, column);
    if text.is_empty() {
        return Err(format!("{name} is missing"));
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        Ok(_) => Err(format!("{name} is {text}, which nothing can have")),
        Err(_) => Err(format!("{name} is '{text}', which is not a number")),
    }
}

fn positive(cells: &[&str], column: usize, name: &str) -> Result<f64, String> {
    match amount(cells, column, name)? {
        0.0 => Err(format!("{name} is 0, and a machine has some")),
        value => Ok(value),
    }
}

fn whole(text: &str, name: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{name} is '{text}', which is not a whole number"))
}

fn many(cells: &[&str], column: Option<usize>) -> Result<u32, String> {
    let text = column.map_or("1", |column| cell(cells, column));
    match text.parse::<u64>() {
        Ok(count) if (1..=COUNT_MAX).contains(&count) => Ok(count as u32),
        _ => Err(format!(
            "count is '{text}', which is not a whole number from 1 to {COUNT_MAX}"
        )),
    }
}
