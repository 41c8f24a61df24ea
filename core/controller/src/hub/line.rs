//! One agent's stream.

use std::collections::{BTreeSet, VecDeque};
use std::mem::take;
use std::sync::Arc;

use tokio::sync::Notify;
use tw_api::{AgentEvent, Dial};
use tw_model::{Endpoint, MachineId, TaskId};

use super::Hub;

/// What an agent has not been told yet.
pub(super) struct Line {
    /// Which stream this belongs to; a newer one of the same machine takes its place.
    number: u64,
    epoch: u64,
    snapshot: bool,
    tasks: BTreeSet<TaskId>,
    endpoints: bool,
    dials: Vec<Dial>,
    ended: bool,
    wake: Arc<Notify>,
}

impl Line {
    pub(super) fn new(number: u64, epoch: u64) -> Line {
        Line {
            number,
            epoch,
            snapshot: true,
            tasks: BTreeSet::new(),
            endpoints: false,
            dials: Vec::new(),
            ended: false,
            wake: Arc::new(Notify::new()),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    pub(super) fn resync(&mut self) {
        self.snapshot = true;
        self.wake.notify_one();
    }

    pub(super) fn mark(&mut self, task: &TaskId) {
        self.tasks.insert(task.clone());
        // It may be the first task here that names a service, or the last.
        self.endpoints = true;
        self.wake.notify_one();
    }

    pub(super) fn mark_endpoints(&mut self) {
        self.endpoints = true;
        self.wake.notify_one();
    }

    pub(super) fn dial(&mut self, dial: Dial) {
        self.dials.push(dial);
        self.wake.notify_one();
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
        self.wake.notify_one();
    }
}

/// The reading end of an agent's stream. Dropping it disconnects the agent.
pub(crate) struct AgentStream {
    hub: Arc<Hub>,
    machine: MachineId,
    number: u64,
    wake: Arc<Notify>,
    ready: VecDeque<AgentEvent>,
    /// What the agent was last told.
    endpoints: Vec<Endpoint>,
}

impl AgentStream {
    pub(super) fn new(
        hub: Arc<Hub>,
        machine: MachineId,
        number: u64,
        wake: Arc<Notify>,
    ) -> AgentStream {
        AgentStream {
            hub,
            machine,
            number,
            wake,
            ready: VecDeque::new(),
            endpoints: Vec::new(),
        }
    }

    /// Waits for what the agent is to be told next; none when the stream is over.
    pub(crate) async fn next(&mut self) -> Option<AgentEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if !self.collect() {
                return None;
            }
            if self.ready.is_empty() {
                self.wake.notified().await;
            }
        }
    }

    /// Reads what has changed. Returns whether the stream goes on.
    fn collect(&mut self) -> bool {
        let mut inner = self.hub.lock();
        let inner = &mut *inner;
        let Some(line) = inner.lines.get_mut(&self.machine) else {
            return false;
        };
        if inner.closed || line.ended || line.number != self.number {
            return false;
        }
        let tasks = take(&mut line.tasks);
        let endpoints_changed = take(&mut line.endpoints);
        let dials = take(&mut line.dials);
        if take(&mut line.snapshot) {
            self.endpoints = inner.view.endpoints_for(&self.machine);
            self.ready.push_back(AgentEvent::Snapshot {
                assignments: inner.view.assignments(&self.machine),
                endpoints: self.endpoints.clone(),
            });
        } else {
            for task in tasks {
                let assignment = inner.view.assignment(&self.machine, &task);
                self.ready.push_back(match assignment {
                    Some(assignment) => AgentEvent::Assign {
                        assignment: Box::new(assignment),
                    },
                    None => AgentEvent::Forget { task },
                });
            }
            if endpoints_changed {
                let endpoints = inner.view.endpoints_for(&self.machine);
                if endpoints != self.endpoints {
                    self.endpoints.clone_from(&endpoints);
                    // Before the assignments: a task that starts finds its services.
                    self.ready.push_front(AgentEvent::Endpoints { endpoints });
                }
            }
        }
        self.ready.extend(dials.into_iter().map(AgentEvent::Dial));
        true
    }
}

impl Drop for AgentStream {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        let current = inner.lines.get(&self.machine);
        if current.is_some_and(|line| line.number == self.number) {
            inner.lines.remove(&self.machine);
            tracing::info!(machine = %self.machine, "an agent's stream ended");
        }
    }
}
