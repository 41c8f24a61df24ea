//! Objects that say how many pods of a workload there are, or have to be left.

use tw_model::{Autoscale, Kind, Millis};

use super::Cluster;
use super::object::{self, Object, texts};
use super::workload::share;
use crate::draft::Draft;
use crate::fields::{Fate, Fields, Item};
use crate::note::Notes;

/// A horizontal autoscaler.
pub(crate) fn autoscaler(
    object: &Object,
    mut fields: Fields,
    cluster: &Cluster,
    drafts: &mut [Draft],
    notes: &mut Notes,
) {
    let text = |keys: &[&str]| {
        object
            .item
            .at(keys)
            .map(|item| item.text().to_owned())
            .unwrap_or_default()
    };
    let (kind, name) = (
        text(&["spec", "scaleTargetRef", "kind"]),
        text(&["spec", "scaleTargetRef", "name"]),
    );
    let target = cluster.jobs.iter().find(|workload| {
        workload.name == name && workload.kind == kind && workload.namespace == object.namespace
    });
    let draft = target.and_then(|target| {
        drafts
            .iter_mut()
            .find(|draft| draft.spec.name == target.job)
    });
    let Some(draft) = draft.filter(|draft| draft.spec.kind == Kind::Service) else {
        notes.lost(
            &object.item,
            "",
            format!(
                "its target, {kind} {name}, is not part of this import: autoscale=Autoscale(…)"
            ),
        );
        return;
    };
    notes.about(Some(draft.spec.name.as_str()));
    object::metadata(fields.take("metadata"), notes);
    if let Some(mut spec) = fields.fields("spec", notes) {
        let mut autoscale = Autoscale {
            min: 1,
            max: 1,
            cpu_percent: 60,
            metric: None,
            each: None,
            down_after: Millis::minutes(5),
        };
        if let Some((min, _)) = spec.number::<u32>("minReplicas", notes) {
            autoscale.min = min;
        }
        if let Some((max, _)) = spec.number::<u32>("maxReplicas", notes) {
            autoscale.max = max;
        }
        if let Some((percent, item)) = spec.number::<u32>("targetCPUUtilizationPercentage", notes) {
            set_percent(&mut autoscale, percent, &item, notes);
        }
        for item in spec.list("metrics", notes) {
            metric(&mut autoscale, &item, notes);
        }
        if let Some(mut behavior) = spec.fields("behavior", notes) {
            if let Some(mut down) = behavior.fields("scaleDown", notes) {
                if let Some((seconds, _)) = down.number::<u64>("stabilizationWindowSeconds", notes)
                {
                    autoscale.down_after = Millis::seconds(seconds);
                }
                down.close(
                    &[(
                        "*",
                        Fate::Lost("how fast tasks may go is limited for the whole cluster"),
                    )],
                    notes,
                );
            }
            behavior.close(
                &[(
                    "scaleUp",
                    Fate::Lost("tasks are added as soon as the load asks for them"),
                )],
                notes,
            );
        }
        spec.close(
            &[("scaleTargetRef", Fate::Ignored("it is part of the job"))],
            notes,
        );
        autoscale.max = autoscale.max.max(autoscale.min).max(1);
        draft.spec.replicas = draft
            .spec
            .replicas
            .clamp(autoscale.min.max(1), autoscale.max);
        draft.spec.autoscale = Some(autoscale);
    }
    object::close(fields, &[], notes);
}

fn set_percent(autoscale: &mut Autoscale, percent: u32, item: &Item, notes: &mut Notes) {
    match percent {
        1..=100 => autoscale.cpu_percent = percent,
        _ => notes.lost(
            item,
            "autoscale",
            "a share from 1 to 100 percent of the requested cores",
        ),
    }
}

fn metric(autoscale: &mut Autoscale, item: &Item, notes: &mut Notes) {
    let is_cpu = item
        .at(&["resource", "name"])
        .is_some_and(|name| name.text() == "cpu");
    let percent = item.at(&["resource", "target", "averageUtilization"]);
    match percent.and_then(|percent| Some((percent.number::<u32>()?, percent))) {
        Some((number, percent)) if is_cpu => {
            notes.ignored(
                item,
                "the number of tasks follows the use of their cores in any case",
            );
            set_percent(autoscale, number, &percent, notes);
        }
        _ => notes.lost(
            item,
            "autoscale",
            "the number of tasks follows the use of their cores: Autoscale(cpu_percent=…)",
        ),
    }
}

/// A disruption budget: how many tasks may be down because of what Twill does.
pub(crate) fn budget(
    object: &Object,
    mut fields: Fields,
    cluster: &Cluster,
    drafts: &mut [Draft],
    notes: &mut Notes,
) {
    let selector = texts(&object.item.at(&["spec", "selector", "matchLabels"]));
    let targets = cluster.selected(&selector, &object.namespace);
    let Some(target) = targets.first() else {
        notes.lost(
            &object.item,
            "",
            "it selects none of the jobs of this import: rollout=Rollout(max_unavailable=…)",
        );
        return;
    };
    let Some(draft) = drafts
        .iter_mut()
        .find(|draft| draft.spec.name == target.job)
    else {
        return;
    };
    notes.about(Some(draft.spec.name.as_str()));
    object::metadata(fields.take("metadata"), notes);
    if let Some(mut spec) = fields.fields("spec", notes) {
        let replicas = draft.spec.replicas;
        let most = spec
            .scalar("maxUnavailable", notes)
            .map(|item| (share(item.text(), replicas, false), item));
        let least = spec.scalar("minAvailable", notes).map(|item| {
            let least = share(item.text(), replicas, true);
            (least.map(|least| replicas.saturating_sub(least)), item)
        });
        if let Some((count, item)) = most.or(least) {
            match count {
                Some(0) => notes.changed(
                    &item,
                    "rollout",
                    "one task may be down at a time; with none, no task could ever be replaced",
                ),
                Some(count) => draft.spec.rollout.max_unavailable = count,
                None => notes.lost(&item, "rollout", "neither a number nor a share"),
            }
        }
        spec.close(
            &[
                ("selector", Fate::Ignored("it is part of the job")),
                (
                    "unhealthyPodEvictionPolicy",
                    Fate::Ignored("a task that is not healthy counts as down"),
                ),
            ],
            notes,
        );
    }
    object::close(fields, &[], notes);
}
