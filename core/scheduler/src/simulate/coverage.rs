//! What a history has been through.

use std::collections::BTreeMap;
use std::fmt;

use tw_model::TaskState;

use super::Fault;
use crate::lifecycle::{TaskEvent, Transition, transition};

/// How often each fault and each transition occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub faults: BTreeMap<Fault, u64>,
    /// From one state of a task to another.
    pub transitions: BTreeMap<(TaskState, TaskState), u64>,
    /// Other things worth counting: recoveries, updates done, updates halted.
    pub others: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Every change of state that the table of the life cycle allows.
    pub fn all_transitions() -> Vec<(TaskState, TaskState)> {
        let mut all = Vec::new();
        for from in TaskState::ALL {
            for event in TaskEvent::ALL {
                match transition(from, event) {
                    Transition::To(to, _) if to != from && !all.contains(&(from, to)) => {
                        all.push((from, to));
                    }
                    _ => {}
                }
            }
        }
        all
    }

    /// Adds what another history has been through.
    pub fn add(&mut self, other: &Coverage) {
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (pair, count) in &other.transitions {
            *self.transitions.entry(*pair).or_default() += count;
        }
        for (name, count) in &other.others {
            *self.others.entry(name).or_default() += count;
        }
    }

    /// What never occurred, in words.
    pub fn missing(&self) -> Vec<String> {
        let faults = Fault::ALL
            .iter()
            .filter(|fault| !self.faults.contains_key(fault));
        let pairs = Coverage::all_transitions();
        let pairs = pairs
            .into_iter()
            .filter(|pair| !self.transitions.contains_key(pair));
        faults
            .map(|fault| format!("{fault:?}"))
            .chain(pairs.map(|(from, to)| format!("{from} -> {to}")))
            .collect()
    }

    pub(super) fn count(&mut self, name: &'static str) {
        *self.others.entry(name).or_default() += 1;
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in Fault::ALL {
            let count = self.faults.get(&fault).copied().unwrap_or(0);
            writeln!(f, "fault {fault:?}: {count}")?;
        }
        for (from, to) in Coverage::all_transitions() {
            let count = self.transitions.get(&(from, to)).copied().unwrap_or(0);
            writeln!(f, "transition {from} -> {to}: {count}")?;
        }
        for (name, count) in &self.others {
            writeln!(f, "{name}: {count}")?;
        }
        Ok(())
    }
}
