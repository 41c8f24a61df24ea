//! Allowances: how much the jobs of a team may ask for together, by priority.
//!
//! A job is charged for all tasks that it may have at the same time: the most that its load may ask for, the machines of
//! a daemon, no more of a batch job than run in parallel. A plan that raises what is charged above the allowance is
//! shown and not applied. Nothing that runs is ever stopped for it: an allowance that is lowered stands only against
//! growth, and neither restarts nor rollbacks ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tw_model::{
    AllowanceBand, AllowanceRecord, Bytes, Code, Cores, JobId, JobSpec, Kind, Name, Record,
    RecordKey,
};

use crate::draft::Draft;
use crate::plan::tasks_of;
use crate::step::{Refusal, Reply};
use crate::{Op, State, Submission};

/// What the cluster's operators want of an allowance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowanceOrder {
    /// It has this band, instead of the one of the same priority if there is one.
    Set(AllowanceBand),
    /// It is no more. Refused while jobs are charged to it.
    Remove,
}

/// How one band of an allowance is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllowanceUse {
    pub allowance: Name,
    #[serde(flatten)]
    pub band: AllowanceBand,
    /// What is charged before the plan.
    pub before: Charge,
    /// What is charged once it is applied; the same without a plan.
    pub after: Charge,
    /// Whether the plan raises it above what is allowed.
    pub over: bool,
    /// The smallest change with which it would fit; empty where it does, or nothing in the plan would help.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// What jobs ask for together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    #[serde(rename = "cpu_millicores")]
    pub cpu: Cores,
    #[serde(rename = "memory_bytes")]
    pub memory: Bytes,
}

impl Charge {
    fn of(draft: &Draft, spec: &JobSpec) -> Charge {
        Charge::of_tasks(spec, charged_tasks(draft, spec))
    }

    fn of_tasks(spec: &JobSpec, tasks: u32) -> Charge {
        let tasks = u64::from(tasks);
        Charge {
            cpu: Cores(spec.resources.cpu.0.saturating_mul(tasks)),
            memory: Bytes(spec.resources.memory.0.saturating_mul(tasks)),
        }
    }

    fn add(&mut self, other: Charge) {
        self.cpu = Cores(self.cpu.0.saturating_add(other.cpu.0));
        self.memory = Bytes(self.memory.0.saturating_add(other.memory.0));
    }
}

/// How many tasks a job may have at the same time.
fn charged_tasks(draft: &Draft, spec: &JobSpec) -> u32 {
    let tasks = match &spec.autoscale {
        Some(autoscale) => autoscale.within(u32::MAX),
        None => tasks_of(draft, spec),
    };
    match (spec.kind, spec.parallelism) {
        (Kind::Batch, Some(most)) => tasks.min(most),
        _ => tasks,
    }
}

/// Changes an allowance.
pub(crate) fn order(draft: &mut Draft, name: &Name, order: &AllowanceOrder, by: &str) -> Reply {
    let known = draft.base().allowance(name);
    match order {
        AllowanceOrder::Set(band) => {
            let bands = known.map(|row| row.bands.clone()).unwrap_or_default();
            let others = bands.into_iter();
            let others = others.filter(|other| other.from_priority != band.from_priority);
            let mut bands: Vec<AllowanceBand> = others.chain([*band]).collect();
            bands.sort_by_key(|band| std::cmp::Reverse(band.from_priority));
            let row = AllowanceRecord {
                name: name.clone(),
                bands,
                by: by.to_owned(),
                at: draft.now,
            };
            draft.review(Op::Put(Record::Allowance(Arc::new(row))));
        }
        AllowanceOrder::Remove => {
            if known.is_none() {
                return Reply::Refused(not_found(draft.base(), name, None));
            }
            let charged = charged_jobs(draft.base(), name);
            let names: Vec<String> = charged.map(|id| id.to_string()).collect();
            if !names.is_empty() {
                return Reply::Refused(Refusal::new(
                    Code::RequestInvalid,
                    format!("these jobs are charged to {name}: {}", names.join(", ")),
                    "charge them to another allowance, or stop them, and remove it then",
                ));
            }
            draft.review(Op::Delete(RecordKey::Allowance(name.clone())));
        }
    }
    Reply::Reviewed
}

fn charged_jobs<'a>(state: &'a State, name: &'a Name) -> impl Iterator<Item = &'a JobId> {
    let jobs = state.jobs().filter(move |job| {
        let spec = job.spec();
        !job.row().stopped && spec.allowance.as_ref() == Some(name)
    });
    jobs.map(|job| &job.row().id)
}

fn not_found(state: &State, name: &Name, job: Option<&JobId>) -> Refusal {
    let names: Vec<&str> = state.allowances().map(|row| row.name.as_str()).collect();
    let message = match job {
        Some(job) => format!("{job} is charged to {name}, and there is no such allowance"),
        None => format!("there is no allowance {name}"),
    };
    let hint = match names.is_empty() {
        true => "the cluster's operators set it with `tw allowance set`".to_owned(),
        false => format!("there are {}", names.join(", ")),
    };
    Refusal::new(Code::AllowanceNotFound, message, &hint)
}

/// Refuses jobs that are charged to what does not exist.
pub(crate) fn check(draft: &Draft, submission: &Submission) -> Result<(), Refusal> {
    for spec in submission.jobs.iter().map(|job| &job.spec) {
        if let Some(name) = &spec.allowance
            && draft.base().allowance(name).is_none()
        {
            return Err(not_found(draft.base(), name, Some(&spec.id())));
        }
    }
    Ok(())
}

/// How the allowances are used that a submission charges, before and after it.
pub(crate) fn planned(draft: &Draft, submission: &Submission) -> Vec<AllowanceUse> {
    let state = draft.base();
    let new: BTreeMap<JobId, &JobSpec> = submission
        .jobs
        .iter()
        .map(|job| (job.spec.id(), &job.spec))
        .collect();
    let charged = new.values().filter_map(|spec| spec.allowance.clone());
    let charged: BTreeSet<Name> = charged.collect();
    let rows = charged.iter().filter_map(|name| state.allowance(name));
    let uses = rows.flat_map(|row| row.bands.iter().map(move |band| (row, band)));
    let uses = uses.map(|(row, band)| {
        let counts = |spec: &JobSpec| {
            spec.allowance.as_ref() == Some(&row.name) && spec.priority >= band.from_priority
        };
        let (mut before, mut after) = (Charge::default(), Charge::default());
        for job in state.jobs().filter(|job| !job.row().stopped) {
            let charge = match counts(job.spec()) {
                true => Charge::of(draft, job.spec()),
                false => continue,
            };
            before.add(charge);
            let id = &job.row().id;
            if !new.contains_key(id) && !submission.remove.contains(id) {
                after.add(charge);
            }
        }
        let ours = new.values().filter(|spec| counts(spec));
        ours.for_each(|spec| after.add(Charge::of(draft, spec)));
        let over = after.cpu > band.cpu && after.cpu > before.cpu
            || after.memory > band.memory && after.memory > before.memory;
        let mut one = AllowanceUse {
            allowance: row.name.clone(),
            band: *band,
            before,
            after,
            over,
            advice: String::new(),
        };
        if over {
            let ours = new.values().copied().filter(|spec| counts(spec));
            one.advice = advice(draft, &one, ours).unwrap_or_default();
        }
        one
    });
    uses.collect()
}

/// How all allowances are used now.
pub fn allowances(state: &State) -> Vec<AllowanceUse> {
    let draft = Draft::new(state, tw_model::Timestamp(0), 0);
    let rows = state.allowances();
    let bands = rows.flat_map(|row| row.bands.iter().map(move |band| (row, band)));
    let uses = bands.map(|(row, band)| {
        let mut used = Charge::default();
        for id in charged_jobs(state, &row.name) {
            let spec = state.job(id).map(|job| job.spec());
            if let Some(spec) = spec.filter(|spec| spec.priority >= band.from_priority) {
                used.add(Charge::of(&draft, spec));
            }
        }
        AllowanceUse {
            allowance: row.name.clone(),
            band: *band,
            before: used,
            after: used,
            over: false,
            advice: String::new(),
        }
    });
    uses.collect()
}

/// The smallest change of one of the submitted jobs with which all would fit: fewer tasks of the one that has grown most.
fn advice<'a>(
    draft: &Draft,
    found: &AllowanceUse,
    ours: impl Iterator<Item = &'a JobSpec>,
) -> Option<String> {
    let growth = |spec: &JobSpec| {
        let old = draft.base().job(&spec.id());
        let old = old.filter(|job| !job.row().stopped && job.spec().allowance == spec.allowance);
        let old = old.map_or(Charge::default(), |job| Charge::of(draft, job.spec()));
        let new = Charge::of(draft, spec);
        let cpu = new.cpu.0.saturating_sub(old.cpu.0) as f64 / found.band.cpu.0.max(1) as f64;
        let memory = new.memory.0.saturating_sub(old.memory.0) as f64;
        cpu.max(memory / found.band.memory.0.max(1) as f64)
    };
    let spec = ours.max_by(|a, b| growth(a).total_cmp(&growth(b)))?;
    let own = Charge::of(draft, spec);
    let free = |limit: u64, used: u64, own: u64| limit.saturating_sub(used - own);
    let cpu = free(found.band.cpu.0, found.after.cpu.0, own.cpu.0);
    let memory = free(found.band.memory.0, found.after.memory.0, own.memory.0);
    let fit = |free: u64, each: u64| free.checked_div(each).unwrap_or(u64::MAX);
    let tasks = fit(cpu, spec.resources.cpu.0).min(fit(memory, spec.resources.memory.0));
    let id = spec.id();
    let what = match (spec.kind, &spec.autoscale) {
        (Kind::Daemon, _) => "machines for",
        (_, Some(_)) => "tasks at most of",
        _ => "tasks of",
    };
    Some(match tasks {
        0 => {
            let least = charged_tasks(draft, spec).max(1);
            let each = |free: u64| free / u64::from(least);
            format!(
                "with {} cores and {} of memory for each task of {id} it would fit",
                Cores(each(cpu)),
                Bytes(each(memory))
            )
        }
        tasks => format!("with {tasks} {what} {id} it would fit"),
    })
}

/// Refuses a plan that an allowance stands against.
pub(crate) fn allowed(uses: &[AllowanceUse]) -> Result<(), Refusal> {
    let over = uses.iter().filter(|one| one.over);
    let details: Vec<String> = over.map(ToString::to_string).collect();
    if details.is_empty() {
        return Ok(());
    }
    let message = "the allowance is not large enough for what was planned".to_owned();
    let hint = "ask for less, or ask the cluster's operators for more: `tw allowance` lists what is used";
    let mut refusal = Refusal::new(Code::AllowanceExceeded, message, hint);
    refusal.details = details;
    Err(refusal)
}

impl fmt::Display for AllowanceUse {
    /// `allowance shop: 12 of 10 cores, 3 GiB of 64 GiB of memory; over by 2 cores; with 8 tasks of web it would fit`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allowance {}", self.allowance)?;
        if self.band.from_priority > 0 {
            write!(f, " from priority {}", self.band.from_priority)?;
        }
        write!(
            f,
            ": {} of {} cores, {} of {} of memory",
            self.after.cpu, self.band.cpu, self.after.memory, self.band.memory
        )?;
        let mut over = Vec::new();
        if self.after.cpu > self.band.cpu {
            over.push(format!("{} cores", self.after.cpu - self.band.cpu));
        }
        if self.after.memory > self.band.memory {
            over.push(format!("{} of memory", self.after.memory - self.band.memory));
        }
        if !over.is_empty() {
            write!(f, "; over by {}", over.join(" and "))?;
        }
        match (self.over, self.advice.is_empty()) {
            (true, false) => write!(f, "; {}", self.advice),
            (false, _) if !over.is_empty() => f.write_str(", and no more than before"),
            _ => Ok(()),
        }
    }
}
