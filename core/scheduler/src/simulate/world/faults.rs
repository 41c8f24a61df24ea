//! What goes wrong in a history, and how it all ends well.

use std::collections::BTreeSet;

use tw_model::{Ailment, MachineId, Millis, TaskId};

use super::super::agent::{Doing, Process};
use super::super::client::{Promise, Request};
use super::super::controller::{Controller, Waiter};
use super::super::{Fault, Sabotage, checks, workload};
use super::agenda::Action;
use super::control::limits;
use super::{Outcome, World};
use crate::{DrainOrder, Event, RolloutOrder};

impl World {
    pub(super) fn strike(&mut self) -> Outcome {
        let fault = *self.rng.pick(&Fault::ALL);
        let machine = self.rng.range(0, self.machines.len() as u64) as usize;
        let at = self.at;
        let here = &mut self.machines[machine];
        match fault {
            Fault::ControllerCrash => {
                if self.controller.take().is_none() {
                    return Ok(());
                }
                self.life += 1;
                self.drop_streams();
                // Now and then it is away for so long that moments of schedules pass.
                let longest = if self.rng.chance(0.2) {
                    200_000
                } else {
                    20_000
                };
                let pause = self.rng.range(500, longest);
                self.after(pause, Action::ControllerUp);
            }
            Fault::ControllerPaused => {
                if self.controller.is_none() || self.former.is_some() {
                    return Ok(());
                }
                self.pause_controller();
            }
            Fault::StoreFails => self.commit_fails = true,
            Fault::MachineAils => {
                let (epoch, length) = (here.epoch, self.rng.range(20_000, 600_000));
                let Some(epoch) = epoch.filter(|_| self.controller.is_some()) else {
                    return Ok(());
                };
                let ailment = *self.rng.pick(&[Ailment::DiskFull, Ailment::MemoryShort]);
                self.after(length, Action::Recovers(machine));
                self.says_it_ails(machine, epoch, [ailment].into())?;
            }
            Fault::AgentCrash => {
                if !here.up || here.agent.take().is_none() {
                    return Ok(());
                }
                here.forget_session();
                if self.config.sabotage == Some(Sabotage::ForgetTasks) {
                    here.tasks.clear();
                }
                self.close_stream(machine);
                let pause = self.rng.range(500, 8000);
                self.after(pause, Action::AgentUp(machine));
            }
            Fault::AgentReplaced => {
                if !here.up || here.agent.is_none() {
                    return Ok(());
                }
                here.lose_folder();
                self.close_stream(machine);
                let pause = self.rng.range(500, 8000);
                self.after(pause, Action::AgentUp(machine));
                let cycle = self.rng.range(60_000, 300_000);
                self.after(cycle, Action::PowerCycle(machine));
            }
            Fault::MachineReboots | Fault::MachineDies => {
                if !here.up {
                    return Ok(());
                }
                here.power_off();
                self.close_stream(machine);
                let pause = match fault {
                    Fault::MachineReboots => self.rng.range(2000, 8000),
                    _ => self.rng.range(30_000, 600_000),
                };
                self.after(pause, Action::PowerOn(machine));
            }
            Fault::MachineCutOff | Fault::NetworkBlip => {
                let length = match fault {
                    Fault::MachineCutOff => self.rng.range(15_000, 300_000),
                    _ => self.rng.range(500, 6000),
                };
                self.cut_off(machine, length)?;
            }
            Fault::RackCutOff => {
                let rack = here.facts().rack;
                let length = self.rng.range(15_000, 400_000);
                let of_rack = self.machines.iter().enumerate();
                let of_rack = of_rack.filter(|(_, one)| one.facts().rack == rack);
                let of_rack: Vec<usize> = of_rack.map(|(number, _)| number).collect();
                for machine in of_rack {
                    self.cut_off(machine, length)?;
                }
            }
            Fault::MachineFlaps => {
                for time in 0..4 {
                    let length = self.rng.range(14_000, 25_000);
                    self.after(1 + time * 60_000, Action::CutOff { machine, length });
                }
            }
            Fault::NetworkSlow => here.slow_until = at + self.rng.range(30_000, 300_000),
            Fault::NetworkRepeats => here.repeats_until = at + self.rng.range(30_000, 600_000),
            Fault::TaskKilled | Fault::TaskUnhealthy => {
                let running = here.tasks.iter();
                let running = running.filter(|(_, local)| local.process == Process::Running);
                let running: Vec<TaskId> = running.map(|(id, _)| id.clone()).collect();
                if running.is_empty() {
                    return Ok(());
                }
                let task = self.rng.pick(&running).clone();
                let back = self.rng.range(3000, 60_000);
                let plans = match fault {
                    Fault::TaskKilled => vec![(0, task, Doing::Kill)],
                    _ => vec![
                        (0, task.clone(), Doing::Health(false)),
                        (back, task, Doing::Health(true)),
                    ],
                };
                self.plan(machine, plans);
            }
        }
        *self.coverage.faults.entry(fault).or_default() += 1;
        Ok(())
    }

    /// Drains a machine or a rack, with or without a deadline, for good or for a while that some tasks wait out.
    pub(super) fn drain_some(&mut self) -> Outcome {
        let first = self.rng.range(0, self.machines.len() as u64) as usize;
        let rack = self.machines[first].facts().rack;
        let whole_rack = self.rng.chance(0.3);
        let here = self.machines.iter().enumerate();
        let machines: Vec<MachineId> = here
            .filter(|(n, one)| *n == first || whole_rack && one.facts().rack == rack)
            .map(|(_, one)| one.id.clone())
            .collect();
        let within = self.rng.range(10_000, 120_000);
        let within = self.rng.chance(0.4).then_some(Millis(within));
        let lasts = self.rng.range(10_000, 300_000);
        let lasts = self.rng.chance(0.4).then_some(Millis(lasts));
        let reason = String::new();
        let ahead = Millis(self.rng.range(1000, 300_000));
        let order = match self.rng.chance(0.3) {
            true => DrainOrder::Plan {
                at: self.now().plus(ahead),
                reason,
                within,
                lasts,
            },
            false => DrainOrder::Begin {
                reason,
                within,
                lasts,
            },
        };
        let length = self.rng.range(60_000, 400_000);
        self.coverage.count(match order {
            DrainOrder::Plan { .. } => "drains planned ahead",
            _ => "drains",
        });
        self.after(length, Action::DrainEnds(machines.clone()));
        self.order_drain(machines, order)
    }

    /// What an agent says with its samples, which only the newest epoch of its machine may.
    fn says_it_ails(&mut self, machine: usize, epoch: u64, ailments: BTreeSet<Ailment>) -> Outcome {
        let event = Event::Ailing {
            machine: self.machines[machine].id.clone(),
            epoch,
            ailments,
        };
        self.decide(event, Waiter::Nobody)
    }

    pub(super) fn recovers(&mut self, machine: usize) -> Outcome {
        match self.machines[machine].epoch {
            Some(epoch) => self.says_it_ails(machine, epoch, BTreeSet::new()),
            // It says so once it is known again.
            None => {
                self.after(2000, Action::Recovers(machine));
                Ok(())
            }
        }
    }

    pub(super) fn end_drain(&mut self, machines: Vec<MachineId>) -> Outcome {
        self.order_drain(machines, DrainOrder::End)
    }

    fn order_drain(&mut self, machines: Vec<MachineId>, order: DrainOrder) -> Outcome {
        let by = "someone".to_owned();
        let event = Event::Drain {
            machines,
            order,
            by,
        };
        self.decide(event, Waiter::Nobody)
    }

    pub(super) fn cut_off(&mut self, machine: usize, length: u64) -> Outcome {
        if !self.calm {
            self.machines[machine].cut_until = self.at + length;
            self.machines[machine].streaming = false;
            self.close_stream(machine);
        }
        Ok(())
    }

    pub(super) fn close_stream(&mut self, machine: usize) {
        if let Some(controller) = &mut self.controller {
            controller.streams.remove(&machine);
            controller.stream_tail.remove(&machine);
        }
    }

    pub(super) fn power_on(&mut self, machine: usize) -> Outcome {
        if !self.machines[machine].up {
            let run = self.next_run();
            self.machines[machine].power_on(run);
            self.machines[machine].seq = 0;
        }
        Ok(())
    }

    pub(super) fn power_cycle(&mut self, machine: usize) -> Outcome {
        if self.machines[machine].up && self.machines[machine].needs_care {
            self.machines[machine].power_off();
            self.close_stream(machine);
            self.after(4000, Action::PowerOn(machine));
        }
        Ok(())
    }

    pub(super) fn agent_up(&mut self, machine: usize) -> Outcome {
        let run = self.next_run();
        let here = &mut self.machines[machine];
        if here.up && here.agent.is_none() {
            here.agent = Some(run);
            here.seq = 0;
        }
        Ok(())
    }

    fn next_run(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn controller_up(&mut self) -> Outcome {
        if self.controller.is_none() {
            checks::versions(&self.durable)?;
            let limits = limits(&self.config);
            self.controller = Some(Controller::recover(&self.durable, self.at, limits));
            return self.recovered();
        }
        Ok(())
    }

    /// The storm is over: everything comes back, and people want what can work.
    pub(super) fn calm_down(&mut self) -> Outcome {
        self.calm = true;
        self.commit_fails = false;
        self.former = None;
        self.controller_up()?;
        for machine in 0..self.machines.len() {
            self.power_cycle(machine)?;
            self.power_on(machine)?;
            self.agent_up(machine)?;
            let here = &mut self.machines[machine];
            (here.cut_until, here.slow_until, here.repeats_until) = (0, 0, 0);
        }
        let state = self.controller.as_ref().map(|controller| &controller.state);
        let drained = state.into_iter().flat_map(|state| state.machines());
        let drained = drained.filter(|row| row.drain.is_some() || row.next_drain.is_some());
        let drained = drained.map(|row| row.id.clone()).collect();
        self.end_drain(drained)?;
        self.ask_for_good()
    }

    pub(super) fn ask_for_good(&mut self) -> Outcome {
        let promised = &self.client.promised;
        let awaited = |promise: &Promise| {
            let mut others = promised.values();
            others.any(|other| other.spec.depends_on.contains(&promise.spec.name))
        };
        let resumed = promised
            .keys()
            .map(|id| Request::Rollout(id.clone(), RolloutOrder::Resume));
        let resumed: Vec<Request> = resumed.collect();
        let live = promised
            .values()
            .filter(|promise| !promise.stopped || awaited(promise));
        let good: Vec<Request> = live
            .map(|promise| Request::Submit(Box::new(workload::good(&promise.spec))))
            .collect();
        self.client.waiting.extend(resumed);
        self.client.waiting.extend(good);
        self.after(1, Action::Asks);
        Ok(())
    }
}
