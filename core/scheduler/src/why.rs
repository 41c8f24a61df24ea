//! Why a task waits, as data and in words, computed from what is free now.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tw_model::{
    Ailment, Bytes, Cores, JobSpec, Kind, MachineId, MachineState, TaskId, TaskRecord, TaskState,
    Timestamp,
};

use crate::allocate::{Obstacle, Placer, View};
use crate::draft::Draft;
use crate::fleet::{Request, Room, Slot, empty_room};
use crate::reconcile::turns_left;
use crate::requires::unmet;
use crate::{JobState, State, ailment, daemon, dependency, preempt, steadiness};

/// A thing that a machine can be short of. Amounts are in millicores, bytes, a number of ports, or bytes
/// per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Cpu,
    Memory,
    Disk,
    Ports,
    Bandwidth,
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
    /// What it has of these: a task that asks for no more of them would fit.
    #[serde(default)]
    pub has: Vec<(Resource, u64)>,
}

/// How many machines something else than room speaks against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuledOut {
    /// What it is, in a few words such as `os≠debian` or `web on the same rack`.
    pub reason: String,
    pub machines: u32,
    /// One of them that has room: the task would fit there without it.
    pub fits_on: Option<MachineId>,
}

/// Why no machine can take a task now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRoom {
    /// How many machines are up.
    pub machines: u32,
    /// How many are lost.
    pub lost: u32,
    /// How many of those that are up keep going away, and are taken last.
    #[serde(default)]
    pub unsteady: u32,
    /// What ails machines that are up, which are taken last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ailing: BTreeMap<Ailment, u32>,
    pub shortages: Vec<Shortage>,
    /// Machines that the job's wishes leave out, most first; what they are short of does not count.
    #[serde(default)]
    pub ruled_out: Vec<RuledOut>,
    pub closest: Option<Closest>,
    /// Whether none of the machines that are there, drained ones included, could hold the task even with nothing else on it.
    pub never: bool,
}

/// Why a task waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum PendingWhy {
    /// It failed, and waits before it is tried again.
    Backoff {
        until: Timestamp,
        /// Machines on which tasks of its job have failed so often lately that they are taken last.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        avoided: Vec<MachineId>,
    },
    /// It waits for other jobs.
    Dependencies { reason: String },
    /// As many tasks of its job run as may at the same time.
    Turn { at_once: u32 },
    /// Tasks of lower priority were asked to make room for it there.
    Promised { machine: MachineId },
    /// No machine has room.
    NoRoom(NoRoom),
    /// It made room for a task of higher priority, and no machine has room for it now.
    GaveWay { reason: String, no_room: NoRoom },
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
        let draft = Draft::new(state, now, 0);
        let failing = steadiness::failing(&draft, job, job.spec_of(row));
        let avoided = failing
            .keys()
            .map(|slot| draft.machine_at(*slot).id.clone());
        let avoided = avoided.collect();
        return Some(PendingWhy::Backoff { until, avoided });
    }
    let draft = Draft::new(state, now, 0);
    let spec = job.spec_of(row);
    if let Err(reason) = dependency::ready(&draft, spec) {
        return Some(PendingWhy::Dependencies { reason });
    }
    if turns_left(job) == Some(0) {
        let at_once = spec.parallelism.unwrap_or_default();
        return Some(PendingWhy::Turn { at_once });
    }
    let placer = Placer::of_job(&draft, job, spec);
    let only = only_machine(job, row).and_then(|machine| draft.slot(machine));
    let mut slots =
        (0..draft.fleet().len() as Slot).filter(|slot| only.is_none_or(|only| only == *slot));
    let fits = |slot: Slot| placer.obstacle(View::of(&draft), slot).is_none();
    if slots.any(fits) {
        return Some(PendingWhy::Soon);
    }
    if let Some(machine) = preempt::claimed(job, row) {
        let machine = machine.clone();
        return Some(PendingWhy::Promised { machine });
    }
    let why = no_room(&draft, &placer, only);
    let before = job.of_index(row.id.index).rev().nth(1);
    Some(match before.filter(|before| preempt::gave_way(before)) {
        Some(before) => PendingWhy::GaveWay {
            reason: before.reason.clone(),
            no_room: why,
        },
        None => PendingWhy::NoRoom(why),
    })
}

/// The machine that a task has to run on, whatever is free elsewhere.
fn only_machine<'a>(job: &JobState, row: &'a TaskRecord) -> Option<&'a MachineId> {
    let daemon = job.spec_of(row).kind == Kind::Daemon;
    daemon.then(|| daemon::machine_of(row)).flatten()
}

/// What stands in the way on each machine, counted; of a task that has one machine alone, there.
pub(crate) fn no_room(draft: &Draft, placer: &Placer, only: Option<Slot>) -> NoRoom {
    let request = placer.request();
    let mut found = NoRoom {
        never: true,
        ..NoRoom::default()
    };
    let mut closest: Option<(u32, f64, Closest)> = None;
    for (slot, room) in draft.rooms() {
        if only.is_some_and(|only| only != slot) {
            continue;
        }
        let row = draft.machine_at(slot);
        if !room.up && row.state == MachineState::Lost {
            found.lost += 1;
            continue;
        }
        found.machines += 1;
        for one in ailment::counting(row, draft.now) {
            *found.ailing.entry(one.what).or_default() += 1;
        }
        found.unsteady += u32::from(steadiness::is_unsteady(row, draft.now));
        found.never &= !empty_room(row).holds(request);
        if !room.up {
            found.rule_out("drained".to_owned(), None);
            continue;
        }
        match placer.obstacle(View::of(draft), slot) {
            None => {}
            Some(Obstacle::Room) => {
                let short = shortages(&room, request);
                short
                    .iter()
                    .for_each(|(resource, by)| found.count(*resource, *by));
                let far = (short.len() as u32, distance(&short, request));
                // To ask for nothing at all of something is no advice.
                let has_some = short.iter().all(|(what, by)| *by < asked(*what, request));
                if has_some && closest.as_ref().is_none_or(|(n, d, _)| far < (*n, *d)) {
                    let has = short
                        .iter()
                        .map(|(what, by)| (*what, asked(*what, request) - by));
                    let closer = Closest {
                        machine: row.id.clone(),
                        has: has.collect(),
                        short,
                    };
                    closest = Some((far.0, far.1, closer));
                }
            }
            Some(obstacle) => {
                let reason = placer.words(draft, slot, obstacle);
                found.rule_out(reason, room.fits(request).then_some(&row.id));
            }
        }
    }
    // Where nothing is short any more, room is held back for tasks that are to stay where they are.
    found.closest = closest
        .map(|(_, _, closest)| closest)
        .filter(|closest| !closest.short.is_empty());
    found.ruled_out.sort_by_key(|one| Reverse(one.machines));
    found
}

impl Placer {
    /// An obstacle in a few words.
    fn words(&self, draft: &Draft, slot: Slot, obstacle: Obstacle) -> String {
        match obstacle {
            Obstacle::Room => "no room".to_owned(),
            Obstacle::Requires => {
                let facts = &draft.machine_at(slot).facts;
                let unmet = self.spec().and_then(|spec| unmet(&spec.requires, facts));
                unmet.unwrap_or_default()
            }
            Obstacle::Tie(number) => match &self.ties[number] {
                tie if tie.is_alone() => format!("no task of {} is anywhere", tie.job),
                tie if tie.near => format!("{} on another {}", tie.job, tie.within.as_str()),
                tie => format!("{} on the same {}", tie.job, tie.within.as_str()),
            },
            Obstacle::Spread(number) => {
                let spread = &self.spreads[number];
                let over = spread.over.as_str();
                format!("{over} has its task, and {} are to have one", spread.needed)
            }
        }
    }
}

impl NoRoom {
    fn rule_out(&mut self, reason: String, fits_on: Option<&MachineId>) {
        let known = self.ruled_out.iter_mut();
        match known.into_iter().find(|one| one.reason == reason) {
            Some(one) => {
                one.machines += 1;
                one.fits_on = one.fits_on.take().or(fits_on.cloned());
            }
            None => self.ruled_out.push(RuledOut {
                reason,
                machines: 1,
                fits_on: fits_on.cloned(),
            }),
        }
    }

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

const RESOURCES: [Resource; 5] = [
    Resource::Cpu,
    Resource::Memory,
    Resource::Disk,
    Resource::Ports,
    Resource::Bandwidth,
];

fn asked(resource: Resource, request: &Request) -> u64 {
    match resource {
        Resource::Cpu => request.cpu.0,
        Resource::Memory => request.memory.0,
        Resource::Disk => request.disk.0,
        Resource::Ports => u64::from(request.ports),
        Resource::Bandwidth => request.bandwidth.0,
    }
}

fn shortages(room: &Room, request: &Request) -> Vec<(Resource, u64)> {
    let short = RESOURCES.into_iter().map(|resource| {
        let free = match resource {
            Resource::Cpu => room.cpu,
            Resource::Memory => room.memory,
            Resource::Disk => room.disk,
            Resource::Ports => room.ports,
            Resource::Bandwidth => room.bandwidth,
        };
        let by = asked(resource, request).saturating_sub(free.max(0) as u64);
        (resource, by)
    });
    short.filter(|(_, by)| *by > 0).collect()
}

/// How far a machine is from fitting, as a share of the request.
fn distance(short: &[(Resource, u64)], request: &Request) -> f64 {
    let share =
        |(resource, by): &(Resource, u64)| *by as f64 / asked(*resource, request).max(1) as f64;
    short.iter().map(share).sum()
}

/// An amount of a resource in words, without its name: `512 MiB`.
fn amount(resource: Resource, by: u64) -> String {
    match resource {
        Resource::Cpu if by == 1000 => "1 core".to_owned(),
        Resource::Cpu => format!("{} cores", Cores(by)),
        Resource::Memory | Resource::Disk => Bytes(by).to_string(),
        Resource::Ports => format!("{by} ports"),
        Resource::Bandwidth => format!("{}/s", Bytes(by)),
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Disk => "disk",
            Resource::Ports => "ports",
            Resource::Bandwidth => "bandwidth",
        })
    }
}

/// `{:#}` speaks of several tasks that all wait for this: what is named would help one of them.
impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match f.alternate() {
            true => "one of them",
            false => "it",
        };
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
        let mut comma = if self.shortages.is_empty() { "" } else { ", " };
        for one in &self.ruled_out {
            write!(f, "{comma}{} on {}", one.reason, one.machines)?;
            comma = ", ";
        }
        if self.lost > 0 {
            write!(f, "{comma}{} lost", self.lost)?;
            comma = ", ";
        }
        if self.unsteady > 0 {
            write!(f, "{comma}{} unsteady", self.unsteady)?;
            comma = ", ";
        }
        for (what, machines) in &self.ailing {
            write!(f, "{comma}{what} on {machines}")?;
            comma = ", ";
        }
        if let Some(closest) = &self.closest {
            let has = closest.has.iter();
            let has =
                has.map(|(resource, has)| format!("{resource} ≤ {}", amount(*resource, *has)));
            let has: Vec<String> = has.collect();
            let machine = &closest.machine;
            write!(
                f,
                "; with {} {who} would fit on {machine}",
                has.join(" and ")
            )?;
        }
        let mut freed = self.ruled_out.iter();
        if let Some((reason, machine)) =
            freed.find_map(|one| Some((&one.reason, one.fits_on.as_ref()?)))
        {
            write!(f, "; without \"{reason}\" {who} would fit on {machine}")?;
        }
        if self.never {
            f.write_str("; no machine is large enough even when empty")?;
        }
        Ok(())
    }
}

/// `{:#}` speaks of several tasks, as that of [`NoRoom`] does.
impl fmt::Display for PendingWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PendingWhy::Backoff { until, avoided } => {
                write!(f, "waits until {until} before the next try")?;
                match avoided.is_empty() {
                    true => Ok(()),
                    false => {
                        let names: Vec<&str> = avoided.iter().map(MachineId::as_str).collect();
                        let names = names.join(", ");
                        write!(f, "; its tasks kept failing on {names}, taken last for now")
                    }
                }
            }
            PendingWhy::Dependencies { reason } => f.write_str(reason),
            PendingWhy::Turn { at_once } => f.write_str(&turns(*at_once)),
            PendingWhy::Promised { machine } => {
                write!(
                    f,
                    "waits for tasks of lower priority to make room on {machine}"
                )
            }
            PendingWhy::NoRoom(short) => short.fmt(f),
            PendingWhy::GaveWay { reason, no_room } => {
                write!(f, "{reason}; ")?;
                no_room.fmt(f)
            }
            PendingWhy::Soon => f.write_str("will be placed with the next tick"),
        }
    }
}

/// The words that the row of a task holds that waits for another one of its job to end.
pub(crate) fn turn_reason(spec: &JobSpec) -> String {
    turns(spec.parallelism.unwrap_or_default())
}

fn turns(at_once: u32) -> String {
    format!("waits for its turn: {at_once} at a time")
}

/// The words that a waiting task's row holds. They name no numbers that change, so that they are written once.
pub(crate) fn no_room_reason(job: &JobState, row: &TaskRecord, request: &Request) -> String {
    let ports = match request.ports {
        0 => String::new(),
        count => format!(", {count} ports"),
    };
    let who = match only_machine(job, row) {
        Some(machine) => format!("{machine} has no room for its task"),
        None => "no machine has room for a task".to_owned(),
    };
    format!(
        "{who} of {}: {} cores, {} of memory, {} of disk{ports}",
        job.row.id, request.cpu, request.memory, request.disk
    )
}
