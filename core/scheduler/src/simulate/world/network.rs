//! What goes between controllers and agents.

use std::sync::Arc;

use tw_model::{MachineId, MachineState, Millis, Record, RecordKey, TaskReport};

use super::super::Sabotage;
use super::super::agent::{Assigned, FromAgent, ToAgent};
use super::super::controller::{self, Stream, Waiter};
use super::agenda::Action;
use super::{Outcome, World};
use crate::{Event, Op, Receipt, Reply, Txn, assignment};

impl World {
    pub(super) fn drop_streams(&mut self) {
        if let Some(controller) = &mut self.controller {
            controller.streams.clear();
            controller.stream_tail.clear();
        }
        self.machines
            .iter_mut()
            .for_each(|machine| machine.streaming = false);
    }

    /// Shows the durable rows to the agents that they concern.
    pub(super) fn publish(&mut self, txn: &Txn) {
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
    pub(super) fn end_old_stream(&mut self, machine: usize, epoch: u64) {
        let streams = self.controller.as_ref().map(|it| &it.streams);
        let stream = streams.and_then(|it| it.get(&machine));
        if stream.is_some_and(|stream| stream.epoch != epoch) {
            self.close_stream(machine);
        }
    }

    pub(super) fn publish_early(&mut self, txns: &[Txn]) {
        for op in txns.iter().flat_map(|txn| &txn.ops) {
            let Op::Put(Record::Task(row)) = op else {
                continue;
            };
            let machine = row.machine.as_ref().and_then(|id| self.number(id));
            let state = self.controller.as_ref().map(|controller| &controller.state);
            let shown = state.and_then(|state| assignment(state, &row.id));
            if let (Some(machine), Some((row, spec))) = (machine, shown) {
                let assigned = Assigned {
                    row: Arc::new(row.clone()),
                    spec: spec.clone(),
                };
                self.show(machine, ToAgent::Assign { assigned });
            }
        }
    }

    /// Sends along an agent's stream, which keeps its order.
    pub(super) fn show(&mut self, machine: usize, message: ToAgent) {
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

    pub(super) fn delay(&mut self, machine: usize) -> u64 {
        match self.machines[machine].slow_until > self.at {
            true => self.rng.range(5, 6000),
            false => self.rng.range(1, 40),
        }
    }

    pub(super) fn answer(&mut self, waiter: Waiter, reply: Reply) -> Outcome {
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

    pub(super) fn reply(&mut self, machine: usize, run: u64, message: ToAgent) {
        let delay = self.delay(machine);
        let hears = Action::Hears {
            machine,
            run,
            message,
        };
        self.after(delay, hears);
    }

    pub(super) fn arrives(
        &mut self,
        machine: usize,
        run: u64,
        number: u64,
        message: FromAgent,
    ) -> Outcome {
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

    pub(super) fn heartbeat(
        &mut self,
        (machine, run): (usize, u64),
        epoch: u64,
        reports: Vec<TaskReport>,
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

    pub(super) fn heard(&mut self, id: &MachineId) {
        let at = self.at;
        if let Some(controller) = &mut self.controller {
            controller.broker.heard(id, at);
        }
    }

    pub(super) fn open_stream(&mut self, machine: usize, run: u64, epoch: u64) {
        let id = self.machines[machine].id.clone();
        let key = RecordKey::Machine(id.clone());
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

    pub(super) fn send(&mut self, machine: usize, run: u64, message: FromAgent) {
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
}
