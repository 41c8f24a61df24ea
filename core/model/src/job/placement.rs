//! Where the tasks of a job may run.

use std::collections::BTreeMap;

use crate::*;

choice! {
    /// A part of the fleet that can fail, or be near, as a whole; each is within the next.
    pub enum Domain {
        /// One machine.
        Machine = "machine",
        /// The machines behind one switch.
        Rack = "rack",
        /// The machines of one cluster.
        Cluster = "cluster",
        /// The machines of one data centre.
        Datacenter = "datacenter",
        /// The data centres of one region.
        Region = "region",
    }
}

spec! {
    /// What a machine must have to run a task of the job. A task on a machine that no longer satisfies it moves.
    pub struct Requires {
        /// The operating system, as `ID` in the machine's os-release; empty takes any.
        /// Example: `os="debian"`
        os: String = String::new() => in_place;
        /// The range that its version must be in.
        /// Example: `os_version=">=12"`
        os_version: VersionRange = VersionRange::default() => in_place;
        /// The range that the kernel's version must be in.
        /// Example: `kernel=">=6.1, <7"`
        kernel: VersionRange = VersionRange::default() => in_place;
        /// Labels that the machine must have, with their values.
        /// Example: `labels={"disk": "nvme"}`
        labels: BTreeMap<EnvName, String> = BTreeMap::new() => in_place;
        /// The host profile (settings of hardware, kernel and system) that the machine must be in.
        /// Example: `profile="huge-pages"`
        profile: Option<Name> = None => in_place;
        /// The region that the machine must be in; by default any.
        /// Example: `region="north"`
        region: Option<Name> = None => in_place;
    }
}

spec! {
    /// Spreads the tasks over parts of the fleet, at placement and after failures.
    pub struct Spread {
        /// What they are spread over.
        /// Example: `over="rack"`
        over: Domain => in_place;
        /// The number of such parts that must have tasks; with fewer tasks than that, each has one of its own.
        /// Example: `at_least=3`
        at_least: u32 = 2 => in_place;
    }
    check check_spread;
}

spec! {
    /// Keeps tasks near to, or apart from, those of a job.
    pub struct Affinity {
        /// The other job, of the same namespace; the job's own name means its own tasks.
        /// Example: `job="redis"`
        job: Name => in_place;
        /// How near is near.
        /// Example: `within="rack"`
        within: Domain = Domain::Machine => in_place;
        /// Whether a task rather waits than runs elsewhere; otherwise it is a wish.
        /// Example: `required=True`
        required: bool = false => in_place;
    }
}

impl JobSpec {
    /// The spread, by its place, that asks for more regions than the one that is required, and why that cannot be, in
    /// words.
    pub fn spread_against_region(&self) -> Option<(usize, String)> {
        let region = self.requires.region.as_ref()?;
        let mut spreads = self.spread.iter();
        let index = spreads.position(|spread| spread.over == Domain::Region)?;
        let regions = self.spread[index].at_least;
        (self.tasks(Some(u32::MAX)) > 1).then(|| {
            let message = format!(
                "its tasks are to be in the region {region}, and spread over {regions} regions"
            );
            (index, message)
        })
    }
}

impl Keyed for Spread {
    fn key(&self) -> String {
        self.over.as_str().to_owned()
    }
}

impl Keyed for Affinity {
    fn key(&self) -> String {
        self.job.to_string()
    }
}

fn check_spread(spread: &Spread, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    match spread.at_least {
        0 | 1 => decoder.bad_value(
            &at.field("at_least"),
            format!("tasks in {} part are not spread", spread.at_least),
            Some("2 is the least".to_owned()),
        ),
        _ => Some(()),
    }
}
