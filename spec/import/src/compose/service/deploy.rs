//! How many tasks a service has, where they run, and how they are started again and replaced.

use tw_model::{Kind, Millis, OnFailure, Stage};

use super::duration;
use crate::draft::Draft;
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::placement;

const DEPLOY: Fates = &[
    (
        "endpoint_mode",
        Fate::Ignored("callers are given a healthy task by {service:JOB:PORT}"),
    ),
    ("labels", Fate::Ignored("only tools of Docker read them")),
    (
        "rollback_config",
        Fate::Lost("an update that fails goes back all at once: Rollout(on_failure=\"rollback\")"),
    ),
    ("x-*", Fate::Ignored("an extension")),
];

pub(super) fn read_restart(
    draft: &mut Draft,
    fields: &mut Fields,
    is_awaited: bool,
    notes: &mut Notes,
) {
    let item = fields.scalar("restart", notes);
    let serves = !draft.spec.ports.is_empty() || !draft.spec.health.is_empty();
    if is_awaited {
        draft.spec.kind = Kind::Batch;
    }
    let Some(item) = item else { return };
    let (policy, attempts) = item.text().split_once(':').unwrap_or((item.text(), ""));
    match policy {
        "always" | "unless-stopped" if draft.spec.kind == Kind::Service => {
            notes.ignored(&item, "a service is always started again");
        }
        "no" | "false" if !serves || is_awaited => {
            draft.spec.kind = Kind::Batch;
            draft.spec.restart.attempts = 0;
        }
        "on-failure" if !serves && (is_awaited || !attempts.is_empty()) => {
            draft.spec.kind = Kind::Batch;
            if let Ok(attempts) = attempts.parse() {
                draft.spec.restart.attempts = attempts;
            }
        }
        "on-failure" => notes.changed(
            &item,
            "restart",
            "a service is started again however it ends; what ends by itself is kind=\"batch\"",
        ),
        _ => notes.changed(
            &item,
            "restart",
            "a service is started again whenever it ends; what ends by itself is kind=\"batch\"",
        ),
    }
}

pub(super) fn read_deploy(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    if let Some((scale, item)) = fields.number::<u32>("scale", notes) {
        set_replicas(draft, scale, &item, notes);
    }
    let Some(mut deploy) = fields.fields("deploy", notes) else {
        return;
    };
    deploy.take("resources");
    if let Some((replicas, item)) = deploy.number::<u32>("replicas", notes) {
        set_replicas(draft, replicas, &item, notes);
    }
    if let Some(mode) = deploy.scalar("mode", notes) {
        match mode.text() {
            "replicated" => notes.ignored(&mode, "a job has as many tasks as replicas says"),
            "global" => {
                draft.spec.kind = Kind::Daemon;
                draft.spec.replicas = 1;
            }
            "replicated-job" => draft.spec.kind = Kind::Batch,
            _ => notes.lost(&mode, "kind", format!("'{}' has no counterpart; kind=\"daemon\" runs on every machine, kind=\"batch\" to its end", mode.text())),
        }
    }
    if let Some(policy) = deploy.fields("restart_policy", notes) {
        read_restart_policy(draft, policy, notes);
    }
    if let Some(update) = deploy.fields("update_config", notes) {
        read_update(draft, update, notes);
    }
    if let Some(placement) = deploy.fields("placement", notes) {
        placement::compose(draft, placement, notes);
    }
    deploy.close(DEPLOY, notes);
}

fn set_replicas(draft: &mut Draft, replicas: u32, item: &Item, notes: &mut Notes) {
    if draft.spec.kind == Kind::Daemon {
        notes.ignored(item, "a daemon runs once on each machine");
    } else {
        draft.spec.replicas = replicas;
    }
}

fn read_restart_policy(draft: &mut Draft, mut policy: Fields, notes: &mut Notes) {
    if let Some(condition) = policy.scalar("condition", notes) {
        let serves = !draft.spec.ports.is_empty() || !draft.spec.health.is_empty();
        match condition.text() {
            "none" | "on-failure" if !serves => {
                draft.spec.kind = Kind::Batch;
                if condition.text() == "none" {
                    draft.spec.restart.attempts = 0;
                }
            }
            "any" => notes.ignored(&condition, "a service is always started again"),
            _ => notes.changed(&condition, "restart", "a service is started again whenever it ends; what ends by itself is kind=\"batch\""),
        }
    }
    if let Some(delay) = duration(&mut policy, "delay", "restart", notes)
        && delay > Millis::ZERO
    {
        draft.spec.restart.delay = delay;
        draft.spec.restart.delay_max = draft.spec.restart.delay_max.max(delay);
    }
    if let Some((attempts, item)) = policy.number::<u32>("max_attempts", notes) {
        match draft.spec.kind {
            Kind::Batch => draft.spec.restart.attempts = attempts,
            _ => notes.lost(
                &item,
                "restart",
                "a service is started again without end, each time after a longer wait",
            ),
        }
    }
    if let Some(window) = duration(&mut policy, "window", "restart", notes)
        && window > Millis::ZERO
    {
        draft.spec.restart.reset_after = window;
    }
    policy.close(&[], notes);
}

fn read_update(draft: &mut Draft, mut update: Fields, notes: &mut Notes) {
    let rollout = &mut draft.spec.rollout;
    let order = update.scalar("order", notes);
    let starts_first = order
        .as_ref()
        .is_some_and(|item| item.text() == "start-first");
    if let Some((parallelism, item)) = update.number::<u32>("parallelism", notes) {
        match (parallelism, starts_first) {
            (0, _) => {
                rollout.stages = Box::from([Stage::Percent(100)]);
                rollout.max_unavailable = draft.spec.replicas.max(1);
                notes.changed(
                    &item,
                    "rollout",
                    "all tasks at once are one stage of \"100%\"",
                );
            }
            (count, true) => rollout.max_surge = count,
            (count, false) => rollout.max_unavailable = count,
        }
    } else if starts_first {
        rollout.max_surge = 1;
    }
    if let Some(delay) = duration(&mut update, "delay", "rollout", notes) {
        rollout.bake = delay;
    }
    if let Some(monitor) = duration(&mut update, "monitor", "rollout", notes) {
        rollout.healthy_for = monitor;
    }
    if let Some(action) = update.scalar("failure_action", notes) {
        match action.text() {
            "rollback" => rollout.on_failure = OnFailure::Rollback,
            "pause" => notes.ignored(&action, "an update that fails halts"),
            _ => notes.lost(
                &action,
                "rollout",
                "an update that fails halts or goes back: Rollout(on_failure=\"rollback\")",
            ),
        }
    }
    update.close(
        &[(
            "max_failure_ratio",
            Fate::Lost("failures are counted: Rollout(failures_max=…)"),
        )],
        notes,
    );
}
