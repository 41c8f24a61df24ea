//! An agent with its machine: starts, checks and ends tasks as it is told, and says what became of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tw_model::{
    Capacity, Code, Desired, Exit, JobSpec, Kind, MachineFacts, MachineId, Phase, TaskId,
    TaskRecord, TaskReport, Timestamp,
};

use super::rng::Rng;
use super::workload::Behaviour;
use crate::lease::{Deadlines, term_of};

/// A task as an agent is told of it.
#[derive(Clone, Debug)]
pub(super) struct Assigned {
    pub(super) row: Arc<TaskRecord>,
    pub(super) spec: Arc<JobSpec>,
}

/// What an agent says.
#[derive(Clone, Debug)]
pub(super) enum FromAgent {
    Register {
        boot: u64,
        /// The machine's clock when it was sent.
        clock: u64,
        reports: Vec<TaskReport>,
    },
    Stream {
        epoch: u64,
    },
    Beat {
        epoch: u64,
        reports: Vec<TaskReport>,
        /// The machine's clock before it was sent.
        clock: u64,
    },
}

/// What an agent hears.
#[derive(Clone, Debug)]
pub(super) enum ToAgent {
    Registered { number: u64, epoch: u64 },
    Fenced,
    Acknowledged { seq: u64, granted: Option<u64> },
    Snapshot { assigned: Vec<Assigned> },
    Assign { assigned: Assigned },
    Forget { task: TaskId },
}

/// How far a task on a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Starting,
    Running,
    Stopping,
    Over,
}

impl Process {
    /// Whether the program may do something.
    pub(super) fn is_alive(self) -> bool {
        matches!(self, Process::Running | Process::Stopping)
    }
}

/// A task on a machine. Outlives the agent, not the machine.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) process: Process,
    pub(super) spec: Arc<JobSpec>,
    /// What the agent last said of it.
    pub(super) last: Phase,
    pub(super) started_at: Timestamp,
}

/// Something that a task does after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Start,
    Health(bool),
    Exit(i32),
    Kill,
}

/// A machine and its agent.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) id: MachineId,
    pub(super) capacity: Capacity,
    /// Powered on.
    pub(super) up: bool,
    pub(super) boot: u64,
    /// The run of the agent; none while it is dead.
    pub(super) agent: Option<u64>,
    pub(super) epoch: Option<u64>,
    /// Whether it holds a stream, as far as it knows.
    pub(super) streaming: bool,
    /// Whether it has been told all that is to run since it registered: what is granted counts from then on.
    pub(super) is_told: bool,
    pub(super) tasks: BTreeMap<TaskId, Local>,
    /// What agents with other state folders have started; it runs, and nobody speaks to it.
    pub(super) strays: BTreeMap<TaskId, Local>,
    /// Counts the state folders.
    pub(super) folder: u64,
    /// Whether its folder was lost since it was switched on, so that someone has to look after what ran.
    pub(super) needs_care: bool,
    pub(super) unacknowledged: Vec<TaskReport>,
    pub(super) seq: u64,
    /// Until when nothing gets through.
    pub(super) cut_until: u64,
    pub(super) slow_until: u64,
    pub(super) repeats_until: u64,
    /// When it last heard anything, in milliseconds.
    pub(super) heard_at: u64,
    /// How much faster than time its clock goes.
    pub(super) clock_ppm: i64,
    /// The newest grant that its helpers have, on its own clock.
    pub(super) granted_at: Option<u64>,
    /// The first of the helpers' deadlines that are on the agenda, on its own clock.
    pub(super) lapse_planned: Option<u64>,
}

/// What follows from what an agent did: tasks that do something after so many milliseconds.
pub(super) type Plans = Vec<(u64, TaskId, Doing)>;

impl Machine {
    pub(super) fn new(number: u32, rng: &mut Rng) -> Machine {
        let first = 20_000;
        Machine {
            id: format!("machine-{number}").parse().expect("it is a name"),
            capacity: Capacity {
                // A little more than what other tasks can fill to the brim: daemons find room on every machine.
                cpu: tw_model::Cores(rng.range(8, 33) * 1000 + 90),
                memory: tw_model::Bytes::mib(rng.range(16, 65) * 1024 + 48),
                disk: tw_model::Bytes::mib(rng.range(200, 500) * 1024 + 48),
                bandwidth: tw_model::Bytes::mib(500),
                port_first: first,
                port_last: first + 40,
            },
            up: true,
            boot: 1,
            agent: Some(1),
            epoch: None,
            streaming: false,
            is_told: false,
            tasks: BTreeMap::new(),
            strays: BTreeMap::new(),
            folder: 1,
            needs_care: false,
            unacknowledged: Vec::new(),
            seq: 0,
            cut_until: 0,
            slow_until: 0,
            repeats_until: 0,
            heard_at: 0,
            clock_ppm: rng.range(0, 20_001) as i64 - 10_000,
            granted_at: None,
            lapse_planned: None,
        }
    }

    pub(super) fn facts(&self) -> MachineFacts {
        let number: u32 = self.id.as_str()["machine-".len()..].parse().unwrap_or(0);
        MachineFacts {
            address: format!("{}.example", self.id),
            rack: format!("rack-{}", number % 5),
            labels: BTreeMap::from([("kind".to_owned(), (number % 3).to_string())]),
            ..MachineFacts::default()
        }
    }

    /// What its clock shows.
    pub(super) fn clock(&self, at: u64) -> u64 {
        (at as i64 * (1_000_000 + self.clock_ppm) / 1_000_000) as u64
    }

    /// When its clock will show that.
    pub(super) fn when(&self, clock: u64) -> u64 {
        (clock as i64 * 1_000_000).div_euclid(1_000_000 + self.clock_ppm) as u64 + 1
    }

    /// When a helper ends its task unless something is heard, on the machine's clock; none for tasks that wait for
    /// ever, 0 for those that were granted nothing yet.
    fn kill_at(&self, spec: &JobSpec) -> Option<u64> {
        let term = term_of(spec)?;
        let granted = self.granted_at;
        Some(granted.map_or(0, |at| Deadlines::of(at, term, spec.stop.grace).kill_at))
    }

    /// The next deadline of a task that runs.
    pub(super) fn next_kill_at(&self) -> Option<u64> {
        let all = self.tasks.values().chain(self.strays.values());
        let alive = all.filter(|local| local.process.is_alive());
        alive.filter_map(|local| self.kill_at(&local.spec)).min()
    }

    /// The helpers whose deadline has passed end their tasks.
    pub(super) fn lapse(&mut self, at: u64, now: Timestamp) {
        let clock = self.clock(at);
        let over = self.tasks.iter().filter(|(_, local)| {
            local.process.is_alive() && self.kill_at(&local.spec).is_some_and(|kill| kill <= clock)
        });
        let over: Vec<TaskId> = over.map(|(id, _)| id.clone()).collect();
        let mut strays = std::mem::take(&mut self.strays);
        strays.retain(|_, local| self.kill_at(&local.spec).is_none_or(|kill| kill > clock));
        self.strays = strays;
        for id in over {
            let exit = Exit {
                signal: Some(9),
                ..Exit::default()
            };
            self.exit(&id, exit, now);
        }
    }

    pub(super) fn connected(&self, at: u64) -> bool {
        self.up && self.agent.is_some() && at >= self.cut_until
    }

    /// Everything that ran is gone, and the agent with it.
    pub(super) fn power_off(&mut self) {
        self.up = false;
        self.agent = None;
        self.tasks.clear();
        self.strays.clear();
        self.needs_care = false;
        self.granted_at = None;
        self.forget_session();
    }

    /// The state folder is lost, and with it all knowledge of what runs.
    pub(super) fn lose_folder(&mut self) {
        let tasks = std::mem::take(&mut self.tasks);
        let alive = tasks
            .into_iter()
            .filter(|(_, local)| local.process.is_alive());
        self.strays.extend(alive);
        self.folder += 1;
        self.needs_care = true;
        self.agent = None;
        self.forget_session();
    }

    pub(super) fn power_on(&mut self, run: u64) {
        self.up = true;
        self.boot += 1;
        self.agent = Some(run);
    }

    pub(super) fn forget_session(&mut self) {
        self.epoch = None;
        self.streaming = false;
        self.is_told = false;
        self.unacknowledged.clear();
    }

    /// The newest report of every task.
    pub(super) fn newest_reports(&mut self) -> Vec<TaskReport> {
        let all: Vec<(TaskId, Phase)> = self
            .tasks
            .iter()
            .map(|(id, local)| (id.clone(), local.last.clone()))
            .collect();
        all.into_iter()
            .map(|(task, phase)| TaskReport {
                seq: self.next_seq(),
                task,
                phase,
            })
            .collect()
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn report(&mut self, task: &TaskId, phase: Phase) {
        if let Some(local) = self.tasks.get_mut(task) {
            local.last = phase.clone();
        }
        // A dead agent says nothing; the next one tells when it registers.
        if self.agent.is_some() {
            let seq = self.next_seq();
            let task = task.clone();
            self.unacknowledged.push(TaskReport { seq, task, phase });
        }
    }

    /// Follows a row: starts, changes or ends its task. True when a program is about to start.
    pub(super) fn follow(
        &mut self,
        assigned: &Assigned,
        now: Timestamp,
        rng: &mut Rng,
        plans: &mut Plans,
    ) -> bool {
        let id = &assigned.row.id;
        if let Some(local) = self.tasks.get_mut(id) {
            local.spec = assigned.spec.clone();
            let running = matches!(local.process, Process::Starting | Process::Running);
            if assigned.row.desired == Desired::Stop && running {
                self.begin_stop(id, rng, plans);
            }
            return false;
        }
        if assigned.row.desired == Desired::Stop {
            let message = "it was to end before it could start".to_owned();
            self.hold(assigned, Process::Over, now);
            self.never_started(id, Code::TaskStartFailed, message, now);
            return false;
        }
        self.hold(assigned, Process::Starting, now);
        self.report(id, Phase::Starting);
        plans.push((rng.range(50, 3000), id.clone(), Doing::Start));
        true
    }

    fn hold(&mut self, assigned: &Assigned, process: Process, now: Timestamp) {
        let local = Local {
            process,
            spec: assigned.spec.clone(),
            last: Phase::Starting,
            started_at: now,
        };
        self.tasks.insert(assigned.row.id.clone(), local);
    }

    fn never_started(&mut self, id: &TaskId, code: Code, message: String, at: Timestamp) {
        if let Some(local) = self.tasks.get_mut(id) {
            local.process = Process::Over;
        }
        self.report(id, Phase::NeverStarted { code, message, at });
    }

    pub(super) fn begin_stop(&mut self, id: &TaskId, rng: &mut Rng, plans: &mut Plans) {
        if let Some(local) = self.tasks.get_mut(id) {
            local.process = Process::Stopping;
        }
        self.report(id, Phase::Stopping);
        // Some finish what they are at, however long that takes.
        let longest = if rng.chance(0.2) { 40_000 } else { 8000 };
        plans.push((rng.range(500, longest), id.clone(), Doing::Exit(143)));
    }

    /// Ends everything that is not among the assigned tasks.
    pub(super) fn drop_unassigned(&mut self, assigned: &[Assigned]) {
        let keep = |id: &TaskId| assigned.iter().any(|one| one.row.id == *id);
        self.tasks.retain(|id, _| keep(id));
    }

    /// Lets a task do what it was about to do.
    pub(super) fn act(
        &mut self,
        id: &TaskId,
        doing: Doing,
        (at, now): (u64, Timestamp),
        rng: &mut Rng,
        plans: &mut Plans,
    ) {
        let Some(local) = self.tasks.get(id) else {
            return;
        };
        match (doing, local.process) {
            (Doing::Start, Process::Starting) => {
                let clock = self.clock(at);
                let spec = &local.spec;
                // It begins only under a grant.
                match self.kill_at(spec).is_some_and(|kill| kill <= clock) {
                    true => plans.push((500, id.clone(), Doing::Start)),
                    false => self.start(id, now, rng, plans),
                }
            }
            (Doing::Health(healthy), Process::Running) if !local.spec.health.is_empty() => {
                let detail = String::new();
                self.report(
                    id,
                    Phase::Health {
                        healthy,
                        detail,
                        remedy: Default::default(),
                    },
                );
            }
            (Doing::Exit(code), Process::Running | Process::Stopping) => {
                let exit = Exit {
                    code: Some(code),
                    ..Exit::default()
                };
                self.exit(id, exit, now);
            }
            (Doing::Kill, Process::Running | Process::Stopping) => {
                let exit = Exit {
                    signal: Some(9),
                    oom: rng.chance(0.3),
                    ..Exit::default()
                };
                self.exit(id, exit, now);
            }
            _ => {}
        }
    }

    fn start(&mut self, id: &TaskId, now: Timestamp, rng: &mut Rng, plans: &mut Plans) {
        let Some(local) = self.tasks.get_mut(id) else {
            return;
        };
        let behaviour = Behaviour::of(&local.spec);
        if behaviour == Behaviour::Missing || rng.chance(0.01) {
            let message = "no such file".to_owned();
            return self.never_started(id, Code::TaskCommandNotFound, message, now);
        }
        local.process = Process::Running;
        local.started_at = now;
        let (checked, batch) = (
            !local.spec.health.is_empty(),
            local.spec.kind == Kind::Batch,
        );
        self.report(id, Phase::Running { started_at: now });
        let mut plan = |after, doing| plans.push((after, id.clone(), doing));
        match behaviour {
            Behaviour::Crashes => plan(rng.range(100, 2000), Doing::Exit(1)),
            Behaviour::Fails => plan(rng.range(100, 20_000), Doing::Exit(1)),
            Behaviour::Tries => {
                let code = i32::from(rng.chance(0.3));
                // Some are over before their agent has said that they began.
                let length = if rng.chance(0.3) { 1000 } else { 60_000 };
                plan(rng.range(50, length), Doing::Exit(code));
            }
            Behaviour::Sick => plan(rng.range(3000, 6000), Doing::Health(false)),
            Behaviour::Good if checked => plan(rng.range(200, 3000), Doing::Health(true)),
            Behaviour::Good | Behaviour::Missing => {}
        }
        // A program may crash once in a while, also a good one.
        if !batch && rng.chance(0.05) {
            plan(rng.range(5000, 240_000), Doing::Exit(2));
        }
    }

    fn exit(&mut self, id: &TaskId, exit: Exit, at: Timestamp) {
        if let Some(local) = self.tasks.get_mut(id) {
            local.process = Process::Over;
        }
        let detail = String::new();
        self.report(id, Phase::Exited { exit, at, detail });
    }
}
