//! What a history has been through.

use std::collections::BTreeMap;
use std::fmt;

use tw_model::TaskState;

use super::Fault;
use crate::lifecycle::{TaskEvent, Transition, transition};

/// Something that holds back what would stop tasks or start them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Budget {
    /// An update stopped the last task of a job that may be down.
    Update,
    /// A drain did.
    Drain,
    /// A maintenance that the task waits out did.
    Maintenance,
    /// Making room for a task of higher priority did.
    Preemption,
    /// An operation waits for the word of an application.
    Application,
    /// An application said nothing until its deadline was over.
    ApplicationDeadline,
    /// An update began the last task that it may run beside the wanted ones.
    Surge,
    /// The tasks of a machine are kept, because many others are lost as well.
    OutagePace,
    /// More tasks of an update failed than may: it was halted, or taken back.
    Failures,
    /// A stop waits, because too many of its job were stopped.
    StopsOfJob,
    /// A stop waits, because too many of all jobs were stopped.
    StopsOfAll,
    /// A stop waits, because the controller has only just begun.
    StopsAtFirst,
}

impl Budget {
    pub const ALL: [Budget; 12] = [
        Budget::Update,
        Budget::Drain,
        Budget::Maintenance,
        Budget::Preemption,
        Budget::Application,
        Budget::ApplicationDeadline,
        Budget::Surge,
        Budget::OutagePace,
        Budget::Failures,
        Budget::StopsOfJob,
        Budget::StopsOfAll,
        Budget::StopsAtFirst,
    ];
}

/// How often each fault, transition, event and budget occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub faults: BTreeMap<Fault, u64>,
    /// From one state of a task to another.
    pub transitions: BTreeMap<(TaskState, TaskState), u64>,
    /// What happened to a task in a state, where the table gives it an effect.
    pub events: BTreeMap<(TaskState, TaskEvent), u64>,
    /// Where a budget was reached, or held something back.
    pub budgets: BTreeMap<Budget, u64>,
    /// The rest of what is worth counting: see [`Coverage::OTHERS`].
    pub others: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// What is counted beside faults, transitions, events and budgets.
    pub const OTHERS: [&str; 24] = [
        "answers of applications",
        "changes in place that had to move",
        "drains",
        "drains planned ahead",
        "machines back in an outage",
        "machines waited for in an outage",
        "orders carried out",
        "plans confirmed",
        "recoveries",
        "requests refused",
        "runs done",
        "runs failed",
        "runs missed",
        "runs replaced",
        "runs skipped",
        "stages that are parts of the fleet",
        "stale plans refused",
        "stops held back",
        "tasks beyond the wanted number",
        "tasks changed as planned",
        "tasks that made room",
        "updates done",
        "updates halted",
        "updates taken back",
    ];

    /// Every change of state that the table of the life cycle allows.
    pub fn all_transitions() -> Vec<(TaskState, TaskState)> {
        let mut all = Vec::new();
        for (from, _, to) in table() {
            if to != from && !all.contains(&(from, to)) {
                all.push((from, to));
            }
        }
        all
    }

    /// Every event of the table of the life cycle that has an effect.
    pub fn all_events() -> Vec<(TaskState, TaskEvent)> {
        table().map(|(from, event, _)| (from, event)).collect()
    }

    /// Adds what another history has been through.
    pub fn add(&mut self, other: &Coverage) {
        sum(&mut self.faults, &other.faults);
        sum(&mut self.transitions, &other.transitions);
        sum(&mut self.events, &other.events);
        sum(&mut self.budgets, &other.budgets);
        sum(&mut self.others, &other.others);
    }

    /// What never occurred, in words.
    pub fn missing(&self) -> Vec<String> {
        let counts = self.counts().into_iter();
        let missing = counts.filter(|(_, count)| *count == 0);
        missing.map(|(name, _)| name).collect()
    }

    pub(super) fn count(&mut self, name: &'static str) {
        debug_assert!(Coverage::OTHERS.contains(&name), "{name} is not listed");
        *self.others.entry(name).or_default() += 1;
    }

    pub(super) fn hit(&mut self, budget: Budget) {
        *self.budgets.entry(budget).or_default() += 1;
    }

    /// Everything that can occur, in words, and how often it did.
    fn counts(&self) -> Vec<(String, u64)> {
        let mut counts = Vec::new();
        for fault in Fault::ALL {
            counts.push((format!("fault {fault:?}"), of(&self.faults, &fault)));
        }
        for (from, to) in Coverage::all_transitions() {
            let count = of(&self.transitions, &(from, to));
            counts.push((format!("transition {from} -> {to}"), count));
        }
        for (state, event) in Coverage::all_events() {
            let count = of(&self.events, &(state, event));
            counts.push((format!("event {state} {event:?}"), count));
        }
        for budget in Budget::ALL {
            counts.push((format!("budget {budget:?}"), of(&self.budgets, &budget)));
        }
        for name in Coverage::OTHERS {
            counts.push((name.to_owned(), of(&self.others, &name)));
        }
        counts
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = self.counts().into_iter();
        counts.try_for_each(|(name, count)| writeln!(f, "{name}: {count}"))
    }
}

/// The rows of the table of the life cycle that have an effect.
fn table() -> impl Iterator<Item = (TaskState, TaskEvent, TaskState)> {
    let all = TaskState::ALL.into_iter();
    let all = all.flat_map(|from| TaskEvent::ALL.map(|event| (from, event)));
    all.filter_map(|(from, event)| match transition(from, event) {
        Transition::To(to, _) => Some((from, event, to)),
        Transition::Nothing | Transition::Refused(_) => None,
    })
}

fn sum<K: Ord + Copy>(counts: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (what, count) in more {
        *counts.entry(*what).or_default() += count;
    }
}

fn of<K: Ord>(counts: &BTreeMap<K, u64>, what: &K) -> u64 {
    counts.get(what).copied().unwrap_or(0)
}
