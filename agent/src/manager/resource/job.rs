//! What is known of a job's limits on this machine.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tw_model::{Millis, TaskId, Timestamp};
use tw_scheduler::limits::canary::{Canary, Seen};
use tw_scheduler::limits::oom::{OomResponse, OomVerdict};
use tw_scheduler::limits::{Learner, LimitPolicy, LimitSet, UsageBucket};
use tw_store::history::Sample;

use super::{BUCKET_WIDTH, LOOK_MAX, LOOKS_A_TRIAL, Look, TRIALS_LATER, Task, now_utc, request_of};

#[derive(Default)]
pub(super) struct Job {
    pub(super) standing: Standing,
    /// As it is stored.
    pub(super) stored: Standing,
    pub(super) decide_at: Option<Instant>,
    /// When it was last looked whether something is to be reported.
    pub(super) posted_at: Option<Instant>,
    /// What the history comes to, once it was read; samples are added as they come.
    pub(super) learner: Option<Learner>,
    /// What would fit if the spec set no bounds.
    pub(super) wanted: Option<LimitSet>,
    pub(super) history: Millis,
    pub(super) samples: u64,
    pub(super) ooms: u64,
}

/// What has been decided, and outlives the job's tasks and the agent: without it every restart would give all tasks
/// their requests again, and feed a leak anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// What the spec asked for: under another request all begins anew.
    pub(super) request: LimitSet,
    pub(super) canary: Option<Canary>,
    pub(super) oom: OomResponse,
    pub(super) learned: Option<LimitSet>,
    pub(super) learned_at: Option<Timestamp>,
    /// What should be known, for a day: as long as raises and the rest after a lost trial last.
    pub(super) note: Option<(Timestamp, String)>,
}

impl Standing {
    pub(super) fn new(request: LimitSet) -> Standing {
        Standing {
            request,
            ..Standing::default()
        }
    }
}

impl Job {
    /// Goes on from what is stored, unless the spec asks for something else by now.
    pub(super) fn resume(stored: Option<Standing>, request: LimitSet) -> Job {
        let stored = stored.unwrap_or_default();
        let standing = match stored.request == request {
            true => stored.clone(),
            false => Standing::new(request),
        };
        Job {
            standing,
            stored,
            ..Job::default()
        }
    }

    /// Adds what was measured to what was learned from the stored history.
    pub(super) fn observe(&mut self, piece: &Sample) {
        self.ooms += piece.usage.oom_kills;
        if let Some(learner) = &mut self.learner {
            let width_us = BUCKET_WIDTH.as_micros() as i64;
            learner.observe(&UsageBucket::new(
                Timestamp(piece.at_us),
                width_us,
                &piece.usage,
            ));
        }
    }

    /// Lets the tasks have what was learned: more at once, less by way of a trial.
    pub(super) fn try_on(&mut self, task: &Task, learned: LimitSet, first: u32, now: Timestamp) {
        let horizon = task.horizon();
        let request = self.standing.request;
        let has = match request == request_of(&task.spec) {
            true => task.limits,
            false => request,
        };
        let canary = &mut self.standing.canary;
        let canary = canary.get_or_insert_with(|| Canary::resume(request, has));
        let learned_at = *self.standing.learned_at.get_or_insert(now);
        let waits = first > 0 && now.since(learned_at).0 < TRIALS_LATER * horizon.hour().0;
        let wanted = match waits {
            true => LimitSet {
                cpu: learned.cpu.max(canary.others().cpu),
                memory: learned.memory.max(canary.others().memory),
            },
            false => learned,
        };
        canary.want(wanted, now, horizon);
    }

    /// Forgets what does not hold any more.
    pub(super) fn forget_old_note(&mut self, task: &Task) {
        let (now, day) = (now_utc(), task.horizon().day());
        let note = &mut self.standing.note;
        *note = note.take().filter(|(at, _)| now.since(*at) <= day);
    }

    /// Judges a task once it was looked at for long enough.
    pub(super) fn watch(&mut self, id: &TaskId, task: &mut Task, first: u32) {
        let horizon = task.horizon();
        let look = (horizon.hour().as_duration() / LOOKS_A_TRIAL).clamp(BUCKET_WIDTH, LOOK_MAX);
        let looked = task.look.since.elapsed();
        let Some(canary) = self.standing.canary.as_mut().filter(|_| looked >= look) else {
            return;
        };
        let looked_us = looked.as_micros().max(1) as f64;
        let seen = Seen {
            ooms: 0,
            throttled: task.look.throttled_us as f64 / looked_us,
            stalled: task.look.stalled_us as f64 / looked_us,
        };
        task.look = Look::new();
        let shortage = canary.watch(id.index == first, seen, now_utc(), horizon);
        if let Some(shortage) = shortage {
            tracing::warn!(task = %id, "lower limits are taken back: {shortage}");
            let note = format!("lower limits were taken back: {shortage}");
            self.standing.note = Some((now_utc(), note));
        }
    }

    /// Raises the job's memory limit, or takes it for a leak.
    pub(super) fn respond(&mut self, id: &TaskId, task: &Task) {
        let (now, horizon) = (now_utc(), task.horizon());
        let highest = LimitPolicy::of(&task.spec).memory_max();
        if let Some(canary) = &mut self.standing.canary {
            let seen = Seen {
                ooms: 1,
                ..Seen::default()
            };
            canary.watch(false, seen, now, horizon);
        }
        let had = task.limits.memory;
        let note = match self.standing.oom.note(had, highest, now, horizon) {
            OomVerdict::Raise(limit) => {
                format!("ran out of memory at {had}: the limit is {limit} for a day")
            }
            OomVerdict::Leak { raises: 0 } => {
                format!("ran out of memory at {had}, the most that its spec allows")
            }
            OomVerdict::Leak { raises } => format!(
                "looks like a leak: it ran out of memory after {raises} raises, and gets no more"
            ),
        };
        tracing::warn!(task = %id, "{note}");
        self.standing.note = Some((now, note));
    }
}
