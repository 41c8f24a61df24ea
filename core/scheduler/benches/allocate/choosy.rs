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
    let placed = asked.map(|tasks| {
        let on = on.get(&tasks.job).map_or(&[][..], Vec::as_slice);
        assert_job_as_asked(fleet, tasks, on);
        on.len() as u64
    });
    placed.sum()
}

fn assert_job_as_asked(fleet: &[TraceMachines], tasks: &TraceTasks, on: &[u32]) {
    let facts: Vec<&MachineFacts> = on.iter().map(|at| &fleet[*at as usize].facts).collect();
    let machines: BTreeSet<&u32> = on.iter().collect();
    let racks: BTreeSet<&str> = facts.iter().map(|facts| facts.rack.as_str()).collect();
    let job = tasks.job;
    assert!(
        racks.len() >= on.len().min(RACKS as usize),
        "racks of job {job}"
    );
    match tasks.apart {
        Apart::Machine => {
            assert_eq!(machines.len(), on.len(), "machines of job {job}");
            assert!(facts.iter().all(|facts| facts.labels["disk"] == "ssd"));
        }
        Apart::Rack => {
            assert_eq!(racks.len(), on.len(), "racks of job {job}");
            assert!(facts.iter().all(|facts| facts.kernel != KERNELS[0]));
        }
        Apart::No => panic!("job {job} asks for nothing"),
    }
}
