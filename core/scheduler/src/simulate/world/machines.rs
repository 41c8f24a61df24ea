//! What the agents and helpers of the machines do.

use tw_model::{Kind, Phase, TaskId};

use super::super::Sabotage;
use super::super::agent::{Doing, FromAgent, Local, Plans, Process, ToAgent};
use super::agenda::Action;
use super::{BEAT_MS, Outcome, World};
use crate::lease::KILL_WITHIN;

impl World {
    pub(super) fn hears(&mut self, machine: usize, run: u64, message: ToAgent) -> Outcome {
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

    pub(super) fn plan(&mut self, machine: usize, plans: Plans) {
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

    pub(super) fn acts(
        &mut self,
        machine: usize,
        boot: u64,
        task: &TaskId,
        doing: Doing,
    ) -> Outcome {
        let (at, now) = (self.at, self.now());
        // When all is calm, nothing fails that could succeed.
        let doing = match doing {
            Doing::Exit(code) if self.calm && code < 100 => Doing::Exit(0),
            other => other,
        };
        let service = self.machines[machine].tasks.get(task).is_some_and(|local| {
            local.spec.kind == Kind::Service && local.process == Process::Running
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
                    .retain(|_, local| !matches!(local.last, Phase::NeverStarted { .. }));
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
    pub(super) fn only_instance(&self, machine: usize, task: &TaskId) -> Outcome {
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
    pub(super) fn plan_lapse(&mut self, machine: usize) {
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

    pub(super) fn lapse(&mut self, machine: usize, boot: u64) -> Outcome {
        let (at, now) = (self.at, self.now());
        let here = &mut self.machines[machine];
        here.lapse_planned = None;
        if here.up && here.boot == boot {
            here.lapse(at, now);
        }
        self.plan_lapse(machine);
        Ok(())
    }

    pub(super) fn beat(&mut self, machine: usize) -> Outcome {
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
}
