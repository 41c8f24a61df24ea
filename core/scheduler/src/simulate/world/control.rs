//! What the controllers do: they decide, write to the store, and begin anew.

use tw_model::Record;

use super::super::agent::ToAgent;
use super::super::controller::{self, Controller, Former, LEASE_MS, Queued, STOP_LIMITS, Waiter};
use super::super::rng::Rng;
use super::super::{Sabotage, SimulationConfig, checks, sabotage, witness};
use super::agenda::Action;
use super::{AUDIT_MS, Outcome, World};
use crate::{Event, Op, Receipt, Reply, StopLimits, Txn, consultations, step};

/// How often the controllers look around.
const TICK_MS: u64 = 2000;

impl World {
    pub(super) fn tick(&mut self) -> Outcome {
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
    pub(super) fn applications_answer(&mut self) -> Outcome {
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

    pub(super) fn audit(&mut self) -> Outcome {
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
    pub(super) fn decide(&mut self, event: Event, waiter: Waiter) -> Outcome {
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

    pub(super) fn commit(&mut self, life: u64) -> Outcome {
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
    pub(super) fn store_failed(&mut self) -> Outcome {
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

    pub(super) fn recovered(&mut self) -> Outcome {
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

    pub(super) fn pause_controller(&mut self) {
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
    pub(super) fn former_wakes(&mut self) -> Outcome {
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
}

/// How fast the controllers of a history may stop tasks.
pub(super) fn limits(config: &SimulationConfig) -> StopLimits {
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
