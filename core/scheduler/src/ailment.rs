//! What ails machines as a whole, by the word of their agents.
//!
//! Such a machine is taken last, as one that keeps going away, and not left out: where all are ailing tasks still run. What
//! was taken back counts on for [`HALF_LIFE`], so that a disk that fills up and is cleaned in turn is not trusted each time.
//! It is part of the machine's row, and does not begin anew with the controller.

use std::collections::BTreeSet;

use tw_model::{Ailment, AilmentRecord, MachineId, MachineRecord, MachineState, Timestamp};

use crate::draft::Draft;
use crate::steadiness::HALF_LIFE;

/// What ails a machine now.
fn holding(row: &MachineRecord) -> impl Iterator<Item = Ailment> {
    let holding = row.ailments.iter().filter(|one| one.until.is_none());
    holding.map(|one| one.what)
}

/// Whether an agent says otherwise of its machine than the row does.
pub fn is_news(row: &MachineRecord, said: &BTreeSet<Ailment>) -> bool {
    holding(row).collect::<BTreeSet<_>>() != *said
}

/// What counts against a machine: what ails it, and what did until lately.
pub fn counting(row: &MachineRecord, now: Timestamp) -> impl Iterator<Item = &AilmentRecord> {
    let counts =
        move |one: &&AilmentRecord| one.until.is_none_or(|until| now.since(until) <= HALF_LIFE);
    row.ailments.iter().filter(counts)
}

/// Until when something has ailed a machine; the end of time while something does, none of one that never was ailing.
pub(crate) fn until(row: &MachineRecord) -> Option<Timestamp> {
    let ends = row.ailments.iter().map(|one| one.until);
    ends.map(|until| until.unwrap_or(Timestamp(i64::MAX))).max()
}

/// Writes down what an agent says of its machine, in the epoch that it is in.
pub(crate) fn take(draft: &mut Draft, machine: &MachineId, epoch: u64, said: &BTreeSet<Ailment>) {
    let known = draft.machine(machine);
    let known = known.filter(|row| row.epoch == epoch && row.state == MachineState::Up);
    let Some(mut row) = known.filter(|row| is_news(row, said)).cloned() else {
        return;
    };
    let now = draft.now;
    row.ailments = counting(&row, now).copied().collect();
    for one in &mut row.ailments {
        one.until = match said.contains(&one.what) {
            true => None,
            false => one.until.or(Some(now)),
        };
    }
    let known: BTreeSet<Ailment> = row.ailments.iter().map(|one| one.what).collect();
    row.ailments
        .extend(said.difference(&known).map(|what| AilmentRecord {
            what: *what,
            since: now,
            until: None,
        }));
    draft.put_machine(row);
}
