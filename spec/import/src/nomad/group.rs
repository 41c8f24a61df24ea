//! A group of tasks: a job, whose command is the group's main task.

use tw_model::{Autoscale, Bytes, Kind, Millis, Name, OnFailure, Stage};

use super::text::Names;
use super::{Shared, close, count, millis, network, placement, task};
use crate::draft::Draft;
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::settle::Addresses;

const MOVES: &str = "a task whose machine is lost is started elsewhere, as soon as that is certain";

const GROUP: Fates = &[
    ("Name", Fate::Ignored("the job has its name")),
    ("ReschedulePolicy", Fate::Ignored(MOVES)),
    (
        "Migrate",
        Fate::Ignored("how many tasks may be down is Rollout(max_unavailable=…), for drains, too"),
    ),
    ("Disconnect", Fate::Lost(MOVES)),
    ("StopAfterClientDisconnect", Fate::Lost(MOVES)),
    ("MaxClientDisconnect", Fate::Lost(MOVES)),
    (
        "PreventRescheduleOnLost",
        Fate::Lost("at_most_one=True starts no second task while the first may run"),
    ),
    ("Consul", Fate::Lost("jobs are found by {service:JOB:PORT}")),
];

/// Reads one group.
pub(crate) fn read(
    job: Name,
    item: Item,
    shared: &Shared,
    addresses: &mut Addresses,
    notes: &mut Notes,
) -> Draft {
    notes.about(Some(job.as_str()));
    let mut draft = Draft::new(job, item.clone());
    draft.spec.kind = shared.kind;
    draft.spec.schedule = shared.schedule.clone();
    if draft.spec.schedule.is_some() {
        draft.spec.kind = Kind::Batch;
    }
    if let Some(namespace) = &shared.namespace {
        draft.spec.namespace = namespace.clone();
    }
    if let Some(priority) = shared.priority {
        draft.spec.priority = priority;
    }
    draft.spec.requires.region = shared.region.clone();
    let mut fields = Fields::open(item, notes);
    if let Some((replicas, at)) = fields.number::<u32>("Count", notes) {
        match draft.spec.kind {
            Kind::Daemon => notes.ignored(&at, "a daemon runs once on each machine"),
            _ => draft.spec.replicas = replicas,
        }
    }
    let group = fields
        .item
        .get("Name")
        .map(|name| name.text().to_owned())
        .unwrap_or_default();
    let meta = shared.meta.iter().cloned().chain(
        fields
            .take("Meta")
            .map(|item| item.entries())
            .unwrap_or_default(),
    );
    let mut names = Names {
        shared,
        group,
        meta: Vec::new(),
    };
    for (key, item) in meta {
        crate::check::label(&mut draft, &key, item.text(), &item, notes);
        names.meta.push((key, item.text().to_owned()));
    }
    for item in fields.list("Networks", notes) {
        network::ports(&mut draft, item, notes);
    }
    read_update(
        &mut draft,
        fields.take("Update").or(shared.update.clone()),
        notes,
    );
    read_restart(&mut draft, &mut fields, notes);
    read_disk(&mut draft, &mut fields, notes);
    read_scaling(&mut draft, &mut fields, notes);
    if let Some((delay, _)) = millis(&mut fields, "ShutdownDelay", "stop", notes) {
        draft.spec.stop.drain = delay;
    }
    let constraints = shared
        .constraints
        .iter()
        .cloned()
        .chain(fields.list("Constraints", notes));
    for item in constraints.collect::<Vec<_>>() {
        placement::constraint(&mut draft, &item, notes);
    }
    let affinities = shared
        .affinities
        .iter()
        .cloned()
        .chain(fields.list("Affinities", notes));
    affinities
        .collect::<Vec<_>>()
        .iter()
        .for_each(|item| placement::affinity(item, notes));
    for item in shared
        .spreads
        .iter()
        .cloned()
        .chain(fields.list("Spreads", notes))
        .collect::<Vec<_>>()
    {
        placement::spread(&mut draft, &item, notes);
    }
    let services = fields.list("Services", notes);
    let volumes = fields
        .take("Volumes")
        .map(|item| item.entries())
        .unwrap_or_default();
    let tasks = fields.list("Tasks", notes);
    task::read_all(&mut draft, tasks, &volumes, &names, addresses, notes);
    for item in services {
        network::service(&mut draft, item, shared, addresses, notes);
    }
    for (_, volume) in &volumes {
        notes.ignored(volume, "it is where a task mounts it");
    }
    close(fields, GROUP, notes);
    draft
}

/// What Nomad fills in where a job says nothing of its updates.
fn is_default_update(item: &Item) -> bool {
    let number = |key: &str| {
        item.get(key)
            .and_then(|item| item.number::<u64>())
            .unwrap_or(0)
    };
    number("MaxParallel") <= 1
        && number("Canary") == 0
        && [0, 10_000_000_000].contains(&number("MinHealthyTime"))
        && [0, 300_000_000_000].contains(&number("HealthyDeadline"))
        && item
            .get("AutoRevert")
            .is_none_or(|item| item.truth() != Some(true))
}

fn read_update(draft: &mut Draft, item: Option<Item>, notes: &mut Notes) {
    let Some(item) = item else { return };
    if draft.spec.kind == Kind::Batch || is_default_update(&item) {
        notes.ignored(&item, "it says no more than what is so anyway");
        return;
    }
    let mut update = Fields::open(item, notes);
    let rollout = &mut draft.spec.rollout;
    if let Some((parallel, _)) = count(&mut update, "MaxParallel", notes) {
        rollout.max_unavailable = parallel as u32;
    }
    if let Some((healthy, _)) = millis(&mut update, "MinHealthyTime", "rollout", notes) {
        rollout.healthy_for = healthy;
    }
    if let Some((deadline, _)) = millis(&mut update, "HealthyDeadline", "rollout", notes) {
        rollout.deadline = deadline;
    }
    if let Some((canaries, item)) = count(&mut update, "Canary", notes) {
        rollout.stages = Box::from([Stage::Tasks(canaries as u32), Stage::Percent(100)]);
        notes.changed(
            &item,
            "rollout",
            "the first stage replaces as many tasks; none run besides",
        );
    }
    if let Some(revert) = update.scalar("AutoRevert", notes)
        && revert.truth() == Some(true)
    {
        rollout.on_failure = OnFailure::Rollback;
    }
    close(
        update,
        &[
            (
                "AutoPromote",
                Fate::Ignored("a stage follows when the one before it is healthy"),
            ),
            (
                "Stagger",
                Fate::Lost("the time between stages is Rollout(bake=…)"),
            ),
            (
                "HealthCheck",
                Fate::IgnoredIf(
                    &["checks"],
                    "a task is healthy when its checks succeed, or while it runs if it has none",
                ),
            ),
            (
                "ProgressDeadline",
                Fate::Ignored("each new task has Rollout(deadline=…)"),
            ),
        ],
        notes,
    );
}

fn read_restart(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(mut policy) = fields.fields("RestartPolicy", notes) else {
        return;
    };
    let is_batch = draft.spec.kind == Kind::Batch;
    // These are the values that Nomad fills in.
    let plain = |key: &str, values: &[&str]| {
        policy
            .item
            .get(key)
            .is_none_or(|item| values.contains(&item.text()))
    };
    let is_default = plain("Delay", &["15000000000", "0"])
        && match is_batch {
            true => plain("Attempts", &["3"]),
            false => plain("Attempts", &["2"]) && plain("Interval", &["1800000000000"]),
        }
        && plain("Mode", &["fail", ""]);
    if is_default {
        notes.ignored(&policy.item, "it says no more than what Nomad fills in");
        return;
    }
    if let Some((attempts, item)) = policy.number::<u32>("Attempts", notes) {
        match is_batch {
            true => draft.spec.restart.attempts = attempts,
            false => notes.lost(
                &item,
                "restart",
                "a service is started again without end, each time after a longer wait",
            ),
        }
    }
    if let Some((delay, _)) = millis(&mut policy, "Delay", "restart", notes) {
        draft.spec.restart.delay = delay;
        draft.spec.restart.delay_max = draft.spec.restart.delay_max.max(delay);
    }
    close(
        policy,
        &[
            (
                "Interval",
                Fate::Lost("failures are forgotten after Restart(reset_after=…)"),
            ),
            (
                "Mode",
                Fate::IgnoredIf(
                    &["fail", "delay"],
                    "a task is started again, each time after a longer wait",
                ),
            ),
            (
                "RenderTemplates",
                Fate::Ignored("texts are filled in at each start"),
            ),
        ],
        notes,
    );
}

fn read_disk(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(mut disk) = fields.fields("EphemeralDisk", notes) else {
        return;
    };
    if let Some((megabytes, item)) = count(&mut disk, "SizeMB", notes) {
        match megabytes {
            300 => notes.ignored(&item, "it says no more than what Nomad fills in"),
            _ => draft.spec.resources.disk = Bytes::mib(megabytes),
        }
    }
    close(
        disk,
        &[(
            "*",
            Fate::Lost("what outlives a task is in a volume: volumes=[Volume(…)]"),
        )],
        notes,
    );
}

fn read_scaling(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(mut scaling) = fields.fields("Scaling", notes) else {
        return;
    };
    let enabled = scaling.take("Enabled");
    let is_enabled = enabled
        .as_ref()
        .is_none_or(|item| item.truth() != Some(false));
    if let Some(enabled) = enabled {
        notes.ignored(
            &enabled,
            "what follows the load is in the spec, what does not is left out",
        );
    }
    let min = count(&mut scaling, "Min", notes).map(|(min, _)| min as u32);
    let max = count(&mut scaling, "Max", notes).map(|(max, _)| max as u32);
    let item = scaling.item.clone();
    close(
        scaling,
        &[
            (
                "Policy",
                Fate::Lost(
                    "the number of tasks follows the use of their cores: Autoscale(cpu_percent=…)",
                ),
            ),
            (
                "*",
                Fate::Ignored("it says how the job was, not how it should be"),
            ),
        ],
        notes,
    );
    match (is_enabled && draft.spec.kind == Kind::Service, max) {
        (true, Some(max)) => {
            let min = min.unwrap_or(1);
            let max = max.max(min).max(1);
            draft.spec.autoscale = Some(Autoscale {
                min,
                max,
                cpu_percent: 60,
                metric: None,
                each: None,
                down_after: Millis::minutes(5),
            });
        }
        _ => notes.lost(
            &item,
            "autoscale",
            "the number of tasks of a service follows its load: Autoscale(min=…, max=…)",
        ),
    }
}
