//! How fast tasks may be stopped, whatever has decided it: the last thing that a decision passes before it counts.
//!
//! Two token buckets, one for each job and one for all, count the rows that go from run to stop. What exceeds them is
//! taken out of the decision; what is left is the decision of someone who has not got round to the rest yet, and the
//! next look at the job takes it up again. A controller begins with empty buckets, so that one that dies again and
//! again stops no more than one that lives.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tw_model::{Code, Desired, Effect, JobId, Millis, Record, RecordKey, TaskId, TaskRecord};

use crate::{Decision, JobPlan, Op, Plan, Refusal, State, TickMs};

/// How many stops a second, and how many at once after a quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopRate {
    pub burst: u32,
    pub per_second: u32,
}

impl StopRate {
    /// How long so many stops take at the most. What the burst takes at once is as good as no wait; of more, nothing is
    /// known of what others have left in the bucket.
    fn time_for(self, stops: u64) -> Millis {
        match stops <= u64::from(self.burst) {
            true => Millis::ZERO,
            false => Millis(stops * 1000 / u64::from(self.per_second)),
        }
    }
}

/// How fast tasks may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopLimits {
    /// Of any one job.
    pub job: StopRate,
    /// Of all jobs together.
    pub total: StopRate,
}

impl Default for StopLimits {
    fn default() -> StopLimits {
        StopLimits {
            job: StopRate {
                burst: 100,
                per_second: 20,
            },
            total: StopRate {
                burst: 300,
                per_second: 50,
            },
        }
    }
}

impl StopLimits {
    /// How long it takes at the most to stop so many tasks, where none of their jobs has more than `of_job` of them.
    pub(crate) fn time_for(&self, tasks: u64, of_job: u64) -> Millis {
        self.total.time_for(tasks).max(self.job.time_for(of_job))
    }
}

impl FromStr for StopLimits {
    type Err = String;

    /// Reads `100,20,300,50`: the burst and the rate of one job, and those of all together.
    fn from_str(text: &str) -> Result<StopLimits, String> {
        let refuse =
            || format!("'{text}' is not four numbers such as 100,20,300,50, each 1 or more");
        let numbers: Result<Vec<u32>, _> = text.split(',').map(|one| one.trim().parse()).collect();
        match numbers.map_err(|_| refuse())?[..] {
            [job, job_rate, all, all_rate] if job.min(job_rate).min(all).min(all_rate) > 0 => {
                Ok(StopLimits {
                    job: StopRate {
                        burst: job,
                        per_second: job_rate,
                    },
                    total: StopRate {
                        burst: all,
                        per_second: all_rate,
                    },
                })
            }
            _ => Err(refuse()),
        }
    }
}

/// Counts stops and holds back those that come too fast.
#[derive(Clone, Debug)]
pub struct StopLimiter {
    limits: StopLimits,
    total: Bucket,
    jobs: BTreeMap<JobId, Bucket>,
    since: TickMs,
}

/// Thousandths of tokens at a moment.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    filled: u64,
    at: TickMs,
}

impl Bucket {
    fn empty(now: TickMs) -> Bucket {
        Bucket { filled: 0, at: now }
    }

    fn fill(&mut self, rate: StopRate, now: TickMs) {
        let grown = now.saturating_sub(self.at) * u64::from(rate.per_second);
        self.filled = (self.filled + grown).min(u64::from(rate.burst) * 1000);
        self.at = self.at.max(now);
    }

    fn has_token(&self) -> bool {
        self.filled >= 1000
    }

    fn is_full(&self, rate: StopRate) -> bool {
        self.filled >= u64::from(rate.burst) * 1000
    }
}

impl StopLimiter {
    /// A limiter that has granted nothing and may grant nothing yet.
    pub fn new(limits: StopLimits, now: TickMs) -> StopLimiter {
        StopLimiter {
            limits,
            total: Bucket::empty(now),
            jobs: BTreeMap::new(),
            since: now,
        }
    }

    pub fn limits(&self) -> StopLimits {
        self.limits
    }

    /// Takes out of a decision on `state` what would stop tasks too fast. Returns how many tasks run on for now.
    ///
    /// Only the stop is taken back. What else the decision has found out about such a task, such as the epoch of its
    /// machine that came back or what its agent has reported, stays.
    pub fn admit(&mut self, state: &State, decision: &mut Decision, now: TickMs) -> u32 {
        let mut withheld = BTreeSet::new();
        for op in decision.txns.iter().flat_map(|txn| &txn.ops) {
            if let Some(task) = stopped_by(state, decision, op)
                && !self.take(&task.job, now)
            {
                withheld.insert(task.clone());
            }
        }
        if withheld.is_empty() {
            return 0;
        }
        let Decision {
            txns, before_end, ..
        } = decision;
        for txn in txns.iter_mut() {
            let ops = std::mem::take(&mut txn.ops).into_iter();
            let left = ops.filter_map(|op| {
                match asked_to_end(&op).filter(|task| withheld.contains(task)) {
                    Some(task) => {
                        let row = before_end.remove(task)?;
                        Some(Op::Put(Record::Task(row)))
                    }
                    None => (!tells_of(&op, &withheld)).then_some(op),
                }
            });
            txn.ops = left.collect();
        }
        txns.retain(|txn| !txn.ops.is_empty());
        withheld.len() as u32
    }

    fn take(&mut self, job: &JobId, now: TickMs) -> bool {
        self.forget_full(now);
        // A job that nobody has counted has been quiet since the limiter began.
        let since = self.since;
        let bucket = self.jobs.entry(job.clone());
        let bucket = bucket.or_insert_with(|| Bucket::empty(since));
        bucket.fill(self.limits.job, now);
        self.total.fill(self.limits.total, now);
        let granted = bucket.has_token() && self.total.has_token();
        if granted {
            bucket.filled -= 1000;
            self.total.filled -= 1000;
        }
        granted
    }

    /// A full bucket says no more than none: the job has been quiet.
    fn forget_full(&mut self, now: TickMs) {
        const BUCKETS_MAX: usize = 4096;
        if self.jobs.len() > BUCKETS_MAX {
            let rate = self.limits.job;
            self.jobs.retain(|_, bucket| {
                bucket.fill(rate, now);
                !bucket.is_full(rate)
            });
        }
    }
}

/// The task that an operation asks to end or removes.
fn asked_to_end(op: &Op) -> Option<&TaskId> {
    match op {
        Op::Put(Record::Task(row)) if row.desired == Desired::Stop => Some(&row.id),
        Op::Delete(RecordKey::Task(id)) => Some(id),
        _ => None,
    }
}

/// The task that runs and that an operation of a decision asks to end. One that has only been placed by that decision does
/// not run, and one that has ended does not any more.
fn stopped_by<'a>(state: &State, decision: &'a Decision, op: &'a Op) -> Option<&'a TaskId> {
    let task = asked_to_end(op)?;
    let before_end = decision.before_end.get(task).map(Arc::as_ref);
    let runs = |row: &TaskRecord| {
        row.desired == Desired::Run && !row.state.is_terminal() && row.machine.is_some()
    };
    let ran = state.task(task).is_some_and(runs);
    (ran && before_end.is_none_or(runs)).then_some(task)
}

/// Whether an operation tells that one of these tasks is asked to end.
fn tells_of(op: &Op, tasks: &BTreeSet<TaskId>) -> bool {
    match op {
        Op::Put(Record::Event(event)) => {
            event.kind == "task.stopping"
                && event.task.as_ref().is_some_and(|task| tasks.contains(task))
        }
        _ => false,
    }
}

/// From what share of all tasks on a change has to be confirmed by someone who has seen its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmRule {
    /// In percent of the tasks that are to run now.
    pub share_percent: u32,
    /// A change that ends no more tasks than this needs no confirmation.
    pub tasks_min: u32,
}

impl Default for ConfirmRule {
    fn default() -> ConfirmRule {
        ConfirmRule {
            share_percent: 30,
            tasks_min: 10,
        }
    }
}

impl FromStr for ConfirmRule {
    type Err = String;

    /// Reads a share of all tasks, such as `30%`.
    fn from_str(text: &str) -> Result<ConfirmRule, String> {
        let share = text.strip_suffix('%').unwrap_or(text).trim().parse();
        match share {
            Ok(share_percent) if share_percent <= 100 => Ok(ConfirmRule {
                share_percent,
                ..ConfirmRule::default()
            }),
            _ => Err(format!("'{text}' is no share such as 30%")),
        }
    }
}

/// The fewest characters of a digest that confirm its plan.
const CONFIRMED_BY: usize = 8;

/// What makes a plan one that has to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// How many tasks it ends without replacing them one by one.
    pub ended: u32,
    /// How many tasks all jobs want together.
    pub wanted: u32,
}

impl fmt::Display for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Confirmation { ended, wanted } = self;
        write!(
            f,
            "ends {ended} of {wanted} tasks, {}%",
            share(*ended, *wanted)
        )
    }
}

fn share(ended: u32, wanted: u32) -> u64 {
    u64::from(ended) * 100 / u64::from(wanted.max(1))
}

impl ConfirmRule {
    /// Whether a plan for these jobs has to be confirmed.
    pub(crate) fn asks(&self, state: &State, jobs: &[JobPlan]) -> Option<Confirmation> {
        let (ended, wanted) = (ended_by(jobs), wanted(state));
        let asks = ended > self.tasks_min && share(ended, wanted) > u64::from(self.share_percent);
        asks.then_some(Confirmation { ended, wanted })
    }
}

/// Refuses a plan that has to be confirmed, unless `confirmed` begins its digest.
pub(crate) fn check_confirmed(plan: &Plan, confirmed: Option<&str>) -> Result<(), Refusal> {
    let Some(confirmation) = plan.confirmation else {
        return Ok(());
    };
    let confirms = |text: &str| text.len() >= CONFIRMED_BY && plan.digest.starts_with(text);
    if confirmed.is_some_and(confirms) {
        return Ok(());
    }
    let found = match confirmed {
        Some(text) => format!(", and '{text}' confirms another plan"),
        None => String::new(),
    };
    let digest = &plan.digest[..CONFIRMED_BY];
    let mut refusal = Refusal::new(
        Code::PlanDestructive,
        format!("this {confirmation}{found}"),
        &format!("if that is meant, add --confirm-destructive {digest}"),
    );
    refusal.details = endings(&plan.jobs);
    Err(refusal)
}

/// How many jobs are named of those that a plan ends tasks of.
const NAMED_MAX: usize = 10;

/// How many tasks a plan ends of each job, in words, most first.
fn endings(jobs: &[JobPlan]) -> Vec<String> {
    let ended = jobs.iter().map(|job| (ended_of(job), &job.job));
    let mut ended: Vec<_> = ended.filter(|(tasks, _)| *tasks > 0).collect();
    ended.sort_by_key(|(tasks, job)| (Reverse(*tasks), *job));
    let more = ended.len().saturating_sub(NAMED_MAX);
    let named = ended.iter().take(NAMED_MAX);
    let mut lines: Vec<String> = named
        .map(|(tasks, job)| format!("{tasks} of {job}"))
        .collect();
    if more > 0 {
        lines.push(format!("and {more} more jobs"));
    }
    lines
}

/// How many tasks a plan ends without replacing them one by one.
fn ended_by(jobs: &[JobPlan]) -> u32 {
    jobs.iter().map(ended_of).sum()
}

fn ended_of(job: &JobPlan) -> u32 {
    match job.effect {
        Effect::Recreate => job.counts.stopped + job.counts.restarted + job.counts.moved,
        _ => job.counts.stopped,
    }
}

/// How many tasks all jobs want together.
fn wanted(state: &State) -> u32 {
    let wanted = state.jobs().map(|job| job.wanted());
    wanted.fold(0, u32::saturating_add)
}
