//! Time, the network, and all that happens.

mod faults;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use tw_model::{JobId, MachineId, MachineState, Millis, Record, TaskId, TaskState, Timestamp};

use super::agent::{Doing, FromAgent, Local, Machine, Plans, Process, ToAgent};
use super::checks::{Pace, StopMeter};
use super::client::{Client, Request};
use super::controller::{
    self, Controller, Durable, Former, LEASE_MS, Queued, STOP_LIMITS, Stream, Waiter,
};
use super::reviewed::{Reviewed, Reviews, is_stale};
use super::rng::Rng;
use super::{Coverage, Sabotage, SimulationConfig, Violation, checks, sabotage, witness, workload};
use crate::lease::KILL_WITHIN;
use crate::{
    Event, Op, Receipt, Reply, RolloutOrder, StopLimits, Txn, assignment, consultations, plan, step,
};

/// The moment at which every history begins.
const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);

const TICK_MS: u64 = 2000;
const BEAT_MS: u64 = 2000;
const CLIENT_PATIENCE_MS: u64 = 5000;
/// How often the whole state is held against the store, besides after every recovery.
const AUDIT_MS: u64 = 600_000;

/// Something that happens at a moment.
#[derive(Debug)]
enum Action {
    Tick,
    Audit,
    /// The store has written the oldest portion of this life of the controller.
    Commit(u64),
    /// A message of an agent's run arrives, sent when the machine had registered so often.
    Arrives {
        machine: usize,
        run: u64,
        number: u64,
        message: FromAgent,
    },
    Hears {
        machine: usize,
        run: u64,
        message: ToAgent,
    },
    Beat(usize),
    Acts {
        machine: usize,
        boot: u64,
        task: TaskId,
        doing: Doing,
    },
    /// The next request, or the same again.
    Asks,
    AskArrives(u64),
    Strike,
    /// Someone begins to drain machines.
    Drains,
    /// They take tasks again.
    DrainEnds(Vec<MachineId>),
    /// A helper's deadline on this boot of a machine.
    Lapse {
        machine: usize,
        boot: u64,
    },
    /// A controller that was replaced goes on.
    FormerWakes,
    CutOff {
        machine: usize,
        length: u64,
    },
    PowerOn(usize),
    /// Nothing ails a machine any more.
    Recovers(usize),
    /// Whoever finds a machine with tasks that nobody speaks to switches it off and on.
    PowerCycle(usize),
    AgentUp(usize),
    ControllerUp,
    Calm,
    SecondRound,
}

struct Scheduled {
    at: u64,
    number: u64,
    action: Action,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

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

    fn tick(&mut self) -> Outcome {
        self.after(TICK_MS, Action::Tick);
        let at = self.at;
        let Some(controller) = &mut self.controller else {
            return Ok(());
        };
        controller.broker.renew(controller::tenure(at));
        let mut due = controller.broker.due(&controller.state, at);
        sabotage::hurry(self.config.sabotage, &controller.state, &mut due);
        for event in due {
            self.decide(event, Waiter::Nobody)?;
        }
        self.applications_answer()?;
        if self.config.sabotage == Some(Sabotage::ForgetUnsettled) {
            return Ok(());
        }
        self.decide(Event::Tick, Waiter::Nobody)?;
        let now = self.now();
        match &self.controller {
            Some(controller) => {
                let age = controller.age(self.at);
                checks::on_time(&controller.state, age, now)?;
                checks::drained(&controller.state, age, now)
            }
            None => Ok(()),
        }
    }

    /// Some applications answer what they are asked: reasonably, all at once, or with what they were never asked.
    fn applications_answer(&mut self) -> Outcome {
        let state = self.controller.as_ref().map(|controller| &controller.state);
        let asked = state.map(consultations).unwrap_or_default();
        for one in asked {
            if !self.rng.chance(if self.calm { 0.9 } else { 0.3 }) {
                continue;
            }
            let share = *self.rng.pick(&[0.0, 0.3, 1.0]);
            let mut approved = vec!["web.0#1/update/v1".to_owned()];
            for operation in one.operations {
                if self.calm || self.rng.chance(share) {
                    approved.push(operation.id);
                }
            }
            let job = one.job;
            self.coverage.count("answers of applications");
            self.decide(Event::TaskControl { job, approved }, Waiter::Nobody)?;
        }
        Ok(())
    }

    fn audit(&mut self) -> Outcome {
        self.after(AUDIT_MS, Action::Audit);
        let now = self.now();
        match &self.controller {
            Some(controller) if controller.queue.is_empty() => {
                checks::fold(&controller.state, &self.durable)?;
                checks::settled(&controller.state, now)?;
                checks::index(&controller.state)
            }
            _ => Ok(()),
        }
    }

    /// Decides, applies at once, and queues to the store.
    fn decide(&mut self, event: Event, waiter: Waiter) -> Outcome {
        let (now, seed) = (self.now(), self.rng.next());
        let sent = sabotage::misread(self.config.sabotage, event.clone());
        let Some(controller) = &mut self.controller else {
            return Ok(());
        };
        let mut decision = step(&controller.state, &sent, now, seed);
        if let Some(bug) = self.config.sabotage {
            sabotage::spoil(bug, &controller.state, &mut decision.txns);
            sabotage::overstep(bug, &controller.state, &mut decision.txns);
        }
        let asked = checks::stopping(&decision.txns);
        let withheld = controller
            .limiter
            .admit(&controller.state, &mut decision, self.at);
        if withheld > 0 {
            self.coverage.count("stops held back");
        }
        self.stops
            .count(&controller.state, &decision.txns, self.at)?;
        self.pace.count(&controller.state, &decision.txns, now)?;
        let unsteady = checks::on_unsteady(&controller.state, &decision.txns, now);
        let disturbed = checks::disturbed(&controller.state, &decision.txns, now);
        let changed = checks::Changed::of(&controller.state, &decision.txns, asked);
        checks::pauses(&controller.state, &event, &decision.txns)?;
        let reviewed = match &event {
            Event::Submit { .. } => self.client.reviewed.as_ref(),
            _ => None,
        };
        let answer = (&decision.reply, decision.txns.as_slice());
        self.reviews
            .answered(&mut self.coverage, &controller.state, reviewed, answer)?;
        self.reviews
            .hold(&mut self.coverage, &controller.state, &decision.txns)?;
        let held_back = self.stops.held_back(changed.held_back(), self.at);
        held_back.into_iter().for_each(|one| self.coverage.hit(one));
        witness::written(
            &mut self.coverage,
            &controller.state,
            &event,
            &decision.txns,
            now,
        );
        decision
            .txns
            .iter()
            .for_each(|txn| controller.state.apply(txn));
        checks::written(&controller.state, &decision.txns, &changed)?;
        checks::promises_of(&controller.state, &self.client, &decision.txns)?;
        checks::steadier(&controller.state, &unsteady, now)?;
        checks::promises_of_room(&controller.state, &decision.txns, &changed)?;
        checks::budget(&controller.state, &disturbed)?;
        witness::used_up(
            &mut self.coverage,
            &controller.state,
            &disturbed,
            &decision.txns,
        );
        checks::makes_way(&controller.state, &decision.txns, &disturbed, now)?;
        // One that is refused speaks for nobody.
        if let (Event::AgentRegistered { machine, .. }, Reply::Registered { .. }) =
            (&event, &decision.reply)
        {
            controller.broker.heard(machine, self.at);
        }
        let mut answer = Some((waiter, decision.reply));
        if self.rng.chance(0.3) {
            decision.txns = cut(&decision.txns, &mut self.rng);
        }
        if self.config.sabotage == Some(Sabotage::ReversedPortions) {
            decision.txns.reverse();
        }
        let idle = controller.queue.is_empty();
        if decision.txns.is_empty() && !idle {
            decision.txns.push(Txn::default());
        }
        let early = match self.config.sabotage {
            Some(Sabotage::ReplyBeforeDurable) => answer.take(),
            _ if decision.txns.is_empty() => answer.take(),
            _ => None,
        };
        let last = decision.txns.len();
        for (number, txn) in decision.txns.iter().enumerate() {
            let answer = if number + 1 == last {
                answer.take()
            } else {
                None
            };
            let txn = txn.clone();
            controller.queue.push_back(Queued { txn, answer });
        }
        if self.config.sabotage == Some(Sabotage::PublishBeforeDurable) {
            self.publish_early(&decision.txns);
        }
        if idle && last > 0 {
            let latency = self.rng.range(1, 30);
            self.after(latency, Action::Commit(self.life));
        }
        match early {
            Some((waiter, reply)) => self.answer(waiter, reply),
            None => Ok(()),
        }
    }

    fn commit(&mut self, life: u64) -> Outcome {
        if life != self.life {
            return Ok(());
        }
        let Some(controller) = &mut self.controller else {
            return Ok(());
        };
        if std::mem::take(&mut self.commit_fails) {
            return self.store_failed();
        }
        let Some(done) = controller.queue.pop_front() else {
            return Ok(());
        };
        if !controller.queue.is_empty() {
            let latency = self.rng.range(1, 30);
            self.after(latency, Action::Commit(life));
        }
        let forgotten = self.config.sabotage == Some(Sabotage::LostCommit) && self.rng.chance(0.01);
        if !forgotten {
            self.durable.commit(&done.txn)?;
        }
        self.publish(&done.txn);
        match done.answer {
            Some((waiter, reply)) => self.answer(waiter, reply),
            None => Ok(()),
        }
    }

    /// Drops everything that is not durable, and lists again. Nobody who waited is answered.
    fn store_failed(&mut self) -> Outcome {
        self.life += 1;
        checks::versions(&self.durable)?;
        let mut fresh = Controller::recover(&self.durable, self.at, limits(&self.config));
        if let Some(old) = self.controller.take() {
            // The connections stay, and so does what was heard; what was shown was durable.
            fresh.broker = old.broker;
            fresh.limiter = old.limiter;
            if self.config.sabotage == Some(Sabotage::KeepRefused) {
                fresh.state = old.state;
            }
        }
        self.controller = Some(fresh);
        self.drop_streams();
        self.recovered()
    }

    fn recovered(&mut self) -> Outcome {
        self.coverage.count("recoveries");
        self.reviews.recovered();
        let Some(controller) = &self.controller else {
            return Ok(());
        };
        checks::fold(&controller.state, &self.durable)?;
        checks::settled(&controller.state, self.now())?;
        checks::index(&controller.state)?;
        checks::promises(&controller.state, &self.client)
    }

    fn drop_streams(&mut self) {
        if let Some(controller) = &mut self.controller {
            controller.streams.clear();
            controller.stream_tail.clear();
        }
        self.machines
            .iter_mut()
            .for_each(|machine| machine.streaming = false);
    }

    /// Shows the durable rows to the agents that they concern.
    fn publish(&mut self, txn: &Txn) {
        for op in &txn.ops {
            if let Op::Put(Record::Machine(row)) = op
                && let Some(machine) = self.number(&row.id)
            {
                self.end_old_stream(machine, row.epoch);
            }
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let Some(machine) = row.machine.as_ref().and_then(|id| self.number(id)) else {
                continue;
            };
            let old_epochs = self.config.sabotage == Some(Sabotage::OldEpochRow);
            let message = match controller::assigned(&self.durable, row, old_epochs) {
                Some(assigned) => ToAgent::Assign { assigned },
                None => ToAgent::Forget {
                    task: row.id.clone(),
                },
            };
            self.show(machine, message);
        }
    }

    /// A stream shows rows of one epoch of its machine.
    fn end_old_stream(&mut self, machine: usize, epoch: u64) {
        let streams = self.controller.as_ref().map(|it| &it.streams);
        let stream = streams.and_then(|it| it.get(&machine));
        if stream.is_some_and(|stream| stream.epoch != epoch) {
            self.close_stream(machine);
        }
    }

    fn publish_early(&mut self, txns: &[Txn]) {
        for op in txns.iter().flat_map(|txn| &txn.ops) {
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let machine = row.machine.as_ref().and_then(|id| self.number(id));
            let state = self.controller.as_ref().map(|controller| &controller.state);
            let shown = state.and_then(|state| assignment(state, &row.id));
            if let (Some(machine), Some((row, spec))) = (machine, shown) {
                let assigned = super::agent::Assigned {
                    row: std::sync::Arc::new(row.clone()),
                    spec: spec.clone(),
                };
                self.show(machine, ToAgent::Assign { assigned });
            }
        }
    }

    /// Sends along an agent's stream, which keeps its order.
    fn show(&mut self, machine: usize, message: ToAgent) {
        let delay = self.delay(machine);
        let at = self.at;
        let Some(controller) = &mut self.controller else {
            return;
        };
        let Some(Stream { run, .. }) = controller.streams.get(&machine).copied() else {
            return;
        };
        let tail = controller.stream_tail.entry(machine).or_default();
        *tail = (at + delay).max(*tail);
        let delay = *tail - at;
        self.after(
            delay,
            Action::Hears {
                machine,
                run,
                message,
            },
        );
    }

    fn number(&self, id: &tw_model::MachineId) -> Option<usize> {
        id.as_str().strip_prefix("machine-")?.parse().ok()
    }

    fn delay(&mut self, machine: usize) -> u64 {
        match self.machines[machine].slow_until > self.at {
            true => self.rng.range(5, 6000),
            false => self.rng.range(1, 40),
        }
    }

    fn answer(&mut self, waiter: Waiter, reply: Reply) -> Outcome {
        match waiter {
            Waiter::Nobody => Ok(()),
            Waiter::Registration {
                machine,
                run,
                number,
            } => {
                if let Reply::Registered { epoch } = reply {
                    self.reply(machine, run, ToAgent::Registered { number, epoch });
                }
                Ok(())
            }
            Waiter::Heartbeat {
                machine,
                run,
                seq,
                granted,
            } => {
                let message = match reply {
                    Reply::Reported { .. } => ToAgent::Acknowledged { seq, granted },
                    // A machine that the controller does not know has to register as well.
                    _ => ToAgent::Fenced,
                };
                self.reply(machine, run, message);
                Ok(())
            }
            Waiter::Client(number) => self.granted(number, reply),
        }
    }

    fn reply(&mut self, machine: usize, run: u64, message: ToAgent) {
        let delay = self.delay(machine);
        let hears = Action::Hears {
            machine,
            run,
            message,
        };
        self.after(delay, hears);
    }

    fn granted(&mut self, number: u64, reply: Reply) -> Outcome {
        if number != self.client.number {
            return Ok(());
        }
        match reply {
            Reply::Submitted(plan) => self.client.granted(plan.jobs.first()),
            Reply::Rollout { version } | Reply::Restarting { version } => {
                let state = self.controller.as_ref().map(|controller| &controller.state);
                let spec = |id: &JobId| Some((**state?.job(id)?.spec()).clone());
                self.client.ordered(version, spec);
                if matches!(reply, Reply::Rollout { .. }) {
                    self.coverage.count("orders carried out");
                }
            }
            Reply::Refused(refusal) if is_stale(&refusal) => {
                // It is planned and reviewed again.
                self.client.reviewed = None;
                self.client.number += 1;
                self.after(200, Action::AskArrives(self.client.number));
                return Ok(());
            }
            Reply::Refused(refusal) => {
                self.coverage.count("requests refused");
                let open = self.client.open.as_ref();
                let may = matches!(open, Some(Request::Restart(_) | Request::Rollout(..)));
                if !may {
                    return Err(format!("a right request was refused: {refusal}"));
                }
                self.client.open = None;
            }
            _ => return Err("a request was answered with something else".to_owned()),
        }
        self.after(200, Action::Asks);
        Ok(())
    }

    fn arrives(&mut self, machine: usize, run: u64, number: u64, message: FromAgent) -> Outcome {
        let at = self.at;
        let here = &self.machines[machine];
        if !here.connected(at) || here.agent != Some(run) {
            return Ok(());
        }
        if let Some(former) = self
            .former
            .as_mut()
            .filter(|it| it.stuck.contains(&machine))
        {
            if let FromAgent::Beat { clock, .. } = message {
                former.inbox.push((machine, run, clock));
            }
            return Ok(());
        }
        let Some(controller) = &self.controller else {
            return Ok(());
        };
        let id = here.id.clone();
        match message {
            FromAgent::Register {
                boot,
                clock,
                reports,
            } => {
                let believed = self.config.sabotage == Some(Sabotage::LateRegistration);
                let event = Event::AgentRegistered {
                    machine: id.clone(),
                    boot_id: format!("boot-{boot}"),
                    agent: format!("folder-{}", here.folder),
                    heard_ago: controller.broker.heard_ago(&here.id, at),
                    capacity: here.capacity.clone(),
                    facts: Box::new(here.facts()),
                    uptime: Millis(if believed { 0 } else { clock }),
                    reports,
                };
                let waiter = Waiter::Registration {
                    machine,
                    run,
                    number,
                };
                self.decide(event, waiter)
            }
            FromAgent::Stream { epoch } => {
                self.open_stream(machine, run, epoch);
                Ok(())
            }
            FromAgent::Beat {
                epoch,
                reports,
                clock,
            } => self.heartbeat((machine, run), epoch, reports, clock),
        }
    }

    fn heartbeat(
        &mut self,
        (machine, run): (usize, u64),
        epoch: u64,
        reports: Vec<tw_model::TaskReport>,
        clock: u64,
    ) -> Outcome {
        let (received, at) = (Receipt::at(self.at), self.at);
        let id = self.machines[machine].id.clone();
        let row = self
            .controller
            .as_ref()
            .and_then(|controller| controller.state.machine(&id));
        let current = row.is_some_and(|row| row.epoch == epoch && row.state == MachineState::Up);
        if current {
            self.heard(&id);
        }
        let granted = match &mut self.controller {
            Some(controller) if current => {
                let broker = &mut controller.broker;
                broker.grant(&id, received, at).then_some(clock)
            }
            _ => None,
        };
        let seq = reports.iter().map(|report| report.seq).max().unwrap_or(0);
        let event = Event::Reports {
            machine: id,
            epoch,
            reports,
        };
        let waiter = Waiter::Heartbeat {
            machine,
            run,
            seq,
            granted,
        };
        self.decide(event, waiter)
    }

    fn heard(&mut self, id: &tw_model::MachineId) {
        let at = self.at;
        if let Some(controller) = &mut self.controller {
            controller.broker.heard(id, at);
        }
    }

    fn open_stream(&mut self, machine: usize, run: u64, epoch: u64) {
        let id = self.machines[machine].id.clone();
        let key = tw_model::RecordKey::Machine(id.clone());
        let Some(Record::Machine(row)) = self.durable.rows.get(&key) else {
            return;
        };
        if row.epoch != epoch {
            return;
        }
        let old_epochs = self.config.sabotage == Some(Sabotage::OldEpochRow);
        let assigned = controller::snapshot(&self.durable, &id, old_epochs);
        if let Some(controller) = &mut self.controller {
            controller.streams.insert(machine, Stream { run, epoch });
        }
        self.show(machine, ToAgent::Snapshot { assigned });
    }

    fn hears(&mut self, machine: usize, run: u64, message: ToAgent) -> Outcome {
        let (at, now) = (self.at, self.now());
        let mut plans = Plans::new();
        // What was on its way when a stream broke still arrives, and then its end is seen.
        let controller = self.controller.as_ref();
        let stream = controller.and_then(|it| it.streams.get(&machine));
        let holds = stream.is_some_and(|stream| stream.run == run);
        let newest = self.registrations[machine];
        let here = &mut self.machines[machine];
        if !here.connected(at) || here.agent != Some(run) {
            return Ok(());
        }
        here.heard_at = at;
        let mut starts = Vec::new();
        match message {
            // Nobody waits any more for the answer to an earlier one.
            ToAgent::Registered { number, epoch } if number == newest => {
                here.epoch = Some(epoch);
            }
            ToAgent::Registered { .. } => {}
            ToAgent::Fenced if self.config.sabotage == Some(Sabotage::IgnoreFence) => {}
            ToAgent::Fenced => here.forget_session(),
            ToAgent::Acknowledged { seq, granted } => {
                here.unacknowledged.retain(|report| report.seq > seq);
                // What has waited to start since before may have been replaced.
                if here.is_told {
                    here.granted_at = here.granted_at.max(granted);
                }
            }
            ToAgent::Snapshot { assigned } => {
                here.streaming = holds;
                here.is_told = true;
                if self.config.sabotage != Some(Sabotage::KeepStale) {
                    here.drop_unassigned(&assigned);
                }
                for one in &assigned {
                    if here.follow(one, now, &mut self.rng, &mut plans) {
                        starts.push(one.row.id.clone());
                    }
                }
            }
            ToAgent::Assign { assigned } => {
                if here.follow(&assigned, now, &mut self.rng, &mut plans) {
                    starts.push(assigned.row.id.clone());
                }
            }
            ToAgent::Forget { task } => {
                here.tasks.remove(&task);
            }
        }
        self.plan(machine, plans);
        match starts
            .into_iter()
            .find(|task| !self.started.insert(task.clone()))
        {
            Some(task) => Err(format!("{task} was started a second time")),
            None => Ok(()),
        }
    }

    fn plan(&mut self, machine: usize, plans: Plans) {
        let boot = self.machines[machine].boot;
        for (delay, task, doing) in plans {
            self.after(
                delay,
                Action::Acts {
                    machine,
                    boot,
                    task,
                    doing,
                },
            );
        }
    }

    fn acts(&mut self, machine: usize, boot: u64, task: &TaskId, doing: Doing) -> Outcome {
        let (at, now) = (self.at, self.now());
        // When all is calm, nothing fails that could succeed.
        let doing = match doing {
            Doing::Exit(code) if self.calm && code < 100 => Doing::Exit(0),
            other => other,
        };
        let service = self.machines[machine].tasks.get(task).is_some_and(|local| {
            local.spec.kind == tw_model::Kind::Service && local.process == Process::Running
        });
        if self.calm && service && doing == Doing::Exit(0) {
            return Ok(());
        }
        let mut plans = Plans::new();
        let here = &mut self.machines[machine];
        if here.up && here.boot == boot {
            here.act(task, doing, (at, now), &mut self.rng, &mut plans);
            if self.config.sabotage == Some(Sabotage::LostTombstone) {
                here.tasks
                    .retain(|_, local| !matches!(local.last, tw_model::Phase::NeverStarted { .. }));
            }
        }
        self.plan(machine, plans);
        self.plan_lapse(machine);
        match doing {
            Doing::Start => self.only_instance(machine, task),
            _ => Ok(()),
        }
    }

    /// Nothing else of the task's index runs anywhere, where there must not be two.
    fn only_instance(&self, machine: usize, task: &TaskId) -> Outcome {
        let runs = |local: &Local| local.process.is_alive() && local.spec.at_most_one;
        if !self.machines[machine].tasks.get(task).is_some_and(runs) {
            return Ok(());
        }
        let of_index = |incarnation| TaskId::new(task.job.clone(), task.index, incarnation);
        for other in &self.machines {
            let range = of_index(0)..=of_index(u64::MAX);
            let rows = other.tasks.range(range.clone());
            let rows = rows.chain(other.strays.range(range));
            let mut alive = rows.filter(|(id, local)| *id != task && local.process.is_alive());
            if let Some((id, _)) = alive.next() {
                return Err(format!(
                    "{task} runs on {}, and {id} still runs on {}",
                    self.machines[machine].id, other.id
                ));
            }
        }
        Ok(())
    }

    /// Puts the next deadline of a machine's helpers onto the agenda. A kill takes up to a second.
    fn plan_lapse(&mut self, machine: usize) {
        let late = match self.config.sabotage {
            Some(Sabotage::LateKill) => 60_000,
            _ => self.rng.range(0, KILL_WITHIN.0),
        };
        let here = &mut self.machines[machine];
        let (at, boot) = (self.at, here.boot);
        // One that was planned before may be that of a task with a longer term.
        let earlier = |kill_at: &u64| here.lapse_planned.is_none_or(|planned| *kill_at < planned);
        let Some(kill_at) = here.next_kill_at().filter(earlier) else {
            return;
        };
        here.lapse_planned = Some(kill_at);
        let delay = here.when(kill_at).saturating_sub(at) + late;
        self.after(delay, Action::Lapse { machine, boot });
    }

    fn lapse(&mut self, machine: usize, boot: u64) -> Outcome {
        let (at, now) = (self.at, self.now());
        let here = &mut self.machines[machine];
        here.lapse_planned = None;
        if here.up && here.boot == boot {
            here.lapse(at, now);
        }
        self.plan_lapse(machine);
        Ok(())
    }

    fn pause_controller(&mut self) {
        let Some(old) = self.controller.take().filter(|_| self.former.is_none()) else {
            return;
        };
        self.life += 1;
        let first = self.rng.range(0, self.machines.len() as u64) as usize;
        let stuck = (0..3).map(|n| (first + n) % self.machines.len()).collect();
        self.former = Some(Former {
            broker: old.broker,
            paused_at: self.at,
            stuck,
            inbox: Vec::new(),
        });
        self.drop_streams();
        // Nobody else wins the lease before it is over.
        let taken_over = self.rng.range(LEASE_MS, LEASE_MS + 4000);
        self.after(taken_over, Action::ControllerUp);
        let pause = self.rng.range(taken_over, 60_000);
        self.after(pause, Action::FormerWakes);
    }

    /// Answers what has waited, as far as it still may, and is gone.
    fn former_wakes(&mut self) -> Outcome {
        let at = self.at;
        let Some(mut former) = self.former.take() else {
            return Ok(());
        };
        let checked = match self.config.sabotage {
            Some(Sabotage::GrantAfterCheck) => former.paused_at,
            _ => at,
        };
        for (machine, run, clock) in former.inbox {
            let id = self.machines[machine].id.clone();
            if former.broker.grant(&id, Receipt::at(at), checked) {
                let message = ToAgent::Acknowledged {
                    seq: 0,
                    granted: Some(clock),
                };
                let hears = Action::Hears {
                    machine,
                    run,
                    message,
                };
                self.after(1, hears);
            }
        }
        // What had held up the controller may hold up the network as well.
        if self.rng.chance(0.5) {
            for machine in former.stuck {
                let length = self.rng.range(60_000, 200_000);
                self.after(2, Action::CutOff { machine, length });
            }
        }
        Ok(())
    }

    fn beat(&mut self, machine: usize) -> Outcome {
        self.after(BEAT_MS, Action::Beat(machine));
        let at = self.at;
        let here = &mut self.machines[machine];
        let Some(run) = here.agent.filter(|_| here.connected(at)) else {
            return Ok(());
        };
        match here.epoch {
            None => {
                let register = FromAgent::Register {
                    boot: here.boot,
                    clock: here.clock(at),
                    reports: here.newest_reports(),
                };
                self.registrations[machine] += 1;
                self.send(machine, run, register);
            }
            Some(epoch) => {
                let reports = here.unacknowledged.clone();
                let streaming = here.streaming;
                let clock = here.clock(at);
                let beat = FromAgent::Beat {
                    epoch,
                    reports,
                    clock,
                };
                self.send(machine, run, beat);
                if !streaming {
                    self.send(machine, run, FromAgent::Stream { epoch });
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, machine: usize, run: u64, message: FromAgent) {
        let number = self.registrations[machine];
        let twice = self.machines[machine].repeats_until > self.at;
        let arrives = |number, message| Action::Arrives {
            machine,
            run,
            number,
            message,
        };
        if twice {
            // Whatever sends a message once more does so when it likes, and listens to no answer.
            let delay = self.rng.range(1, 10_000);
            self.after(delay, arrives(0, message.clone()));
        }
        let delay = self.delay(machine);
        self.after(delay, arrives(number, message));
    }

    /// Someone thinks of something new to ask for.
    fn think(&mut self) -> Outcome {
        let jobs: Vec<_> = self.client.promised.iter().collect();
        if jobs.is_empty() {
            return Ok(());
        }
        let (id, promise) = *self.rng.pick(&jobs);
        let request = match self.rng.range(0, 18) {
            0 => Request::Stop(id.clone()),
            1 | 2 => Request::Restart(id.clone()),
            3 | 4 => Request::Rollout(id.clone(), RolloutOrder::Pause),
            5 => Request::Rollout(id.clone(), RolloutOrder::Resume),
            6 => Request::Rollout(id.clone(), RolloutOrder::Abort),
            7 | 8 => Request::Rollout(id.clone(), RolloutOrder::Rollback { to: None }),
            _ => Request::Submit(Box::new(workload::change(&mut self.rng, &promise.spec))),
        };
        self.client.waiting.push_back(request);
        self.after(1, Action::Asks);
        Ok(())
    }

    /// Sends the open request, again if it was not answered, or the next one.
    fn asks(&mut self) -> Outcome {
        if self.client.open.is_none() {
            let Some(next) = self.client.waiting.pop_front() else {
                return Ok(());
            };
            self.client.number += 1;
            self.client.open = Some(next);
            self.client.reviewed = None;
            let number = self.client.number;
            let delay = self.rng.range(1, 50);
            self.after(delay, Action::AskArrives(number));
        }
        Ok(())
    }

    fn ask_arrives(&mut self, number: u64) -> Outcome {
        if number != self.client.number || self.client.open.is_none() {
            return Ok(());
        }
        if let Some(delay) = self.review()? {
            self.after(delay, Action::AskArrives(number));
            return Ok(());
        }
        // Without an answer it is asked again.
        self.after(CLIENT_PATIENCE_MS, Action::AskArrives(number));
        match self.client.event().filter(|_| self.controller.is_some()) {
            Some(event) => self.decide(event, Waiter::Client(number)),
            None => Ok(()),
        }
    }

    /// Plans what is asked, where nobody has seen its plan yet. Returns how long someone reads it before it is sent.
    fn review(&mut self) -> Result<Option<u64>, String> {
        let (now, seed) = (self.now(), self.rng.next());
        let open = self
            .client
            .open
            .as_ref()
            .filter(|_| self.client.reviewed.is_none());
        let (Some(submission), Some(controller)) =
            (open.and_then(Request::submission), &self.controller)
        else {
            return Ok(None);
        };
        let plan = plan(&controller.state, &submission, now, seed)
            .map_err(|refusal| format!("a right request cannot be planned: {refusal}"))?;
        self.client.reviewed = Some(Reviewed::of(submission, &plan, &self.reviews));
        let delay = match self.rng.range(0, 10) {
            _ if self.calm => 0,
            0..5 => 0,
            5..9 => self.rng.range(1, 20_000),
            _ => self.rng.range(20_000, 300_000),
        };
        Ok((delay > 0).then_some(delay))
    }
}

/// How fast the controllers of a history may stop tasks.
fn limits(config: &SimulationConfig) -> StopLimits {
    let mut limits = STOP_LIMITS;
    match config.sabotage {
        Some(Sabotage::RateLimitOffByOne) => limits.job.burst += 1,
        Some(Sabotage::TotalLimitOffByOne) => limits.total.burst += 1,
        Some(Sabotage::RefillTooFast) => limits.job.per_second += 1,
        Some(Sabotage::TotalRefillTooFast) => limits.total.per_second += 1,
        _ => {}
    }
    limits
}

/// Cuts portions smaller than any store asks for, so that many crashes fall between two.
///
/// A job and its version stay together, as they do in every portion.
fn cut(txns: &[Txn], rng: &mut Rng) -> Vec<Txn> {
    let mut portions = vec![Txn::default()];
    let mut room = rng.range(1, 10);
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        let pair = matches!(op, Op::Put(Record::Job(_)));
        if room == 0 && !pair {
            portions.push(Txn::default());
            room = rng.range(1, 10);
        }
        room = room.saturating_sub(1);
        if let Some(open) = portions.last_mut() {
            open.ops.push(op.clone());
        }
    }
    portions.retain(|portion| !portion.ops.is_empty());
    portions
}
