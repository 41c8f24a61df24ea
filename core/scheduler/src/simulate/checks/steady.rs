//! The tasks of machines that go away are replaced at a measured pace, and not onto machines that go away themselves.

use std::collections::{BTreeMap, BTreeSet};

use tw_model::{
    Desired, Kind, MachineId, MachineRecord, MachineState, Record, TaskId, TaskRecord, TaskState,
    Timestamp,
};

use crate::{Op, Request, State, Txn, outage, steadiness};

/// Counts how fast the tasks of lost machines are replaced while a large part of the fleet is lost. Counted anew,
/// without the words of the decisions.
#[derive(Debug, Default)]
pub(in crate::simulate) struct Pace {
    level: f64,
    at: Option<Timestamp>,
    /// The most tasks that one machine had.
    largest: f64,
    /// What was given up so far: a commit that fails is decided on again.
    counted: BTreeSet<TaskId>,
}

/// How long the replacement may stand still and make up for it afterwards.
const PACE_SLACK_SECONDS: f64 = 8.0;

impl Pace {
    /// Counts the tasks that a decision gives up, before it is applied.
    pub(in crate::simulate) fn count(
        &mut self,
        state: &State,
        txns: &[Txn],
        now: Timestamp,
    ) -> Result<(), String> {
        // Whatever ends an outage or begins one, and whatever gives up a task, is written by a decision.
        if txns.is_empty() {
            return Ok(());
        }
        let (mut gone, mut all) = (0, 0);
        for row in state.machines() {
            let lost = row.state == MachineState::Lost;
            let lately = lost && now.since(row.changed_at) < outage::WINDOW;
            gone += usize::from(lately);
            all += usize::from(lately || !lost);
        }
        if gone < outage::MACHINES_MIN || gone * 100 < outage::SHARE_PERCENT * all {
            *self = Pace::default();
            return Ok(());
        }
        let rate = all as f64 / 10.0;
        let passed = self.at.map_or(0.0, |at| now.since(at).0 as f64 / 1000.0);
        self.level = (self.level - passed * rate).max(0.0);
        self.at = Some(now);
        let mut on: BTreeMap<&MachineId, f64> = BTreeMap::new();
        for op in txns.iter().flat_map(|txn| &txn.ops) {
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let lived = |before: &&TaskRecord| {
                !before.state.is_terminal() && before.desired == Desired::Run
            };
            let given_up = row.state == TaskState::Lost
                && row.reason.starts_with("its machine was lost")
                && state.task(&row.id).filter(lived).is_some();
            let machine = row.machine.as_ref().filter(|_| given_up);
            if let Some(machine) = machine.filter(|_| self.counted.insert(row.id.clone())) {
                *on.entry(machine).or_default() += 1.0;
            }
        }
        self.largest = on.values().copied().fold(self.largest, f64::max);
        self.level += on.values().sum::<f64>();
        match self.level > self.largest + rate * PACE_SLACK_SECONDS {
            true => Err(format!(
                "{:.1} tasks are replaced at once although {gone} of {all} machines are lost",
                self.level
            )),
            false => Ok(()),
        }
    }
}

/// Tasks that a decision gives to a machine that keeps going away, seen before it is applied, with the machines that
/// could have taken them.
pub(in crate::simulate) fn on_unsteady(
    state: &State,
    txns: &[Txn],
    now: Timestamp,
) -> Vec<(TaskId, Request, Vec<MachineId>)> {
    let ops = txns.iter().flat_map(|txn| &txn.ops);
    let placed = ops.filter_map(|op| match op {
        Op::Put(Record::Task(row)) if row.state == TaskState::Starting => Some(row),
        _ => None,
    });
    let fresh = placed.filter(|row| {
        let before = state.task(&row.id);
        before.is_none_or(|before| before.machine.is_none() && before.meant_for.is_none())
    });
    let unsteady = fresh.filter(|row| {
        let machine = row.machine.as_ref().and_then(|id| state.machine(id));
        machine.is_some_and(|machine| steadiness::is_unsteady(machine, now))
    });
    let found = unsteady.filter_map(|row| {
        let mut ops = txns.iter().flat_map(|txn| &txn.ops);
        let written = ops.find_map(|op| match op {
            Op::Put(Record::Version(it)) if it.job == row.id.job && it.version == row.version => {
                Some(&it.spec)
            }
            _ => None,
        });
        let spec = || Some(state.job(&row.id.job)?.spec_of(row));
        let request = Request::of(written.or_else(spec)?);
        let steady = state.machines().filter(|machine| {
            machine.takes_tasks()
                && !steadiness::is_unsteady(machine, now)
                && machine.ailments.is_empty()
                && has_room(state, machine, &request)
        });
        let steady = steady.map(|machine| machine.id.clone());
        Some((row.id.clone(), request, steady.collect()))
    });
    found.collect()
}

/// Nothing is on a machine that keeps going away while a better one has room, as far as nothing else speaks against
/// that one.
pub(in crate::simulate) fn steadier(
    state: &State,
    placed: &[(TaskId, Request, Vec<MachineId>)],
    now: Timestamp,
) -> Result<(), String> {
    let mut rows = state.jobs().flat_map(|job| job.tasks());
    if placed.is_empty() || rows.any(|row| row.meant_for.is_some() && row.machine.is_none()) {
        return Ok(());
    }
    for (task, request, better) in placed {
        let Some((job, row)) = state
            .job(&task.job)
            .and_then(|job| Some((job, state.task(task)?)))
        else {
            continue;
        };
        let spec = job.spec_of(row);
        let plain = spec.kind != Kind::Daemon
            && spec.requires.labels.is_empty()
            && spec.spread.is_empty()
            && spec.anti_affinity.is_empty()
            && job.row().rollout.is_none()
            && !job.tasks().any(steadiness::has_failed);
        let mut better = better.iter().filter_map(|id| state.machine(id));
        let found = better.find(|machine| {
            let steady = !steadiness::is_unsteady(machine, now);
            steady && machine.takes_tasks() && has_room(state, machine, request)
        });
        if let Some(machine) = found.filter(|_| plain) {
            return Err(format!(
                "{task} is on a machine that keeps going away, and {} has room",
                machine.id
            ));
        }
    }
    Ok(())
}

/// Whether a machine has room for one more.
pub(in crate::simulate) fn has_room(
    state: &State,
    machine: &MachineRecord,
    request: &Request,
) -> bool {
    let held = state.reserved_on(&machine.id);
    let whole = &machine.capacity;
    let ports = u32::from(whole.port_last - whole.port_first) + 1;
    held.cpu + request.cpu <= whole.cpu
        && held.memory + request.memory <= whole.memory
        && held.disk + request.disk <= whole.disk
        && held.bandwidth + request.bandwidth <= whole.bandwidth
        && held.ports + request.ports <= ports
}
