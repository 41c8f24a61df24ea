//! Why a task waits, as data and in words, computed from what is free now.

use std::fmt;

use serde::{Deserialize, Serialize};
use tw_model::{Bytes, Cores, MachineId, TaskId, TaskState, Timestamp};

use crate::dependency;
use crate::draft::Draft;
use crate::fleet::{Request, Room};
use crate::{JobState, State};

/// A thing that a machine can be short of. Amounts are in millicores, bytes or a number of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Cpu,
    Memory,
    Disk,
    Ports,
}

/// How many machines are short of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    pub resource: Resource,
    /// How many machines are short of it.
    pub machines: u32,
    /// By how much the least short of them is.
    pub at_least: u64,
}

/// The machine that comes closest to holding the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closest {
    pub machine: MachineId,
    /// All that it is short of.
    pub short: Vec<(Resource, u64)>,
}

/// Why no machine can take a task now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRoom {
    /// How many machines are up.
    pub machines: u32,
    /// How many are lost.
    pub lost: u32,
    pub shortages: Vec<Shortage>,
    pub closest: Option<Closest>,
    /// Whether no machine that is up could hold the task even with nothing else on it.
    pub never: bool,
}

/// Why a task waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum PendingWhy {
    /// It failed, and waits before it is tried again.
    Backoff { until: Timestamp },
    /// It waits for other jobs.
    Dependencies { reason: String },
    /// No machine has room.
    NoRoom(NoRoom),
    /// It will be placed with the next tick.
    Soon,
}

/// Why a task waits; none where it does not.
pub fn why_pending(state: &State, task: &TaskId, now: Timestamp) -> Option<PendingWhy> {
    let row = state.task(task)?;
    let job = state.job(&task.job)?;
    if row.state != TaskState::Pending {
        return None;
    }
    if let Some(until) = row.not_before.filter(|until| *until > now) {
        return Some(PendingWhy::Backoff { until });
    }
    let draft = Draft::new(state, now, 0);
    let spec = job.spec_of(row);
    if let Err(reason) = dependency::ready(&draft, spec) {
        return Some(PendingWhy::Dependencies { reason });
    }
    let request = Request::of(spec);
    let fits = draft.rooms().any(|(_, room)| room.fits(&request));
    Some(match fits {
        true => PendingWhy::Soon,
        false => PendingWhy::NoRoom(no_room(&draft, &request)),
    })
}

/// What each machine is short of, counted.
pub(crate) fn no_room(draft: &Draft, request: &Request) -> NoRoom {
    let mut found = NoRoom {
        never: true,
        ..NoRoom::default()
    };
    let mut closest: Option<(u32, f64, Closest)> = None;
    for (slot, room) in draft.rooms() {
        if !room.up {
            found.lost += 1;
            continue;
        }
        found.machines += 1;
        let row = draft.machine_at(slot);
        if crate::fleet::empty_room(row).fits(request) {
            found.never = false;
        }
        let short = shortages(&room, request);
        short
            .iter()
            .for_each(|(resource, by)| found.count(*resource, *by));
        let far = (short.len() as u32, distance(&short, request));
        if closest.as_ref().is_none_or(|(n, d, _)| far < (*n, *d)) {
            let machine = row.id.clone();
            closest = Some((far.0, far.1, Closest { machine, short }));
        }
    }
    found.closest = closest.map(|(_, _, closest)| closest);
    found
}

impl NoRoom {
    fn count(&mut self, resource: Resource, by: u64) {
        match self.shortages.iter_mut().find(|s| s.resource == resource) {
            Some(shortage) => {
                shortage.machines += 1;
                shortage.at_least = shortage.at_least.min(by);
            }
            None => self.shortages.push(Shortage {
                resource,
                machines: 1,
                at_least: by,
            }),
        }
    }
}

fn shortages(room: &Room, request: &Request) -> Vec<(Resource, u64)> {
    let pairs = [
        (Resource::Cpu, request.cpu.0, room.cpu),
        (Resource::Memory, request.memory.0, room.memory),
        (Resource::Disk, request.disk.0, room.disk),
        (Resource::Ports, u64::from(request.ports), room.ports),
    ];
    let short = pairs
        .into_iter()
        .map(|(resource, asked, free)| (resource, asked.saturating_sub(free.max(0) as u64)));
    short.filter(|(_, by)| *by > 0).collect()
}

/// How far a machine is from fitting, as a share of the request.
fn distance(short: &[(Resource, u64)], request: &Request) -> f64 {
    let share = |(resource, by): &(Resource, u64)| {
        let asked = match resource {
            Resource::Cpu => request.cpu.0,
            Resource::Memory => request.memory.0,
            Resource::Disk => request.disk.0,
            Resource::Ports => u64::from(request.ports),
        };
        *by as f64 / asked.max(1) as f64
    };
    short.iter().map(share).sum()
}

/// An amount of a resource in words, without its name: `512 MiB`.
fn amount(resource: Resource, by: u64) -> String {
    match resource {
        Resource::Cpu if by == 1000 => "1 core".to_owned(),
        Resource::Cpu => format!("{} cores", Cores(by)),
        Resource::Memory | Resource::Disk => Bytes(by).to_string(),
        Resource::Ports => format!("{by} ports"),
    }
}

/// The same with its name: `512 MiB of memory`.
fn named_amount(resource: Resource, by: u64) -> String {
    match resource {
        Resource::Cpu | Resource::Ports => amount(resource, by),
        Resource::Memory | Resource::Disk => format!("{} of {resource}", amount(resource, by)),
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Disk => "disk",
            Resource::Ports => "ports",
        })
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.machines == 0 {
            return match self.lost {
                0 => f.write_str("there is no machine"),
                lost => write!(f, "no machine is up ({lost} lost)"),
            };
        }
        for (place, shortage) in self.shortages.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let least = amount(shortage.resource, shortage.at_least);
            write!(
                f,
                "{comma}{} short on {} of {} by at least {least}",
                shortage.resource, shortage.machines, self.machines
            )?;
        }
        if self.lost > 0 {
            write!(f, ", {} lost", self.lost)?;
        }
        if let Some(closest) = &self.closest {
            let short = closest
                .short
                .iter()
                .map(|(resource, by)| named_amount(*resource, *by));
            let short: Vec<String> = short.collect();
            write!(
                f,
                "; {} is closest, short of {}",
                closest.machine,
                short.join(" and ")
            )?;
        }
        if self.never {
            f.write_str("; no machine is large enough even when empty")?;
        }
        Ok(())
    }
}

impl fmt::Display for PendingWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PendingWhy::Backoff { until } => write!(f, "waits until {until} before the next try"),
            PendingWhy::Dependencies { reason } => f.write_str(reason),
            PendingWhy::NoRoom(short) => short.fmt(f),
            PendingWhy::Soon => f.write_str("will be placed with the next tick"),
        }
    }
}

/// The words that a waiting task's row holds. They name no numbers that change, so that they are written once.
pub(crate) fn no_room_reason(job: &JobState, request: &Request) -> String {
    let ports = match request.ports {
        0 => String::new(),
        count => format!(", {count} ports"),
    };
    format!(
        "no machine has room for a task of {}: {} cores, {} of memory, {} of disk{ports}",
        job.row.id, request.cpu, request.memory, request.disk
    )
}
