//! Services: names and numbers under which jobs find each other.

use tw_model::Name;

use super::Cluster;
use super::object::{self, Object, texts};
use crate::draft::{Draft, PortMention};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::settle::Addresses;

const OUTSIDE: &str = "no port of a machine leads to a job: callers from outside come through a proxy that you run as a job";

const SPEC: Fates = &[
    ("type", Fate::IgnoredIf(&["ClusterIP"], OUTSIDE)),
    (
        "selector",
        Fate::Ignored("a port is found by its job: {service:JOB:PORT}"),
    ),
    (
        "clusterIP",
        Fate::Ignored(
            "a job has no address of its own; {service:JOB:PORT} is that of a healthy task",
        ),
    ),
    (
        "clusterIPs",
        Fate::Ignored(
            "a job has no address of its own; {service:JOB:PORT} is that of a healthy task",
        ),
    ),
    (
        "ipFamil*",
        Fate::Ignored("a task has the addresses of its machine"),
    ),
    (
        "internalTrafficPolicy",
        Fate::IgnoredIf(&["Cluster"], "a near task is chosen where there is one"),
    ),
    ("externalTrafficPolicy", Fate::Lost(OUTSIDE)),
    ("external*", Fate::Lost(OUTSIDE)),
    ("loadBalancer*", Fate::Lost(OUTSIDE)),
    ("healthCheckNodePort", Fate::Lost(OUTSIDE)),
    ("allocateLoadBalancerNodePorts", Fate::Lost(OUTSIDE)),
    (
        "publishNotReadyAddresses",
        Fate::IgnoredIf(&["false"], "only healthy tasks are found"),
    ),
    (
        "sessionAffinity",
        Fate::IgnoredIf(
            &["None"],
            "a task keeps the address that it was given as long as it is healthy",
        ),
    ),
    (
        "trafficDistribution",
        Fate::Ignored("a near task is chosen where there is one"),
    ),
];

/// The ports of a service: number, target and name.
fn ports(object: &Object) -> Vec<(Item, u16, Item, Option<String>)> {
    let ports = object
        .item
        .at(&["spec", "ports"])
        .map(|item| item.items())
        .unwrap_or_default();
    ports
        .into_iter()
        .filter_map(|port| {
            let number = port.get("port")?;
            let target = port.get("targetPort").unwrap_or(number.clone());
            let name = port.get("name").map(|name| name.text().to_owned());
            Some((port, number.number()?, target, name))
        })
        .collect()
}

/// The name that a service gives to a port that its container leaves without one.
pub(crate) fn port_name(cluster: &Cluster, job: &Name, number: u16) -> Option<String> {
    let workload = cluster.jobs.iter().find(|workload| workload.job == *job)?;
    cluster
        .objects
        .iter()
        .filter(|object| object.kind == "Service" && object.namespace == workload.namespace)
        .find_map(|object| {
            let selector = texts(&object.item.at(&["spec", "selector"]));
            let is_selected = cluster
                .selected(&selector, &object.namespace)
                .iter()
                .any(|workload| workload.job == *job);
            let port = ports(object)
                .into_iter()
                .find(|(_, _, target, _)| target.number() == Some(number));
            port.filter(|_| is_selected)
                .and_then(|(_, _, _, name)| name)
        })
}

/// Reads a service: its ports become addresses of the job that it selects.
pub(crate) fn read(
    object: &Object,
    mut fields: Fields,
    cluster: &Cluster,
    drafts: &mut [Draft],
    addresses: &mut Addresses,
    notes: &mut Notes,
) {
    let selector = texts(&object.item.at(&["spec", "selector"]));
    let selected = cluster.selected(&selector, &object.namespace);
    let Some(workload) = selected.first() else {
        let message = match object.item.at(&["spec", "externalName"]) {
            Some(name) => format!(
                "{} stands for {}: give its callers that address",
                object.name,
                name.text()
            ),
            None => format!(
                "Service {} selects none of the jobs of this import",
                object.name
            ),
        };
        notes.lost(&object.item, "", message);
        return;
    };
    let Some(draft) = drafts
        .iter_mut()
        .find(|draft| draft.spec.name == workload.job)
    else {
        return;
    };
    notes.about(Some(draft.spec.name.as_str()));
    if selected.len() > 1 {
        notes.changed(
            &object.item,
            "",
            format!(
                "it selects several jobs; callers find the tasks of '{}'",
                draft.spec.name
            ),
        );
    }
    for (_, number, target, name) in ports(object) {
        let Some(target) = target_number(draft, &target, name, notes) else {
            continue;
        };
        for host in [
            object.name.clone(),
            format!("{}.{}", object.name, object.namespace),
        ] {
            addresses.mapped(&host, &workload.job, number, target);
        }
    }
    object::metadata(fields.take("metadata"), notes);
    if let Some(mut spec) = fields.fields("spec", notes) {
        for item in spec.list("ports", notes) {
            Fields::open(item, notes).close(
                &[
                    (
                        "name",
                        Fate::Ignored("a port has the name that its job gives it"),
                    ),
                    (
                        "port",
                        Fate::Ignored("a port has the number that its task is given"),
                    ),
                    (
                        "targetPort",
                        Fate::Ignored("a port has the number that its task is given"),
                    ),
                    (
                        "appProtocol",
                        Fate::Ignored("a port of a job is a TCP port"),
                    ),
                    (
                        "protocol",
                        Fate::IgnoredIf(&["TCP"], "a port of a job is a TCP port"),
                    ),
                    ("nodePort", Fate::Lost(OUTSIDE)),
                ],
                notes,
            );
        }
        spec.close(SPEC, notes);
    }
    object::close(fields, &[], notes);
}

/// The number that the job listens on for a port of its service; one that is not declared is added.
fn target_number(
    draft: &mut Draft,
    target: &Item,
    name: Option<String>,
    notes: &mut Notes,
) -> Option<u16> {
    if let Some(number) = target.number::<u16>() {
        if draft.port(number).is_none() {
            draft.name_ports(vec![PortMention {
                number,
                name,
                item: target.clone(),
            }]);
        }
        return Some(number);
    }
    let wanted = crate::draft::nearest_name(target.text());
    let listen = draft
        .listens
        .iter()
        .find(|listen| listen.name.as_str() == wanted);
    if listen.is_none() {
        notes.lost(
            target,
            "ports",
            format!("the job has no port '{}'", target.text()),
        );
    }
    listen.map(|listen| listen.number)
}
