//! Bugs of the allocator, planted into what it decided.

use std::sync::Arc;

use tw_model::{
    Desired, JobRecord, Kind, MachineId, MachineRecord, MachineState, Millis, Record, Requires,
    RolloutState, Stage, TaskRecord, TaskState,
};

use super::Sabotage;
use super::checks::has_room;
use crate::{Event, JobState, Op, Request, State, Txn, serves};

/// What the controller makes of what it is asked.
pub(super) fn misread(bug: Option<Sabotage>, event: Event) -> Event {
    match event {
        Event::Submit { submission, .. } if bug == Some(Sabotage::ApplyStale) => Event::Submit {
            submission,
            expected: None,
        },
        other => other,
    }
}

/// Spoils the placements of a decision.
pub(super) fn spoil(bug: Sabotage, state: &State, txns: &mut [Txn]) {
    for txn in txns {
        let mut twins = Vec::new();
        for op in &mut txn.ops {
            if let Op::Put(Record::Job(row)) = op {
                spoil_runs(bug, row);
            }
            if let Op::Put(Record::Machine(row)) = op
                && bug == Sabotage::Stampede
            {
                row.spared_until = None;
            }
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let row = Arc::make_mut(row);
            let fresh = state
                .task(&row.id)
                .is_none_or(|before| before.machine.is_none());
            match bug {
                Sabotage::ForgetTimeout if row.overdue && row.state == TaskState::Stopping => {
                    if let Some(before) = state.task(&row.id) {
                        row.clone_from(before);
                    }
                }
                Sabotage::ForgetDrain if leaves_for_drain(row) => {
                    if let Some(before) = state.task(&row.id) {
                        row.clone_from(before);
                    }
                }
                Sabotage::OutOfTurn => out_of_turn(state, row),
                Sabotage::ReplaceUnplanned => replace_what_stays(state, row),
                Sabotage::EvictAnyone if row.reason.starts_with("makes room for ") => {
                    // As if for one of its own priority.
                    let own = state.job(&row.id.job).map_or(0, |job| job.spec().priority);
                    row.reason = format!("makes room for another, of priority {own}");
                }
                _ => {}
            }
            if row.state != TaskState::Starting || !fresh {
                continue;
            }
            if bug == Sabotage::DoublePlacement && row.restarts > 0 {
                let mut twin = row.clone();
                twin.id.incarnation += 1_000_000;
                twins.push(Op::Put(Record::Task(Arc::new(twin))));
            }
            if let Some(machine) = wrong_machine(bug, state, row) {
                row.machine_epoch = machine.epoch;
                row.machine = Some(machine.id.clone());
            }
        }
        txn.ops.extend(twins);
    }
}

/// Adds to a decision what the budget or a pause stands against.
pub(super) fn overstep(bug: Sabotage, state: &State, txns: &mut Vec<Txn>) {
    let wrong = |job: &JobState, row: &TaskRecord| match bug {
        Sabotage::SkipBudgetInDrain => {
            let machine = row.machine.as_ref().and_then(|id| state.machine(id));
            let drain = machine.and_then(|machine| machine.drain.as_ref());
            drain.is_some_and(|drain| drain.deadline.is_none())
        }
        Sabotage::IgnorePause => {
            let rollout = job.row().rollout.as_ref();
            let paused = rollout.filter(|rollout| rollout.state == RolloutState::Paused);
            paused.is_some_and(|rollout| rollout.to != row.version)
        }
        Sabotage::LeavePart | Sabotage::EvictBeforeSurge => {
            let rollout = job.row().rollout.as_ref();
            let running = rollout.filter(|rollout| rollout.state == RolloutState::Running);
            running.is_some_and(|rollout| {
                let stage = job.spec().rollout.stages.get(rollout.stage as usize);
                let early = match bug {
                    Sabotage::LeavePart => matches!(stage, Some(Stage::Within(_))),
                    _ => rollout.surge > 0,
                };
                // One task of each job, and only where the budget has nothing against it.
                early && rollout.to != row.version && budget_is_whole(job, row)
            })
        }
        _ => false,
    };
    let rows = state
        .jobs()
        .filter(|job| job.spec().kind == Kind::Service)
        .flat_map(|job| job.tasks().map(move |row| (job, row)));
    let running =
        rows.filter(|(_, row)| row.state == TaskState::Running && row.desired == Desired::Run);
    let ops: Vec<Op> = running
        .filter(|(job, row)| wrong(job, row))
        .map(|(_, row)| {
            Op::Put(Record::Task(Arc::new(TaskRecord {
                state: TaskState::Stopping,
                desired: Desired::Stop,
                reason: "makes way for no good reason".to_owned(),
                ..row.clone()
            })))
        })
        .collect();
    if !ops.is_empty() {
        txns.push(Txn { ops });
    }
}

/// Whether a task is the last of its job, and all of them serve.
fn budget_is_whole(job: &JobState, row: &TaskRecord) -> bool {
    let mut indexes = job.indexes();
    let whole = indexes.all(|index| job.latest(index).is_some_and(|row| serves(job, row)));
    whole && row.id.index + 1 == job.wanted()
}

/// Lets a running task end that is to be changed in place.
fn replace_what_stays(state: &State, row: &mut TaskRecord) {
    let before = state.task(&row.id).filter(|before| {
        before.version != row.version
            && before.state == TaskState::Running
            && row.desired == Desired::Run
    });
    if let Some(before) = before {
        row.reason = format!("makes way for version {}", row.version);
        row.version = before.version;
        row.state = TaskState::Stopping;
        row.desired = Desired::Stop;
    }
}

/// Lets a task run whose turn has not come.
fn out_of_turn(state: &State, row: &mut TaskRecord) {
    let waits = row.state == TaskState::Pending && row.reason.starts_with("waits for its turn");
    if let Some(machine) = state.machines().find(|_| waits) {
        row.state = TaskState::Starting;
        row.machine_epoch = machine.epoch;
        row.machine = Some(machine.id.clone());
    }
}

/// Spoils the runs of jobs with a schedule.
fn spoil_runs(bug: Sabotage, row: &mut JobRecord) {
    let Some(runs) = row.runs.as_mut() else {
        return;
    };
    match bug {
        // The next run is never looked for again.
        Sabotage::ForgetNextRun if runs.newest.len() > 1 => {
            runs.next_at = runs.newest.last().map(|run| run.due_at);
        }
        _ => {}
    }
}

/// Does not wait for terms to be over, or believes tasks ended of which nothing is known.
pub(super) fn hurry(bug: Option<Sabotage>, state: &State, due: &mut Vec<Event>) {
    let lost = state
        .machines()
        .filter(|row| row.state == MachineState::Lost);
    let lost = lost.map(|row| row.id.clone());
    match bug {
        Some(Sabotage::ForgetTerm) => due.extend(lost.map(|machine| Event::TermsOver {
            machine,
            silence: Millis(u64::MAX),
        })),
        Some(Sabotage::HastyFence) => due.extend(lost.map(|machine| Event::Fence {
            machine,
            by: "nobody".to_owned(),
        })),
        _ => {}
    }
}

fn wrong_machine<'a>(
    bug: Sabotage,
    state: &'a State,
    row: &TaskRecord,
) -> Option<&'a MachineRecord> {
    let job = state.job(&row.id.job)?;
    let spec = job.spec_of(row);
    let mut machines = state.machines().filter(|machine| machine.takes_tasks());
    let roomy = |machine: &MachineRecord| {
        spec.ports.is_empty() && has_room(state, machine, &Request::of(spec))
    };
    match bug {
        Sabotage::TwoDaemons if spec.kind == Kind::Daemon => {
            let others = job
                .tasks()
                .filter(|other| other.state == TaskState::Running);
            let taken: Vec<&MachineId> =
                others.filter_map(|other| other.machine.as_ref()).collect();
            machines.find(|machine| taken.contains(&&machine.id))
        }
        Sabotage::ForgetRequires if row.restarts > 0 => machines.find(|machine| {
            let mut labels = spec.requires.labels.iter();
            labels.any(|(key, value)| machine.facts.labels.get(&key.0) != Some(value))
        }),
        Sabotage::ForgetApart if row.restarts > 0 && !spec.anti_affinity.is_empty() => {
            let others = job
                .tasks()
                .filter(|other| other.state == TaskState::Running);
            let taken: Vec<&MachineId> =
                others.filter_map(|other| other.machine.as_ref()).collect();
            machines.find(|machine| taken.contains(&&machine.id))
        }
        Sabotage::Overcommit => machines.next(),
        // Where it breaks nothing else.
        Sabotage::ForgetFlaps
            if spec.spread.is_empty()
                && spec.anti_affinity.is_empty()
                && spec.requires == Requires::default() =>
        {
            let often = |machine: &&MachineRecord| {
                let flaps = machine.flaps;
                flaps.is_some_and(|flaps| flaps.score_milli > 2000)
            };
            machines.find(|machine| often(machine) && roomy(machine))
        }
        Sabotage::TakePromisedRoom if spec.priority < 10 => {
            let waiting = state.jobs().flat_map(|job| job.tasks());
            let mut waiting = waiting.filter(|row| row.state == TaskState::Pending);
            let promised = waiting.find_map(|row| row.meant_for.clone())?;
            machines.find(|machine| machine.id == promised)
        }
        _ => None,
    }
}

/// Whether a task is asked to end because its machine is to be empty.
fn leaves_for_drain(row: &TaskRecord) -> bool {
    let reason = &row.reason;
    reason.starts_with("its machine is being drained")
        || reason.starts_with("its machine goes into maintenance")
}
