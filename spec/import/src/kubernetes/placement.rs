//! Where the pods of a workload may run.

use tw_model::{Affinity, Domain, Name};

use super::Cluster;
use super::object::texts;
use crate::draft::Draft;
use crate::fields::{Fate, Fields, Item, note_others};
use crate::note::Notes;
use crate::placement;

const LABELS: &str = "machines are told apart by labels that they must have: Requires(labels={…})";

/// Reads selectors, affinities and spread constraints.
pub(crate) fn read(draft: &mut Draft, pod: &mut Fields, cluster: &Cluster, notes: &mut Notes) {
    for (key, item) in pod
        .take("nodeSelector")
        .map(|item| item.entries())
        .unwrap_or_default()
    {
        node_label(draft, &key, &item, notes);
    }
    if let Some(mut affinity) = pod.fields("affinity", notes) {
        if let Some(node) = affinity.fields("nodeAffinity", notes) {
            node_affinity(draft, node, notes);
        }
        for (key, is_near) in [("podAffinity", true), ("podAntiAffinity", false)] {
            if let Some(pods) = affinity.fields(key, notes) {
                pod_affinity(draft, pods, is_near, cluster, notes);
            }
        }
        affinity.close(&[], notes);
    }
    for item in pod.list("topologySpreadConstraints", notes) {
        spread(draft, item, notes);
    }
}

fn node_label(draft: &mut Draft, key: &str, item: &Item, notes: &mut Notes) {
    match (key, item.text()) {
        ("kubernetes.io/os" | "beta.kubernetes.io/os", "linux") => {
            notes.ignored(item, "Twill runs on Linux")
        }
        (_, value) => {
            placement::require_label(draft, key, value);
            notes.changed(item, "requires", "machines need this label with Twill, too");
        }
    }
}

fn node_affinity(draft: &mut Draft, mut node: Fields, notes: &mut Notes) {
    if let Some(mut required) = node.fields("requiredDuringSchedulingIgnoredDuringExecution", notes)
    {
        let terms = required.list("nodeSelectorTerms", notes);
        required.close(&[], notes);
        let alone = terms.len() == 1;
        for term in &terms {
            let expressions = term
                .get("matchExpressions")
                .map(|item| item.items())
                .unwrap_or_default();
            for expression in expressions {
                let text = |key: &str| {
                    expression
                        .get(key)
                        .map(|item| item.text().to_owned())
                        .unwrap_or_default()
                };
                let values = expression
                    .get("values")
                    .map(|item| item.items())
                    .unwrap_or_default();
                match (text("operator").as_str(), &values[..]) {
                    ("In", [value]) if alone => node_label(draft, &text("key"), value, notes),
                    _ => notes.lost(&expression, "requires", LABELS),
                }
            }
            if let Some(fields) = term.get("matchFields") {
                notes.lost(&fields, "requires", LABELS);
            }
        }
    }
    node.close(
        &[(
            "preferredDuringSchedulingIgnoredDuringExecution",
            Fate::Lost("what a job wants of its machines it requires: Requires(labels={…})"),
        )],
        notes,
    );
}

fn pod_affinity(
    draft: &mut Draft,
    mut pods: Fields,
    is_near: bool,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    for term in pods.list("requiredDuringSchedulingIgnoredDuringExecution", notes) {
        pod_term(draft, &term, true, is_near, cluster, notes);
    }
    for item in pods.list("preferredDuringSchedulingIgnoredDuringExecution", notes) {
        let mut preferred = Fields::open(item, notes);
        if let Some(term) = preferred.take("podAffinityTerm") {
            pod_term(draft, &term, false, is_near, cluster, notes);
        }
        preferred.close(
            &[("weight", Fate::Ignored("wishes have no weights"))],
            notes,
        );
    }
    pods.close(&[], notes);
}

fn pod_term(
    draft: &mut Draft,
    term: &Item,
    required: bool,
    is_near: bool,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    let field = if is_near { "affinity" } else { "anti_affinity" };
    note_others(term, &["topologyKey", "labelSelector"], notes);
    if let Some(selector) = term.get("labelSelector") {
        note_others(&selector, &["matchLabels", "matchExpressions"], notes);
    }
    let within = term
        .get("topologyKey")
        .and_then(|key| placement::domain(key.text()));
    let Some(within) = within else {
        notes.lost(
            term,
            field,
            "near means within a machine, rack, cluster, data centre or region",
        );
        return;
    };
    let jobs = selected(draft, term, cluster);
    if jobs.is_empty() {
        notes.lost(
            term,
            field,
            "it selects none of the jobs of this import: name them as Affinity(job=…)",
        );
        return;
    }
    for job in jobs {
        let is_own = job == draft.spec.name;
        match (is_own, is_near, required, within) {
            (true, false, false, Domain::Machine) => {
                notes.ignored(
                    term,
                    "tasks of a job are kept on different machines where there is room",
                );
            }
            (true, false, false, over) => placement::spread(draft, over),
            _ => {
                let list = if is_near {
                    &mut draft.spec.affinity
                } else {
                    &mut draft.spec.anti_affinity
                };
                if !list.iter().any(|known| known.job == job) {
                    list.push(Affinity {
                        job,
                        within,
                        required,
                    });
                }
            }
        }
    }
}

/// The jobs that a term selects by the labels of their pods.
fn selected(draft: &Draft, term: &Item, cluster: &Cluster) -> Vec<Name> {
    let mut labels = texts(&term.at(&["labelSelector", "matchLabels"]));
    for expression in term
        .at(&["labelSelector", "matchExpressions"])
        .map(|item| item.items())
        .unwrap_or_default()
    {
        let values = expression
            .get("values")
            .map(|item| item.items())
            .unwrap_or_default();
        let is_in = expression
            .get("operator")
            .is_some_and(|item| item.text() == "In");
        match (expression.get("key"), &values[..]) {
            (Some(key), [value]) if is_in => {
                labels.push((key.text().to_owned(), value.text().to_owned()))
            }
            _ => return Vec::new(),
        }
    }
    let own = cluster
        .jobs
        .iter()
        .find(|workload| workload.job == draft.spec.name);
    let namespace = own
        .map(|workload| workload.namespace.clone())
        .unwrap_or_default();
    cluster
        .selected(&labels, &namespace)
        .into_iter()
        .map(|workload| workload.job.clone())
        .collect()
}

fn spread(draft: &mut Draft, item: Item, notes: &mut Notes) {
    let mut fields = Fields::open(item.clone(), notes);
    let key = fields.scalar("topologyKey", notes);
    fields.close(
        &[
            (
                "maxSkew",
                Fate::Ignored("tasks are spread as evenly as there is room"),
            ),
            (
                "whenUnsatisfiable",
                Fate::Ignored("a task waits where a spread cannot hold"),
            ),
            (
                "labelSelector",
                Fate::Ignored("a job spreads its own tasks"),
            ),
            (
                "matchLabelKeys",
                Fate::Ignored("a job spreads its own tasks"),
            ),
            (
                "minDomains",
                Fate::Lost("the number of parts that must have tasks is Spread(at_least=…)"),
            ),
            (
                "nodeAffinityPolicy",
                Fate::Ignored("only machines that satisfy Requires(…) count"),
            ),
            ("nodeTaintsPolicy", Fate::Ignored("machines have no taints")),
        ],
        notes,
    );
    match key.as_ref().and_then(|key| placement::domain(key.text())) {
        Some(Domain::Machine) => notes.ignored(&item, "tasks of a job are kept on different machines where there is room"),
        Some(over) => placement::spread(draft, over),
        None => notes.lost(&item, "spread", "tasks are spread over machines, racks, clusters, data centres or regions: Spread(over=\"rack\")"),
    }
}
