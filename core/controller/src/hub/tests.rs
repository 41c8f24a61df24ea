//! An agent that takes whatever its stream says holds what a snapshot would say.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use proptest::prelude::*;
use serde_json::json;
use tw_api::{AgentEvent, Assignment};
use tw_model::{
    Bytes, Capacity, Cores, Endpoint, JobRecord, MachineFacts, MachineId, MachineRecord,
    MachineState, Record, RecordKey, SourceRef, TaskId, TaskRecord, TaskState, Timestamp,
    VersionRecord,
};
use tw_scheduler::Op;

use super::{AgentStream, Hub};

const AT: Timestamp = Timestamp(0);

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    Task {
        job: usize,
        incarnation: u64,
        machine: Option<usize>,
        epoch: u64,
        state: TaskState,
        version: u64,
    },
    Remove {
        job: usize,
        incarnation: u64,
    },
    Machine {
        machine: usize,
        epoch: u64,
    },
    /// The agent reads what there is.
    Read,
    /// The agent's connection breaks.
    Reconnect,
    /// The controller lists again.
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let state = proptest::sample::select(TaskState::ALL.to_vec());
    prop_oneof![
        6 => (0..2usize, 1..4u64, proptest::option::of(0..2usize), 1..3u64, state, 1..3u64).prop_map(
            |(job, incarnation, machine, epoch, state, version)| Step::Task {
                job, incarnation, machine, epoch, state, version,
            }
        ),
        2 => (0..2usize, 1..4u64).prop_map(|(job, incarnation)| Step::Remove { job, incarnation }),
        1 => (0..2usize, 1..3u64).prop_map(|(machine, epoch)| Step::Machine { machine, epoch }),
        3 => Just(Step::Read),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Reset),
    ]
}

fn machine_id(machine: usize) -> MachineId {
    format!("m{machine}").parse().unwrap()
}

fn task_id(job: usize, incarnation: u64) -> TaskId {
    let job = ["redis", "web"][job].parse().unwrap();
    TaskId::new(job, 0, incarnation)
}

fn machine(machine: usize, epoch: u64) -> Record {
    Record::Machine(MachineRecord {
        id: machine_id(machine),
        epoch,
        boot_id: "boot".to_owned(),
        state: MachineState::Up,
        capacity: Capacity {
            cpu: Cores(1000),
            memory: Bytes::gib(1),
            disk: Bytes::gib(1),
            bandwidth: Bytes(0),
            port_first: 20000,
            port_last: 20999,
        },
        facts: MachineFacts {
            address: "127.0.0.1".to_owned(),
            ..MachineFacts::default()
        },
        registered_at: AT,
        changed_at: AT,
        drain: None,
        next_drain: None,
        flaps: None,
        ailments: Vec::new(),
        spared_until: None,
        identity: Box::default(),
    })
}

fn version(job: usize, version: u64) -> Record {
    let spec = match job {
        0 => json!({ "name": "redis", "command": ["redis"], "ports": ["main"] }),
        // Only the second version of web names the service.
        _ if version == 2 => json!({ "name": "web", "command": ["web", "{service:redis:main}"] }),
        _ => json!({ "name": "web", "command": ["web"] }),
    };
    Record::Version(Arc::new(VersionRecord {
        job: task_id(job, 1).job,
        version,
        spec: serde_json::from_value(spec).unwrap(),
        source: SourceRef::default(),
        plan: String::new(),
        by: String::new(),
        approval: tw_model::Approval::default(),
        at: AT,
    }))
}

fn begin() -> Vec<Record> {
    let jobs = (0..2).map(|job| {
        Record::Job(JobRecord {
            id: task_id(job, 1).job,
            version: 2,
            stable_version: 1,
            next_incarnation: 4,
            next_event: 1,
            stopped: false,
            rollout: None,
            runs: None,
            scale: None,
            created_at: AT,
            updated_at: AT,
        })
    });
    let versions = (0..2).flat_map(|job| (1..3).map(move |number| version(job, number)));
    let machines = (0..2).map(|number| machine(number, 1));
    jobs.chain(versions).chain(machines).collect()
}

/// The agent of the first machine, and the rows as the store has them.
struct Play {
    hub: Arc<Hub>,
    rows: BTreeMap<RecordKey, Record>,
    epoch: u64,
    stream: AgentStream,
    held: BTreeMap<TaskId, Assignment>,
    endpoints: Vec<Endpoint>,
}

impl Play {
    fn new() -> Play {
        let hub = Arc::new(Hub::new());
        hub.reset(begin());
        Play {
            rows: begin().into_iter().map(|row| (row.key(), row)).collect(),
            epoch: 1,
            stream: hub.open(&machine_id(0), 1).unwrap(),
            hub,
            held: BTreeMap::new(),
            endpoints: Vec::new(),
        }
    }

    fn put(&mut self, row: Record) {
        self.rows.insert(row.key(), row.clone());
        self.hub.publish([Op::Put(row)]);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Task {
                job,
                incarnation,
                machine,
                epoch,
                state,
                version,
            } => self.put(Record::Task(Arc::new(TaskRecord {
                state,
                machine: machine.map(machine_id),
                machine_epoch: epoch,
                ports: BTreeMap::from([("main".parse().unwrap(), 20000 + incarnation as u16)]),
                ..TaskRecord::pending(task_id(job, incarnation), version, AT)
            }))),
            Step::Remove { job, incarnation } => {
                let key = RecordKey::Task(task_id(job, incarnation));
                self.rows.remove(&key);
                self.hub.publish([Op::Delete(key)]);
            }
            Step::Machine {
                machine: number,
                epoch,
            } => {
                if number == 0 {
                    self.epoch = epoch;
                }
                self.put(machine(number, epoch));
            }
            Step::Read => self.read(),
            Step::Reconnect => self.stream = self.hub.open(&machine_id(0), self.epoch).unwrap(),
            Step::Reset => self.hub.reset(self.rows.values().cloned()),
        }
    }

    /// Takes all that the stream says, over a new one where it has ended.
    fn read(&mut self) {
        while let Some(said) = self.stream.next().now_or_never() {
            match said {
                Some(AgentEvent::Snapshot {
                    assignments,
                    endpoints,
                }) => {
                    let rows = assignments.into_iter();
                    self.held = rows.map(|row| (row.task.id.clone(), row)).collect();
                    self.endpoints = endpoints;
                }
                Some(AgentEvent::Assign { assignment }) => {
                    self.held.insert(assignment.task.id.clone(), *assignment);
                }
                Some(AgentEvent::Forget { task }) => {
                    self.held.remove(&task);
                }
                Some(AgentEvent::Endpoints { endpoints }) => self.endpoints = endpoints,
                Some(AgentEvent::Dial(dial)) => panic!("nobody asked for {dial:?}"),
                None => self.stream = self.hub.open(&machine_id(0), self.epoch).unwrap(),
            }
        }
    }

    fn check(&mut self) {
        self.read();
        let id = machine_id(0);
        let (assignments, endpoints) = self
            .hub
            .read(|view| (view.assignments(&id), view.endpoints_for(&id)));
        let held: Vec<Assignment> = self.held.values().cloned().collect();
        assert_eq!(held, assignments);
        assert_eq!(self.endpoints, endpoints);
        for row in &held {
            let live = !row.task.state.is_terminal();
            assert!(!live || row.task.machine_epoch == self.epoch, "{row:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_says_what_a_snapshot_would(steps in proptest::collection::vec(step(), 1..60)) {
        let mut play = Play::new();
        for step in steps {
            play.take(step);
        }
        play.check();
    }
}
