//! Time, the network, and all that happens.

mod agenda;
mod control;
mod faults;
mod machines;
mod network;
mod people;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use tw_model::{MachineId, Millis, Record, TaskId, TaskState, Timestamp};

use super::agent::{Machine, Process, ToAgent};
use super::checks::{Pace, StopMeter};
use super::client::{Client, Request};
use super::controller::{Controller, Durable, Former};
use super::reviewed::Reviews;
use super::rng::Rng;
use super::{Coverage, SimulationConfig, Violation, checks, workload};
use crate::Op;
use agenda::{Action, Scheduled};
use control::limits;

/// The moment at which every history begins.
const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);

/// How often a machine speaks up.
const BEAT_MS: u64 = 2000;
/// How often the whole state is held against the store, besides after every recovery.
const AUDIT_MS: u64 = 600_000;

/// Runs the history of a seed to its end, or to the first invariant that does not hold.
pub fn run(seed: u64, config: &SimulationConfig) -> Result<Coverage, Violation> {
    let mut world = World::new(seed, config.clone());
    let outcome = world.run();
    let at = Millis(world.at);
    outcome
        .map(|()| world.coverage)
        .map_err(|what| Violation { seed, at, what })
}

struct World {
    config: SimulationConfig,
    rng: Rng,
    /// Milliseconds since the beginning.
    at: u64,
    numbers: u64,
    agenda: BinaryHeap<Reverse<Scheduled>>,
    machines: Vec<Machine>,
    registrations: Vec<u64>,
    durable: Durable,
    controller: Option<Controller>,
    former: Option<Former>,
    stops: StopMeter,
    pace: Pace,
    /// Counts the controller's lives; a commit of an earlier one never happens.
    life: u64,
    client: Client,
    reviews: Reviews,
    /// Tasks whose program was ever started.
    started: BTreeSet<TaskId>,
    calm: bool,
    commit_fails: bool,
    coverage: Coverage,
}

type Outcome = Result<(), String>;

impl World {
    fn new(seed: u64, config: SimulationConfig) -> World {
        let mut rng = Rng::new(seed);
        let machines: Vec<Machine> = (0..config.machines)
            .map(|number| Machine::new(number, &mut rng))
            .collect();
        let durable = Durable::default();
        let mut world = World {
            registrations: vec![0; machines.len()],
            controller: Some(Controller::recover(&durable, 0, limits(&config))),
            stops: StopMeter::default(),
            pace: Pace::default(),
            former: None,
            config,
            rng,
            at: 0,
            numbers: 0,
            agenda: BinaryHeap::new(),
            machines,
            durable,
            life: 0,
            client: Client::default(),
            reviews: Reviews::default(),
            started: BTreeSet::new(),
            calm: false,
            commit_fails: false,
            coverage: Coverage::default(),
        };
        world.arrange();
        world
    }

    /// Puts the whole history onto the agenda.
    fn arrange(&mut self) {
        let stormy = self.config.stormy.0;
        self.after(10, Action::Tick);
        self.after(AUDIT_MS, Action::Audit);
        for machine in 0..self.machines.len() {
            let delay = self.rng.range(0, BEAT_MS);
            self.after(delay, Action::Beat(machine));
        }
        for spec in workload::jobs(&mut self.rng, self.config.tasks) {
            self.client
                .waiting
                .push_back(Request::Submit(Box::new(spec)));
        }
        self.after(100, Action::Asks);
        for _ in 0..self.config.requests {
            let delay = self.rng.range(120_000, stormy);
            self.after(delay, Action::AskArrives(0));
        }
        for _ in 0..self.config.requests / 4 {
            let delay = self.rng.range(120_000, stormy);
            self.after(delay, Action::Drains);
        }
        for _ in 0..self.config.faults {
            let delay = self.rng.range(30_000, stormy);
            self.after(delay, Action::Strike);
        }
        self.after(stormy, Action::Calm);
        self.after(stormy + self.config.quiet.0 / 2, Action::SecondRound);
    }

    fn run(&mut self) -> Outcome {
        let end = self.config.stormy.0 + self.config.quiet.0;
        while let Some(Reverse(next)) = self.agenda.pop() {
            if next.at > end {
                break;
            }
            self.at = next.at;
            self.happen(next.action)?;
        }
        self.finish()
    }

    fn finish(&mut self) -> Outcome {
        let Some(controller) = &self.controller else {
            return Err("the controller is gone".to_owned());
        };
        checks::promises(&controller.state, &self.client)?;
        checks::converged(&controller.state, self.now())?;
        checks::index(&controller.state)?;
        self.programs_are_rows()
    }

    /// What runs on the machines is what the rows say, and nothing else, but for what word is on its way of.
    fn programs_are_rows(&self) -> Outcome {
        for machine in &self.machines {
            for (task, local) in &machine.tasks {
                let row = self
                    .controller
                    .as_ref()
                    .and_then(|controller| controller.state.task(task));
                let running = row.is_some_and(|row| row.state == TaskState::Running);
                if local.process == Process::Running && !running && !self.is_on_its_way(task) {
                    let said = row.map(|row| row.state);
                    return Err(format!(
                        "{task} runs on {} and nobody wants it: its row is {said:?}",
                        machine.id
                    ));
                }
            }
        }
        let state = self.controller.as_ref().map(|controller| &controller.state);
        let rows = state
            .into_iter()
            .flat_map(|state| state.jobs())
            .flat_map(|job| job.tasks());
        for row in rows.filter(|row| row.state == TaskState::Running) {
            let locals = self
                .machines
                .iter()
                .filter_map(|machine| machine.tasks.get(&row.id));
            let mut running = locals.filter(|local| local.process == Process::Running);
            if running.next().is_none() && !self.is_on_its_way(&row.id) {
                return Err(format!(
                    "{} counts as running since {:?} on {:?}, and does not run",
                    row.id, row.started_at, row.machine,
                ));
            }
        }
        Ok(())
    }

    /// Whether word of a task is on its way: a report that its agent has no answer to yet, a row that is not durable
    /// yet, or one on its agent's stream.
    fn is_on_its_way(&self, task: &TaskId) -> bool {
        let mut reports = self
            .machines
            .iter()
            .flat_map(|machine| &machine.unacknowledged);
        let shown = |Reverse(next): &Reverse<Scheduled>| match &next.action {
            Action::Hears { message, .. } => match message {
                ToAgent::Assign { assigned } => assigned.row.id == *task,
                ToAgent::Forget { task: other } => other == task,
                ToAgent::Snapshot { .. }
                | ToAgent::Registered { .. }
                | ToAgent::Fenced
                | ToAgent::Acknowledged { .. } => false,
            },
            _ => false,
        };
        let queued = self.controller.iter().flat_map(|it| &it.queue);
        let mut queued = queued.flat_map(|one| &one.txn.ops);
        reports.any(|report| report.task == *task)
            || queued.any(|op| matches!(op, Op::Put(Record::Task(row)) if row.id == *task))
            || self.agenda.iter().any(shown)
    }

    fn now(&self) -> Timestamp {
        BEGIN.plus(Millis(self.at))
    }

    fn after(&mut self, delay: u64, action: Action) {
        self.numbers += 1;
        self.agenda.push(Reverse(Scheduled {
            at: self.at + delay,
            number: self.numbers,
            action,
        }));
    }

    fn happen(&mut self, action: Action) -> Outcome {
        match action {
            Action::Tick => self.tick(),
            Action::Audit => self.audit(),
            Action::Commit(life) => self.commit(life),
            Action::Arrives {
                machine,
                run,
                number,
                message,
            } => self.arrives(machine, run, number, message),
            Action::Hears {
                machine,
                run,
                message,
            } => self.hears(machine, run, message),
            Action::Beat(machine) => self.beat(machine),
            Action::Acts {
                machine,
                boot,
                task,
                doing,
            } => self.acts(machine, boot, &task, doing),
            Action::Asks => self.asks(),
            Action::AskArrives(0) => self.think(),
            Action::AskArrives(number) => self.ask_arrives(number),
            Action::Strike => self.strike(),
            Action::Drains => self.drain_some(),
            Action::DrainEnds(machines) => self.end_drain(machines),
            Action::Lapse { machine, boot } => self.lapse(machine, boot),
            Action::FormerWakes => self.former_wakes(),
            Action::CutOff { machine, length } => self.cut_off(machine, length),
            Action::PowerOn(machine) => self.power_on(machine),
            Action::Recovers(machine) => self.recovers(machine),
            Action::PowerCycle(machine) => self.power_cycle(machine),
            Action::AgentUp(machine) => self.agent_up(machine),
            Action::ControllerUp => self.controller_up(),
            Action::Calm => self.calm_down(),
            Action::SecondRound => self.ask_for_good(),
        }
    }

    fn number(&self, id: &MachineId) -> Option<usize> {
        id.as_str().strip_prefix("machine-")?.parse().ok()
    }
}
