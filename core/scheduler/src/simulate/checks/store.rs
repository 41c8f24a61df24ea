//! The state, its index and the store agree, and nothing that was granted is forgotten.

use std::collections::BTreeMap;

use tw_model::{JobId, MachineId, Record, RecordKey, Timestamp};

use super::rows::capacity;
use crate::simulate::client::Client;
use crate::simulate::controller::Durable;
use crate::unsettled::overlooked;
use crate::{Op, Request, State, Txn};

/// Every job in the store has the version that it wants.
pub(in crate::simulate) fn versions(durable: &Durable) -> Result<(), String> {
    for row in durable.rows.values() {
        if let Record::Job(row) = row
            && !durable
                .rows
                .contains_key(&RecordKey::Version(row.id.clone(), row.version))
        {
            return Err(format!("the store holds {} without its version", row.id));
        }
    }
    Ok(())
}

/// The state is what its durable rows say.
pub(in crate::simulate) fn fold(state: &State, durable: &Durable) -> Result<(), String> {
    // Keys are unique: where every durable row is held as it is, as many rows mean the same rows.
    let same = durable.rows.values().all(|row| state.holds(row));
    if same && state.len() == durable.rows.len() {
        return Ok(());
    }
    let rows: BTreeMap<_, _> = state.records().map(|row| (row.key(), row)).collect();
    for (key, row) in &durable.rows {
        match rows.get(key) {
            Some(ours) if ours == row => {}
            Some(_) => return Err(format!("the state and the store differ in {key}")),
            None => return Err(format!("the state lacks {key}")),
        }
    }
    match rows.keys().find(|key| !durable.rows.contains_key(key)) {
        Some(key) => Err(format!("the store lacks {key}")),
        None => Ok(()),
    }
}

/// Nothing is due for a job that a tick does not look at.
pub(in crate::simulate) fn settled(state: &State, now: Timestamp) -> Result<(), String> {
    match overlooked(state, now) {
        Some(id) => Err(format!(
            "something is due for {id}, and no tick looks at it"
        )),
        None => Ok(()),
    }
}

/// The index of the machines agrees with the rows.
pub(in crate::simulate) fn index(state: &State) -> Result<(), String> {
    let mut held: BTreeMap<MachineId, Request> = BTreeMap::new();
    for job in state.jobs() {
        for (machine, reserved) in job.tasks().filter_map(|row| job.reservation(row)) {
            held.entry(machine).or_default().add(&Request {
                cpu: reserved.cpu,
                memory: reserved.memory,
                disk: reserved.disk,
                ports: reserved.ports.len() as u32,
                bandwidth: reserved.bandwidth,
            });
        }
    }
    for row in state.machines() {
        let counted = held.get(&row.id).copied().unwrap_or_default();
        if state.reserved_on(&row.id) != counted {
            return Err(format!("what is held on {} was miscounted", row.id));
        }
        capacity(state, &row.id)?;
    }
    Ok(())
}

/// Nothing that was granted is forgotten.
pub(in crate::simulate) fn promises(state: &State, client: &Client) -> Result<(), String> {
    let mut jobs = client.promised.keys();
    jobs.try_for_each(|id| promise(state, client, id))
}

/// Nothing that was granted is forgotten by a decision, once it is applied.
pub(in crate::simulate) fn promises_of(
    state: &State,
    client: &Client,
    txns: &[Txn],
) -> Result<(), String> {
    for op in txns.iter().flat_map(|txn| &txn.ops) {
        match op {
            Op::Put(Record::Job(row)) => promise(state, client, &row.id)?,
            Op::Delete(RecordKey::Job(id)) => promise(state, client, id)?,
            _ => {}
        }
    }
    Ok(())
}

/// What was granted of a job is so, if anything was.
fn promise(state: &State, client: &Client, id: &JobId) -> Result<(), String> {
    let Some(promise) = client.promised.get(id) else {
        return Ok(());
    };
    let Some(job) = state.job(id) else {
        return Err(format!("{id} was granted and is gone"));
    };
    if job.row().version < promise.version {
        return Err(format!(
            "{id} was granted version {} and is at {}",
            promise.version,
            job.row().version
        ));
    }
    // An update that failed may take itself back.
    let taken_back = job.current().by == "the update itself";
    if client.open.is_none() && **job.spec() != promise.spec && !taken_back {
        return Err(format!("{id} is not as it was granted"));
    }
    if client.open.is_none() && job.row().stopped != promise.stopped {
        return Err(format!(
            "{id} was stopped, or not stopped, against what was granted"
        ));
    }
    Ok(())
}
