//! What a submission would do, as one value: shown to people, and held against what happens.
//!
//! A plan is a dry run of the updater on a draft of the state. Its digest covers the specs, the versions they build
//! on, the effects, the stages and the verdicts, but not the machines: those may differ when it is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use tw_model::{
    AllowanceUse, Approval, Cause, Change, ChangeKind, ChangedModule, Code, Domain, Effect, Image,
    JobChange, JobId, JobSpec, Kind, MachineId, Millis, Name, PolicyReport, RolloutState,
    SourceRef, TaskId, Timestamp, Version, VersionRecord, diff_jobs, without_support,
};

use crate::caveat::{self, Caveat};
use crate::draft::Draft;
use crate::drift::{Drift, drift};
use crate::forecast::stage_durations;
use crate::neighbours::contradiction;
use crate::rollout;
use crate::{
    ConfirmRule, Confirmation, JobState, NoRoom, Refusal, State, allowance, daemon, dependency,
    dry_run, reconcile,
};

/// A job as it was evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubmittedJob {
    pub spec: JobSpec,
    pub source: SourceRef,
}

/// What someone wants from now on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    pub jobs: Vec<SubmittedJob>,
    /// Jobs that are wanted no more.
    pub remove: Vec<JobId>,
    /// What policies say of the jobs; a submission that they refuse can be planned, not applied.
    pub policy: PolicyReport,
    /// Who wants it.
    pub by: String,
    pub approval: Approval,
    /// Which changes have to be confirmed; none where all are let through.
    pub confirm: Option<ConfirmRule>,
    /// The digest that someone confirms, or its beginning.
    pub confirmed: Option<String>,
}

/// How many tasks meet which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    /// Stay as they are.
    pub untouched: u32,
    /// Change while they run.
    pub in_place: u32,
    /// Start again on their machine.
    pub restarted: u32,
    /// Start again on another machine.
    pub moved: u32,
    /// Are added.
    pub started: u32,
    /// Are removed.
    pub stopped: u32,
}

/// What the dry run of the allocator says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Every task finds room.
    Fits,
    /// Every task finds room, some of them on another machine.
    Moves,
    /// Every task finds room, once these of lower priority have made it.
    Preempts { tasks: Vec<TaskId> },
    /// So many tasks would wait, the first of them for this reason; these of lower priority make room for others of the job.
    DoesNotFit {
        tasks: u32,
        why: NoRoom,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        preempts: Vec<TaskId>,
    },
}

/// What becomes of one index. The machines are a forecast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPlan {
    pub index: u32,
    /// `Scale` for a task that is added or removed.
    pub effect: Effect,
    pub from: Option<MachineId>,
    pub to: Option<MachineId>,
}

/// What becomes of one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobPlan {
    pub job: JobId,
    /// The version that the plan builds on; 0 for a new job.
    pub base_version: Version,
    /// The version that it makes; the same where nothing but a stop is asked.
    pub version: Version,
    /// None where the spec is the same, and the job begins again.
    pub change: Option<JobChange>,
    /// The strongest effect on a task, given the machines.
    pub effect: Effect,
    pub counts: TaskCounts,
    pub verdict: Verdict,
    /// How many tasks have the new version after each stage; empty where nothing is replaced.
    pub stages: Vec<u32>,
    /// For each stage the part of the fleet that it is, none where it counts tasks; empty where all count. The numbers
    /// are a forecast then, as the machines are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stage_parts: Vec<Option<Domain>>,
    /// How many tasks beyond the wanted number find room now, so that old ones end after new ones have started.
    #[serde(default)]
    pub surge: u32,
    /// How long each stage is expected to take where nothing fails. A forecast, as the machines are.
    #[serde(default)]
    pub stage_durations_ms: Vec<Millis>,
    /// The volumes of the job that is removed: what they hold stays on the machines, and no task finds it.
    #[serde(default)]
    pub volumes: Vec<Name>,
    /// The team that answers for the job; empty where it names none.
    #[serde(default)]
    pub owner: String,
    /// The spec file; empty where it is not known.
    #[serde(default)]
    pub file: String,
    pub tasks: Vec<TaskPlan>,
    /// Between which numbers the load moves the number of tasks, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scales: Option<(u32, u32)>,
    /// What to know of the machines of the forecast. Not part of the digest, as machines are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<Caveat>,
}

/// How much more, or less, all tasks ask for together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityDelta {
    pub cpu_millicores: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
}

/// What cannot be taken back by applying the old spec again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destruction {
    Removed,
    Recreated,
    ScaledToZero,
}

/// What a submission would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// BLAKE3 in hex.
    pub digest: String,
    /// The jobs to which something happens, by name.
    pub jobs: Vec<JobPlan>,
    /// The submitted jobs to which nothing happens.
    pub unchanged: Vec<JobId>,
    pub counts: TaskCounts,
    pub capacity: CapacityDelta,
    pub destructive: Vec<(JobId, Destruction)>,
    /// Why someone who has seen the plan has to confirm it; none where nobody has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
    /// Where what runs is not what was asked for before.
    #[serde(default)]
    pub drift: Vec<Drift>,
    /// What policies say of the submitted jobs.
    #[serde(default)]
    pub policy: PolicyReport,
    /// How the allowances are used that the jobs are charged to. Not part of the digest: what was let through is held
    /// against them anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowances: Vec<AllowanceUse>,
    /// Changed files that specs import or read, as whoever evaluated them found out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ChangedModule>,
}

/// The part of a plan of one job that a digest rests on, kept by the one who reviewed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanBasis {
    pub job: JobId,
    pub base_version: Version,
    pub effect: Effect,
    pub counts: TaskCounts,
    pub stages: Vec<u32>,
    /// `fits`, `moves`, `preempts`, `does not fit` or `does not fit and preempts`.
    pub verdict: String,
}

/// The plan that was reviewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedPlan {
    pub digest: String,
    /// What it said, so that a refusal can name what has moved; may be left out.
    #[serde(default)]
    pub basis: Vec<PlanBasis>,
}

impl From<&Plan> for ExpectedPlan {
    fn from(plan: &Plan) -> ExpectedPlan {
        ExpectedPlan {
            digest: plan.digest.clone(),
            basis: plan.jobs.iter().map(JobPlan::basis).collect(),
        }
    }
}

/// Says what a submission would do now, and refuses one that could not be applied.
pub fn plan(
    state: &State,
    submission: &Submission,
    now: Timestamp,
    seed: u64,
) -> Result<Plan, Refusal> {
    let mut draft = Draft::new(state, now, seed);
    check(&draft, submission)?;
    let mut jobs = Vec::new();
    let mut unchanged = Vec::new();
    let mut capacity = CapacityDelta::default();
    for submitted in sorted(submission) {
        let old = state.job(&submitted.spec.id()).cloned();
        match plan_job(&mut draft, submitted, old.as_ref()) {
            Some(job) => {
                capacity.add(&submitted.spec, tasks_of(&draft, &submitted.spec), 1);
                if let Some(old) = &old {
                    capacity.add(old.spec(), live_tasks_of(old), -1);
                }
                jobs.push(job);
            }
            None => unchanged.push(submitted.spec.id()),
        }
    }
    for id in submission.remove.iter().collect::<BTreeSet<_>>() {
        if let Some(old) = state.job(id).filter(|job| !job.row.stopped) {
            capacity.add(old.spec(), live_tasks_of(old), -1);
            jobs.push(plan_removal(&mut draft, old));
        }
    }
    jobs.sort_by(|a, b| a.job.cmp(&b.job));
    let confirmation = submission.confirm.and_then(|rule| rule.asks(state, &jobs));
    Ok(Plan {
        digest: digest(submission, &jobs, confirmation.is_some()),
        confirmation,
        counts: jobs.iter().map(|job| job.counts).sum(),
        destructive: jobs
            .iter()
            .filter_map(|job| Some((job.job.clone(), job.destroys()?)))
            .collect(),
        jobs,
        unchanged,
        capacity,
        drift: drift(state, submission),
        policy: submission.policy.clone(),
        allowances: allowance::planned(&draft, submission),
        modules: Vec::new(),
    })
}

impl Plan {
    /// Whether it can be shown and not applied: a policy or an allowance stands against it.
    pub fn is_refused(&self) -> bool {
        allowed(self).is_err()
    }

    /// Adds where the changes come from, which the sources tell and not the state: `cause` of a job and a path, and the
    /// files that caused them. No part of the digest.
    pub fn explain(
        &mut self,
        cause: impl Fn(&JobId, &str) -> Option<Cause>,
        modules: Vec<ChangedModule>,
    ) {
        for job in &mut self.jobs {
            let changes = job.change.iter_mut().flat_map(|found| &mut found.changes);
            changes.for_each(|change| change.cause = cause(&job.job, &change.path));
        }
        self.modules = modules;
    }

    /// The plan as it may be shown, without what looks like a credential.
    pub fn masked(mut self) -> Plan {
        for found in self.jobs.iter_mut().filter_map(|job| job.change.as_mut()) {
            let changes = std::mem::take(&mut found.changes).into_iter();
            found.changes = changes.map(Change::masked).collect();
        }
        self
    }
}

/// How many tasks a spec asks for: of a daemon one a machine, of a job with a schedule those of one run.
pub(crate) fn tasks_of(draft: &Draft, spec: &JobSpec) -> u32 {
    let targets = |machine: &&tw_model::MachineRecord| daemon::is_target(spec, machine);
    match spec.kind {
        Kind::Daemon => draft.machines().filter(targets).count() as u32,
        Kind::Service | Kind::Batch => {
            spec.tasks(draft.job(&spec.id()).and_then(|job| job.row.scaled()))
        }
    }
}

fn live_tasks_of(job: &JobState) -> u32 {
    match job.spec().schedule.is_some() && !job.row.stopped {
        true => job.spec().tasks(job.row.scaled()),
        false => job.indexes().count() as u32,
    }
}

/// Refuses a plan that a policy or an allowance stands against.
pub(crate) fn allowed(plan: &Plan) -> Result<(), Refusal> {
    let refusing = plan.policy.findings.iter().filter(|found| found.refuses());
    let details: Vec<String> = refusing
        .map(|found| format!("{}: {}, says {}", found.job, found.message, found.policy))
        .collect();
    if details.is_empty() {
        return allowance::allowed(&plan.allowances);
    }
    let message = "policy refuses what was planned".to_owned();
    let mut refusal = Refusal::new(
        Code::PolicyRefused,
        message,
        "change the jobs, or ask the policy's owner",
    );
    refusal.details = details;
    Err(refusal)
}

/// Refuses what no state of the machines could make right.
fn check(draft: &Draft, submission: &Submission) -> Result<(), Refusal> {
    let mut names = BTreeSet::new();
    for submitted in &submission.jobs {
        let id = submitted.spec.id();
        if !names.insert(id.clone()) {
            return Err(Refusal::new(
                Code::SpecDuplicateJob,
                format!("two of the submitted jobs are called {id}"),
                "give one of them another name or namespace",
            ));
        }
    }
    for submitted in &submission.jobs {
        let fields = without_support(&submitted.spec);
        let hint = match submitted.spec.image {
            Some(Image::Oci(_)) => {
                "write the image to an archive in the repository, as `docker export` does, and name it as ArchiveImage"
            }
            _ => "leave it out for now: the job would run without it",
        };
        if !fields.is_empty() {
            return Err(Refusal::new(
                Code::SpecNotSupported,
                format!(
                    "{} sets {}, which this release does not act on yet",
                    submitted.spec.id(),
                    fields.join(", ")
                ),
                hint,
            ));
        }
    }
    allowance::check(draft, submission)?;
    if let Some(id) = submission.remove.iter().find(|id| draft.job(id).is_none()) {
        return Err(Refusal::job_not_found(id));
    }
    if let Some(id) = submission.remove.iter().find(|id| names.contains(id)) {
        return Err(Refusal::new(
            Code::RequestInvalid,
            format!("{id} is both submitted and removed"),
            "leave one of the two out",
        ));
    }
    for submitted in &submission.jobs {
        if let Some(found) = contradiction(&submitted.spec) {
            let message = format!("{} contradicts itself: {found}", submitted.spec.id());
            let hint = "leave one of the two out, or make it a wish";
            return Err(Refusal::new(Code::JobContradiction, message, hint));
        }
    }
    if let Some(cycle) = dependency::cycle(draft, submission.jobs.iter().map(|job| &job.spec)) {
        let names: Vec<String> = cycle.iter().map(JobId::to_string).collect();
        return Err(Refusal::new(
            Code::JobDependencyCycle,
            format!(
                "these jobs would wait for each other: {}",
                names.join(" -> ")
            ),
            "remove one of these names from a depends_on",
        ));
    }
    Ok(())
}

fn sorted(submission: &Submission) -> Vec<&SubmittedJob> {
    let mut jobs: Vec<&SubmittedJob> = submission.jobs.iter().collect();
    jobs.sort_by_key(|job| job.spec.id());
    jobs
}

/// Whether applying the same spec again still does something: a stopped job begins again, a halted update and a
/// batch job out of attempts are tried again.
fn begins_again(job: &JobState) -> bool {
    let halted = job.row.rollout.as_ref();
    let halted = halted.is_some_and(|rollout| rollout.state == RolloutState::Halted);
    let mut latest = job.indexes().filter_map(|index| job.latest(index));
    let scheduled = job.spec().schedule.is_some();
    let exhausted = |row| !scheduled && reconcile::exhausted(job, row);
    job.row.stopped || halted || latest.any(exhausted)
}

/// The dry run of one job; none where nothing would happen.
fn plan_job(
    draft: &mut Draft,
    submitted: &SubmittedJob,
    old: Option<&JobState>,
) -> Option<JobPlan> {
    let spec = &submitted.spec;
    let id = spec.id();
    let change = diff_jobs(old.map(|job| job.spec().as_ref()), Some(spec));
    if change.is_none() && !old.is_some_and(begins_again) {
        return None;
    }
    let base_version = old.map_or(0, |job| job.row.version);
    write_version(draft, submitted, &Wanted::default());
    if old.is_some_and(|job| !job.row.stopped) {
        rollout::begin(draft, &id, base_version, Vec::new(), false);
    }
    let found = dry_run::update(draft, &id, spec, old);
    let (counts, tasks, verdict) = (found.counts, found.tasks, found.verdict);
    let strongest = tasks.iter().map(|task| task.effect).max();
    let replaces = counts.in_place + counts.restarted + counts.moved > 0;
    let durations = stage_durations(old, spec, &found.work);
    Some(JobPlan {
        job: id,
        base_version,
        version: base_version + 1,
        change,
        effect: strongest.unwrap_or(Effect::None),
        counts,
        verdict,
        stage_parts: match replaces {
            true => rollout::parts(spec, found.stages.len()),
            false => Vec::new(),
        },
        stages: match replaces {
            true => found.stages,
            false => Vec::new(),
        },
        surge: found.surge,
        scales: scales(spec),
        caveats: caveat::of(draft, spec, &tasks, old.is_none()),
        stage_durations_ms: match replaces {
            true => durations,
            false => Vec::new(),
        },
        volumes: Vec::new(),
        owner: spec.owner.clone(),
        file: submitted.source.file.clone(),
        tasks,
    })
}

fn plan_removal(draft: &mut Draft, old: &JobState) -> JobPlan {
    let id = old.row.id.clone();
    let found = dry_run::removal(draft, old);
    let (counts, tasks, verdict) = (found.counts, found.tasks, found.verdict);
    JobPlan {
        job: id,
        base_version: old.row.version,
        version: old.row.version,
        change: diff_jobs(Some(old.spec()), None),
        effect: Effect::Scale,
        counts,
        verdict,
        stages: Vec::new(),
        stage_parts: Vec::new(),
        surge: 0,
        stage_durations_ms: Vec::new(),
        volumes: old
            .spec()
            .volumes
            .iter()
            .map(|volume| volume.name.clone())
            .collect(),
        owner: old.spec().owner.clone(),
        file: old.current().source.file.clone(),
        tasks,
        scales: scales(old.spec()),
        caveats: Vec::new(),
    }
}

fn scales(spec: &JobSpec) -> Option<(u32, u32)> {
    let autoscale = spec.autoscale.as_ref()?;
    Some((autoscale.within(0), autoscale.within(u32::MAX)))
}

/// What a new version brings beside the spec.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) by: String,
    pub(crate) plan: String,
    pub(crate) approval: Approval,
}

/// Writes the next version of a job, and makes it the one that is wanted.
pub(crate) fn write_version(
    draft: &mut Draft,
    submitted: &SubmittedJob,
    wanted: &Wanted,
) -> Version {
    let id = submitted.spec.id();
    let old = draft.job(&id).map(|job| job.row.clone());
    let version = old.as_ref().map_or(1, |row| row.version + 1);
    let fresh = || tw_model::JobRecord {
        id: id.clone(),
        version,
        stable_version: 0,
        next_incarnation: 1,
        next_event: 1,
        stopped: false,
        rollout: None,
        runs: None,
        scale: None,
        created_at: draft.now,
        updated_at: draft.now,
    };
    let mut row = old.unwrap_or_else(fresh);
    row.version = version;
    row.stopped = false;
    row.rollout = None;
    row.updated_at = draft.now;
    draft.put_job(row);
    draft.put_version(VersionRecord {
        job: id,
        version,
        spec: std::sync::Arc::new(submitted.spec.clone()),
        source: submitted.source.clone(),
        plan: wanted.plan.clone(),
        by: wanted.by.clone(),
        approval: wanted.approval.clone(),
        at: draft.now,
    });
    version
}

impl JobPlan {
    /// The indexes that go to another machine.
    pub(crate) fn moves(&self) -> Vec<u32> {
        let moved = self.tasks.iter().filter(|task| task.effect == Effect::Move);
        moved.map(|task| task.index).collect()
    }

    fn destroys(&self) -> Option<Destruction> {
        let removed = self.change.as_ref().map(|change| change.change) == Some(ChangeKind::Removed);
        let emptied = self.change.as_ref().is_some_and(|change| {
            let zero = |change: &tw_model::Change| change.path == "replicas" && change.new == 0;
            change.changes.iter().any(zero)
        });
        match self.effect {
            _ if removed => Some(Destruction::Removed),
            Effect::Recreate => Some(Destruction::Recreated),
            _ if emptied => Some(Destruction::ScaledToZero),
            _ => None,
        }
    }

    /// What the digest rests on. Where the load moves the number of tasks, they are not counted: it may move before the
    /// plan is applied. Nor are the stages where they ask where the tasks are.
    pub fn basis(&self) -> PlanBasis {
        let counted = self.scales.is_none();
        PlanBasis {
            job: self.job.clone(),
            base_version: self.base_version,
            effect: self.effect,
            counts: if counted {
                self.counts
            } else {
                TaskCounts::default()
            },
            stages: if counted && self.stage_parts.is_empty() {
                self.stages.clone()
            } else {
                Vec::new()
            },
            verdict: self.verdict.word().to_owned(),
        }
    }
}

impl Verdict {
    /// The tasks of lower priority that make room.
    pub fn preempts(&self) -> &[TaskId] {
        match self {
            Verdict::Preempts { tasks } => tasks,
            Verdict::DoesNotFit { preempts, .. } => preempts,
            Verdict::Fits | Verdict::Moves => &[],
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Verdict::Fits => "fits",
            Verdict::Moves => "moves",
            Verdict::Preempts { .. } => "preempts",
            Verdict::DoesNotFit { preempts, .. } if preempts.is_empty() => "does not fit",
            Verdict::DoesNotFit { .. } => "does not fit and preempts",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::DoesNotFit {
                tasks,
                why,
                preempts,
            } => {
                match tasks {
                    1 => write!(f, "does not fit: 1 task would wait, {why}")?,
                    _ => write!(f, "does not fit: {tasks} tasks would wait, {why:#}")?,
                }
                match preempts.as_slice() {
                    [] => Ok(()),
                    preempts => write!(f, "; preempts {}", names(preempts)),
                }
            }
            Verdict::Preempts { tasks } => write!(f, "preempts {}", names(tasks)),
            other => f.write_str(other.word()),
        }
    }
}

fn names(tasks: &[TaskId]) -> String {
    let names: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
    names.join(", ")
}

impl std::iter::Sum for TaskCounts {
    fn sum<I: Iterator<Item = TaskCounts>>(all: I) -> TaskCounts {
        all.fold(TaskCounts::default(), |sum, one| TaskCounts {
            untouched: sum.untouched + one.untouched,
            in_place: sum.in_place + one.in_place,
            restarted: sum.restarted + one.restarted,
            moved: sum.moved + one.moved,
            started: sum.started + one.started,
            stopped: sum.stopped + one.stopped,
        })
    }
}

impl CapacityDelta {
    fn add(&mut self, spec: &JobSpec, tasks: u32, sign: i64) {
        let times = sign * i64::from(tasks);
        self.cpu_millicores += times * spec.resources.cpu.0 as i64;
        self.memory_bytes += times * spec.resources.memory.0 as i64;
        self.disk_bytes += times * spec.resources.disk.0 as i64;
    }
}

/// The hash of all that a plan promises.
/// A plan that nobody has to confirm is another one than the same that someone has to.
fn digest(submission: &Submission, jobs: &[JobPlan], confirm: bool) -> String {
    let specs: BTreeMap<String, &JobSpec> = submission
        .jobs
        .iter()
        .map(|job| (job.spec.id().to_string(), &job.spec))
        .collect();
    let basis: Vec<PlanBasis> = jobs.iter().map(JobPlan::basis).collect();
    let policy = submission.policy.basis();
    let whole = (specs, &submission.remove, basis, policy);
    let bytes = match confirm {
        true => serde_json::to_vec(&(whole, "confirm")),
        false => serde_json::to_vec(&whole),
    };
    let bytes = bytes.expect("specs and counts hold nothing that JSON cannot");
    blake3::hash(&bytes).to_hex().to_string()
}

/// What is no longer as the reviewed plan said, in words.
pub(crate) fn moved_since(state: &State, expected: &ExpectedPlan, plan: &Plan) -> Vec<String> {
    if expected.basis.is_empty() {
        return plan
            .jobs
            .iter()
            .map(|job| where_it_stands(state, job))
            .collect();
    }
    moved_between(expected, plan)
}

/// What of a plan that was reviewed is otherwise in one that was made later, in words.
pub fn moved_between(expected: &ExpectedPlan, plan: &Plan) -> Vec<String> {
    let was: BTreeMap<&JobId, &PlanBasis> = expected.basis.iter().map(|b| (&b.job, b)).collect();
    let is: BTreeMap<JobId, PlanBasis> = plan
        .jobs
        .iter()
        .map(|job| (job.job.clone(), job.basis()))
        .collect();
    let names: BTreeSet<&JobId> = was.keys().copied().chain(is.keys()).collect();
    let mut moved: Vec<String> = names
        .into_iter()
        .filter_map(|id| difference(id, was.get(id).copied(), is.get(id)))
        .collect();
    if moved.is_empty() {
        moved.push("the specs are not those that were planned".to_owned());
    }
    moved
}

fn where_it_stands(state: &State, plan: &JobPlan) -> String {
    match state.job(&plan.job) {
        None => format!("{} is new, and {}", plan.job, plan.verdict),
        Some(job) => {
            let current = job.current();
            format!(
                "{} is at version {} since {}, by {}; the change {}",
                plan.job, current.version, current.at, current.by, plan.verdict
            )
        }
    }
}

fn difference(id: &JobId, was: Option<&PlanBasis>, is: Option<&PlanBasis>) -> Option<String> {
    let (was, is) = match (was, is) {
        (Some(was), Some(is)) => (was, is),
        (Some(_), None) => return Some(format!("{id} no longer changes")),
        (None, Some(_)) => return Some(format!("{id} would change as well")),
        (None, None) => return None,
    };
    if was == is {
        return None;
    }
    let mut parts = Vec::new();
    if was.base_version != is.base_version {
        parts.push(format!(
            "version {} became {}",
            was.base_version, is.base_version
        ));
    }
    if was.effect != is.effect {
        parts.push(format!("effect {} became {}", was.effect, is.effect));
    }
    if was.verdict != is.verdict {
        parts.push(format!("'{}' became '{}'", was.verdict, is.verdict));
    }
    if was.counts != is.counts {
        parts.push(format!("{} became {}", was.counts, is.counts));
    }
    if was.stages != is.stages {
        parts.push(format!("stages {:?} became {:?}", was.stages, is.stages));
    }
    Some(format!("{id}: {}", parts.join(", ")))
}

impl fmt::Display for TaskCounts {
    /// Only what is not zero: `2 restarted, 1 started`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.in_place, "in place"),
            (self.restarted, "restarted"),
            (self.moved, "moved"),
            (self.started, "started"),
            (self.stopped, "stopped"),
            (self.untouched, "untouched"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        match parts.is_empty() {
            true => f.write_str("no tasks"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}
