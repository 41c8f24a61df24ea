//! Which jobs time alone may bring something to do for.
//!
//! A tick looks at these jobs and at no others, so that a cluster in which nothing happens costs nothing. What
//! becomes due in [`crate::reconcile`] and what is unsettled here have to agree; [`overlooked`] finds where they do
//! not, and the simulator asks it in every history.

use std::collections::BTreeSet;

use tw_model::{
    Desired, ENDED_TASKS_KEPT, JobId, Kind, Requires, RolloutState, TaskState, Timestamp, Version,
};

use crate::draft::Draft;
use crate::reach::is_orphan;
use crate::reconcile::{Surplus, missing_version, reconcile};
use crate::requires::unmet;
use crate::state::UnknownMachine;
use crate::{JobState, State, daemon, rollout, runs};

/// Whether there is, or with time may come, something to do for a job although nothing happens to it.
pub(crate) fn unsettled(state: &State, job: &JobState) -> bool {
    let update = job.row.rollout.as_ref().map(|rollout| rollout.state);
    // Waiting tasks wait for room, for a moment, or for other jobs; stages and gates go by time.
    job.pending > 0
        || update == Some(RolloutState::Running)
        || has_loose_ends(state, job)
        || runs::has_loose_ends(job)
        || daemon::has_loose_ends(state, job)
        || awaits_its_gate(job)
}

/// What a decision that was cut short has left to do.
fn has_loose_ends(state: &State, job: &JobState) -> bool {
    let wanted = job.wanted();
    let daemon = job.spec().kind == Kind::Daemon;
    let surplus = Surplus::of(job);
    let mut choosy = Choosy::default();
    let mut next = 0;
    let mut loose = false;
    let mut ended = 0;
    let mut index = None;
    // What stands beside the rows answers for nearly all tasks. A row is read where that is not enough.
    for (of, held) in job.held() {
        if index != Some(of) {
            index = Some(of);
            ended = 0;
        }
        if held.state.is_terminal() {
            ended += 1;
            loose |= ended > ENDED_TASKS_KEPT;
            continue;
        }
        let runs = held.desired == Desired::Run;
        loose |= runs && surplus.may_hold(of) && surplus.holds(&held.row);
        loose |= held.version != job.row.version && rollout::is_overlooked(job, &held.row);
        let slot = match held.slot(&state.fleet) {
            Ok(Some(slot)) => slot,
            Ok(None) => continue,
            Err(UnknownMachine) => {
                loose = true;
                continue;
            }
        };
        let standing = state.fleet.standing(slot);
        loose |= standing.drains && runs;
        if standing.lost || standing.epoch != held.machine_epoch {
            let machine = &state.fleet.host(slot).row;
            loose |= is_orphan(&held.row, job.spec_at(held.version), Some(machine));
        }
        if choosy.asks(job, held.version) {
            let facts = &state.fleet.host(slot).row.facts;
            loose |= unmet(&job.spec_at(held.version).requires, facts).is_some();
        }
    }
    let latest = job.latest_held().take_while(|(index, _)| *index < wanted);
    for (index, held) in latest {
        loose |= index != next;
        next = index + 1;
        if !held.state.is_terminal() || daemon && held.row.retired {
            continue;
        }
        loose |= missing_version(job, Some(&held.row)).is_some();
    }
    loose || next < wanted
}

/// Whether the version of a task requires anything of its machine; remembers the newest answer.
#[derive(Default)]
struct Choosy(Option<(Version, bool)>);

impl Choosy {
    fn asks(&mut self, job: &JobState, version: Version) -> bool {
        match self.0 {
            Some((known, asks)) if known == version => asks,
            _ => {
                let asks = job.spec_at(version).requires != Requires::default();
                self.0 = Some((version, asks));
                asks
            }
        }
    }
}

/// Whether the version that is wanted will count as good once it has been healthy for long enough.
fn awaits_its_gate(job: &JobState) -> bool {
    let row = &job.row;
    let scheduled = job.spec().schedule.is_some();
    if row.rollout.is_some() || row.stopped || row.stable_version == row.version || scheduled {
        return false;
    }
    match job.spec().kind {
        // No time passes between the end of its last task and its success.
        Kind::Batch => job.latest_of_each().all(|row| row.state == TaskState::Done),
        Kind::Service | Kind::Daemon => true,
    }
}

/// The first job that counts as settled and for which there is something to do all the same; there is never one.
pub(crate) fn overlooked(state: &State, now: Timestamp) -> Option<JobId> {
    let settled = state.jobs().map(|job| &job.row.id);
    let due = state.alarms.iter().take_while(|(due, _)| *due <= now);
    let due: BTreeSet<&JobId> = due.map(|(_, id)| id).collect();
    let mut settled = settled.filter(|id| !state.unsettled.contains(*id) && !due.contains(id));
    let idle = |id: &JobId| {
        let mut draft = Draft::new(state, now, 0);
        reconcile(&mut draft, id);
        draft.finish().is_empty()
    };
    settled.find(|id| !idle(id)).cloned()
}
