//! One container of a pod.

use tw_model::{CommandLine, Hook, Image, Millis, OciImage};

use super::{Cluster, env, probe, service};
use crate::check::{self, Wanted};
use crate::draft::{Draft, PortMention, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::images::full_reference;
use crate::note::Notes;
use crate::quantity;

const SANDBOX: &str = "a task has no rights on its machine, and none can be given to it";

const CONTAINER: Fates = &[
    (
        "name",
        Fate::Ignored(
            "the command is named after its job, what runs beside it after its container",
        ),
    ),
    (
        "imagePullPolicy",
        Fate::Ignored("an image is fetched where it is missing"),
    ),
    (
        "terminationMessagePath",
        Fate::Ignored("why a task ended is on record: `tw events`"),
    ),
    (
        "terminationMessagePolicy",
        Fate::Ignored("why a task ended is on record: `tw events`"),
    ),
    (
        "stdin",
        Fate::Ignored("a task reads nothing from a terminal; `tw exec` gives one"),
    ),
    (
        "stdinOnce",
        Fate::Ignored("a task reads nothing from a terminal; `tw exec` gives one"),
    ),
    (
        "tty",
        Fate::Ignored("a task has no terminal; `tw exec` gives one"),
    ),
    (
        "restartPolicy",
        Fate::Ignored("what runs beside a command ends with it"),
    ),
    (
        "resizePolicy",
        Fate::Ignored("limits of running tasks change in place"),
    ),
    ("volumeDevices", Fate::Lost("a volume is a folder")),
];

/// A container as far as it is its own.
pub(crate) struct Container {
    pub(crate) item: Item,
    /// A draft of its command alone.
    pub(crate) draft: Draft,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) user: Option<String>,
    /// The wait before the stop signal, where all that a hook did was to sleep.
    pub(crate) drain: Option<Millis>,
    /// How long it may take to start.
    pub(crate) start_within: Option<Millis>,
}

/// A volume as a container sees it.
pub(crate) struct Mount {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) sub_path: Option<Item>,
    pub(crate) item: Item,
}

/// Reads one container of the pod that `job` comes from.
pub(crate) fn read(job: &Draft, item: Item, cluster: &Cluster, notes: &mut Notes) -> Container {
    let name = item
        .get("name")
        .map(|name| nearest_name(name.text()))
        .unwrap_or_default();
    let name = name.parse().unwrap_or(job.spec.name.clone());
    let mut draft = Draft::new(name, item.clone());
    let mut fields = Fields::open(item.clone(), notes);
    if let Some(image) = fields.scalar("image", notes) {
        let reference = full_reference(image.text());
        draft.spec.image = Some(Image::Oci(OciImage { reference }));
        draft.image = Some((image.text().to_owned(), image));
    }
    env::read(&mut draft, job, &mut fields, cluster, notes);
    for (key, is_entrypoint) in [("command", true), ("args", false)] {
        let Some(item) = fields.take(key) else {
            continue;
        };
        let words: Vec<String> = item
            .items()
            .iter()
            .map(|word| env::expanded(word, &draft.env, notes))
            .collect();
        if words.is_empty() {
            notes.ignored(&item, "it is empty");
            continue;
        }
        match is_entrypoint {
            true => draft.launch.entrypoint = Some(words),
            false => draft.launch.arguments = Some(words),
        }
        draft.launch.item.get_or_insert(item);
    }
    read_ports(&mut draft, job, &mut fields, cluster, notes);
    if let Some(folder) = fields.scalar("workingDir", notes) {
        draft.spec.workdir = check::absolute(&folder, "workdir", notes);
    }
    read_resources(&mut draft, &mut fields, notes);
    let start_within = probe::read(&mut draft, &mut fields, notes);
    let drain = read_lifecycle(&mut draft, &mut fields, notes);
    let user = fields
        .fields("securityContext", notes)
        .and_then(|fields| security(fields, notes));
    let mounts = read_mounts(&mut fields, notes);
    fields.close(CONTAINER, notes);
    Container {
        item,
        draft,
        mounts,
        user,
        drain,
        start_within,
    }
}

fn read_ports(
    draft: &mut Draft,
    job: &Draft,
    fields: &mut Fields,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    let mut mentions = Vec::new();
    for item in fields.list("ports", notes) {
        let mut port = Fields::open(item.clone(), notes);
        let number = port.number::<u16>("containerPort", notes);
        let name = port
            .scalar("name", notes)
            .map(|name| name.text().to_owned());
        let protocol = port.scalar("protocol", notes);
        port.close(
            &[
                (
                    "hostPort",
                    Fate::Lost("a port of a job has a number of its own on each machine"),
                ),
                (
                    "hostIP",
                    Fate::Lost("a task listens on all addresses of its machine"),
                ),
            ],
            notes,
        );
        if let Some(protocol) = protocol
            && protocol.text() != "TCP"
        {
            notes.lost(&protocol, "ports", "a port of a job is a TCP port");
            continue;
        }
        let Some((number, at)) = number else {
            notes.lost(&item, "ports", "a port without its number (containerPort)");
            continue;
        };
        let name = name.or_else(|| service::port_name(cluster, job.name(), number));
        mentions.push(PortMention {
            number,
            name,
            item: at,
        });
    }
    draft.name_ports(mentions);
}

fn read_mounts(fields: &mut Fields, notes: &mut Notes) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for item in fields.list("volumeMounts", notes) {
        let mut mount = Fields::open(item.clone(), notes);
        let mut text = |key: &str| {
            mount
                .scalar(key, notes)
                .map(|item| item.text().to_owned())
                .unwrap_or_default()
        };
        let (name, path) = (text("name"), text("mountPath"));
        let sub_path = mount.take("subPath").or(mount.take("subPathExpr"));
        mount.close(
            &[
                (
                    "readOnly",
                    Fate::Ignored("files of a package and secrets are read-only, volumes are not"),
                ),
                (
                    "recursiveReadOnly",
                    Fate::Ignored("files of a package and secrets are read-only, volumes are not"),
                ),
                (
                    "mountPropagation",
                    Fate::Lost("a task's mounts are its own"),
                ),
            ],
            notes,
        );
        mounts.push(Mount {
            name,
            path,
            sub_path,
            item,
        });
    }
    mounts
}

fn read_resources(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let mut wanted = Wanted::default();
    let Some(mut resources) = fields.fields("resources", notes) else {
        return wanted.fill(draft, notes);
    };
    for key in ["requests", "limits"] {
        let Some(mut part) = resources.fields(key, notes) else {
            continue;
        };
        let cpu = part.scalar("cpu", notes);
        let memory = part.scalar("memory", notes);
        let disk = part.scalar("ephemeral-storage", notes);
        let cpu = cpu.and_then(|item| read_quantity(item, quantity::kubernetes_cores, notes));
        let memory = memory.and_then(|item| read_quantity(item, quantity::kubernetes_bytes, notes));
        if let Some((bytes, _)) =
            disk.and_then(|item| read_quantity(item, quantity::kubernetes_bytes, notes))
        {
            draft.spec.resources.disk = bytes;
        }
        match key {
            "requests" => (wanted.cpu_request, wanted.memory_request) = (cpu, memory),
            _ => (wanted.cpu_limit, wanted.memory_limit) = (cpu, memory),
        }
        part.close(
            &[("hugepages-*", Fate::Lost("settings of the kernel belong to the machine: Requires(profile=…)")), ("*", Fate::Lost("Twill gives out no devices; keep to machines that have them: Requires(labels={…})"))],
            notes,
        );
    }
    resources.close(
        &[("claims", Fate::Lost("Twill gives out no devices"))],
        notes,
    );
    wanted.fill(draft, notes);
}

fn read_quantity<T>(
    item: Item,
    parse: impl Fn(&str) -> Option<T>,
    notes: &mut Notes,
) -> Option<(T, Item)> {
    match parse(item.text()) {
        Some(value) => Some((value, item)),
        None => {
            notes.lost(
                &item,
                "resources",
                format!("'{}' is not a quantity", item.text()),
            );
            None
        }
    }
}

/// Hooks; gives the wait of a `preStop` that does nothing but sleep.
fn read_lifecycle(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) -> Option<Millis> {
    let mut lifecycle = fields.fields("lifecycle", notes)?;
    let mut drain = None;
    for key in ["postStart", "preStop"] {
        let Some(mut handler) = lifecycle.fields(key, notes) else {
            continue;
        };
        if let Some(seconds) = handler
            .item
            .at(&["sleep", "seconds"])
            .and_then(|item| item.number::<u64>())
        {
            handler.take("sleep");
            if key == "preStop" {
                drain = Some(Millis::seconds(seconds));
            }
        }
        let exec = handler.fields("exec", notes);
        handler.close(
            &[
                (
                    "httpGet",
                    Fate::Lost("a hook is a command: Hook(command=[\"curl\", …])"),
                ),
                ("tcpSocket", Fate::Lost("a hook is a command")),
            ],
            notes,
        );
        let Some(mut exec) = exec else { continue };
        let words: Vec<String> = exec
            .list("command", notes)
            .iter()
            .map(|word| word.text().to_owned())
            .collect();
        exec.close(&[], notes);
        match slept(&words) {
            Some(millis) if key == "preStop" => drain = Some(millis),
            _ if words.is_empty() => {}
            _ => {
                let hook = Hook {
                    command: CommandLine(words),
                    timeout: Millis::seconds(30),
                };
                match key {
                    "postStart" => draft.spec.hooks.post_start = Some(hook),
                    _ => draft.spec.hooks.pre_stop = Some(hook),
                }
            }
        }
    }
    lifecycle.close(
        &[(
            "stopSignal",
            Fate::Lost("the signal that asks a task to end is Stop(signal=…)"),
        )],
        notes,
    );
    drain
}

/// How long a command sleeps, if it does nothing else.
fn slept(words: &[String]) -> Option<Millis> {
    let script = match words {
        [shell, flag, script] if shell.ends_with("sh") && flag == "-c" => script.clone(),
        words => words.join(" "),
    };
    let (program, seconds) = script.trim().split_once(' ')?;
    let seconds = seconds.trim().trim_end_matches('s');
    matches!(program, "sleep" | "/bin/sleep").then_some(())?;
    Some(Millis::seconds(seconds.parse().ok()?))
}

/// Settles a security context; gives the user that it names.
pub(crate) fn security(mut fields: Fields, notes: &mut Notes) -> Option<String> {
    let user = fields
        .scalar("runAsUser", notes)
        .map(|item| item.text().to_owned());
    for key in ["runAsGroup", "fsGroup"] {
        let Some(group) = fields.scalar(key, notes) else {
            continue;
        };
        match user.as_deref() == Some(group.text()) {
            true => notes.ignored(&group, "a task has the groups of its user"),
            false => notes.lost(&group, "user", "a task has the groups of its user"),
        }
    }
    if let Some(mut capabilities) = fields.fields("capabilities", notes) {
        if let Some(dropped) = capabilities.take("drop") {
            notes.ignored(&dropped, "a task has no capabilities");
        }
        capabilities.close(&[("add", Fate::Lost(SANDBOX))], notes);
    }
    if let Some(mut profile) = fields.fields("seccompProfile", notes) {
        if let Some(kind) = profile.scalar("type", notes) {
            match kind.text() {
                "RuntimeDefault" => notes.ignored(&kind, "every task has a filter of system calls"),
                _ => notes.lost(
                    &kind,
                    "",
                    "the filter of system calls is the same for every task",
                ),
            }
        }
        profile.close(
            &[(
                "localhostProfile",
                Fate::Lost("the filter of system calls is the same for every task"),
            )],
            notes,
        );
    }
    fields.close(
        &[
            (
                "allowPrivilegeEscalation",
                Fate::IgnoredIf(
                    &["false"],
                    "a task gains no rights by the programs that it starts",
                ),
            ),
            ("privileged", Fate::IgnoredIf(&["false"], SANDBOX)),
            (
                "readOnlyRootFilesystem",
                Fate::IgnoredIf(
                    &["true"],
                    "the root of a task is read-only; what it writes goes to /tmp or to a volume",
                ),
            ),
            (
                "runAsNonRoot",
                Fate::IgnoredIf(&["true"], "a task runs as nobody unless it names a user"),
            ),
            (
                "fsGroupChangePolicy",
                Fate::Ignored("a volume belongs to the task's user"),
            ),
            (
                "supplementalGroups*",
                Fate::Lost("a task has the groups of its user"),
            ),
            (
                "seLinuxOptions",
                Fate::Lost("the sandbox of a task is the same for all"),
            ),
            (
                "appArmorProfile",
                Fate::Lost("the sandbox of a task is the same for all"),
            ),
            ("windowsOptions", Fate::Lost("Twill runs on Linux")),
            ("procMount", Fate::IgnoredIf(&["Default"], SANDBOX)),
            (
                "sysctls",
                Fate::Lost("settings of the kernel belong to the machine: Requires(profile=…)"),
            ),
        ],
        notes,
    );
    user
}
