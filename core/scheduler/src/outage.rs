//! When a large part of the fleet is gone at once: a rack, a data centre, or the network of the controller itself.
//!
//! What has gone together often comes back together, and its tasks may be running all the while. To replace them all
//! at once would start them twice, and rush the machines that are left. So they are kept as tasks out of reach, and
//! replaced one machine after the other: each machine that is left gets one of them every ten seconds, on average, and
//! the first after half a minute. A machine that comes back in time goes on with its tasks as if nothing had been.
//!
//! The moment of each machine is part of its row, so that a new controller goes on where the old one was. Once no
//! large part of the fleet is gone any more, what is still missing is replaced at once.

use std::collections::BTreeSet;

use tw_model::{JobId, MachineId, Millis, Timestamp};

use crate::draft::Draft;
use crate::step::leave_behind;

/// At least this share of the machines must have gone, in percent.
pub const SHARE_PERCENT: usize = 20;

/// Fewer are no large part of any fleet.
pub const MACHINES_MIN: usize = 3;

/// What is lost within this time is lost together.
pub const WINDOW: Millis = Millis::minutes(5);

/// How long all tasks are kept.
const PAUSE: Millis = Millis::seconds(30);

/// How long a machine that is left has for one of the tasks.
const EACH: Millis = Millis::seconds(10);

/// How late the replacement may be, such as after a restart of the controller, before all moments are put off: what was
/// missed is not made up for at once.
const LATE: Millis = Millis::seconds(5);

/// Whether so many of the machines that were there are a large part of the fleet.
fn is_large(gone: usize, left: usize) -> bool {
    gone >= MACHINES_MIN && gone * 100 >= SHARE_PERCENT * (gone + left)
}

/// How many machines are lost that count as lost together.
fn lost_together(draft: &Draft) -> usize {
    let fleet = draft.fleet();
    let lost_at = |slot| fleet.host(slot).row.changed_at;
    let window = Timestamp(draft.now.0 - WINDOW.0 as i64 * 1000);
    // Those that are waited for keep the others in mind, however long it takes.
    let first = fleet.spared().iter().map(|(_, slot)| lost_at(*slot)).min();
    fleet.lost_since(first.map_or(window, |first| first.min(window)))
}

/// Until when the tasks of a machine that is lost now are kept; none where they may be replaced at once.
pub(crate) fn spared_until(draft: &Draft, machine: &MachineId, silent: u32) -> Option<Timestamp> {
    let fleet = draft.fleet();
    let silent = silent as usize;
    let left = (fleet.len() - fleet.lost()).saturating_sub(silent);
    if !is_large(silent + lost_together(draft), left) {
        return None;
    }
    let tasks = draft.base().tasks_on(machine).count() as u64;
    let turn = Millis(EACH.0 * tasks / left.max(1) as u64);
    let last = fleet.spared().last().map(|(until, _)| until.plus(turn));
    let first = draft.now.plus(PAUSE);
    Some(last.map_or(first, |last| last.max(first)))
}

/// Lets the tasks of those machines be replaced whose moment has come. Returns their jobs.
pub(crate) fn advance(draft: &mut Draft) -> BTreeSet<JobId> {
    let fleet = draft.fleet();
    if fleet.spared().is_empty() {
        return BTreeSet::new();
    }
    let over = !is_large(lost_together(draft), fleet.len() - fleet.lost());
    let first = fleet.spared().first().map(|(until, _)| *until);
    let late = first.map_or(Millis::ZERO, |first| draft.now.since(first));
    let put_off = match over || late <= LATE {
        true => Millis::ZERO,
        false => late,
    };
    let mut jobs = BTreeSet::new();
    for (until, slot) in fleet.spared() {
        let until = until.plus(put_off);
        let mut row = fleet.host(*slot).row.as_ref().clone();
        let machine = row.id.clone();
        match over || until <= draft.now {
            true => {
                row.spared_until = None;
                draft.put_machine(row);
                jobs.extend(leave_behind(draft, &machine, "its machine was lost"));
            }
            false if put_off == Millis::ZERO => break,
            false => {
                row.spared_until = Some(until);
                draft.put_machine(row);
            }
        }
    }
    jobs
}
