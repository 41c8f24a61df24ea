//! What people ask for.

use tw_model::JobId;

use super::super::client::Request;
use super::super::controller::Waiter;
use super::super::reviewed::{Reviewed, is_stale};
use super::super::workload;
use super::agenda::Action;
use super::{Outcome, World};
use crate::{Reply, RolloutOrder, plan};

/// Who is not answered for so long asks again.
const CLIENT_PATIENCE_MS: u64 = 5000;

impl World {
    pub(super) fn granted(&mut self, number: u64, reply: Reply) -> Outcome {
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

    /// Someone thinks of something new to ask for.
    pub(super) fn think(&mut self) -> Outcome {
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
    pub(super) fn asks(&mut self) -> Outcome {
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

    pub(super) fn ask_arrives(&mut self, number: u64) -> Outcome {
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
    pub(super) fn review(&mut self) -> Result<Option<u64>, String> {
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
