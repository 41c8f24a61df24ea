//! What runs: deployments, stateful and daemon sets, jobs, cron jobs and pods by themselves.

use tw_model::{CronLine, Kind, Millis, Missed, Name, Overlap, Schedule, Stage};

use super::object::{self, Object};
use super::{Cluster, pod, volumes};
use crate::draft::{Draft, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;

const OWN_TASKS: &str = "a job's tasks are its own";
const HISTORY: &str = "the history of a job is that of its spec: `tw history`";

const SPEC: Fates = &[
    ("selector", Fate::Ignored(OWN_TASKS)),
    ("revisionHistoryLimit", Fate::Ignored(HISTORY)),
    (
        "paused",
        Fate::IgnoredIf(&["false"], "an update is paused by `tw rollout pause`"),
    ),
    (
        "serviceName",
        Fate::Ignored("tasks are found by {service:JOB:PORT}"),
    ),
    (
        "podManagementPolicy",
        Fate::Ignored("how fast tasks are replaced is the rollout's to say"),
    ),
    (
        "persistentVolumeClaimRetentionPolicy",
        Fate::Lost("a volume is kept until someone removes it"),
    ),
    ("ordinals", Fate::Lost("tasks are numbered from 0")),
    (
        "minReadySeconds",
        Fate::Lost("how long a new task must be healthy is Rollout(healthy_for=…)"),
    ),
];

const JOB: Fates = &[
    ("selector", Fate::Ignored(OWN_TASKS)),
    ("manualSelector", Fate::Ignored(OWN_TASKS)),
    (
        "ttlSecondsAfterFinished",
        Fate::Ignored("a job that is done costs nothing; it is kept to be read"),
    ),
    (
        "completionMode",
        Fate::Ignored("tasks are numbered: {task:index}"),
    ),
    (
        "suspend",
        Fate::IgnoredIf(&["false"], "a job runs as soon as its spec is applied"),
    ),
    (
        "podReplacementPolicy",
        Fate::Ignored("a task is replaced when it has ended"),
    ),
    (
        "podFailurePolicy",
        Fate::Lost("a task that fails is tried again: Restart(attempts=…)"),
    ),
    (
        "backoffLimitPerIndex",
        Fate::Lost("each task is tried again by itself: Restart(attempts=…)"),
    ),
    (
        "maxFailedIndexes",
        Fate::Lost("each task is tried again by itself: Restart(attempts=…)"),
    ),
    (
        "successPolicy",
        Fate::Lost("a batch job is done when all of its tasks are"),
    ),
    ("managedBy", Fate::Lost("Twill runs its jobs itself")),
];

const CRON: Fates = &[
    ("successfulJobsHistoryLimit", Fate::Ignored(HISTORY)),
    ("failedJobsHistoryLimit", Fate::Ignored(HISTORY)),
    (
        "suspend",
        Fate::IgnoredIf(
            &["false"],
            "a schedule holds as long as it is in the spec: leave it out meanwhile",
        ),
    ),
];

/// The pod template of an object, if it is one that runs.
pub(crate) fn template(object: &Object) -> Option<Item> {
    match object.kind.as_str() {
        "Pod" => Some(object.item.clone()),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => object.item.at(&["spec", "template"]),
        "PodTemplate" => None,
        "CronJob" => object.item.at(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// Reads one workload.
pub(crate) fn read(object: &Object, job: Name, cluster: &Cluster, notes: &mut Notes) -> Draft {
    notes.about(Some(job.as_str()));
    let mut draft = Draft::new(job, object.item.clone());
    let mut fields = Fields::open(object.item.clone(), notes);
    namespace(&mut draft, object, notes);
    metadata(&mut draft, fields.take("metadata"), notes);
    if object.kind == "Pod" {
        read_pod(&mut draft, fields, cluster, notes);
        return draft;
    }
    if let Some(spec) = fields.fields("spec", notes) {
        match object.kind.as_str() {
            "CronJob" => read_cron(&mut draft, spec, cluster, notes),
            "Job" => read_job(&mut draft, spec, cluster, notes),
            kind => read_replicated(&mut draft, kind, spec, cluster, notes),
        }
    }
    object::close(fields, &[], notes);
    draft
}

fn namespace(draft: &mut Draft, object: &Object, notes: &mut Notes) {
    if object.namespace.is_empty() {
        return;
    }
    let name = nearest_name(&object.namespace);
    if name != object.namespace
        && let Some(item) = object.item.at(&["metadata", "namespace"])
    {
        notes.changed(
            &item,
            "namespace",
            format!("the namespace is '{name}': names hold lower-case letters, digits and '-'"),
        );
    }
    if let Ok(name) = name.parse() {
        draft.spec.namespace = name;
    }
}

/// Takes labels over that say more than the job's name.
fn metadata(draft: &mut Draft, item: Option<Item>, notes: &mut Notes) {
    let Some(item) = item else { return };
    let mut fields = Fields::open(item, notes);
    let job = draft.spec.name.to_string();
    for (key, item) in fields
        .take("labels")
        .map(|item| item.entries())
        .unwrap_or_default()
    {
        match object::is_idle_label(&key, item.text(), &job) {
            true => notes.ignored(
                &item,
                "it says no more than the job's name, or which tool wrote it",
            ),
            false => crate::check::label(draft, &key, item.text(), &item, notes),
        }
    }
    object::metadata(Some(remaining(fields)), notes);
}

/// What is left of a mapping, as one.
fn remaining(fields: Fields) -> Item {
    let item = fields.item.clone();
    let mut node = crate::document::Node::clone(&item.node);
    if let crate::document::Value::Map(pairs) = &mut node.value {
        pairs.retain(|pair| pair.key != "labels");
    }
    Item {
        node: node.into(),
        ..item
    }
}

fn read_template(draft: &mut Draft, spec: &mut Fields, cluster: &Cluster, notes: &mut Notes) {
    let Some(mut template) = spec.fields("template", notes) else {
        return;
    };
    metadata(draft, template.take("metadata"), notes);
    if let Some(pod) = template.fields("spec", notes) {
        pod::read(draft, pod, cluster, notes);
    }
    object::close(template, &[], notes);
}

fn read_pod(draft: &mut Draft, mut fields: Fields, cluster: &Cluster, notes: &mut Notes) {
    let policy = fields
        .item
        .at(&["spec", "restartPolicy"])
        .map(|item| item.text().to_owned());
    if let Some("Never" | "OnFailure") = policy.as_deref() {
        draft.spec.kind = Kind::Batch;
        if policy.as_deref() == Some("Never") {
            draft.spec.restart.attempts = 0;
        }
    }
    if let Some(pod) = fields.fields("spec", notes) {
        pod::read(draft, pod, cluster, notes);
    }
    object::close(fields, &[], notes);
}

fn seconds(fields: &mut Fields, key: &str, notes: &mut Notes) -> Option<(Millis, Item)> {
    fields
        .number::<u64>(key, notes)
        .map(|(seconds, item)| (Millis(seconds.saturating_mul(1000)), item))
}

fn read_replicated(
    draft: &mut Draft,
    kind: &str,
    mut spec: Fields,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    match kind {
        "DaemonSet" => draft.spec.kind = Kind::Daemon,
        // Only a stateful set promises that no two pods have one number.
        "StatefulSet" => draft.spec.at_most_one = true,
        _ => {}
    }
    if let Some((replicas, _)) = spec.number::<u32>("replicas", notes) {
        draft.spec.replicas = replicas;
    }
    if let Some((ready, _)) = seconds(&mut spec, "minReadySeconds", notes)
        && ready > Millis::ZERO
    {
        draft.spec.rollout.healthy_for = ready;
    }
    if let Some((deadline, _)) = seconds(&mut spec, "progressDeadlineSeconds", notes)
        && deadline > Millis::ZERO
    {
        draft.spec.rollout.deadline = deadline;
    }
    for key in ["strategy", "updateStrategy"] {
        if let Some(strategy) = spec.fields(key, notes) {
            read_strategy(draft, strategy, notes);
        }
    }
    let claims = spec.list("volumeClaimTemplates", notes);
    volumes::claim_templates(draft, &claims, notes);
    read_template(draft, &mut spec, cluster, notes);
    spec.close(SPEC, notes);
}

fn read_strategy(draft: &mut Draft, mut strategy: Fields, notes: &mut Notes) {
    if let Some(kind) = strategy.scalar("type", notes) {
        match kind.text() {
            "RollingUpdate" => notes.ignored(&kind, "an update goes task by task"),
            "Recreate" => {
                draft.spec.rollout.stages = Box::from([Stage::Percent(100)]);
                draft.spec.rollout.max_unavailable = draft.spec.replicas.max(1);
            }
            "OnDelete" => notes.lost(
                &kind,
                "rollout",
                "an update begins when it is applied; `tw rollout pause` halts it",
            ),
            other => notes.lost(
                &kind,
                "rollout",
                format!("'{other}' is no strategy of Kubernetes"),
            ),
        }
    }
    let Some(mut rolling) = strategy.fields("rollingUpdate", notes) else {
        return strategy.close(&[], notes);
    };
    if let Some(item) = rolling.scalar("maxSurge", notes) {
        match share(item.text(), draft.spec.replicas, true) {
            Some(count) => draft.spec.rollout.max_surge = count,
            None => notes.lost(&item, "rollout", "neither a number nor a share"),
        }
    }
    if let Some(item) = rolling.scalar("maxUnavailable", notes) {
        match share(item.text(), draft.spec.replicas, false) {
            Some(0) => {
                if draft.spec.rollout.max_surge == 0 {
                    draft.spec.rollout.max_surge = 1;
                }
                notes.changed(
                    &item,
                    "rollout",
                    "one task may be down at a time, besides the surge",
                );
            }
            Some(count) => draft.spec.rollout.max_unavailable = count,
            None => notes.lost(&item, "rollout", "neither a number nor a share"),
        }
    }
    rolling.close(
        &[(
            "partition",
            Fate::IgnoredIf(
                &["0"],
                "how far an update goes is Rollout(stages=[…]); `tw rollout pause` halts it",
            ),
        )],
        notes,
    );
    strategy.close(&[], notes);
}

/// A number of tasks, or a share of them in percent.
pub(crate) fn share(text: &str, replicas: u32, rounds_up: bool) -> Option<u32> {
    let Some(percent) = text.strip_suffix('%') else {
        return text.parse().ok();
    };
    let tasks = u64::from(replicas) * percent.parse::<u64>().ok()?;
    Some(if rounds_up {
        tasks.div_ceil(100)
    } else {
        tasks / 100
    } as u32)
}

fn read_job(draft: &mut Draft, mut spec: Fields, cluster: &Cluster, notes: &mut Notes) {
    draft.spec.kind = Kind::Batch;
    if let Some((completions, _)) = spec.number::<u32>("completions", notes) {
        draft.spec.replicas = completions;
    }
    if let Some((parallelism, item)) = spec.number::<u32>("parallelism", notes) {
        match parallelism {
            0 => notes.lost(
                &item,
                "parallelism",
                "a job runs as soon as its spec is applied",
            ),
            count if count >= draft.spec.replicas => {
                if !spec
                    .item
                    .entries()
                    .iter()
                    .any(|(key, _)| key == "completions")
                {
                    draft.spec.replicas = count;
                }
            }
            count => draft.spec.parallelism = Some(count),
        }
    }
    if let Some((attempts, _)) = spec.number::<u32>("backoffLimit", notes) {
        draft.spec.restart.attempts = attempts;
    }
    if let Some((deadline, item)) = seconds(&mut spec, "activeDeadlineSeconds", notes) {
        draft.spec.timeout = Some(deadline);
        notes.changed(
            &item,
            "timeout",
            "for each try of each task, not for the job as a whole",
        );
    }
    read_template(draft, &mut spec, cluster, notes);
    spec.close(JOB, notes);
}

fn read_cron(draft: &mut Draft, mut spec: Fields, cluster: &Cluster, notes: &mut Notes) {
    if let Some(mut template) = spec.fields("jobTemplate", notes) {
        metadata(draft, template.take("metadata"), notes);
        if let Some(job) = template.fields("spec", notes) {
            read_job(draft, job, cluster, notes);
        }
        template.close(&[], notes);
    }
    draft.spec.kind = Kind::Batch;
    let zone = spec
        .scalar("timeZone", notes)
        .map(|item| item.text().to_owned());
    if let Some(line) = spec.scalar("schedule", notes) {
        draft.spec.schedule = schedule(&line, zone, notes);
    }
    let policy = spec.scalar("concurrencyPolicy", notes);
    let missed = spec.scalar("startingDeadlineSeconds", notes);
    let Some(schedule) = &mut draft.spec.schedule else {
        notes.lost(&spec.item, "schedule", NO_LINE);
        return spec.close(CRON, notes);
    };
    match policy.as_ref().map(Item::text) {
        Some("Replace") => schedule.overlap = Overlap::Replace,
        Some("Allow") => {
            if let Some(policy) = &policy {
                notes.lost(policy, "schedule", "a run waits, is left out, or replaces the one before it: overlap=\"queue\", \"skip\" or \"replace\"");
            }
        }
        _ => {
            if let Some(policy) = &policy {
                notes.ignored(
                    policy,
                    "a run is left out while the one before it has not ended",
                );
            }
        }
    }
    if let Some(item) = missed {
        schedule.missed = Missed::RunOnce;
        notes.changed(
            &item,
            "schedule",
            "a run that was missed is made up for, however late",
        );
    }
    spec.close(CRON, notes);
}

/// What a schedule is that no job can be started by.
pub(crate) const NO_LINE: &str =
    "a job is started by a line of a crontab: schedule=Schedule(cron=…)";

/// A schedule of a cron line, with the short names that cron knows for whole lines.
pub(crate) fn schedule(line: &Item, zone: Option<String>, notes: &mut Notes) -> Option<Schedule> {
    let text = line.text().trim();
    let (zone, text) = match text
        .strip_prefix("TZ=")
        .or_else(|| text.strip_prefix("CRON_TZ="))
    {
        Some(rest) => {
            let (own, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            (Some(own.to_owned()), rest)
        }
        None => (zone, text),
    };
    let cron = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "*/,-#?L".contains(c);
    let fields: Vec<&str> = cron.split_whitespace().collect();
    if fields.len() != 5 || !fields.iter().all(|field| field.chars().all(plain)) {
        notes.lost(
            line,
            "schedule",
            format!("'{text}' is not a line of a crontab with five fields"),
        );
        return None;
    }
    Some(Schedule {
        cron: CronLine(fields.join(" ")),
        time_zone: zone.unwrap_or("UTC".to_owned()),
        overlap: Overlap::Skip,
        missed: Missed::Skip,
    })
}
