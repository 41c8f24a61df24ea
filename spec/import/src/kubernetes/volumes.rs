//! The volumes of a pod: where they come from and where its containers see them.

use tw_model::{Bytes, Name, Volume};

use super::Cluster;
use super::container::Mount;
use super::object::{self, Object};
use crate::check;
use crate::draft::{Draft, Moved, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::quantity;
use crate::settle::secret_path;

/// The volumes of a pod by their names.
pub(crate) struct PodVolumes {
    volumes: Vec<(String, Item)>,
}

impl PodVolumes {
    pub(super) fn read(pod: &mut Fields, notes: &mut Notes) -> PodVolumes {
        let named = |item: Item| {
            let name = item.get("name").map(|name| name.text().to_owned());
            (name.unwrap_or_default(), item)
        };
        let volumes = pod.list("volumes", notes);
        PodVolumes {
            volumes: volumes.into_iter().map(named).collect(),
        }
    }
}

pub(super) fn add_volume(
    draft: &mut Draft,
    name: &str,
    path: &str,
    size: Bytes,
    item: &Item,
    notes: &mut Notes,
) -> bool {
    let Some(path) = check::volume_path(path) else {
        notes.lost(
            item,
            "volumes",
            format!("'{path}' cannot be a volume: it is no folder, or one that every task has of its own"),
        );
        return false;
    };
    let overlaps = |other: &str| {
        path.0 == other
            || path.0.starts_with(&format!("{other}/"))
            || other.starts_with(&format!("{}/", path.0))
    };
    if draft
        .spec
        .volumes
        .iter()
        .any(|volume| overlaps(&volume.path.0))
    {
        notes.lost(
            item,
            "volumes",
            format!("{} lies within another volume of the job", path.0),
        );
        return false;
    }
    if let Ok(name) = nearest_name(name).parse::<Name>()
        && !draft.spec.volumes.iter().any(|volume| volume.name == name)
    {
        draft.spec.volumes.push(Volume { name, path, size });
        return true;
    }
    notes.lost(
        item,
        "volumes",
        "a volume is at one path; the program has to find it there",
    );
    false
}

/// Puts what is mounted where the program expects it.
pub(super) fn add_mount(
    draft: &mut Draft,
    mount: Mount,
    volumes: &PodVolumes,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    let Mount {
        name, path, item, ..
    } = &mount;
    if let Some(sub_path) = &mount.sub_path {
        notes.lost(sub_path, "volumes", "a volume is mounted as a whole");
    }
    if draft
        .spec
        .volumes
        .iter()
        .any(|volume| volume.path.0 == path.trim_end_matches('/'))
    {
        notes.ignored(item, "the volume is there already");
        return;
    }
    let Some((_, volume)) = volumes.volumes.iter().find(|(known, _)| known == name) else {
        notes.lost(item, "volumes", format!("the pod has no volume '{name}'"));
        return;
    };
    if let Some(empty) = volume.get("emptyDir") {
        if path == "/tmp" {
            notes.ignored(item, "every task has a /tmp of its own");
            return;
        }
        let size = empty
            .get("sizeLimit")
            .and_then(|item| quantity::kubernetes_bytes(item.text()));
        if add_volume(
            draft,
            name,
            path,
            size.unwrap_or(Bytes::gib(1)).max(Bytes::mib(1)),
            item,
            notes,
        ) {
            notes.changed(
                item,
                "volumes",
                "a volume outlives the task; what is in it is found by the next one of its index",
            );
        }
        return;
    }
    if let Some(claim) = volume.at(&["persistentVolumeClaim", "claimName"]) {
        let size = cluster
            .find("PersistentVolumeClaim", claim.text())
            .and_then(|claim| claim.item.at(&["spec", "resources", "requests", "storage"]))
            .and_then(|size| quantity::kubernetes_bytes(size.text()));
        add_volume(
            draft,
            name,
            path,
            size.unwrap_or(Bytes::gib(1)).max(Bytes::mib(1)),
            item,
            notes,
        );
        if size.is_none() {
            notes.changed(&claim, "volumes", "the claim is not part of this import: the volume holds 1 GiB unless it is given a size");
        }
        return;
    }
    if volume.get("secret").is_some() {
        return add_secret_mount(draft, volume, path, cluster, notes);
    }
    let what = volume
        .entries()
        .into_iter()
        .find(|(key, _)| key != "name")
        .map(|(key, _)| key)
        .unwrap_or_default();
    let message = match what.as_str() {
        "configMap" | "projected" => format!(
            "put the files into a folder of the repository, give it with packages=[Package.folder(…)], and tell the program where it is instead of {path}"
        ),
        "hostPath" => "a task sees no folder of its machine".to_owned(),
        "downwardAPI" => "a task finds its names in TW_TASK, TW_JOB and TW_INDEX".to_owned(),
        _ => format!("a {what} has no counterpart; a volume is a folder on the task's machine"),
    };
    notes.lost(item, "volumes", message);
}

/// The keys of a secret as files: each is a secret of its own.
fn add_secret_mount(
    draft: &mut Draft,
    volume: &Item,
    path: &str,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    let secret = volume
        .at(&["secret", "secretName"])
        .unwrap_or(object::nothing(volume));
    let items: Vec<(String, String)> = volume
        .at(&["secret", "items"])
        .map(|item| item.items())
        .unwrap_or_default()
        .iter()
        .map(|item| {
            let text = |key: &str| {
                item.get(key)
                    .map(|item| item.text().to_owned())
                    .unwrap_or_default()
            };
            (text("key"), text("path"))
        })
        .collect();
    let keys: Vec<(String, String)> = match items.is_empty() {
        false => items,
        true => {
            let keys = cluster
                .find("Secret", secret.text())
                .map(super::env::secret_keys)
                .unwrap_or_default();
            keys.into_iter().map(|key| (key.clone(), key)).collect()
        }
    };
    if keys.is_empty() {
        let message = format!(
            "name the keys of the secret '{}' that are read below {path}: secrets=[Secret(name=…)]",
            secret.text()
        );
        notes.decide(volume, "secrets", message);
        return;
    }
    for (key, file) in keys {
        let name = nearest_name(&format!("{}-{key}", secret.text()));
        let Ok(name) = name.parse::<Name>() else {
            continue;
        };
        draft.moved.push(Moved {
            from: format!("{}/{file}", path.trim_end_matches('/')),
            to: secret_path(&name),
            item: volume.clone(),
        });
        draft.add_secret(name);
    }
}

/// The claims of a stateful set: a volume for each task.
pub(crate) fn claim_templates(draft: &mut Draft, claims: &[Item], notes: &mut Notes) {
    for claim in claims {
        let mut fields = Fields::open(claim.clone(), notes);
        let name = claim
            .at(&["metadata", "name"])
            .map(|item| item.text().to_owned())
            .unwrap_or_default();
        object::metadata(fields.take("metadata"), notes);
        let mut size = None;
        if let Some(mut spec) = fields.fields("spec", notes) {
            size = claim_size(&mut spec, notes);
            spec.close(CLAIM, notes);
        }
        object::close(fields, &[], notes);
        let path = mount_path(draft, &name);
        match path {
            Some(path) => {
                add_volume(
                    draft,
                    &name,
                    &path,
                    size.unwrap_or(Bytes::gib(1)).max(Bytes::mib(1)),
                    claim,
                    notes,
                );
            }
            None => notes.lost(claim, "volumes", "no container mounts it"),
        }
    }
}

/// Where a container of the draft's own object mounts a volume.
pub(super) fn mount_path(draft: &Draft, name: &str) -> Option<String> {
    let pod = draft.origin.at(&["spec", "template", "spec"])?;
    let containers = pod
        .get("containers")
        .map(|item| item.items())
        .unwrap_or_default();
    containers.iter().find_map(|container| {
        let mounts = container.get("volumeMounts")?.items();
        let mount = mounts
            .into_iter()
            .find(|mount| mount.get("name").is_some_and(|item| item.text() == name))?;
        mount.get("mountPath").map(|path| path.text().to_owned())
    })
}

const CLAIM: Fates = &[
    (
        "accessModes",
        Fate::IgnoredIf(
            &[],
            "a volume belongs to one task; what several share they reach over the network",
        ),
    ),
    (
        "storageClassName",
        Fate::Lost(
            "a volume is a folder on the task's machine; keep to machines with the right disks: Requires(labels={…})",
        ),
    ),
    (
        "volumeMode",
        Fate::IgnoredIf(&["Filesystem"], "a volume is a folder"),
    ),
    ("volumeName", Fate::Lost("a volume begins empty")),
    ("dataSource*", Fate::Lost("a volume begins empty")),
    (
        "selector",
        Fate::Lost("a volume is a folder on the task's machine"),
    ),
];

fn claim_size(spec: &mut Fields, notes: &mut Notes) -> Option<Bytes> {
    if let Some(modes) = spec.item.get("accessModes")
        && modes
            .items()
            .iter()
            .all(|mode| ["ReadWriteOnce", "ReadWriteOncePod"].contains(&mode.text()))
        && let Some(modes) = spec.take("accessModes")
    {
        notes.ignored(&modes, "a volume belongs to one task");
    }
    let mut resources = spec.fields("resources", notes)?;
    let mut requests = resources.fields("requests", notes)?;
    let storage = requests.scalar("storage", notes);
    requests.close(&[], notes);
    resources.close(
        &[("limits", Fate::Ignored("a volume holds what it asks for"))],
        notes,
    );
    storage.and_then(|item| quantity::kubernetes_bytes(item.text()))
}

/// A claim by itself: the job that mounts it has its size.
pub(crate) fn claim(object: &Object, mut fields: Fields, notes: &mut Notes) {
    object::metadata(fields.take("metadata"), notes);
    if let Some(mut spec) = fields.fields("spec", notes) {
        if let Some(size) = claim_size(&mut spec, notes) {
            notes.ignored(
                &object.item,
                format!("the job that mounts it has a volume of {size}"),
            );
        }
        spec.close(CLAIM, notes);
    }
    object::close(fields, &[], notes);
}

/// Notes what volumes say beyond what mounts have taken.
pub(super) fn note_volumes(volumes: &PodVolumes, notes: &mut Notes) {
    for (_, item) in &volumes.volumes {
        notes.ignored(item, "it is where a container mounts it");
    }
}
