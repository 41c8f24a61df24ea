//! Jobs that ask for more than room, what machines say of themselves to be chosen by, and whether the jobs got it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use tw_model::{MachineFacts, Requires, Spread};
use tw_scheduler::simulate::{Apart, TraceMachines, TraceTasks};

const MACHINES_PER_RACK: u32 = 40;

/// One job in so many asks for more than room.
const CHOOSY: u32 = 10;

/// Over how many racks it is spread at least.
const RACKS: u32 = 3;

/// A quarter of the machines have the kernel that is too old.
const KERNELS: [&str; 4] = ["5.15.0-91", "6.1.0-28-amd64", "6.8.0-45", "6.12.6"];

/// What a machine says of itself, by its number. Machines of each size, four in turn, have each disk and each kernel.
pub(crate) fn facts(number: u32) -> MachineFacts {
    let disk = ["ssd", "hdd"][number as usize / 4 % 2];
    MachineFacts {
        kernel: KERNELS[number as usize / 8 % 4].to_owned(),
        rack: format!("rack-{}", number / MACHINES_PER_RACK),
        labels: [("disk".to_owned(), disk.to_owned())].into(),
        ..MachineFacts::default()
    }
}

/// Whether a job asks for more than room.
pub(crate) fn is_choosy(job: u32) -> bool {
    job.is_multiple_of(CHOOSY)
}

/// Whether a machine is what a job of these tests requires.
pub(crate) fn satisfies(tasks: &TraceTasks, facts: &MachineFacts) -> bool {
    tasks.requires.as_ref().is_none_or(|requires| {
        let mut labels = requires.labels.iter();
        let labels = labels.all(|(key, value)| facts.labels.get(&key.0) == Some(value));
        labels && (requires.kernel.is_any() || requires.kernel.contains(&facts.kernel))
    })
}

/// Gives a job that asks for more than room a label or a range of kernels, racks to be spread over, and tasks that are kept
/// apart by machine or by rack.
pub(crate) fn constrain(tasks: &mut TraceTasks) {
    if !is_choosy(tasks.job) {
        return;
    }
    let (requires, apart) = match tasks.job / CHOOSY % 2 {
        0 => (json!({"labels": {"disk": "ssd"}}), Apart::Machine),
        _ => (json!({"kernel": ">=6.1, <7"}), Apart::Rack),
    };
    let read = "the field is right";
    let requires: Requires = serde_json::from_value(requires).expect(read);
    let spread = json!({"over": "rack", "at_least": RACKS});
    let spread: Spread = serde_json::from_value(spread).expect(read);
    tasks.apart = apart;
    tasks.requires = Some(Arc::new(requires));
    tasks.spread = Some(spread);
}

/// Asserts that each job that asks for more than room is where it asked to be. Says how many tasks such jobs have.
///
/// `machines` holds the job of each placed task and the number of its machine.
pub(crate) fn assert_as_asked(
    fleet: &[TraceMachines],
    jobs: &[TraceTasks],
    machines: &[(u32, u32)],
) -> u64 {
    let mut on: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (job, machine) in machines.iter().filter(|(job, _)| is_choosy(*job)) {
        on.entry(*job).or_default().push(*machine);
    }
    let asked = jobs.iter().filter(|tasks| is_choosy(tasks.job));
    let asked: BTreeMap<u32, &TraceTasks> = asked.map(|tasks| (tasks.job, tasks)).collect();
    for (job, on) in &on {
        assert_job_as_asked(fleet, asked[job], on);
    }
    on.values().map(|on| on.len() as u64).sum()
}

fn assert_job_as_asked(fleet: &[TraceMachines], tasks: &TraceTasks, on: &[u32]) {
    let facts: Vec<&MachineFacts> = on.iter().map(|at| &fleet[*at as usize].facts).collect();
    let machines: BTreeSet<&u32> = on.iter().collect();
    let racks: BTreeSet<&str> = facts.iter().map(|facts| facts.rack.as_str()).collect();
    let (job, needed) = (tasks.job, on.len().min(RACKS as usize));
    assert!(tasks.requires.is_some(), "job {job} requires nothing");
    assert!(
        facts.iter().all(|facts| satisfies(tasks, facts)),
        "machines of job {job}"
    );
    assert!(racks.len() >= needed, "racks of job {job}");
    match tasks.apart {
        Apart::Machine => assert_eq!(machines.len(), on.len(), "machines of job {job}"),
        Apart::Rack => assert_eq!(racks.len(), on.len(), "racks of job {job}"),
        Apart::No => {}
    }
}
