//! A pod: its first container is the job's command, the others run beside it.

use tw_model::{Bytes, CommandLine, Hook, Kind, Millis, Name, Sidecar, Volume};

use super::container::{self, Container, Mount};
use super::object::{self, Object};
use super::{Cluster, placement};
use crate::check;
use crate::draft::{Draft, Moved, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::quantity;
use crate::settle::{self, secret_path};

const SANDBOX: &str = "a task has no rights on its machine, and none can be given to it";
const ACCOUNT: &str =
    "a task has no account at Twill; what it proves to others by one it needs as a secret";

const POD: Fates = &[
    (
        "automountServiceAccountToken",
        Fate::IgnoredIf(&["false"], ACCOUNT),
    ),
    (
        "serviceAccountName",
        Fate::Ignored("a task has no account at Twill"),
    ),
    (
        "serviceAccount",
        Fate::Ignored("a task has no account at Twill"),
    ),
    (
        "dnsPolicy",
        Fate::Ignored("a task has the resolver of its machine"),
    ),
    (
        "dnsConfig",
        Fate::Lost("a task has the resolver of its machine"),
    ),
    (
        "enableServiceLinks",
        Fate::Ignored("jobs are found by {service:JOB:PORT}"),
    ),
    (
        "hostAliases",
        Fate::Lost("a task has the hosts file of its machine"),
    ),
    ("hostIPC", Fate::IgnoredIf(&["false"], SANDBOX)),
    (
        "hostNetwork",
        Fate::Ignored("a task listens on ports of its machine"),
    ),
    ("hostPID", Fate::IgnoredIf(&["false"], SANDBOX)),
    ("hostUsers", Fate::IgnoredIf(&["false"], SANDBOX)),
    (
        "hostname",
        Fate::Ignored("a task has the host name JOB-INDEX"),
    ),
    (
        "subdomain",
        Fate::Ignored("tasks are found by {service:JOB:PORT}"),
    ),
    (
        "setHostnameAsFQDN",
        Fate::Ignored("a task has the host name JOB-INDEX"),
    ),
    (
        "imagePullSecrets",
        Fate::Lost("who may fetch an image is for the machines to know"),
    ),
    (
        "nodeName",
        Fate::Lost("keep to machines by what they have: Requires(labels={…})"),
    ),
    ("os", Fate::Ignored("Twill runs on Linux")),
    (
        "overhead",
        Fate::Ignored("the sandbox costs a task nothing of its memory"),
    ),
    (
        "preemptionPolicy",
        Fate::Lost("a job may displace others of lower priority"),
    ),
    (
        "priorityClassName",
        Fate::Lost("jobs have a priority from 0 to 100: priority=80"),
    ),
    (
        "priority",
        Fate::Lost("jobs have a priority from 0 to 100: priority=80"),
    ),
    (
        "readinessGates",
        Fate::Lost("a task is ready when its checks succeed: health=[…]"),
    ),
    (
        "resourceClaims",
        Fate::Lost(
            "Twill gives out no devices; keep to machines that have them: Requires(labels={…})",
        ),
    ),
    (
        "runtimeClassName",
        Fate::Lost("every task runs in Twill's own sandbox"),
    ),
    ("schedulerName", Fate::Ignored("Twill has one scheduler")),
    (
        "schedulingGates",
        Fate::Lost("a task starts as soon as there is room"),
    ),
    (
        "shareProcessNamespace",
        Fate::Ignored("what runs beside the command is in the same sandbox"),
    ),
    (
        "tolerations",
        Fate::Ignored("machines have no taints; what a job needs of them it says: Requires(…)"),
    ),
    (
        "ephemeralContainers",
        Fate::Lost("`tw exec` runs a command in a task"),
    ),
];

/// The volumes of a pod by their names.
pub(crate) struct PodVolumes {
    volumes: Vec<(String, Item)>,
}

/// Reads the spec of a pod into a draft.
pub(crate) fn read(draft: &mut Draft, mut pod: Fields, cluster: &Cluster, notes: &mut Notes) {
    if let Some((grace, _)) = pod.number::<u64>("terminationGracePeriodSeconds", notes) {
        draft.spec.stop.grace = Millis::seconds(grace.max(1));
    }
    read_restart(draft, &mut pod, notes);
    if let Some((deadline, item)) = pod.number::<u64>("activeDeadlineSeconds", notes) {
        match draft.spec.kind {
            Kind::Batch => draft.spec.timeout = Some(Millis::seconds(deadline)),
            _ => notes.lost(
                &item,
                "timeout",
                "only a batch job has a time in which it ends",
            ),
        }
    }
    let user = pod
        .fields("securityContext", notes)
        .and_then(|fields| container::security(fields, notes));
    if let Some(user) = user {
        draft.spec.user = user;
    }
    placement::read(draft, &mut pod, cluster, notes);
    let volumes = PodVolumes {
        volumes: pod
            .list("volumes", notes)
            .into_iter()
            .map(|item| {
                (
                    item.get("name")
                        .map(|name| name.text().to_owned())
                        .unwrap_or_default(),
                    item,
                )
            })
            .collect(),
    };
    let inits = pod.list("initContainers", notes);
    let mut containers: Vec<Container> = pod
        .list("containers", notes)
        .into_iter()
        .map(|item| container::read(draft, item, cluster, notes))
        .collect();
    let (early, beside): (Vec<Item>, Vec<Item>) = inits.into_iter().partition(|item| {
        item.get("restartPolicy")
            .is_none_or(|policy| policy.text() != "Always")
    });
    let beside = beside
        .into_iter()
        .map(|item| container::read(draft, item, cluster, notes))
        .collect::<Vec<_>>();
    containers.extend(beside);
    let mut containers = containers.into_iter();
    if let Some(main) = containers.next() {
        add_main(draft, main, &volumes, cluster, notes);
    }
    for container in containers {
        add_sidecar(draft, container, &volumes, cluster, notes);
    }
    add_inits(draft, early, &volumes, cluster, notes);
    note_volumes(&volumes, notes);
    pod.close(POD, notes);
}

fn read_restart(draft: &mut Draft, pod: &mut Fields, notes: &mut Notes) {
    let Some(policy) = pod.scalar("restartPolicy", notes) else {
        return;
    };
    match (policy.text(), draft.spec.kind) {
        ("Always", Kind::Batch) => notes.changed(
            &policy,
            "restart",
            "a batch task is started again until it has succeeded",
        ),
        ("Always", _) => notes.ignored(&policy, "a service is always started again"),
        ("OnFailure" | "Never", Kind::Batch) => notes.ignored(
            &policy,
            "a batch task is tried again as often as Restart(attempts=…) says",
        ),
        _ => notes.changed(
            &policy,
            "restart",
            "a service is started again whenever it ends; what ends by itself is kind=\"batch\"",
        ),
    }
}

/// The first container: the job's own command.
fn add_main(
    draft: &mut Draft,
    main: Container,
    volumes: &PodVolumes,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    let part = main.draft;
    draft.image = part.image;
    draft.spec.image = part.spec.image;
    draft.launch = part.launch;
    draft.env = part.env;
    draft.spec.secrets = part.spec.secrets;
    draft.spec.workdir = part.spec.workdir;
    draft.spec.health = part.spec.health;
    draft.spec.resources = part.spec.resources;
    draft.spec.limits = part.spec.limits;
    draft.spec.hooks = part.spec.hooks;
    draft.listens = part.listens;
    draft.spec.ports = part.spec.ports;
    if let Some(drain) = main.drain {
        draft.spec.stop.drain = drain;
    }
    if let Some(deadline) = main.start_within {
        draft.spec.rollout.deadline = deadline;
    }
    if let Some(user) = main.user {
        draft.spec.user = user;
    }
    for mount in main.mounts {
        add_mount(draft, mount, volumes, cluster, notes);
    }
}

/// Another container: a program in the same sandbox, within the same limits.
fn add_sidecar(
    draft: &mut Draft,
    container: Container,
    volumes: &PodVolumes,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    let Container {
        draft: mut part,
        item,
        mounts,
        ..
    } = container;
    settle::prepare(&mut part, notes);
    note_image(draft, &part, "a sidecar", notes);
    for listen in &part.listens {
        if !draft.spec.ports.contains(&listen.name) {
            draft.spec.ports.push(listen.name.clone());
            draft.listens.push(listen.clone());
        }
    }
    for check in part.spec.health.clone() {
        let key = tw_model::Keyed::key(&check);
        if !draft
            .spec
            .health
            .iter()
            .any(|known| tw_model::Keyed::key(known) == key)
        {
            draft.spec.health.push(check);
        }
    }
    let resources = &mut draft.spec.resources;
    resources.cpu = resources.cpu + part.spec.resources.cpu;
    resources.memory = resources.memory + part.spec.resources.memory;
    crate::check::add_limits(&mut draft.spec.limits, &part.spec.resources);
    notes.changed(
        &item,
        "sidecars",
        "its cores and memory are added to those of the job, which it shares",
    );
    let mut shared = Vec::new();
    for mount in mounts {
        let name = nearest_name(&mount.name);
        match draft
            .spec
            .volumes
            .iter()
            .any(|volume| volume.name.as_str() == name)
        {
            true => shared.extend(name.parse::<Name>()),
            false => {
                add_mount(draft, mount, volumes, cluster, notes);
                if draft
                    .spec
                    .volumes
                    .iter()
                    .any(|volume| volume.name.as_str() == name)
                {
                    shared.extend(name.parse::<Name>());
                }
            }
        }
    }
    shared.dedup();
    part.fill_env();
    part.spec
        .secrets
        .iter()
        .for_each(|secret| draft.add_secret(secret.name.clone()));
    draft.spec.sidecars.push(Sidecar {
        name: part.spec.name.clone(),
        command: part.spec.command.clone(),
        env: part.spec.env.clone(),
        volumes: shared,
    });
}

fn note_image(draft: &Draft, part: &Draft, what: &str, notes: &mut Notes) {
    if let Some((reference, item)) = &part.image
        && draft.image.as_ref().map(|(main, _)| main) != Some(reference)
    {
        notes.lost(
            item,
            "sidecars",
            format!("{what} runs in the job's own root: {reference} has to be part of it"),
        );
    }
}

/// Containers that run before the others: one command before the job's own.
fn add_inits(
    draft: &mut Draft,
    inits: Vec<Item>,
    volumes: &PodVolumes,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    let several = inits.len() > 1;
    let first = inits.first().cloned();
    let mut commands = Vec::new();
    for item in inits {
        let start = notes.list.len();
        let Container {
            draft: mut part,
            mounts,
            ..
        } = container::read(draft, item, cluster, notes);
        settle::prepare(&mut part, notes);
        if let Some((reference, item)) = &part.image
            && draft.image.as_ref().map(|(main, _)| main) != Some(reference)
        {
            notes.lost(
                item,
                "hooks",
                format!("a hook runs in the job's own root: {reference} has to be part of it"),
            );
        }
        let words = check::hook_words(&part, draft, notes);
        notes.retag(start, "hooks");
        part.spec
            .secrets
            .iter()
            .for_each(|secret| draft.add_secret(secret.name.clone()));
        for mount in mounts {
            let name = nearest_name(&mount.name);
            if !draft
                .spec
                .volumes
                .iter()
                .any(|volume| volume.name.as_str() == name)
            {
                add_mount(draft, mount, volumes, cluster, notes);
            }
        }
        commands.push(words);
    }
    if several && let Some(item) = first {
        notes.changed(
            &item,
            "hooks",
            "a job has one hook of a kind: a shell runs the commands in turn",
        );
    }
    // An init container has no time limit; half an hour is one that only a stuck one meets.
    let timeout = Millis::minutes(30);
    draft.spec.hooks.pre_start = check::in_turn(commands).map(|words| Hook {
        command: CommandLine(words),
        timeout,
    });
}

fn add_volume(
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
fn add_mount(
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
fn mount_path(draft: &Draft, name: &str) -> Option<String> {
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
fn note_volumes(volumes: &PodVolumes, notes: &mut Notes) {
    for (_, item) in &volumes.volumes {
        notes.ignored(item, "it is where a container mounts it");
    }
}
