//! An application's say in what is done to its tasks.
//!
//! A job with `task_control` is asked before an update, a restart, a move or a maintenance stops one of its tasks: the
//! operation is written into the task's row as an offer, the controller shows the offers to the application, and its
//! newest answer counts. It approves in the order in which it wants things done, and delays by not approving; how many
//! it approves at a time is the speed. Budgets hold whatever it approves. A silent application delays an operation
//! until its deadline and no longer; the time counts anew whenever another of the job's operations was carried out.

use std::collections::BTreeMap;

use tw_model::{
    JobId, OfferRecord, Operation, TaskControl, TaskId, TaskRecord, TaskState, Timestamp, Version,
};

use crate::draft::Draft;
use crate::step::{Refusal, Reply};
use crate::{JobState, State};

/// Something that waits for an application's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingOperation {
    /// Names it in the application's answer.
    pub id: String,
    pub task: TaskId,
    pub operation: Operation,
    /// The version that the task will have afterwards.
    pub to: Version,
    /// Then it is done without the application's word.
    pub deadline: Timestamp,
    pub approved: bool,
}

/// All that an application is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Consultation {
    pub job: JobId,
    pub control: TaskControl,
    pub operations: Vec<PendingOperation>,
    /// The newest task of each index.
    pub tasks: Vec<TaskRecord>,
}

/// The applications that are to be asked now.
pub fn consultations(state: &State) -> Vec<Consultation> {
    let unsettled = state.unsettled.iter().filter_map(|id| state.job(id));
    unsettled.filter_map(consultation).collect()
}

fn consultation(job: &JobState) -> Option<Consultation> {
    let offered: Vec<&TaskRecord> = offered(job).collect();
    let control = job.spec_of(offered.first()?).task_control.clone()?;
    let operations = offered.into_iter().filter_map(|row| {
        let offer = row.offer.as_ref()?;
        Some(PendingOperation {
            id: operation_id(job, row, offer.operation),
            task: row.id.clone(),
            operation: offer.operation,
            to: job.row.version,
            deadline: offer.since.plus(control.deadline),
            approved: offer.approved.is_some(),
        })
    });
    Some(Consultation {
        job: job.row.id.clone(),
        operations: operations.collect(),
        tasks: job.latest_of_each().cloned().collect(),
        control,
    })
}

/// The tasks with operations that wait for the application's word.
fn offered(job: &JobState) -> impl Iterator<Item = &TaskRecord> {
    let mut versions = job.versions();
    // Few jobs have any, and a version outlives the rows that are at it.
    let has_say = versions.any(|version| version.spec.task_control.is_some());
    let rows = has_say.then(|| job.tasks());
    rows.into_iter().flatten().filter(|row| row.offer.is_some())
}

/// Takes an application's newest answer: the ids that it approves, in its order.
pub(crate) fn answer(draft: &mut Draft, id: &JobId, approved: &[String]) -> Reply {
    let Some(job) = draft.job(id) else {
        return Reply::Refused(Refusal::job_not_found(id));
    };
    let mut places: BTreeMap<&str, u32> = BTreeMap::new();
    for (place, id) in (0..).zip(approved) {
        // Named twice, it is where it was named first.
        places.entry(id).or_insert(place);
    }
    let mut changed: Vec<TaskRecord> = Vec::new();
    for row in offered(job) {
        let Some(offer) = &row.offer else {
            continue;
        };
        let place = places.remove(operation_id(job, row, offer.operation).as_str());
        if offer.approved != place {
            let mut row = row.clone();
            row.offer = Some(OfferRecord {
                approved: place,
                ..offer.clone()
            });
            changed.push(row);
        }
    }
    for row in changed {
        draft.put_task(row);
    }
    let never_offered = |id: &&String| places.contains_key(id.as_str());
    let unknown = approved.iter().filter(never_offered).cloned().collect();
    crate::reconcile::reconcile(draft, id);
    Reply::Controlled { unknown }
}

fn operation_id(job: &JobState, row: &TaskRecord, operation: Operation) -> String {
    format!("{}/{operation}/v{}", row.id, job.row.version)
}

/// Whether the application has a say in what happens to a task now: it has something to lose.
fn has_say<'a>(job: &'a JobState, row: &TaskRecord) -> Option<&'a TaskControl> {
    let runs = matches!(row.state, TaskState::Starting | TaskState::Running);
    job.spec_of(row).task_control.as_ref().filter(|_| runs)
}

/// Offers an operation, if the application has a say in it. Answers whether it may be done now.
pub(crate) fn ask(draft: &mut Draft, row: &TaskRecord, operation: Operation) -> bool {
    let now = draft.now;
    let Some(job) = draft.job(&row.id.job) else {
        return true;
    };
    let Some(control) = has_say(job, row) else {
        return true;
    };
    let deadline = control.deadline;
    // Of two operations on one task the first is done first.
    let is_first = draft.asked.insert(row.id.clone());
    match &row.offer {
        Some(offer) if offer.operation == operation => {
            offer.approved.is_some() || now >= offer.since.plus(deadline)
        }
        _ if !is_first => false,
        other => {
            let mut changed = row.clone();
            changed.offer = Some(OfferRecord {
                operation,
                since: other.as_ref().map_or(now, |offer| offer.since),
                approved: None,
            });
            draft.put_task(changed);
            false
        }
    }
}

/// The order in which operations are done: as approved, those without an approval last.
pub(crate) fn rank(row: &TaskRecord) -> u32 {
    let approved = row.offer.as_ref().and_then(|offer| offer.approved);
    approved.unwrap_or(u32::MAX)
}

/// An operation of the job was carried out: the application looks anew at the others, with all the time it has.
pub(crate) fn note_done(draft: &mut Draft, id: &JobId) {
    let now = draft.now;
    edit_offers(draft, id, |row| {
        let leaving = row.state == TaskState::Stopping;
        row.offer = row.offer.take().filter(|_| !leaving);
        if let Some(offer) = &mut row.offer {
            offer.since = now;
            offer.approved = None;
        }
    });
}

/// Takes back the offers of what nobody wants to do any more.
pub(crate) fn withdraw(draft: &mut Draft, id: &JobId) {
    let asked = std::mem::take(&mut draft.asked);
    edit_offers(draft, id, |row| {
        let stays = asked.contains(&row.id) && !row.state.is_terminal();
        row.offer = row.offer.take().filter(|_| stays);
    });
}

fn edit_offers(draft: &mut Draft, id: &JobId, change: impl Fn(&mut TaskRecord)) {
    let Some(job) = draft.job(id) else {
        return;
    };
    let offered: Vec<TaskRecord> = offered(job).cloned().collect();
    for before in offered {
        let mut row = before.clone();
        change(&mut row);
        if row != before {
            draft.put_task(row);
        }
    }
}
