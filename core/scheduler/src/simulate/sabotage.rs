//! Bugs of the allocator, planted into what it decided.

use tw_model::{MachineId, MachineRecord, Record, TaskRecord, TaskState};

use super::Sabotage;
use crate::{Op, State, Txn};

/// Spoils the placements of a decision.
pub(super) fn spoil(bug: Sabotage, state: &State, txns: &mut [Txn]) {
    for txn in txns {
        let mut twins = Vec::new();
        for op in &mut txn.ops {
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let fresh = state
                .task(&row.id)
                .is_none_or(|before| before.machine.is_none());
            if row.state != TaskState::Starting || !fresh {
                continue;
            }
            if bug == Sabotage::DoublePlacement && row.restarts > 0 {
                let mut twin = row.clone();
                twin.id.incarnation += 1_000_000;
                twins.push(Op::Put(Record::Task(twin)));
            }
            if let Some(machine) = wrong_machine(bug, state, row) {
                row.machine_epoch = machine.epoch;
                row.machine = Some(machine.id.clone());
            }
        }
        txn.ops.extend(twins);
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
    match bug {
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
        _ => None,
    }
}
