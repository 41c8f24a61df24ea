//! Decides: one event on one state gives the rows to write and the answer to give.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use tw_model::{
    Ailment, Approval, Capacity, Code, Desired, Effect, FittedRecord, JobId, Kind, MachineFacts,
    MachineId, MachineIdentity, MachineRecord, MachineState, Millis, Name, Phase, RolloutState,
    ScaleRecord, TaskId, TaskRecord, TaskReport, TaskState, Timestamp, Version,
};

use crate::allowance::{self, AllowanceOrder};
use crate::draft::Draft;
use crate::drain::{self, DrainOrder};
use crate::identity::Standing;
use crate::lifecycle::{self, Details, TaskEvent, Transition};
use crate::plan::{self, ExpectedPlan, JobPlan, Plan, Submission, SubmittedJob, Wanted};
use crate::reconcile::{Surplus, begin, edit, reconcile, tell};
use crate::review::{self, Review};
use crate::rollout::{self, RolloutOrder, task_effect};
use crate::scale::Scaling;
use crate::unsettled::unsettled;
use crate::{
    JobState, State, Txn, ailment, control, dependency, identity, limiter, outage, reach, runs,
    steadiness,
};

/// How many versions of a job are kept beside those that are in use.
const VERSIONS_KEPT: usize = 10;

/// How many jobs with waiting tasks one event looks at when room becomes free; the next tick sees to the rest.
const WAITING_JOBS_AT_ONCE: usize = 32;

/// What the cluster's owner may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// A machine that is silent for longer is lost.
    pub lost_after: Millis,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            lost_after: Millis::seconds(10),
        }
    }
}

/// Something to decide on.
#[derive(Clone, Debug)]
pub enum Event {
    /// Someone wants jobs to be so from now on. With `expected`, only if the plan is still the same.
    Submit {
        submission: Submission,
        expected: Option<ExpectedPlan>,
    },
    /// What was found out about a repository, or decided on a plan of one of its commits.
    Review(Box<Review>),
    /// Someone wants all tasks of a job to start again, as gently as in an update.
    RestartJob { job: JobId, by: String },
    /// Running tasks have other limits by what they use: from now on they hold so much of their machines.
    Fitted(Vec<(TaskId, Option<FittedRecord>)>),
    /// The load of a job asks for another number of tasks.
    Scale { job: JobId, scaling: Scaling },
    /// Someone wants something of the update of a job.
    Rollout {
        job: JobId,
        order: RolloutOrder,
        by: String,
    },
    /// An agent says who its machine is, and all that it knows of its tasks.
    AgentRegistered {
        machine: MachineId,
        boot_id: String,
        /// The mark of the agent's state folder; empty where it has none.
        agent: String,
        capacity: Capacity,
        facts: Box<MachineFacts>,
        /// How long ago the machine was heard of; none where this controller never did.
        heard_ago: Option<Millis>,
        /// How long its boot had lasted when it said so; 0 where it does not say.
        uptime: Millis,
        /// The newest report of every task that the agent holds.
        reports: Vec<TaskReport>,
    },
    /// An agent says what has happened.
    Reports {
        machine: MachineId,
        epoch: u64,
        reports: Vec<TaskReport>,
    },
    /// An agent says otherwise than before what ails its machine.
    Ailing {
        machine: MachineId,
        epoch: u64,
        /// All that does now.
        ailments: BTreeSet<Ailment>,
    },
    /// Someone wants machines to be emptied, or to take tasks again.
    Drain {
        machines: Vec<MachineId>,
        order: DrainOrder,
        by: String,
    },
    /// Someone does something to a task that leaves no other trace, such as running a command in it.
    Noted {
        task: TaskId,
        /// A stable word such as `task.exec`.
        kind: &'static str,
        message: String,
    },
    /// A machine was silent for too long; see [`crate::Broker`].
    MachineLost {
        machine: MachineId,
        /// How many machines that count as up are silent, this one included.
        silent: u32,
    },
    /// A lost machine was granted no term for so long; see [`crate::Broker`].
    TermsOver { machine: MachineId, silence: Millis },
    /// The cluster's operators set what a team may ask for.
    Allowance {
        name: Name,
        order: AllowanceOrder,
        by: String,
    },
    /// Someone vouches that nothing runs any more on a machine that is lost.
    Fence { machine: MachineId, by: String },
    /// The application of a job has answered: it approves these operations, in this order, and no others.
    TaskControl { job: JobId, approved: Vec<String> },
    /// Time has passed. At least once a second, and at once after a recovery.
    Tick,
    /// The rows of every job are looked at, also where nothing is due. Now and then, in case that an index was wrong.
    Audit,
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Decision {
    /// To be applied and committed in this order. Every prefix is a valid state.
    pub txns: Vec<Txn>,
    /// To be given once all of them are durable.
    pub reply: Reply,
    /// Tasks that the decision changes in some other way before it asks them to end or removes them, as they are in
    /// between: what is left of the decision where that end has to wait.
    pub(crate) before_end: BTreeMap<TaskId, Arc<TaskRecord>>,
}

/// The answer to an event.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nobody asked.
    None,
    Submitted(Box<Plan>),
    /// The rows are written.
    Reviewed,
    Restarting {
        version: Version,
    },
    /// The order is carried out; this version is wanted now.
    Rollout {
        version: Version,
    },
    /// The order is carried out; so many tasks were there.
    Drain {
        tasks: u32,
    },
    /// The machine is fenced; so many tasks counted as alive there.
    Fence {
        tasks: u32,
    },
    /// The answer counts, as far as it names operations that were offered.
    Controlled {
        unknown: Vec<String>,
    },
    /// The epoch of everything that the machine runs from now on.
    Registered {
        epoch: u64,
    },
    /// The reports are dealt with; these could not be used.
    Reported {
        refused: Vec<ReportRefusal>,
    },
    /// The sender's epoch is over. It is to register again, and to stop nothing for that.
    Fenced {
        epoch: u64,
    },
    Refused(Refusal),
}

/// A report that says nothing about any task of this machine. It need not be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRefusal {
    pub task: TaskId,
    pub why: String,
}

/// Why a wish is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    pub code: Code,
    /// What was asked, and what was found.
    pub message: String,
    /// What helps.
    pub hint: String,
    /// More than one finding, such as all that has moved since a plan.
    pub details: Vec<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.details.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.details.join("; ")),
        }
    }
}

impl Refusal {
    pub(crate) fn new(code: Code, message: String, hint: &str) -> Refusal {
        Refusal {
            code,
            message,
            hint: hint.to_owned(),
            details: Vec::new(),
        }
    }

    pub(crate) fn job_not_found(job: &JobId) -> Refusal {
        let message = format!("there is no job {job}");
        Refusal::new(Code::JobNotFound, message, "`tw status` lists all jobs")
    }
}

/// Decides on an event. Pure: the same arguments give the same decision.
///
/// `seed` decides what is left to chance: where the search for ports begins, and how long a restart waits.
pub fn step(state: &State, event: &Event, now: Timestamp, seed: u64) -> Decision {
    let mut draft = Draft::new(state, now, seed);
    let reply = match event {
        Event::Submit {
            submission,
            expected,
        } => submit(&mut draft, submission, expected.as_ref()),
        Event::Review(review) => review::review(&mut draft, review),
        Event::Noted {
            task,
            kind,
            message,
        } => noted(&mut draft, task, kind, message),
        Event::RestartJob { job, by } => restart(&mut draft, job, by),
        Event::Fitted(tasks) => {
            fit(&mut draft, tasks);
            Reply::None
        }
        Event::Scale { job, scaling } => {
            scale(&mut draft, job, scaling);
            Reply::None
        }
        Event::Rollout { job, order, by } => rollout::order(&mut draft, job, *order, by),
        Event::AgentRegistered {
            machine,
            boot_id,
            agent,
            capacity,
            facts,
            heard_ago,
            uptime,
            reports,
        } => {
            let row = MachineRecord {
                id: machine.clone(),
                epoch: 1,
                boot_id: boot_id.clone(),
                state: MachineState::Up,
                capacity: capacity.clone(),
                facts: (**facts).clone(),
                registered_at: now,
                changed_at: now,
                drain: None,
                next_drain: None,
                flaps: None,
                ailments: Vec::new(),
                spared_until: None,
                identity: Box::new(MachineIdentity {
                    agent: agent.clone(),
                    uptime: *uptime,
                    ..MachineIdentity::default()
                }),
            };
            register(&mut draft, row, *heard_ago, reports)
        }
        Event::Reports {
            machine,
            epoch,
            reports,
        } => report(&mut draft, machine, *epoch, reports),
        Event::Ailing {
            machine,
            epoch,
            ailments,
        } => {
            ailment::take(&mut draft, machine, *epoch, ailments);
            Reply::None
        }
        Event::Drain {
            machines,
            order,
            by,
        } => drain::order(&mut draft, machines, order, by),
        Event::MachineLost { machine, silent } => {
            lose(&mut draft, machine, *silent);
            Reply::None
        }
        Event::TermsOver { machine, silence } => {
            reach::end_lapsed(&mut draft, machine, *silence);
            Reply::None
        }
        Event::Allowance { name, order, by } => allowance::order(&mut draft, name, order, by),
        Event::Fence { machine, by } => reach::fence(&mut draft, machine, by),
        Event::TaskControl { job, approved } => control::answer(&mut draft, job, approved),
        Event::Tick => {
            let due = state.alarms.iter().take_while(|(due, _)| *due <= now);
            let mut due: BTreeSet<JobId> = due
                .map(|(_, id)| id)
                .chain(&state.unsettled)
                .cloned()
                .collect();
            due.extend(outage::advance(&mut draft));
            due.extend(drain::begin_due(&mut draft));
            reconcile_all(&mut draft, due);
            Reply::None
        }
        Event::Audit => {
            let due = |job: &&JobState| job.spec().schedule.is_some() || unsettled(state, job);
            let open = state.jobs.values().filter(due);
            open.for_each(|job| reconcile(&mut draft, &job.row.id));
            Reply::None
        }
    };
    Decision {
        before_end: draft.take_before_end(),
        txns: draft.finish(),
        reply,
    }
}

pub(crate) fn submit(
    draft: &mut Draft,
    submission: &Submission,
    expected: Option<&ExpectedPlan>,
) -> Reply {
    let plan = match plan::plan(draft.base(), submission, draft.now, draft.seed) {
        Ok(plan) => plan,
        Err(refusal) => return Reply::Refused(refusal),
    };
    if let Some(expected) = expected.filter(|expected| expected.digest != plan.digest) {
        let mut refusal = Refusal::new(
            Code::PlanStale,
            "what was planned is not what would happen now".to_owned(),
            "plan again, and apply that",
        );
        refusal.details = plan::moved_since(draft.base(), expected, &plan);
        return Reply::Refused(refusal);
    }
    let allowed = plan::allowed(&plan);
    let confirmed = submission.confirmed.as_deref();
    if let Err(refusal) = allowed.and_then(|()| limiter::check_confirmed(&plan, confirmed)) {
        return Reply::Refused(refusal);
    }
    for job in &plan.jobs {
        let submitted = submission.jobs.iter().find(|one| one.spec.id() == job.job);
        match submitted {
            Some(submitted) => update(draft, submitted, job, &plan.digest, submission),
            None => end_job(draft, &job.job, &submission.by),
        }
    }
    Reply::Submitted(Box::new(plan))
}

/// Makes a new version of a job the one that is wanted.
fn update(
    draft: &mut Draft,
    submitted: &SubmittedJob,
    plan: &JobPlan,
    digest: &str,
    submission: &Submission,
) {
    let id = &plan.job;
    let by = match &submission.approval {
        Approval::Seen => submission.by.clone(),
        other => format!("{}, {other}", submission.by),
    };
    let old = draft.job(id).map(|job| job.row.clone());
    let wanted = Wanted {
        by: submission.by.clone(),
        plan: digest.to_owned(),
        approval: submission.approval.clone(),
    };
    let version = plan::write_version(draft, submitted, &wanted);
    let scheduled = submitted.spec.schedule.is_some();
    if old.as_ref().is_some_and(|old| old.stopped) {
        // Of a job that is begun again some tasks may run on that nobody has asked to end yet.
        rollout::begin_overlooked(draft, id, plan.moves());
    }
    if let Some(old) = old.filter(|old| !old.stopped && !scheduled) {
        // Where no task that runs is changed there is nothing to do by stages.
        match plan.effect <= Effect::Scale && old.rollout.is_none() {
            true => adopt(draft, id, version),
            false => {
                let from = match old.stable_version {
                    0 => old.version,
                    stable => stable,
                };
                rollout::begin(draft, id, from, plan.moves(), false);
            }
        }
        let change = plan
            .change
            .as_ref()
            .map_or(Effect::None, |change| change.effect());
        let unnoticed = change <= Effect::Scale && old.rollout.is_none();
        if unnoticed && old.stable_version == old.version {
            edit(draft, id, |row| row.stable_version = version);
        }
    }
    let message = match plan.counts.to_string() {
        counts if plan.stages.is_empty() => format!("version {version} by {by}: {counts}"),
        counts => format!(
            "version {version} by {by}: {counts}, in {} stages",
            plan.stages.len()
        ),
    };
    draft.note(id, "job.submitted", (None, None), message);
    reconcile(draft, id);
    forget_versions(draft, id);
}

/// Writes a version into the rows of tasks that need not notice it: those that it does not change, and those that
/// wait. The latter start without the wait that another version earned.
fn adopt(draft: &mut Draft, id: &JobId, version: Version) {
    let Some(job) = draft.job(id) else {
        return;
    };
    // What is not wanted any more, or ends already, ends as it is: it may have no room for what the others get.
    let surplus = Surplus::of(job);
    let live = job
        .live()
        .filter(|row| row.desired == Desired::Run && !surplus.holds(row))
        .map(|row| (row.clone(), task_effect(job, row, job.spec(), false)));
    let live: Vec<(TaskRecord, Effect)> = live.collect();
    for (mut row, effect) in live {
        row.version = version;
        if row.state == TaskState::Pending && effect != Effect::None {
            row.failures = 0;
            row.not_before = None;
        }
        draft.put_task(row);
    }
}

fn end_job(draft: &mut Draft, id: &JobId, by: &str) {
    let now = draft.now;
    edit(draft, id, |row| {
        row.stopped = true;
        row.rollout = None;
        row.updated_at = now;
    });
    draft.note(id, "job.stopped", (None, None), format!("by {by}"));
    reconcile(draft, id);
}

fn restart(draft: &mut Draft, id: &JobId, by: &str) -> Reply {
    let Some(job) = draft.job(id) else {
        return Reply::Refused(Refusal::job_not_found(id));
    };
    if job.row.stopped {
        return Reply::Refused(Refusal::new(
            Code::RequestInvalid,
            format!("{id} is stopped, so nothing of it can start again"),
            "apply its spec to begin it again",
        ));
    }
    if job.spec().schedule.is_some() {
        return run_now(draft, id, by);
    }
    let current = job.current();
    let (from, by_plan) = (current.version, current.plan.clone());
    let submitted = SubmittedJob {
        spec: (*current.spec).clone(),
        source: current.source.clone(),
    };
    let wanted = Wanted {
        by: by.to_owned(),
        plan: by_plan,
        approval: Approval::default(),
    };
    let version = plan::write_version(draft, &submitted, &wanted);
    rollout::begin(draft, id, from, Vec::new(), true);
    let message = format!("version {version} by {by}: every task starts again");
    draft.note(id, "job.restarting", (None, None), message);
    reconcile(draft, id);
    forget_versions(draft, id);
    Reply::Restarting { version }
}

/// Lets tasks that run hold what they have been found to need. What becomes free is seen by the next tick.
fn fit(draft: &mut Draft, tasks: &[(TaskId, Option<FittedRecord>)]) {
    for (task, fitted) in tasks {
        let row = draft
            .task(task)
            .filter(|row| row.state == TaskState::Running);
        let changed = row.filter(|row| row.fitted != *fitted);
        if let Some(mut row) = changed.cloned() {
            row.fitted = *fitted;
            draft.put_task(row);
        }
    }
}

/// Gives a job the number of tasks that its load asks for.
///
/// While an update runs no task is taken away: it has its own budget of tasks that may be down. Tasks that are added begin
/// at the version that the update comes from, and it reaches them as all others.
fn scale(draft: &mut Draft, id: &JobId, scaling: &Scaling) {
    let Some(job) = draft.job(id).filter(|job| !job.row.stopped) else {
        return;
    };
    let Some(autoscale) = job.spec().autoscale.clone() else {
        return;
    };
    let (has, tasks) = (job.wanted(), autoscale.within(scaling.tasks));
    let rollout = job.row.rollout.clone();
    let updates = rollout
        .as_ref()
        .is_some_and(|rollout| rollout.state == RolloutState::Running);
    if tasks == has || updates && tasks < has {
        return;
    }
    let row = ScaleRecord {
        tasks,
        reason: scaling.reason.clone(),
        at: draft.now,
    };
    edit(draft, id, |job| job.scale = Some(row));
    let message = format!("{has} → {tasks} tasks: {}", scaling.reason);
    draft.note(id, "job.scaled", (None, None), message);
    if let Some(from) = rollout.map(|rollout| rollout.from) {
        begin_at(draft, id, has..tasks, from);
    }
    reconcile(draft, id);
}

/// Begins tasks at a version that is kept; those that live already are left.
fn begin_at(draft: &mut Draft, id: &JobId, indexes: std::ops::Range<u32>, version: Version) {
    for index in indexes {
        let Some(job) = draft
            .job(id)
            .filter(|job| job.versions.contains_key(&version))
        else {
            return;
        };
        if job.latest(index).is_none_or(|row| row.state.is_terminal()) {
            begin(draft, id, index, version);
        }
    }
}

/// To start a job with a schedule again is to begin a run of it now.
fn run_now(draft: &mut Draft, id: &JobId, by: &str) -> Reply {
    if let Err(found) = runs::begin_now(draft, id, by) {
        return Reply::Refused(Refusal::new(
            Code::RequestInvalid,
            found,
            "wait for it, or give the schedule overlap=\"replace\" or \"queue\"",
        ));
    }
    reconcile(draft, id);
    let version = draft.job(id).map_or(0, |job| job.row.version);
    Reply::Restarting { version }
}

/// Removes versions that nothing refers to any more, except the newest few.
fn forget_versions(draft: &mut Draft, id: &JobId) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let mut used: BTreeSet<Version> = job.tasks().map(|row| row.version).collect();
    used.extend([job.row.version, job.row.stable_version]);
    used.extend(job.row.runs.iter().map(|runs| runs.version));
    used.extend(job.open_run().map(|run| run.version));
    used.extend(job.row.rollout.iter().map(|rollout| rollout.from));
    let old = job.versions.keys().rev().skip(VERSIONS_KEPT);
    let unused: Vec<Version> = old
        .filter(|version| !used.contains(version))
        .copied()
        .collect();
    for version in unused {
        draft.delete_version(id, version);
    }
}

fn register(
    draft: &mut Draft,
    said: MachineRecord,
    heard_ago: Option<Millis>,
    reports: &[TaskReport],
) -> Reply {
    let known = draft.machine(&said.id).cloned();
    let standing = match identity::compare(known.as_ref(), &said, heard_ago) {
        Ok(standing) => standing,
        Err(refusal) => return Reply::Refused(refusal),
    };
    let rebooted = standing == Standing::Rebooted;
    let row = match known.clone() {
        None => said,
        Some(known) => MachineRecord {
            epoch: known.epoch + u64::from(standing != Standing::Same),
            identity: identity::follow(&known, &said, standing),
            registered_at: known.registered_at,
            flaps: match standing != Standing::Same {
                true => steadiness::after_flap(&known, draft.now),
                false => known.flaps,
            },
            drain: known.drain,
            next_drain: known.next_drain,
            ailments: known.ailments,
            changed_at: match known.state == MachineState::Up && !rebooted {
                true => known.changed_at,
                false => draft.now,
            },
            ..said
        },
    };
    let (machine, epoch) = (row.id.clone(), row.epoch);
    if known.as_ref() != Some(&row) {
        draft.put_machine(row.clone());
    }
    let mut touched = BTreeSet::new();
    match standing {
        Standing::Rebooted => {
            let all = reach::live_on(draft, &machine);
            touched.extend(end_tasks(draft, all, "its machine restarted"));
        }
        Standing::OtherAgent => {
            touched.extend(leave_behind(
                draft,
                &machine,
                "its machine has another agent now",
            ));
        }
        Standing::Same => {
            touched.extend(reach::adopt(draft, &row));
            touched.extend(forgotten(draft, &machine, reports));
        }
    }
    for report in in_order(reports) {
        count_anew(draft, report);
        if let Ok(Outcome { changed: true, .. }) = take_report(draft, &machine, epoch, report) {
            touched.insert(report.task.job.clone());
        }
    }
    let waiting = waiting_jobs(draft);
    touched.extend(waiting);
    touched.extend(draft.base().daemons.iter().cloned());
    reconcile_all(draft, touched);
    Reply::Registered { epoch }
}

/// An agent that began anew counts its reports anew, and what it says when it registers is the newest there is.
fn count_anew(draft: &mut Draft, report: &TaskReport) {
    let row = draft.task(&report.task);
    let row = row.filter(|row| !row.state.is_terminal() && row.report_seq >= report.seq);
    if let Some(mut row) = row.cloned() {
        row.report_seq = report.seq.saturating_sub(1);
        draft.put_task(row);
    }
}

/// Tasks that ran there and that the agent does not know any more: their state on the machine is gone.
///
/// A task that was never reported running may simply not have reached the agent yet.
fn forgotten(draft: &mut Draft, machine: &MachineId, reports: &[TaskReport]) -> BTreeSet<JobId> {
    let known: BTreeSet<&TaskId> = reports.iter().map(|report| &report.task).collect();
    let rows = draft.base().tasks_on(machine);
    // The agent is given those of which there must not be two once more, and says what it found of them.
    let lost = rows.filter(|row| {
        !known.contains(&row.id) && row.started_at.is_some() && !reach::is_only_one(draft, row)
    });
    let lost: Vec<TaskRecord> = lost.cloned().collect();
    let why = Details::because("the machine's agent came back without it");
    for row in &lost {
        tell(draft, row, TaskEvent::MachineLost, &why);
    }
    lost.into_iter().map(|row| row.id.job).collect()
}

fn report(draft: &mut Draft, machine: &MachineId, epoch: u64, reports: &[TaskReport]) -> Reply {
    let Some(row) = draft.machine(machine) else {
        return Reply::Refused(Refusal::new(
            Code::MachineNotFound,
            format!("there is no machine {machine}"),
            "its agent has to register first",
        ));
    };
    if row.epoch != epoch || row.state == MachineState::Lost {
        return Reply::Fenced { epoch: row.epoch };
    }
    let mut refused = Vec::new();
    let mut touched = BTreeSet::new();
    let mut freed = false;
    for report in in_order(reports) {
        match take_report(draft, machine, epoch, report) {
            Ok(outcome) => {
                freed |= outcome.ended;
                if outcome.changed {
                    touched.insert(report.task.job.clone());
                }
            }
            Err(why) => refused.push(ReportRefusal {
                task: report.task.clone(),
                why,
            }),
        }
    }
    follow_up(draft, touched, freed);
    Reply::Reported { refused }
}

fn in_order(reports: &[TaskReport]) -> Vec<&TaskReport> {
    let mut reports: Vec<&TaskReport> = reports.iter().collect();
    reports.sort_by_key(|report| report.seq);
    reports
}

/// Writes down what someone does to a task.
fn noted(draft: &mut Draft, task: &TaskId, kind: &str, message: &str) -> Reply {
    let machine = draft.task(task).and_then(|row| row.machine.clone());
    draft.note(&task.job, kind, (Some(task.clone()), machine), message);
    Reply::None
}

/// Reconciles what was touched, then what may have waited for it.
fn follow_up(draft: &mut Draft, touched: BTreeSet<JobId>, freed: bool) {
    let ready = |draft: &Draft, id: &JobId| draft.job(id).is_some_and(dependency::is_ready);
    let was_ready = |id: &JobId| draft.base().job(id).is_some_and(dependency::is_ready);
    let newly_ready = touched.iter().any(|id| !was_ready(id) && ready(draft, id));
    let mut jobs = touched;
    if freed || newly_ready {
        jobs.extend(waiting_jobs(draft));
    }
    reconcile_all(draft, jobs);
}

/// Those that go first where there is not room for all.
fn waiting_jobs(draft: &Draft) -> BTreeSet<JobId> {
    let waiting = draft.base().pending.iter().map(|(_, id)| id);
    waiting.take(WAITING_JOBS_AT_ONCE).cloned().collect()
}

/// Reconciles jobs, those of the highest priority first: they take the room that there is.
pub(crate) fn reconcile_all(draft: &mut Draft, jobs: BTreeSet<JobId>) {
    let mut jobs: Vec<JobId> = jobs.into_iter().collect();
    jobs.sort_by_key(|id| draft.job(id).map(|job| Reverse(job.spec().priority)));
    jobs.iter().for_each(|id| reconcile(draft, id));
}

/// What a report did.
struct Outcome {
    changed: bool,
    /// Room became free.
    ended: bool,
}

const NO_NEWS: Outcome = Outcome {
    changed: false,
    ended: false,
};

/// Writes what a report says into its task's row. Reports may come twice, late, and about anything.
fn take_report(
    draft: &mut Draft,
    machine: &MachineId,
    epoch: u64,
    report: &TaskReport,
) -> Result<Outcome, String> {
    let job = draft.job(&report.task.job).ok_or("there is no such job")?;
    let row = job
        .task(report.task.index, report.task.incarnation)
        .ok_or("there is no such task; it ended long ago, or never was")?;
    if row.machine.as_ref() != Some(machine) {
        return Err("the task was never on this machine".to_owned());
    }
    if row.machine_epoch != epoch && !row.state.is_terminal() {
        return Err("the task was placed in another epoch of this machine".to_owned());
    }
    let late = report.seq <= row.report_seq;
    if late && matches!(report.phase, Phase::Health { .. }) {
        return Ok(NO_NEWS);
    }
    let spec = job.spec_of(row);
    let event = TaskEvent::of(&report.phase, spec.kind, row.overdue);
    if let Transition::Refused(why) = lifecycle::transition(row.state, event) {
        return Err(why.to_owned());
    }
    let mut details = Details::of(&report.phase);
    details.reset_after = (spec.kind == Kind::Service).then_some(spec.restart.reset_after);
    let mut row = row.clone();
    let (before, batch) = (row.state, spec.kind == Kind::Batch);
    row.report_seq = row.report_seq.max(report.seq);
    let changed = tell(draft, &row, event, &details);
    let ended = changed && !before.is_terminal() && is_over(draft, &row.id);
    if ended && batch && event == TaskEvent::Succeeded {
        note_done(draft, &row.id.job);
    }
    Ok(Outcome { changed, ended })
}

fn is_over(draft: &Draft, task: &TaskId) -> bool {
    draft.task(task).is_some_and(|row| row.state.is_terminal())
}

fn note_done(draft: &mut Draft, id: &JobId) {
    let done = draft.job(id).filter(|job| dependency::is_ready(job));
    if let Some(version) = done.map(|job| job.row.version) {
        draft.note(
            id,
            "job.done",
            (None, None),
            format!("version {version} is done"),
        );
    }
}

/// Declares everything on a machine ended of which there may be two, and lets nothing of its old epoch count any more.
///
/// Where a large part of the fleet is gone at once, its tasks are kept for a while; see [`crate::outage`].
fn lose(draft: &mut Draft, machine: &MachineId, silent: u32) {
    let up = draft
        .machine(machine)
        .filter(|row| row.state == MachineState::Up);
    let Some(mut row) = up.cloned() else {
        return;
    };
    row.spared_until = outage::spared_until(draft, machine, silent);
    // Who went away together with many others says nothing of itself by that.
    if row.spared_until.is_none() {
        row.flaps = steadiness::after_flap(&row, draft.now);
    }
    row.state = MachineState::Lost;
    row.epoch += 1;
    row.changed_at = draft.now;
    let spared = row.spared_until;
    draft.put_machine(row);
    let touched = match spared {
        Some(until) => reach::spare(draft, machine, until),
        None => leave_behind(draft, machine, "its machine was lost"),
    };
    for id in &touched {
        let message = format!("machine {machine} was lost");
        draft.note(id, "machine.lost", (None, Some(machine.clone())), message);
    }
    reconcile_all(draft, touched);
}

/// Ends the tasks of a machine that may be replaced at once; the others are out of reach. Returns the jobs of both.
pub(crate) fn leave_behind(draft: &mut Draft, machine: &MachineId, why: &str) -> BTreeSet<JobId> {
    let (only_ones, others): (Vec<TaskRecord>, Vec<TaskRecord>) = reach::live_on(draft, machine)
        .into_iter()
        .partition(|row| reach::is_only_one(draft, row));
    let held = only_ones.iter();
    held.for_each(|row| reach::lose_sight(draft, row));
    let mut jobs = end_tasks(draft, others, why);
    jobs.extend(only_ones.into_iter().map(|row| row.id.job));
    jobs
}

/// Ends tasks as lost. Returns their jobs.
fn end_tasks(draft: &mut Draft, rows: Vec<TaskRecord>, why: &str) -> BTreeSet<JobId> {
    let details = Details::because(why);
    for row in &rows {
        tell(draft, row, TaskEvent::MachineLost, &details);
    }
    rows.into_iter().map(|row| row.id.job).collect()
}
