//! The agent's state folder as a whole: whose it is, and of which format.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tw_model::MachineId;

use crate::helper::record;

/// The format of the folder. An agent reads its own and older ones.
const FORMAT: u32 = 1;

const STATE_FILE: &str = "state.json";

/// What is said of a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StateRecord {
    format: u32,
    /// The name that the agent runs under.
    machine: MachineId,
    /// The machine's own mark, where it has one: tells a copied folder.
    #[serde(default)]
    machine_mark: String,
    /// A mark of this folder, which no other has.
    #[serde(default)]
    folder_mark: String,
}

impl StateRecord {
    /// That of a new folder.
    fn of(machine: &MachineId) -> anyhow::Result<StateRecord> {
        Ok(StateRecord {
            format: FORMAT,
            machine: machine.clone(),
            machine_mark: machine_mark(),
            folder_mark: new_mark()?,
        })
    }
}

/// Refuses a folder of a newer format or of another machine, and marks a new one. A record that cannot be read is
/// set aside: each task has records of its own.
/// Returns the mark of the folder.
pub(super) fn claim(folder: &Path, machine: &MachineId) -> anyhow::Result<String> {
    let mut wanted = StateRecord::of(machine)?;
    match find(folder, &wanted)? {
        Found::Nothing => {}
        Found::Record(found) => {
            if !found.folder_mark.is_empty() {
                wanted.folder_mark.clone_from(&found.folder_mark);
            }
            if found == wanted {
                return Ok(wanted.folder_mark);
            }
        }
        Found::Unreadable(cause) => set_aside(folder, cause.as_ref())?,
    }
    record::write_durably(folder, STATE_FILE, &wanted)?;
    Ok(wanted.folder_mark)
}

/// Refuses what [`claim`] refuses, and changes nothing.
pub(super) fn check(folder: &Path, machine: &MachineId) -> anyhow::Result<()> {
    find(folder, &StateRecord::of(machine)?).map(drop)
}

/// What a state folder says of itself.
enum Found {
    Nothing,
    Record(StateRecord),
    Unreadable(Box<dyn std::error::Error>),
}

/// Reads the record of a folder that `wanted` may have.
fn find(folder: &Path, wanted: &StateRecord) -> anyhow::Result<Found> {
    let found = match record::read::<serde_json::Value>(folder, STATE_FILE) {
        Ok(None) => return Ok(Found::Nothing),
        Ok(Some(found)) => found,
        Err(cause) => return Ok(Found::Unreadable(cause.into())),
    };
    let format = found
        .get("format")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    anyhow::ensure!(
        format <= u64::from(FORMAT),
        "the state in {} has format {format}; this agent reads up to {FORMAT}: run the newer agent again, or use another --state",
        folder.display()
    );
    match serde_json::from_value::<StateRecord>(found) {
        Ok(found) => {
            check_owner(folder, &found, wanted)?;
            Ok(Found::Record(found))
        }
        Err(cause) => Ok(Found::Unreadable(cause.into())),
    }
}

/// A mark that nobody else makes.
fn new_mark() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot make a mark")?;
    Ok(text.trim().to_owned())
}

fn check_owner(folder: &Path, found: &StateRecord, wanted: &StateRecord) -> anyhow::Result<()> {
    anyhow::ensure!(
        found.machine == wanted.machine,
        "the state in {} belongs to machine '{}', not to '{}': start the agent with --name {}, or use another --state",
        folder.display(),
        found.machine,
        wanted.machine,
        found.machine
    );
    let is_copy = !found.machine_mark.is_empty()
        && !wanted.machine_mark.is_empty()
        && found.machine_mark != wanted.machine_mark;
    anyhow::ensure!(
        !is_copy,
        "the state in {} comes from another machine of the same name; move it away, or use another --state",
        folder.display()
    );
    Ok(())
}

fn set_aside(folder: &Path, cause: &dyn std::error::Error) -> anyhow::Result<()> {
    tracing::warn!(%cause, "{STATE_FILE} cannot be read and is set aside; the tasks' own records are used");
    fs::rename(
        folder.join(STATE_FILE),
        folder.join(format!("damaged-{STATE_FILE}")),
    )
    .with_context(|| format!("cannot set {STATE_FILE} aside in {}", folder.display()))
}

/// A hash of the machine's id, which is not to be shown around; empty where there is none.
fn machine_mark() -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    match id.trim() {
        "" => String::new(),
        id => blake3::hash(id.as_bytes()).to_hex()[..16].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MachineId {
        text.parse().unwrap()
    }

    #[test]
    fn a_folder_of_another_machine_or_a_newer_format_is_refused_and_half_a_record_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let mark = claim(path, &name("one")).unwrap();
        assert_eq!(claim(path, &name("one")).unwrap(), mark);
        let refusal = claim(path, &name("two")).unwrap_err().to_string();
        assert!(
            refusal.contains("belongs to machine 'one'") && refusal.contains("--name one"),
            "{refusal}"
        );
        let written = fs::read_to_string(path.join(STATE_FILE)).unwrap();
        fs::write(
            path.join(STATE_FILE),
            written.replace("\"machine_mark\":\"", "\"machine_mark\":\"0"),
        )
        .unwrap();
        if !machine_mark().is_empty() {
            let refusal = claim(path, &name("one")).unwrap_err().to_string();
            assert!(refusal.contains("comes from another machine"), "{refusal}");
        }
        fs::write(
            path.join(STATE_FILE),
            "{\"format\": 2, \"shape\": \"unknown\"}",
        )
        .unwrap();
        let refusal = claim(path, &name("one")).unwrap_err().to_string();
        assert!(refusal.contains("has format 2"), "{refusal}");
        fs::write(path.join(STATE_FILE), &written[..written.len() / 2]).unwrap();
        claim(path, &name("one")).unwrap();
        assert!(path.join("damaged-state.json").exists());
        assert!(claim(path, &name("two")).is_err());
    }
}
