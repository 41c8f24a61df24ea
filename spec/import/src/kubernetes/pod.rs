//! A pod: its first container is the job's command, the others run beside it.

use tw_model::{CommandLine, Hook, Kind, Millis, Name, Sidecar};

use super::container::{self, Container};
use super::volumes::{self, PodVolumes};
use super::{Cluster, placement};
use crate::check;
use crate::draft::{Draft, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::settle::{self};

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
    let volumes = PodVolumes::read(&mut pod, notes);
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
    volumes::note_volumes(&volumes, notes);
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
        volumes::add_mount(draft, mount, volumes, cluster, notes);
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
                volumes::add_mount(draft, mount, volumes, cluster, notes);
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
                volumes::add_mount(draft, mount, volumes, cluster, notes);
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
