//! Where tasks may run: labels that machines must have, and parts of the fleet to spread over.

use tw_model::{Domain, EnvName, Spread};

use crate::draft::Draft;
use crate::fields::{Fields, Item};
use crate::note::Notes;

/// Requires a label of the machine.
pub(crate) fn require_label(draft: &mut Draft, key: &str, value: &str) {
    draft
        .spec
        .requires
        .labels
        .insert(EnvName(key.to_owned()), value.to_owned());
}

/// Spreads over a part of the fleet, once for each.
pub(crate) fn spread(draft: &mut Draft, over: Domain) {
    if !draft.spec.spread.iter().any(|known| known.over == over) {
        draft.spec.spread.push(Spread { over, at_least: 2 });
    }
}

/// The part of the fleet that a label of the file's own cluster stands for.
pub(crate) fn domain(label: &str) -> Option<Domain> {
    match label {
        "kubernetes.io/hostname"
        | "node.unique.id"
        | "${node.unique.id}"
        | "node.hostname"
        | "node.id" => Some(Domain::Machine),
        "topology.kubernetes.io/zone" | "failure-domain.beta.kubernetes.io/zone" => {
            Some(Domain::Datacenter)
        }
        "${node.datacenter}" | "node.datacenter" => Some(Domain::Datacenter),
        "topology.kubernetes.io/region"
        | "failure-domain.beta.kubernetes.io/region"
        | "${node.region}" => Some(Domain::Region),
        label
            if label.trim_end_matches('}').ends_with(".rack")
                || label.ends_with("/rack")
                || label == "rack" =>
        {
            Some(Domain::Rack)
        }
        _ => None,
    }
}

/// `deploy.placement` of a compose file.
pub(crate) fn compose(draft: &mut Draft, mut placement: Fields, notes: &mut Notes) {
    for item in placement.list("constraints", notes) {
        compose_constraint(draft, &item, notes);
    }
    for item in placement.list("preferences", notes) {
        let by = item
            .get("spread")
            .map(|item| item.text().to_owned())
            .unwrap_or_default();
        let label = by
            .trim_start_matches("node.labels.")
            .trim_start_matches("engine.labels.");
        match domain(&by).or_else(|| domain(label)) {
            Some(over) => spread(draft, over),
            None => notes.lost(&item, "spread", "tasks are spread over machines, racks, clusters, data centres or regions: spread=[Spread(over=\"rack\")]"),
        }
    }
    if let Some((most, item)) = placement.number::<u32>("max_replicas_per_node", notes) {
        match most {
            1 => spread(draft, Domain::Machine),
            _ => notes.lost(
                &item,
                "spread",
                "tasks of a job are kept on different machines where there is room",
            ),
        }
    }
    placement.close(&[], notes);
}

fn compose_constraint(draft: &mut Draft, item: &Item, notes: &mut Notes) {
    let label = |text: &str| {
        let name = text
            .trim()
            .strip_prefix("node.labels.")
            .or_else(|| text.trim().strip_prefix("engine.labels."))?;
        Some(name.to_owned())
    };
    match item.text().split_once("==").and_then(|(key, value)| Some((label(key)?, value.trim()))) {
        Some((key, value)) => require_label(draft, &key, value),
        None => notes.lost(item, "requires", format!("'{}': machines are told apart by labels that they must have: Requires(labels={{…}})", item.text())),
    }
}
