//! Who is told what: the durable view, and everyone who follows it.
//!
//! Nothing is queued for an agent but the names of the rows that changed since it was last told; what it
//! is told is read from the view at that moment. A slow agent therefore costs no more than its tasks do and
//! gets the newest rows, and a new stream begins with a snapshot under the same lock that changes take.

mod line;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::broadcast;
use tw_api::{Dial, ErrorBody, LimitNote, MachineSample};
use tw_model::{Code, Endpoint, EventRecord, JobId, MachineId, Record, TaskId, TaskUsage};
use tw_scheduler::Op;

use crate::scale::Samples;
use crate::view::{Touched, View};

pub(crate) use line::AgentStream;
use line::Line;

/// How many events a follower may be behind before it is cut off; it comes back with its last number.
const FOLLOWER_EVENTS_MAX: usize = 1024;

/// When a machine last said what its tasks use, and how it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    /// Whether it was short of memory.
    pub(crate) is_strained: bool,
}

/// The durable view and those who follow it.
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    events: broadcast::Sender<Arc<EventRecord>>,
}

#[derive(Default)]
struct Inner {
    view: View,
    /// Where each job's tasks listen, as agents were last told.
    endpoints: HashMap<JobId, Vec<Endpoint>>,
    /// The newest sample of each live task.
    usage: HashMap<TaskId, TaskUsage>,
    /// What each machine said last of the limits of its jobs.
    notes: HashMap<MachineId, Vec<LimitNote>>,
    /// When each machine last said what its tasks use.
    heard: HashMap<MachineId, Heard>,
    lines: HashMap<MachineId, Line>,
    /// Counts the streams.
    opened: u64,
    /// Nobody is told any more.
    closed: bool,
}

impl Hub {
    pub(crate) fn new() -> Hub {
        Hub {
            inner: Mutex::default(),
            events: broadcast::Sender::new(FOLLOWER_EVENTS_MAX),
        }
    }

    /// Begins anew from a listing. Every agent gets a snapshot.
    pub(crate) fn reset(&self, records: impl IntoIterator<Item = Record>) {
        let view = View::from_records(records);
        let mut inner = self.lock();
        inner.endpoints = view
            .jobs()
            .map(|(record, _)| (record.id.clone(), view.endpoints(&record.id).collect()))
            .collect();
        inner.view = view;
        inner.lines.values_mut().for_each(Line::resync);
    }

    /// Shows rows that are durable now.
    pub(crate) fn publish(&self, changes: impl IntoIterator<Item = Op>) {
        let mut touched = Touched::default();
        let mut inner = self.lock();
        for change in changes {
            match change {
                Op::Put(record) => inner.view.put(record, &mut touched),
                Op::Delete(key) => inner.view.delete(&key, &mut touched),
            }
        }
        inner.tell(&touched);
        drop(inner);
        for event in touched.events {
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
    }

    /// Reads the view.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(&self.lock().view)
    }

    /// Reads the view and the newest samples.
    pub(crate) fn read_usage<T>(
        &self,
        read: impl FnOnce(&View, &HashMap<TaskId, TaskUsage>) -> T,
    ) -> T {
        let inner = self.lock();
        read(&inner.view, &inner.usage)
    }

    /// Reads the view, the newest samples and how new they are.
    pub(crate) fn read_samples<T>(&self, read: impl FnOnce(&Samples<'_>) -> T) -> T {
        let inner = self.lock();
        read(&Samples {
            view: &inner.view,
            usage: &inner.usage,
            heard: &inner.heard,
        })
    }

    /// Keeps what a machine said last, as far as its tasks live there.
    pub(crate) fn note_sample(&self, machine: &MachineId, sample: MachineSample) {
        let mut inner = self.lock();
        let heard = Heard {
            at: Instant::now(),
            is_strained: sample.strained,
        };
        inner.heard.insert(machine.clone(), heard);
        inner.notes.insert(machine.clone(), sample.notes);
        for task in sample.tasks {
            let row = inner.view.task(&task.task);
            let lives = row.is_some_and(|row| {
                row.machine.as_ref() == Some(machine) && !row.state.is_terminal()
            });
            if lives {
                inner.usage.insert(task.task.clone(), task);
            }
        }
    }

    /// What should be known of a job's limits, each once.
    pub(crate) fn limit_notes(&self, job: &JobId) -> Vec<String> {
        let inner = self.lock();
        let notes = inner.notes.values().flatten();
        let texts: BTreeSet<&String> = notes
            .filter(|note| note.job == *job)
            .map(|note| &note.text)
            .collect();
        texts.into_iter().cloned().collect()
    }

    /// Opens an agent's stream in place of the one it may have had.
    pub(crate) fn open(
        self: &Arc<Hub>,
        machine: &MachineId,
        epoch: u64,
    ) -> Result<AgentStream, ErrorBody> {
        let mut inner = self.lock();
        check_epoch(&inner.view, machine, epoch)?;
        inner.opened += 1;
        let number = inner.opened;
        let line = Line::new(number, epoch);
        let wake = line.wake();
        if let Some(mut former) = inner.lines.insert(machine.clone(), line) {
            former.end();
        }
        tracing::info!(%machine, epoch, "an agent's stream began");
        Ok(AgentStream::new(
            Arc::clone(self),
            machine.clone(),
            number,
            wake,
        ))
    }

    /// Asks an agent to open a session.
    pub(crate) fn dial(&self, machine: &MachineId, dial: Dial) -> Result<(), ErrorBody> {
        match self.lock().lines.get_mut(machine) {
            Some(line) => {
                line.dial(dial);
                Ok(())
            }
            None => Err(unreachable(machine)),
        }
    }

    /// Whether an agent holds a stream.
    pub(crate) fn is_connected(&self, machine: &MachineId) -> bool {
        self.lock().lines.contains_key(machine)
    }

    /// Follows events, those of one job from after a number on, without a gap.
    pub(crate) fn follow(
        &self,
        job: Option<(&JobId, u64)>,
    ) -> (Vec<Arc<EventRecord>>, broadcast::Receiver<Arc<EventRecord>>) {
        let inner = self.lock();
        let backlog = job
            .and_then(|(job, after)| {
                let (_, job) = inner.view.job(job)?;
                Some(
                    job.events
                        .range(after + 1..)
                        .map(|(_, event)| Arc::clone(event))
                        .collect(),
                )
            })
            .unwrap_or_default();
        (backlog, self.events.subscribe())
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        for line in inner.lines.values_mut() {
            line.end();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }
}

impl Inner {
    fn tell(&mut self, touched: &Touched) {
        for (machine, task) in &touched.tasks {
            if let Some(line) = self.lines.get_mut(machine) {
                line.mark(task);
            }
            if self
                .view
                .task(task)
                .is_none_or(|row| row.state.is_terminal())
            {
                self.usage.remove(task);
            }
        }
        for machine in &touched.machines {
            let epoch = self.view.machine(machine).map(|row| row.epoch);
            if let Some(line) = self.lines.get_mut(machine)
                && epoch != Some(line.epoch())
            {
                line.end();
            }
        }
        if self.moved(touched) {
            self.lines.values_mut().for_each(Line::mark_endpoints);
        }
    }

    /// Notes where the tasks of jobs listen now. Returns whether that differs from what agents were told.
    fn moved(&mut self, touched: &Touched) -> bool {
        let on_machines = touched
            .machines
            .iter()
            .flat_map(|id| self.view.tasks_on(id));
        let jobs: BTreeSet<JobId> = on_machines
            .map(|row| row.id.job.clone())
            .chain(touched.jobs.iter().cloned())
            .collect();
        let mut moved = false;
        for job in jobs {
            let now: Vec<Endpoint> = self.view.endpoints(&job).collect();
            let before = match now.is_empty() {
                true => self.endpoints.remove(&job).unwrap_or_default(),
                false => self.endpoints.insert(job, now.clone()).unwrap_or_default(),
            };
            moved |= now != before;
        }
        moved
    }
}

fn check_epoch(view: &View, machine: &MachineId, epoch: u64) -> Result<(), ErrorBody> {
    let found = view.machine(machine).map(|row| row.epoch);
    if found == Some(epoch) {
        return Ok(());
    }
    let message = match found {
        Some(found) => format!("machine {machine} is at epoch {found}, not {epoch}"),
        None => format!("no machine {machine} is registered"),
    };
    Err(ErrorBody::new(Code::AgentFenced, message).with_hint("register again"))
}

/// The refusal for a session with a machine whose agent is away.
pub(crate) fn unreachable(machine: &MachineId) -> ErrorBody {
    ErrorBody::new(
        Code::AgentUnreachable,
        format!("the agent of machine {machine} is not connected"),
    )
    .with_hint("its tasks may run on; see `tw machines`, and try again once the agent is back")
}
