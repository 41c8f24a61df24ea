//! What people are shown of jobs and machines, made from durable rows.

use std::collections::HashMap;

use tw_api::{
    JobStatus, JobSummary, MachineStatus, OutageStatus, Reserved, RolloutStatus, ScaleStatus,
    ScheduleStatus, TaskStatus,
};
use tw_model::{
    Incarnation, JobRecord, JobSpec, Kind, MachineRecord, Name, RolloutRecord, RolloutState,
    TaskId, TaskRecord, TaskState, TaskUsage, Timestamp,
};

use tw_scheduler::{ailment, steadiness};

use crate::clock;
use crate::view::{JobView, View};

/// The version of the shapes here.
pub(crate) const SHAPE: u32 = 1;

/// A job with one row an index.
pub(crate) fn job(
    view: &View,
    record: &JobRecord,
    job: &JobView,
    usage: &HashMap<TaskId, TaskUsage>,
) -> JobStatus {
    let summary = summary(view, record, job);
    let replicas = summary.replicas;
    let rows = job.holders().into_iter();
    JobStatus {
        version: SHAPE,
        tasks: rows
            .filter(|row| match summary.kind.as_str() {
                "daemon" => !row.retired || !row.state.is_terminal(),
                _ => row.id.index < replicas || !row.state.is_terminal(),
            })
            .map(|row| task(view, job, row, usage.get(&row.id)))
            .collect(),
        runs: record
            .runs
            .iter()
            .flat_map(|runs| runs.newest.clone())
            .collect(),
        job: summary,
        notes: Vec::new(),
    }
}

/// A job in one line.
pub(crate) fn summary(view: &View, record: &JobRecord, job: &JobView) -> JobSummary {
    let wanted = job.wanted();
    let spec = wanted.map(|version| &version.spec);
    let holders = job.holders();
    let healthy = holders.iter().filter(|row| view.serves(row)).count();
    let newest = record.runs.as_ref().and_then(|runs| runs.newest.last());
    let run = newest.map_or(0, |run| run.number);
    let done = holders
        .iter()
        .filter(|row| row.state == TaskState::Done && row.run == run)
        .count();
    let machines = holders.iter().filter(|row| !row.retired).count();
    JobSummary {
        name: record.id.name.clone(),
        namespace: record.id.namespace.clone(),
        kind: spec.map_or("", |spec| spec.kind.as_str()).to_owned(),
        version: record.version,
        stable_version: record.stable_version,
        stopped: record.stopped,
        replicas: spec.map_or(0, |spec| match spec.kind {
            Kind::Daemon => u32::try_from(machines).unwrap_or(u32::MAX),
            Kind::Service | Kind::Batch => spec.tasks(record.scaled()),
        }),
        healthy: u32::try_from(healthy).unwrap_or(u32::MAX),
        done: u32::try_from(done).unwrap_or(u32::MAX),
        rollout: record
            .rollout
            .as_ref()
            .map(|rollout| self::rollout(job, rollout)),
        schedule: spec.and_then(|spec| {
            let schedule = spec.schedule.as_ref()?;
            Some(ScheduleStatus {
                cron: schedule.cron.0.clone(),
                time_zone: schedule.time_zone.clone(),
                next_at: record.runs.as_ref().and_then(|runs| runs.next_at),
                run: newest.cloned(),
            })
        }),
        scale: spec.and_then(|spec| scale(spec, record)),
        owner: spec.map(|spec| spec.owner.clone()).unwrap_or_default(),
        source: wanted
            .map(|version| version.source.clone())
            .unwrap_or_default(),
        updated_at: record.updated_at,
    }
}

fn scale(spec: &JobSpec, record: &JobRecord) -> Option<ScaleStatus> {
    let autoscale = spec.autoscale.as_ref()?;
    let scaled = record.scale.as_ref();
    Some(ScaleStatus {
        min: autoscale.within(0),
        max: autoscale.within(u32::MAX),
        reason: scaled
            .map(|scaled| scaled.reason.clone())
            .unwrap_or_default(),
        since: scaled.map(|scaled| scaled.at),
    })
}

fn rollout(job: &JobView, rollout: &RolloutRecord) -> RolloutStatus {
    let stages = job
        .versions
        .get(&rollout.to)
        .map_or(0, |version| version.spec.rollout.stages.len());
    let stages = if rollout.rollback { 1 } else { stages };
    let updated = job
        .tasks
        .values()
        .filter(|row| row.version == rollout.to && !row.state.is_terminal())
        .count();
    RolloutStatus {
        from: rollout.from,
        to: rollout.to,
        state: rollout.state,
        stage: rollout.stage + 1,
        stages: u32::try_from(stages).unwrap_or(u32::MAX),
        updated: u32::try_from(updated).unwrap_or(u32::MAX),
        reason: reason(rollout),
        rollback: rollout.rollback,
    }
}

/// Why an update is as it is, and what it waits for.
fn reason(rollout: &RolloutRecord) -> String {
    let awaits = rollout.state == RolloutState::Running && !rollout.awaits.is_empty();
    match (awaits, rollout.reason.is_empty()) {
        (false, _) => rollout.reason.clone(),
        (true, true) => rollout.awaits.clone(),
        (true, false) => format!("{}; {}", rollout.reason, rollout.awaits),
    }
}

fn task(view: &View, job: &JobView, row: &TaskRecord, usage: Option<&TaskUsage>) -> TaskStatus {
    let index = row.id.index;
    let of_index = job.tasks.range((index, 0)..=(index, Incarnation::MAX));
    let mut others = of_index.rev().map(|(_, other)| other);
    let earlier = match row.machine {
        Some(_) => None,
        None => others.find(|other| other.machine.is_some()),
    };
    TaskStatus {
        id: row.id.clone(),
        earlier: earlier.map(|row| row.id.clone()),
        index: row.id.index,
        version: row.version,
        state: row.state,
        machine: row.machine.clone(),
        address: view.address(row),
        ports: row.ports.clone(),
        started_at: row.started_at,
        restarts: row.restarts,
        healthy: row.healthy,
        reason: row.reason.clone(),
        exit: row.exit.clone(),
        usage: usage.cloned(),
    }
}

/// A machine and what is placed on it.
pub(crate) fn machine(view: &View, row: &MachineRecord, connected: bool) -> MachineStatus {
    let now = clock::wall();
    let live: Vec<&TaskRecord> = view
        .tasks_on(&row.id)
        .filter(|task| !task.state.is_terminal())
        .collect();
    MachineStatus {
        id: row.id.clone(),
        state: row.state,
        epoch: row.epoch,
        capacity: row.capacity.clone(),
        reserved: reserved(view, &live),
        facts: row.facts.clone(),
        tasks: u32::try_from(live.len()).unwrap_or(u32::MAX),
        connected,
        changed_at: row.changed_at,
        drain: row.drain.clone(),
        next_drain: row.next_drain.as_deref().cloned(),
        flaps_milli: (steadiness::flaps(row, now) * 1000.0) as u32,
        unsteady: steadiness::is_unsteady(row, now),
        ailments: ailment::counting(row, now).copied().collect(),
        spared_until: row.spared_until.filter(|_| row.spares_tasks()),
    }
}

/// The machines that are lost together with a large part of the fleet, and waited for.
pub(crate) fn outage(view: &View) -> Option<OutageStatus> {
    let spared = view.machines().filter(|row| row.spares_tasks());
    let moments: Vec<Timestamp> = spared.filter_map(|row| row.spared_until).collect();
    Some(OutageStatus {
        machines: u32::try_from(moments.len()).unwrap_or(u32::MAX),
        next_at: *moments.iter().min()?,
        last_at: *moments.iter().max()?,
    })
}

fn reserved(view: &View, tasks: &[&TaskRecord]) -> Reserved {
    let mut sum = Reserved::default();
    for spec in tasks.iter().filter_map(|row| view.spec(row)) {
        sum.cpu_millicores += spec.resources.cpu.0;
        sum.memory_bytes += spec.resources.memory.0;
        sum.disk_bytes += spec.resources.disk.0;
    }
    sum
}

/// Whether a job of this namespace is asked for.
pub(crate) fn in_namespace(record: &JobRecord, namespace: Option<&Name>) -> bool {
    namespace.is_none_or(|namespace| record.id.namespace == *namespace)
}
