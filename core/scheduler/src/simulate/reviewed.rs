//! Plans that people have reviewed, and what is held against them: the plan that was reviewed is the plan that runs.

use std::collections::BTreeMap;

use tw_model::{Desired, Effect, JobId, Record, TaskId, TaskRecord, TaskState, Version};

use super::coverage::Coverage;
use crate::requires::unmet;
use crate::{Event, ExpectedPlan, Op, Plan, Refusal, Reply, Request, State, Submission, Txn};

/// How the reasons begin of tasks that end because of a submission.
const OF_SUBMISSIONS: [&str; 4] = [
    "makes way for ",
    "makes room for ",
    "only ",
    "the job was stopped",
];

/// A plan as someone has seen it who now wants it applied.
#[derive(Clone, Debug)]
pub(super) struct Reviewed {
    pub(super) submission: Submission,
    pub(super) expected: ExpectedPlan,
    /// How many decisions had changed the state when it was made.
    rests_on: u64,
}

impl Reviewed {
    /// The plan of a submission, confirmed where it has to be.
    pub(super) fn of(mut submission: Submission, plan: &Plan, reviews: &Reviews) -> Reviewed {
        submission.confirmed = plan.confirmation.map(|_| plan.digest.clone());
        Reviewed {
            submission,
            expected: ExpectedPlan::from(plan),
            rests_on: reviews.changes,
        }
    }
}

/// What the plans that were applied said of the tasks that ran then.
#[derive(Debug, Default)]
pub(super) struct Reviews {
    /// How many decisions have changed the state, and how often it was read anew.
    changes: u64,
    applied: BTreeMap<(JobId, Version), Applied>,
}

#[derive(Debug)]
struct Applied {
    digest: String,
    effects: BTreeMap<TaskId, Effect>,
}

impl Reviews {
    /// The state was read anew, and may lack what was decided last.
    pub(super) fn recovered(&mut self) {
        self.changes += 1;
    }

    /// Holds the answer to a request against what was reviewed, before the decision is applied.
    pub(super) fn answered(
        &mut self,
        coverage: &mut Coverage,
        state: &State,
        reviewed: Option<&Reviewed>,
        (reply, txns): (&Reply, &[Txn]),
    ) -> Result<(), String> {
        let before = self.changes;
        self.changes += u64::from(!txns.is_empty());
        match (reviewed, reply) {
            (Some(reviewed), Reply::Submitted(plan)) => {
                if plan.digest != reviewed.expected.digest {
                    return Err(format!(
                        "what was applied is not what was reviewed: {}",
                        crate::moved_between(&reviewed.expected, plan).join("; ")
                    ));
                }
                if plan.confirmation.is_some() {
                    coverage.count("plans confirmed");
                }
                as_submitted(&reviewed.submission, plan, txns)?;
                stops_alone_what_it_names(state, plan, txns)?;
                self.note(state, plan);
                Ok(())
            }
            (Some(reviewed), Reply::Refused(refusal)) if is_stale(refusal) => {
                coverage.count("stale plans refused");
                if reviewed.rests_on == before {
                    return Err(format!("nothing has changed since: {refusal}"));
                }
                match refusal.details.is_empty() {
                    true => Err(format!("who is to say what has moved: {refusal}")),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, state: &State, plan: &Plan) {
        for job in &plan.jobs {
            let rows = state.job(&job.job).into_iter().flat_map(|job| job.tasks());
            let running = rows.filter(|row| runs(row));
            let effect_on = |index: u32| {
                let mut tasks = job.tasks.iter();
                let found = tasks.find(|task| task.index == index);
                found.map_or(Effect::None, |task| task.effect)
            };
            let applied = Applied {
                digest: plan.digest.clone(),
                effects: running
                    .map(|row| (row.id.clone(), effect_on(row.id.index)))
                    .collect(),
            };
            self.applied.insert((job.job.clone(), job.version), applied);
        }
    }

    /// Holds what an update does to tasks against the plan of its version, before it is applied.
    pub(super) fn hold(
        &self,
        coverage: &mut Coverage,
        state: &State,
        txns: &[Txn],
    ) -> Result<(), String> {
        for row in tasks(txns) {
            let Some(before) = state.task(&row.id).filter(|before| runs(before)) else {
                continue;
            };
            let replaced_by = replaced_by(before, row);
            let to = replaced_by.unwrap_or(row.version);
            if to == before.version {
                continue;
            }
            let Some(planned) = self.planned(state, txns, &row.id, to) else {
                continue;
            };
            match (replaced_by, planned) {
                (Some(_), Effect::InPlace) if !may_stay(state, txns, before, to) => {
                    coverage.count("changes in place that had to move");
                }
                (Some(_), planned) if !planned.replaces_task() => {
                    return Err(format!(
                        "{} is replaced, and the plan of version {to} said: {planned}",
                        row.id
                    ));
                }
                (None, planned) if planned.replaces_task() => {
                    return Err(format!(
                        "{} runs on as version {to}, and its plan said: {planned}",
                        row.id
                    ));
                }
                _ => coverage.count("tasks changed as planned"),
            }
        }
        Ok(())
    }

    /// What the plan of a version said of a task; none where the version has none, or the task is younger.
    fn planned(&self, state: &State, txns: &[Txn], task: &TaskId, to: Version) -> Option<Effect> {
        let applied = self.applied.get(&(task.job.clone(), to))?;
        let stored = || Some(state.job(&task.job)?.version(to)?.plan.clone());
        let digest = version(txns, &task.job, to).map(|row| row.plan.clone());
        let effect = applied.effects.get(task).copied();
        effect.filter(|_| digest.or_else(stored).as_ref() == Some(&applied.digest))
    }
}

pub(super) fn is_stale(refusal: &Refusal) -> bool {
    refusal.code == tw_model::Code::PlanStale
}

/// Whether a plan can be about a task: later ones had not begun.
fn runs(row: &TaskRecord) -> bool {
    let begun = matches!(row.state, TaskState::Starting | TaskState::Running);
    begun && row.desired == Desired::Run
}

fn tasks(txns: &[Txn]) -> impl Iterator<Item = &TaskRecord> {
    let ops = txns.iter().flat_map(|txn| &txn.ops);
    ops.filter_map(|op| match op {
        Op::Put(Record::Task(row)) => Some(&**row),
        _ => None,
    })
}

fn version<'a>(
    txns: &'a [Txn],
    job: &JobId,
    version: Version,
) -> Option<&'a tw_model::VersionRecord> {
    let mut ops = txns.iter().flat_map(|txn| &txn.ops);
    ops.find_map(|op| match op {
        Op::Put(Record::Version(row)) if row.job == *job && row.version == version => Some(&**row),
        _ => None,
    })
}

/// The version that an update asks a task to end for.
fn replaced_by(before: &TaskRecord, after: &TaskRecord) -> Option<Version> {
    let asked = before.desired == Desired::Run && after.desired == Desired::Stop;
    let version = after.reason.strip_prefix("makes way for version ");
    version.filter(|_| asked)?.parse().ok()
}

/// Every version that is written is what was submitted, and of a job that the plan names.
fn as_submitted(submission: &Submission, plan: &Plan, txns: &[Txn]) -> Result<(), String> {
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        let Op::Put(Record::Version(row)) = op else {
            continue;
        };
        let mut jobs = submission.jobs.iter();
        let submitted = jobs.any(|one| one.spec.id() == row.job && one.spec == *row.spec);
        let mut planned = plan.jobs.iter();
        let planned = planned.any(|job| job.job == row.job && job.version == row.version);
        if !submitted || !planned || row.plan != plan.digest {
            let (job, version) = (&row.job, row.version);
            return Err(format!(
                "version {version} of {job} is not what was reviewed"
            ));
        }
    }
    Ok(())
}

/// A submission stops no task of its jobs that its plan does not name, and of others no more than the plan says that make
/// room: which of them is a forecast, as machines are.
fn stops_alone_what_it_names(state: &State, plan: &Plan, txns: &[Txn]) -> Result<(), String> {
    let preempts = plan.jobs.iter().map(|job| job.verdict.preempts().len());
    let (preempts, mut others) = (preempts.sum::<usize>(), 0);
    let stopped = tasks(txns).filter(|row| {
        let ran = state.task(&row.id).is_some_and(runs);
        // Whatever asks for a job to be looked at also ends what has to end for other reasons.
        let mut reasons = OF_SUBMISSIONS.iter();
        let asked = reasons.any(|words| row.reason.starts_with(words));
        row.desired == Desired::Stop && ran && asked && !is_for_what_was(state, plan, txns, row)
    });
    for row in stopped {
        let of_plan = plan.jobs.iter().find(|job| job.job == row.id.job);
        let named = match of_plan {
            Some(job) => {
                let mut tasks = job.tasks.iter();
                tasks.any(|task| task.index == row.id.index && task.effect >= Effect::Scale)
            }
            None => {
                others += 1;
                others <= preempts
            }
        };
        if !named {
            return Err(format!(
                "{} is stopped ({}), and the plan does not name it",
                row.id, row.reason
            ));
        }
    }
    Ok(())
}

/// Whether a task makes room for one that is still of an earlier version than the plan's: whose turn in the update has not
/// come, and which would have looked for room without it.
fn is_for_what_was(state: &State, plan: &Plan, txns: &[Txn], row: &TaskRecord) -> bool {
    let named = row.reason.strip_prefix("makes room for ");
    let task = named.and_then(|text| text.split(',').next()?.parse::<TaskId>().ok());
    let Some(task) = task else {
        return false;
    };
    let written = tasks(txns).filter(|row| row.id == task).last();
    let waits = written.or_else(|| state.task(&task));
    let mut jobs = plan.jobs.iter();
    let planned = jobs.find(|job| job.job == task.job);
    waits
        .zip(planned)
        .is_some_and(|(waits, planned)| waits.version < planned.version)
}

/// Whether a task that is to change in place has the room for it on its machine and nothing else speaks for leaving
/// it, as far as that is seen from outside.
fn may_stay(state: &State, txns: &[Txn], row: &TaskRecord, to: Version) -> bool {
    let Some(job) = state.job(&row.id.job) else {
        return false;
    };
    let stored = || job.version(to).map(|version| &version.spec);
    let spec = version(txns, &row.id.job, to).map(|version| &version.spec);
    let machine = row.machine.as_ref().and_then(|id| state.machine(id));
    let (Some(spec), Some(machine)) = (spec.or_else(stored), machine) else {
        return false;
    };
    let (old, new) = (Request::of(job.spec_of(row)), Request::of(spec));
    let (held, whole) = (state.reserved_on(&machine.id), &machine.capacity);
    // Who comes to the machine or grows there in the same decision takes room as well.
    let arrives = tasks(txns).any(|other| {
        let before = state.task(&other.id);
        let same = before.is_some_and(|it| it.machine.is_some() && it.version == other.version);
        other.machine.as_ref() == Some(&machine.id) && !same
    });
    let mut apart = spec.anti_affinity.iter();
    let particular = unmet(&spec.requires, &machine.facts).is_some()
        || apart.any(|wish| wish.required && wish.job != row.id.job.name);
    !arrives
        && !particular
        && held.cpu + new.cpu <= whole.cpu + old.cpu
        && held.memory + new.memory <= whole.memory + old.memory
        && held.disk + new.disk <= whole.disk + old.disk
        && held.bandwidth + new.bandwidth <= whole.bandwidth + old.bandwidth
}

/// The event with which a reviewed plan is applied.
pub(super) fn apply(reviewed: &Reviewed) -> Event {
    Event::Submit {
        submission: reviewed.submission.clone(),
        expected: Some(reviewed.expected.clone()),
    }
}
