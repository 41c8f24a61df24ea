//! Objects of the API: their kinds, names and labels, and what becomes of those that run nothing.

use std::rc::Rc;

use crate::document::{Node, Value};
use crate::error::ImportError;
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;

/// An object with its kind and name.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) item: Item,
}

const TYPE: Fates = &[
    ("apiVersion", Fate::Ignored("it says what the object is")),
    ("kind", Fate::Ignored("it says what the object is")),
    (
        "status",
        Fate::Ignored("it says how the object was, not how it should be"),
    ),
];

/// The keys of an object that say what it is, and its state; to be settled for each.
pub(crate) fn close(fields: Fields, more: Fates, notes: &mut Notes) {
    let mut fields = fields;
    for (key, fate) in TYPE {
        if let (Some(item), Fate::Ignored(why)) = (fields.take(key), fate) {
            notes.ignored(&item, *why);
        }
    }
    fields.close(more, notes);
}

/// The objects of all documents; lists are opened.
pub(crate) fn all(documents: &[Item], notes: &mut Notes) -> Result<Vec<Object>, ImportError> {
    let mut objects = Vec::new();
    for document in documents {
        add(document, &mut objects, notes)?;
    }
    Ok(objects)
}

fn add(item: &Item, objects: &mut Vec<Object>, notes: &mut Notes) -> Result<(), ImportError> {
    if item.is_list() {
        return item
            .items()
            .iter()
            .try_for_each(|item| add(item, objects, notes));
    }
    let text = |keys: &[&str]| {
        item.at(keys)
            .map(|item| item.text().to_owned())
            .filter(|text| !text.is_empty())
    };
    let invalid = |message: &str| ImportError::Invalid {
        file: item.file.to_string(),
        line: item.place.line,
        column: item.place.column,
        path: if item.path.is_empty() {
            "the document".to_owned()
        } else {
            item.path.clone()
        },
        message: message.to_owned(),
    };
    let Some(kind) = text(&["kind"]) else {
        return Err(invalid("an object has a kind"));
    };
    if kind.ends_with("List")
        && let Some(items) = item.get("items")
    {
        let mut list = Fields::open(item.clone(), notes);
        list.take("items");
        close(
            list,
            &[("metadata", Fate::Ignored("a list is the objects in it"))],
            notes,
        );
        return items
            .items()
            .iter()
            .try_for_each(|item| add(item, objects, notes));
    }
    let name = text(&["metadata", "name"]).or_else(|| {
        text(&["metadata", "generateName"]).map(|name| name.trim_end_matches('-').to_owned())
    });
    let Some(name) = name else {
        return Err(invalid(&format!("a {kind} has a name: metadata.name")));
    };
    let namespace = text(&["metadata", "namespace"]).unwrap_or_default();
    let item = Item {
        path: format!("{kind}/{name}"),
        ..item.clone()
    };
    objects.push(Object {
        kind,
        name,
        namespace,
        item,
    });
    Ok(())
}

/// The labels in the metadata of an object or a template.
pub(crate) fn labels(item: &Item) -> Vec<(String, String)> {
    texts(&item.at(&["metadata", "labels"]))
}

/// A mapping of texts.
pub(crate) fn texts(item: &Option<Item>) -> Vec<(String, String)> {
    let entries = item.as_ref().map(|item| item.entries()).unwrap_or_default();
    entries
        .into_iter()
        .map(|(key, item)| (key, item.text().to_owned()))
        .collect()
}

const METADATA: Fates = &[
    ("name", Fate::Ignored("it names the object")),
    ("generateName", Fate::Ignored("it names the object")),
    (
        "namespace",
        Fate::Ignored("it says where the object belongs"),
    ),
    (
        "labels",
        Fate::Ignored("they tell objects of Kubernetes apart"),
    ),
    (
        "creationTimestamp",
        Fate::Ignored("it says how the object was, not how it should be"),
    ),
    (
        "resourceVersion",
        Fate::Ignored("it says how the object was, not how it should be"),
    ),
    (
        "uid",
        Fate::Ignored("it says how the object was, not how it should be"),
    ),
    (
        "generation",
        Fate::Ignored("it says how the object was, not how it should be"),
    ),
    (
        "selfLink",
        Fate::Ignored("it says how the object was, not how it should be"),
    ),
    (
        "managedFields",
        Fate::Ignored("it says how the object was, not how it should be"),
    ),
    (
        "ownerReferences",
        Fate::Ignored("what owns it is imported by itself"),
    ),
    (
        "finalizers",
        Fate::Ignored("only controllers of Kubernetes read them"),
    ),
];

const ANNOTATIONS: Fates = &[
    (
        "kubectl.kubernetes.io/*",
        Fate::Ignored("kubectl's own notes"),
    ),
    (
        "deployment.kubernetes.io/*",
        Fate::Ignored("notes of Kubernetes itself"),
    ),
    (
        "autoscaling.alpha.kubernetes.io/*",
        Fate::Ignored("notes of Kubernetes itself"),
    ),
    (
        "kubernetes.io/change-cause",
        Fate::Ignored("`tw history` shows why a job changed"),
    ),
    ("meta.helm.sh/*", Fate::Ignored("Helm's own notes")),
    (
        "helm.sh/*",
        Fate::Lost("Helm gives it its meaning, and Helm is not there"),
    ),
    ("kompose.*", Fate::Ignored("kompose's own notes")),
    (
        "checksum/*",
        Fate::Ignored("a change of what a job uses starts its tasks again by itself"),
    ),
];

/// Settles the metadata of an object whose labels mean nothing outside Kubernetes.
pub(crate) fn metadata(item: Option<Item>, notes: &mut Notes) {
    let Some(item) = item else { return };
    let mut fields = Fields::open(item, notes);
    annotations(&mut fields, notes);
    fields.close(METADATA, notes);
}

pub(crate) fn annotations(metadata: &mut Fields, notes: &mut Notes) {
    let Some(annotations) = metadata.take("annotations") else {
        return;
    };
    for (key, item) in annotations.entries() {
        let known = ANNOTATIONS
            .iter()
            .find(|(name, _)| match name.strip_suffix('*') {
                Some(start) => key.starts_with(start),
                None => *name == key,
            });
        match known {
            Some((_, Fate::Ignored(why))) => notes.ignored(&item, *why),
            Some((_, Fate::Lost(why) | Fate::IgnoredIf(_, why))) => {
                notes.lost(&item, "labels", *why)
            }
            None => notes.lost(
                &item,
                "labels",
                "what reads it in Kubernetes does not read it here",
            ),
        }
    }
}

/// Labels that only say again what a job is called, or which tool wrote a manifest.
pub(crate) fn is_idle_label(key: &str, value: &str, job: &str) -> bool {
    let names = [
        "app",
        "name",
        "run",
        "k8s-app",
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "service",
        "io.kompose.service",
    ];
    let tools = [
        "helm.sh/chart",
        "app.kubernetes.io/managed-by",
        "heritage",
        "release",
        "chart",
        "pod-template-hash",
    ];
    (names.contains(&key) && value == job) || tools.contains(&key)
}

/// Notes an object that runs nothing.
pub(crate) fn other(object: &Object, mut fields: Fields, notes: &mut Notes) {
    let kind = object.kind.as_str();
    let why = match kind {
        "Namespace" | "ServiceAccount"
            if fields.item.entries().iter().all(|(key, _)| {
                ["apiVersion", "kind", "metadata", "spec", "status"].contains(&key.as_str())
            }) =>
        {
            metadata(fields.take("metadata"), notes);
            let why = match kind {
                "Namespace" => "a namespace is there as soon as a job is in it",
                _ => "a task has no account at Twill",
            };
            notes.ignored(&object.item, why);
            return close(
                fields,
                &[("spec", Fate::Ignored("Kubernetes sets it by itself"))],
                notes,
            );
        }
        "ServiceAccount" => {
            "a task has no account at Twill; what it proves to others by one it needs as a secret"
        }
        "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => {
            "tasks have no rights at Twill, and need none to run"
        }
        "Ingress" | "IngressClass" | "Gateway" | "HTTPRoute" | "GRPCRoute" | "TCPRoute"
        | "VirtualService" => {
            "callers from outside come through a proxy of yours: run one as a job that finds others by {service:JOB:PORT}"
        }
        "NetworkPolicy" => "Twill does not keep jobs apart by networks",
        "PersistentVolume" | "StorageClass" => {
            "a volume is a folder on the task's machine: volumes=[Volume(…)]"
        }
        "PriorityClass" => "jobs have a priority from 0 to 100: priority=50",
        "ResourceQuota" | "LimitRange" => {
            "what a team may use is its allowance, which the cluster's operators keep"
        }
        "CustomResourceDefinition"
        | "MutatingWebhookConfiguration"
        | "ValidatingWebhookConfiguration"
        | "APIService" => "Twill is not extended by objects; policy is Python in a POLICY.py",
        "PodSecurityPolicy" => "the sandbox of a task is the same for all, and strict",
        "Endpoints" | "EndpointSlice" => {
            "Twill finds the tasks of its own jobs; give addresses of others as variables"
        }
        "ServiceMonitor" | "PodMonitor" | "PrometheusRule" => {
            "figures of every task are exported by its machine"
        }
        "Kustomization" | "Component" => "build it first: `kubectl kustomize . | tw import -`",
        _ => "it runs nothing that Twill could run",
    };
    notes.lost(&object.item, "", format!("{kind} {}: {why}", object.name));
}

/// A node that holds nothing, for a mapping that is not there.
pub(crate) fn nothing(at: &Item) -> Item {
    Item {
        node: Rc::new(Node::new(at.place, Value::Null)),
        ..at.clone()
    }
}
