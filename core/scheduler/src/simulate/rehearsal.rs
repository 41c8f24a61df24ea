//! A small cluster on which a plan is carried out, with an observer that looks at processes alone.
//!
//! The decisions are the real ones; the machines start, check and end programs as they are told, and nothing goes
//! wrong. What is observed is what a machine sees: which program began when, with which limits, and when it ended.
//! The observer knows nothing of effects, so that a plan can be held against it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tw_model::{
    Capacity, Code, Desired, Exit, JobId, JobSpec, MachineFacts, MachineId, Millis, Phase,
    Resources, SourceRef, TaskId, TaskReport, TaskState, Timestamp,
};

use crate::{
    Event, ExpectedPlan, Plan, Refusal, Reply, State, Submission, SubmittedJob, assignments, plan,
    serves, step,
};

/// The moment at which a rehearsal begins.
const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);
/// How often the machines and the controller act.
const STEP: Millis = Millis(250);

/// A machine of the rehearsal.
#[derive(Clone, Debug)]
pub struct Stage {
    pub id: MachineId,
    pub capacity: Capacity,
    pub facts: MachineFacts,
}

/// A program that runs, as its machine sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    pub task: TaskId,
    pub machine: MachineId,
    pub started_at: Timestamp,
    /// The limits that it has now.
    pub limits: Resources,
}

/// What was observed while a plan was carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Performance {
    /// The programs of each index before.
    pub before: BTreeMap<u32, Observed>,
    /// The same once nothing changes any more.
    pub after: BTreeMap<u32, Observed>,
    /// The most indexes of those wanted before and after that had no serving program at the same time.
    pub down_most: u32,
    /// Whether the job came to have all that it wants.
    pub settled: bool,
    /// How long that took, or how long was waited for it.
    pub took: Millis,
}

/// A cluster in which nothing goes wrong.
pub struct Rehearsal {
    state: State,
    now: Timestamp,
    seed: u64,
    seq: u64,
    /// What runs on the machines.
    programs: BTreeMap<TaskId, Program>,
}

struct Program {
    machine: MachineId,
    started_at: Timestamp,
    spec: Arc<JobSpec>,
}

impl Rehearsal {
    /// A cluster of these machines, without jobs.
    pub fn new(machines: &[Stage]) -> Rehearsal {
        let mut rehearsal = Rehearsal {
            state: State::default(),
            now: BEGIN,
            seed: 1,
            seq: 0,
            programs: BTreeMap::new(),
        };
        for machine in machines {
            rehearsal.decide(Event::AgentRegistered {
                machine: machine.id.clone(),
                boot_id: "boot".to_owned(),
                capacity: machine.capacity.clone(),
                agent: String::new(),
                heard_ago: None,
                uptime: Millis(0),
                facts: Box::new(machine.facts.clone()),
                reports: Vec::new(),
            });
        }
        rehearsal
    }

    /// What a submission would do now.
    pub fn plan(&self, submission: &Submission) -> Result<Plan, Refusal> {
        plan(&self.state, submission, self.now, self.seed)
    }

    /// Submits what was planned. A plan that has moved is refused, as everywhere.
    pub fn submit(&mut self, submission: Submission, planned: &Plan) -> Result<(), Refusal> {
        let expected = Some(ExpectedPlan::from(planned));
        let reply = self.decide(Event::Submit {
            submission,
            expected,
        });
        match reply {
            Reply::Refused(refusal) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Lets time pass until a job has what it wants or can have, at most `longest`, and tells what was seen.
    pub fn perform(&mut self, job: &JobId, longest: Millis) -> Performance {
        let (before, began) = (self.observe(job), self.now);
        let mut performance = Performance {
            after: before.clone(),
            before,
            down_most: 0,
            settled: false,
            took: Millis::ZERO,
        };
        while self.now.since(began) < longest {
            self.pass();
            let wanted = self.state.job(job).map_or(0, |job| job.wanted());
            let stay = performance.before.keys().filter(|index| **index < wanted);
            let down = stay.filter(|index| !self.is_serving(job, **index)).count() as u32;
            performance.down_most = performance.down_most.max(down);
            performance.settled = self.is_settled(job);
            if performance.settled {
                break;
            }
        }
        performance.took = self.now.since(began);
        performance.after = self.observe(job);
        performance
    }

    /// The programs of a job that run now, by index.
    pub fn observe(&self, job: &JobId) -> BTreeMap<u32, Observed> {
        let ours = self.programs.iter().filter(|(task, _)| task.job == *job);
        let observed = ours.map(|(task, program)| {
            let observed = Observed {
                task: task.clone(),
                machine: program.machine.clone(),
                started_at: program.started_at,
                limits: program.spec.resources.clone(),
            };
            (task.index, observed)
        });
        observed.collect()
    }

    /// Whether the job runs as wanted, or has begun all that finds room.
    fn is_settled(&self, id: &JobId) -> bool {
        let Some(job) = self.state.job(id) else {
            return true;
        };
        let wanted = if job.row().stopped { 0 } else { job.wanted() };
        let ends = job.tasks().any(|row| {
            row.state == TaskState::Stopping || surplus(row.id.index, wanted, row.state)
        });
        let good = job.row().rollout.is_none() && job.row().stable_version == job.row().version;
        (good || wanted == 0) && !ends
    }

    fn is_serving(&self, id: &JobId, index: u32) -> bool {
        let job = self.state.job(id);
        job.is_some_and(|job| job.of_index(index).any(|row| serves(job, row)))
    }

    /// One step of the controller and of every machine.
    fn pass(&mut self) {
        self.now = self.now.plus(STEP);
        self.decide(Event::Tick);
        let machines: Vec<MachineId> = self.state.machines().map(|row| row.id.clone()).collect();
        for machine in machines {
            self.work(&machine);
        }
    }

    /// A machine does what its rows say.
    fn work(&mut self, machine: &MachineId) {
        let rows: Vec<_> = assignments(&self.state, machine)
            .map(|(row, spec)| (row.clone(), Arc::clone(spec)))
            .collect();
        for (row, spec) in rows {
            let id = row.id.clone();
            let program = self.programs.get_mut(&id);
            match (program, row.desired) {
                (None, Desired::Stop) => self.report(machine, id, self.never_started()),
                (Some(_), Desired::Stop) => {
                    self.programs.remove(&id);
                    let exit = Exit {
                        code: Some(0),
                        ..Exit::default()
                    };
                    let (at, detail) = (self.now, String::new());
                    self.report(machine, id, Phase::Exited { exit, at, detail });
                }
                (None, Desired::Run) => {
                    let started_at = self.now;
                    let program = Program {
                        machine: machine.clone(),
                        started_at,
                        spec,
                    };
                    self.programs.insert(id.clone(), program);
                    self.report(machine, id, Phase::Running { started_at });
                }
                (Some(program), Desired::Run) => {
                    program.spec = spec;
                    let checked = !program.spec.health.is_empty();
                    if checked && row.healthy != Some(true) {
                        let detail = String::new();
                        let healthy = true;
                        let remedy = None;
                        self.report(
                            machine,
                            id,
                            Phase::Health {
                                healthy,
                                detail,
                                remedy,
                            },
                        );
                    }
                }
            }
        }
    }

    fn never_started(&self) -> Phase {
        Phase::NeverStarted {
            code: Code::TaskStartFailed,
            message: "it was to end before it could start".to_owned(),
            at: self.now,
        }
    }

    fn report(&mut self, machine: &MachineId, task: TaskId, phase: Phase) {
        self.seq += 1;
        let seq = self.seq;
        let epoch = self.state.machine(machine).map_or(0, |row| row.epoch);
        self.decide(Event::Reports {
            machine: machine.clone(),
            epoch,
            reports: vec![TaskReport { seq, task, phase }],
        });
    }

    fn decide(&mut self, event: Event) -> Reply {
        self.seed += 1;
        let decision = step(&self.state, &event, self.now, self.seed);
        for txn in &decision.txns {
            self.state.apply(txn);
        }
        decision.reply
    }
}

fn surplus(index: u32, wanted: u32, state: TaskState) -> bool {
    index >= wanted && !state.is_terminal()
}

impl Submission {
    /// A submission of these specs, from nowhere.
    pub fn of(specs: &[JobSpec]) -> Submission {
        let jobs = specs.iter().map(|spec| SubmittedJob {
            spec: spec.clone(),
            source: SourceRef::default(),
        });
        Submission {
            jobs: jobs.collect(),
            by: "someone".to_owned(),
            ..Submission::default()
        }
    }
}
