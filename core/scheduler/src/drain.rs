//! Empties machines for maintenance: nothing new is placed there, and what runs there goes elsewhere.
//!
//! A drain takes from the same budget as an update: a task leaves only while no more than `max_unavailable` tasks of
//! its job are down, and only where another machine has room for it. Batch tasks are left to end by themselves. The
//! deadline overrides all of that: it is kept, whoever is down, and early enough for the last task to end in peace. Where
//! more have to go than may be stopped at once, all of them begin earlier by the time that the stop limiter takes.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{
    Code, Desired, DrainRecord, JobId, Kind, MachineId, MachineRecord, Millis, Operation,
    TaskRecord, Timestamp,
};

use crate::departure::{self, Departure};
use crate::draft::Draft;
use crate::fleet::Slot;
use crate::step::{self, Refusal, Reply};
use crate::{JobState, maintenance, reconcile};

/// What is wanted of some machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainOrder {
    /// They are to be emptied.
    Begin {
        /// In words for people.
        reason: String,
        /// After so long they are empty, whatever it takes.
        within: Option<Millis>,
        /// They are back so long after that; tasks that endure it come back with them.
        lasts: Option<Millis>,
    },
    /// They are to be emptied from a moment on; until then they take tasks as before.
    Plan {
        at: Timestamp,
        /// In words for people.
        reason: String,
        /// So long after that moment they are empty, whatever it takes.
        within: Option<Millis>,
        /// They are back so long after that; tasks that endure it come back with them.
        lasts: Option<Millis>,
    },
    /// They take tasks again, and are not to be emptied later.
    End,
}

/// No drain begins or ends later than so long from now: ten years.
const AHEAD_MAX: Millis = Millis::hours(24 * 3653);

/// A moment that has passed by no more is taken for now, whatever the deadline: clocks differ, and people are slow.
const PAST_MAX: Millis = Millis::minutes(1);

/// Carries out an order on all of these machines, or on none.
pub(crate) fn order(
    draft: &mut Draft,
    machines: &[MachineId],
    order: &DrainOrder,
    by: &str,
) -> Reply {
    let mut rows: Vec<MachineRecord> = Vec::new();
    for machine in machines.iter().collect::<BTreeSet<_>>() {
        match draft.machine(machine) {
            Some(row) => rows.push(row.clone()),
            None => {
                return Reply::Refused(Refusal::new(
                    Code::MachineNotFound,
                    format!("there is no machine {machine}"),
                    "`tw machines` lists all of them",
                ));
            }
        }
    }
    let now = draft.now;
    if let Err(refusal) = check_times(order, now) {
        return Reply::Refused(refusal);
    }
    for mut row in rows {
        match order {
            DrainOrder::Begin {
                reason,
                within,
                lasts,
            } => {
                let since = row.drain.as_ref().map_or(now, |drain| drain.since);
                row.drain = Some(DrainRecord {
                    lasts: *lasts,
                    reason: reason.clone(),
                    by: by.to_owned(),
                    since,
                    deadline: within.map(|within| now.plus(within)),
                });
                row.next_drain = None;
            }
            DrainOrder::Plan {
                at,
                reason,
                within,
                lasts,
            } => {
                row.next_drain = Some(Box::new(DrainRecord {
                    lasts: *lasts,
                    reason: reason.clone(),
                    by: by.to_owned(),
                    since: *at,
                    deadline: within.map(|within| at.plus(within)),
                }));
            }
            DrainOrder::End => {
                row.drain = None;
                row.next_drain = None;
            }
        }
        draft.put_machine(row);
    }
    let machines: BTreeSet<&MachineId> = machines.iter().collect();
    let tasks: Vec<TaskRecord> = machines
        .into_iter()
        .flat_map(|machine| draft.base().tasks_on(machine))
        .cloned()
        .collect();
    let mut jobs: BTreeSet<JobId> = tasks.iter().map(|row| row.id.job.clone()).collect();
    jobs.extend(draft.base().daemons.iter().cloned());
    step::reconcile_all(draft, jobs);
    Reply::Drain {
        tasks: tasks.len() as u32,
    }
}

/// Refuses moments that cannot be meant.
fn check_times(order: &DrainOrder, now: Timestamp) -> Result<(), Refusal> {
    let (at, within) = match order {
        DrainOrder::Begin { within, .. } => (now, *within),
        DrainOrder::Plan { at, within, .. } => (*at, *within),
        DrainOrder::End => return Ok(()),
    };
    let invalid = |message, hint| Err(Refusal::new(Code::RequestInvalid, message, hint));
    let end = at.plus(within.unwrap_or(Millis::ZERO));
    if end > now.plus(AHEAD_MAX) {
        let what = match at > now.plus(AHEAD_MAX) {
            true => "begin",
            false => "have its deadline",
        };
        return invalid(
            format!("the drain would {what} more than ten years from now"),
            "name a time that is sooner",
        );
    }
    if within.is_some() && now.since(at) > PAST_MAX && end <= now {
        return invalid(
            format!("the drain would begin at {at} and be over at {end}, and it is {now}"),
            "name a moment that is yet to come, or none for a drain that begins now",
        );
    }
    Ok(())
}

/// Begins the drains whose moment has come, with all of the time that they were given also where that is late. Returns
/// the jobs that this concerns.
pub(crate) fn begin_due(draft: &mut Draft) -> BTreeSet<JobId> {
    let planned = draft.fleet().planned_drains();
    let due: Vec<Slot> = planned
        .iter()
        .take_while(|(at, _)| *at <= draft.now)
        .map(|(_, slot)| *slot)
        .collect();
    let mut jobs = BTreeSet::new();
    for slot in due {
        let mut row = draft.machine_at(slot).clone();
        if let Some(mut drain) = row.next_drain.take() {
            let late = draft.now.since(drain.since);
            drain.since = drain.since.plus(late);
            drain.deadline = drain.deadline.map(|deadline| deadline.plus(late));
            row.drain = Some(*drain);
            let tasks = draft.base().tasks_on(&row.id);
            jobs.extend(tasks.map(|task| task.id.job.clone()));
            draft.put_machine(row);
        }
    }
    if !jobs.is_empty() {
        jobs.extend(draft.base().daemons.iter().cloned());
    }
    jobs
}

/// Asks tasks of a job to leave the machines that are being emptied, as far as they may now.
pub(crate) fn advance(draft: &mut Draft, id: &JobId) {
    // Daemons see to themselves: there is no elsewhere for them.
    let moves = |job: &&JobState| !job.row.stopped && job.spec().kind != Kind::Daemon;
    let Some(job) = draft.job(id).filter(moves) else {
        return;
    };
    if !draft.any_drains() {
        return;
    }
    let surplus = reconcile::Surplus::of(job);
    let leaving = job.live().filter(|row| row.desired == Desired::Run);
    let leaving = leaving.filter_map(|row| Some((row, drain_of(draft, row)?)));
    let leaving: Vec<_> = leaving.filter(|(row, _)| !surplus.holds(row)).collect();
    let mut by_deadline: BTreeMap<Timestamp, u64> = BTreeMap::new();
    for deadline in leaving.iter().filter_map(|(_, drain)| drain.deadline) {
        *by_deadline.entry(deadline).or_default() += 1;
    }
    let mut sum = 0;
    let leads: BTreeMap<Timestamp, Millis> = by_deadline
        .into_iter()
        .map(|(deadline, tasks)| {
            sum += tasks;
            (deadline, lead(draft, deadline, sum))
        })
        .collect();
    let lead = |drain: &DrainRecord| {
        let lead = drain.deadline.and_then(|deadline| leads.get(&deadline));
        lead.copied().unwrap_or(Millis::ZERO)
    };
    let leaving = leaving
        .into_iter()
        .map(|(row, drain)| {
            let returns = maintenance::endures(job.spec_of(row), drain);
            let what = match returns {
                true => "its machine goes into maintenance, which it waits out",
                false => "its machine is being drained",
            };
            Departure {
                row: row.clone(),
                must: is_due(job, row, drain.deadline, lead(drain), draft.now),
                returns,
                why: match drain.reason.is_empty() {
                    true => what.to_owned(),
                    false => format!("{what}: {}", drain.reason),
                },
            }
        })
        .collect();
    departure::begin(draft, id, Operation::Maintenance, leaving);
}

fn drain_of<'a>(draft: &'a Draft, row: &TaskRecord) -> Option<&'a DrainRecord> {
    draft.machine(row.machine.as_ref()?)?.drain.as_ref()
}

/// Whether a task has to go now, so that it has ended at the deadline.
pub(crate) fn is_due(
    job: &JobState,
    row: &TaskRecord,
    deadline: Option<Timestamp>,
    lead: Millis,
    now: Timestamp,
) -> bool {
    let stop = &job.spec_of(row).stop;
    let ended = now.plus(lead + stop.drain + stop.grace);
    deadline.is_some_and(|deadline| ended >= deadline)
}

/// How much earlier than a task alone all that has to leave by a deadline begins, because the limiter lets no more than so
/// many go in a second; `of_job` are of the same job.
pub(crate) fn lead(draft: &Draft, deadline: Timestamp, of_job: u64) -> Millis {
    let all = draft.backlog().by(deadline).tasks;
    draft.base().stop_limits.time_for(all, of_job)
}

/// What is on machines that are to be empty by a deadline, by deadline.
#[derive(Default)]
pub(crate) struct Backlog(BTreeMap<Timestamp, Load>);

/// What has to leave.
#[derive(Clone, Copy, Default)]
pub(crate) struct Load {
    pub(crate) machines: u64,
    pub(crate) tasks: u64,
}

impl Backlog {
    /// What is on the machines that are drained once what the decision has ordered so far is done.
    pub(crate) fn of(draft: &Draft) -> Backlog {
        let mut backlog = Backlog::default();
        if !draft.any_drains() {
            return backlog;
        }
        for slot in 0..draft.fleet().len() as Slot {
            let host = draft.fleet().host(slot);
            let drain = draft.machine_at(slot).drain.as_ref();
            if let Some(deadline) = drain.and_then(|drain| drain.deadline) {
                let load = backlog.0.entry(deadline).or_default();
                load.machines += 1;
                load.tasks += host.tasks.len() as u64;
            }
        }
        backlog
    }

    /// All that has to leave by then.
    pub(crate) fn by(&self, deadline: Timestamp) -> Load {
        let due = self.0.range(..=deadline).map(|(_, load)| load);
        due.fold(Load::default(), |sum, load| Load {
            machines: sum.machines + load.machines,
            tasks: sum.tasks + load.tasks,
        })
    }
}
