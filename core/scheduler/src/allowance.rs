//! Allowances: how much the jobs of a team may ask for together, by priority.
//!
//! A job is charged for all tasks that it may have at the same time: the most that its load may ask for, the machines of
//! a daemon, no more of a batch job than run in parallel. A plan that raises what is charged above the allowance is
//! shown and not applied. Nothing that runs is ever stopped for it: an allowance that is lowered stands only against
//! growth, and neither restarts nor rollbacks ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tw_model::{
    AllowanceBand, AllowanceRecord, AllowanceUse, Bytes, Charge, Code, Cores, JobId, JobSpec, Kind,
    Name, Record, RecordKey,
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

/// What a job is charged.
fn charge_of(draft: &Draft, spec: &JobSpec) -> Charge {
    Charge::of_tasks(&spec.resources, charged_tasks(draft, spec))
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
                true => charge_of(draft, job.spec()),
                false => continue,
            };
            before.add(charge);
            let id = &job.row().id;
            if !new.contains_key(id) && !submission.remove.contains(id) {
                after.add(charge);
            }
        }
        let ours = new.values().filter(|spec| counts(spec));
        ours.for_each(|spec| after.add(charge_of(draft, spec)));
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
                used.add(charge_of(&draft, spec));
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

/// The smallest change of one of the submitted jobs with which all would fit, of the one that has grown most: fewer
/// tasks, or where their number is as before or one task is too much already, smaller ones.
fn advice<'a>(
    draft: &Draft,
    found: &AllowanceUse,
    ours: impl Iterator<Item = &'a JobSpec>,
) -> Option<String> {
    let band = &found.band;
    // What was charged before stays allowed.
    let most = Charge {
        cpu: band.cpu.max(found.before.cpu),
        memory: band.memory.max(found.before.memory),
    };
    let old = |spec: &JobSpec| {
        let job = draft.base().job(&spec.id())?;
        let charged = !job.row().stopped && job.spec().allowance == spec.allowance;
        charged.then(|| job.spec().clone())
    };
    let growth = |spec: &JobSpec| {
        let old = old(spec).map_or(Charge::default(), |old| charge_of(draft, &old));
        let new = charge_of(draft, spec);
        let part =
            |new: u64, old: u64, all: u64| new.saturating_sub(old) as f64 / all.max(1) as f64;
        let cpu = part(new.cpu.0, old.cpu.0, most.cpu.0);
        cpu.max(part(new.memory.0, old.memory.0, most.memory.0))
    };
    let spec = ours.max_by(|a, b| growth(a).total_cmp(&growth(b)))?;
    let own = charge_of(draft, spec);
    let free = |most: u64, used: u64, own: u64| most.saturating_sub(used - own);
    let cpu = free(most.cpu.0, found.after.cpu.0, own.cpu.0);
    let memory = free(most.memory.0, found.after.memory.0, own.memory.0);
    let fit = |free: u64, each: u64| free.checked_div(each).unwrap_or(u64::MAX);
    let tasks = fit(cpu, spec.resources.cpu.0).min(fit(memory, spec.resources.memory.0));
    let wanted = charged_tasks(draft, spec);
    let same = old(spec).is_some_and(|old| charged_tasks(draft, &old) == wanted);
    let id = spec.id();
    if tasks > 0 && !same {
        let what = match (spec.kind, &spec.autoscale) {
            (Kind::Daemon, _) => "machines for",
            (_, Some(_)) => "tasks at most of",
            (Kind::Batch, _) if spec.parallelism.is_some() => "tasks at a time of",
            _ => "tasks of",
        };
        return Some(format!("with {tasks} {what} {id} it would fit"));
    }
    let each = Charge {
        cpu: Cores(fit(cpu, u64::from(wanted)).min(spec.resources.cpu.0)),
        memory: Bytes(fit(memory, u64::from(wanted)).min(spec.resources.memory.0)),
    };
    // A task that asks for nothing of what it needs is none.
    let nothing = each.cpu.0 == 0 && spec.resources.cpu.0 > 0
        || each.memory.0 == 0 && spec.resources.memory.0 > 0;
    (!nothing).then(|| {
        format!(
            "with {} cores and {} of memory for each task of {id} it would fit",
            each.cpu, each.memory
        )
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
    let hint =
        "ask for less, or ask the cluster's operators for more: `tw allowance` lists what is used";
    let mut refusal = Refusal::new(Code::AllowanceExceeded, message, hint);
    refusal.details = details;
    Err(refusal)
}
