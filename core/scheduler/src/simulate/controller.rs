//! The controller: the real decisions between a simulated store and a simulated network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tw_model::{JobId, MachineId, Millis, Name, Record, RecordKey, TaskId, TaskRecord};

use super::agent::Assigned;
use crate::lease::Tenure;
use crate::{Broker, Op, Reply, SchedulerConfig, State, StopLimiter, StopLimits, StopRate, Txn};

/// Someone who waits for an answer.
#[derive(Clone, Debug)]
pub(super) enum Waiter {
    Nobody,
    /// The run of the agent that registers, and which of the machine's registrations this is.
    Registration {
        machine: usize,
        run: u64,
        number: u64,
    },
    /// The run of the agent that sent a heartbeat, and the newest report in it.
    Heartbeat {
        machine: usize,
        run: u64,
        seq: u64,
        /// The agent's clock before it sent a heartbeat, where that grants its machine another term.
        granted: Option<u64>,
    },
    /// The number of the request.
    Client(u64),
}

/// What an agent follows: the rows of one epoch of its machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// The run of the agent.
    pub(super) run: u64,
    pub(super) epoch: u64,
}

/// A portion on its way to the store.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) txn: Txn,
    pub(super) answer: Option<(Waiter, Reply)>,
}

/// The rows that survive everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Durable {
    pub(super) rows: BTreeMap<RecordKey, Record>,
    /// Every task that was ever stored.
    pub(super) born: BTreeSet<TaskId>,
}

impl Durable {
    /// Writes a portion. What must never be written is the error.
    pub(super) fn commit(&mut self, txn: &Txn) -> Result<(), String> {
        if txn.ops.len() > crate::TXN_OPS_MAX {
            return Err(format!("a transaction holds {} operations", txn.ops.len()));
        }
        for op in &txn.ops {
            match op {
                Op::Put(record) => {
                    if let Record::Task(row) = record {
                        self.check_task(row)?;
                    }
                    self.rows.insert(record.key(), record.clone());
                }
                Op::Delete(key) => {
                    self.rows.remove(key);
                }
            }
        }
        Ok(())
    }

    fn check_task(&mut self, row: &TaskRecord) -> Result<(), String> {
        let before = self.rows.get(&RecordKey::Task(row.id.clone()));
        match before {
            Some(Record::Task(before))
                if before.state.is_terminal() && before.state != row.state =>
            {
                Err(format!(
                    "{} was {} and became {}",
                    row.id, before.state, row.state
                ))
            }
            None if !self.born.insert(row.id.clone()) => {
                Err(format!("{} was begun a second time", row.id))
            }
            _ => Ok(()),
        }
    }
}

/// The controller while it lives.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    pub(super) state: State,
    pub(super) broker: Broker,
    pub(super) limiter: StopLimiter,
    pub(super) queue: VecDeque<Queued>,
    /// What agents follow, by the number of their machine.
    pub(super) streams: BTreeMap<usize, Stream>,
    /// When the last message of each stream arrives: a stream keeps its order.
    pub(super) stream_tail: BTreeMap<usize, u64>,
    /// When it began, in milliseconds.
    begun_at: u64,
}

impl Controller {
    /// Begins from what is durable, as the only controller there is.
    pub(super) fn recover(durable: &Durable, at: u64, limits: StopLimits) -> Controller {
        let mut state = State::from_records(durable.rows.values().cloned());
        state.set_stop_limits(limits);
        Controller {
            state,
            broker: Broker::new(&SchedulerConfig::default(), tenure(at), at),
            limiter: StopLimiter::new(limits, at),
            queue: VecDeque::new(),
            streams: BTreeMap::new(),
            stream_tail: BTreeMap::new(),
            begun_at: at,
        }
    }

    /// How long it has lived.
    pub(super) fn age(&self, at: u64) -> Millis {
        Millis(at - self.begun_at)
    }
}

/// How fast tasks may be stopped in a simulated cluster.
pub(super) const STOP_LIMITS: StopLimits = StopLimits {
    job: StopRate {
        burst: 8,
        per_second: 2,
    },
    total: StopRate {
        burst: 16,
        per_second: 8,
    },
};

/// How long the lease of a broker lasts in the store.
pub(super) const LEASE_MS: u64 = 10_000;

/// Until when a broker that renewed its lease just now may grant: the lease, less what its clock may be slow.
pub(super) fn tenure(at: u64) -> Tenure {
    Tenure::Until(at + LEASE_MS * 98 / 100)
}

/// A broker that was paused while it had heartbeats to answer, and is not the only one any more when it wakes.
#[derive(Clone, Debug)]
pub(super) struct Former {
    pub(super) broker: Broker,
    pub(super) paused_at: u64,
    /// The machines whose connection is to it.
    pub(super) stuck: Vec<usize>,
    /// What they have sent: machine, run of its agent, the agent's clock before that.
    pub(super) inbox: Vec<(usize, u64, u64)>,
}

/// What an agent is shown: only durable rows count.
pub(super) fn assigned(durable: &Durable, row: &TaskRecord, old_epochs: bool) -> Option<Assigned> {
    let machine = row.machine.as_ref()?;
    let Some(Record::Machine(host)) = durable.rows.get(&RecordKey::Machine(machine.clone())) else {
        return None;
    };
    if row.state.is_terminal() || host.epoch != row.machine_epoch && !old_epochs {
        return None;
    }
    let key = RecordKey::Version(row.id.job.clone(), row.version);
    let Some(Record::Version(version)) = durable.rows.get(&key) else {
        return None;
    };
    Some(Assigned {
        row: Arc::new(row.clone()),
        spec: version.spec.clone(),
    })
}

/// All that is assigned to a machine.
pub(super) fn snapshot(durable: &Durable, machine: &MachineId, old_epochs: bool) -> Vec<Assigned> {
    let is_task = |key: &RecordKey| matches!(key, RecordKey::Task(_));
    let rows = durable.rows.range(first_task()..);
    rows.take_while(|(key, _)| is_task(key))
        .filter_map(|(_, record)| match record {
            Record::Task(row) if row.machine.as_ref() == Some(machine) => {
                assigned(durable, row, old_epochs)
            }
            _ => None,
        })
        .collect()
}

/// No key of a task comes before this one.
fn first_task() -> RecordKey {
    let name: Name = "a".parse().expect("it is a name");
    RecordKey::Task(TaskId::new(JobId::new(name.clone(), name), 0, 0))
}
