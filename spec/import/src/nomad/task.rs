//! The tasks of a group, by what drives them.

use tw_model::{Bytes, CommandLine, Cores, Hook, Image, Millis, Name, OciImage, Sidecar, Volume};

use super::text::{Names, filled};
use super::{close, count, millis, network, placement};
use crate::check;
use crate::draft::{Draft, Listen, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::images::full_reference;
use crate::note::Notes;
use crate::settle::{self, Addresses};

const SANDBOX: &str = "a task has no rights on its machine, and none can be given to it";

const TASK: Fates = &[
    (
        "Name",
        Fate::Ignored("the command is named after its job, what runs beside it after its task"),
    ),
    (
        "Leader",
        Fate::Ignored("what runs beside the command ends with it"),
    ),
    (
        "LogConfig",
        Fate::Ignored("output is kept, compressed and bounded, for every task: `tw logs`"),
    ),
    (
        "Artifacts",
        Fate::Lost("what a task needs is in its package or image: packages=[Package.folder(…)]"),
    ),
    (
        "Vault",
        Fate::Lost("a secret is a file at /secrets/NAME: secrets=[Secret(name=…)]"),
    ),
    ("Consul", Fate::Lost("jobs are found by {service:JOB:PORT}")),
    (
        "DispatchPayload",
        Fate::Lost("a job runs with what its spec says"),
    ),
    ("Kind", Fate::Ignored("a task needs no proxy")),
    (
        "ScalingPolicies",
        Fate::Lost("resources follow what is used: limits=Limits(mode=\"auto\")"),
    ),
    ("Identity", Fate::Lost("a task has no account at Twill")),
    ("Identities", Fate::Lost("a task has no account at Twill")),
    (
        "CSIPluginConfig",
        Fate::Lost("a volume is a folder on the task's machine"),
    ),
    ("Schedule", Fate::Lost("a task runs as long as its job")),
    ("Actions", Fate::Lost("`tw exec` runs a command in a task")),
    (
        "Secrets",
        Fate::Lost("a secret is a file at /secrets/NAME: secrets=[Secret(name=…)]"),
    ),
    (
        "RestartPolicy",
        Fate::Ignored("tasks are started again as their group says"),
    ),
];

/// What is the same in the configurations of Docker and Podman.
const CONTAINER: Fates = &[
    ("ports", Fate::Ignored("a task has all ports of its job")),
    (
        "force_pull",
        Fate::Ignored("an image is fetched where it is missing"),
    ),
    (
        "image_pull_timeout",
        Fate::Ignored("an image is fetched before its task starts"),
    ),
    (
        "auth*",
        Fate::Lost("who may fetch an image is for the machines to know"),
    ),
    ("privileged", Fate::IgnoredIf(&["false"], SANDBOX)),
    ("cap_drop", Fate::Ignored("a task has no capabilities")),
    ("cap_add", Fate::Lost(SANDBOX)),
    ("devices", Fate::Lost(SANDBOX)),
    ("dns*", Fate::Lost("a task has the resolver of its machine")),
    (
        "extra_hosts",
        Fate::Lost("a task has the hosts file of its machine"),
    ),
    (
        "hostname",
        Fate::Ignored("a task has the host name JOB-INDEX"),
    ),
    (
        "interactive",
        Fate::Ignored("a task reads nothing from a terminal; `tw exec` gives one"),
    ),
    (
        "tty",
        Fate::Ignored("a task has no terminal; `tw exec` gives one"),
    ),
    ("labels", Fate::Ignored("only tools of Docker read them")),
    (
        "logging",
        Fate::Ignored("output is kept, compressed and bounded, for every task: `tw logs`"),
    ),
    (
        "network_mode",
        Fate::Ignored("a task listens on ports of its machine"),
    ),
    (
        "network_aliases",
        Fate::Ignored("tasks find each other by {service:JOB:PORT}"),
    ),
    (
        "readonly_rootfs",
        Fate::IgnoredIf(
            &["true"],
            "the root of a task is read-only; what it writes goes to /tmp or to a volume",
        ),
    ),
    (
        "volumes",
        Fate::Lost(
            "a task sees no folder of its machine; what it keeps is in a volume, what it needs in a package",
        ),
    ),
    (
        "mount*",
        Fate::Lost(
            "a task sees no folder of its machine; what it keeps is in a volume, what it needs in a package",
        ),
    ),
    (
        "ulimit",
        Fate::Lost(
            "the number of processes is Resources(pids=…); other limits are those of the machine",
        ),
    ),
    (
        "shm_size",
        Fate::Lost("the size of /dev/shm is the same for every task"),
    ),
    (
        "memory_hard_limit",
        Fate::Lost("the most memory that a task may hold is Resources(memory=…)"),
    ),
    ("*", Fate::Lost("every task runs in Twill's own sandbox")),
];

/// A task as far as it is its own.
struct Part {
    draft: Draft,
    item: Item,
    /// When it runs, if it is not a main task.
    hook: Option<(String, bool)>,
}

/// Reads the tasks: the main one is the job's command, the others run beside it or around its life.
pub(crate) fn read_all(
    draft: &mut Draft,
    tasks: Vec<Item>,
    volumes: &[(String, Item)],
    names: &Names<'_>,
    addresses: &mut Addresses,
    notes: &mut Notes,
) {
    let mut parts: Vec<Part> = tasks
        .into_iter()
        .map(|item| read(draft, item, volumes, names, addresses, notes))
        .collect();
    let leads = |part: &Part| {
        part.item
            .get("Leader")
            .is_some_and(|item| item.truth() == Some(true))
    };
    let main = parts
        .iter()
        .position(|part| part.hook.is_none() && leads(part))
        .or_else(|| parts.iter().position(|part| part.hook.is_none()));
    let Some(main) = main else {
        notes.decide(
            &draft.origin.clone(),
            "command",
            "none of the group's tasks is its main one",
        );
        return;
    };
    let Part { draft: part, .. } = parts.remove(main);
    draft.image = part.image;
    draft.spec.image = part.spec.image;
    draft.launch = part.launch;
    draft.env = part.env;
    draft.spec.user = part.spec.user;
    draft.spec.workdir = part.spec.workdir;
    draft.spec.stop.signal = part.spec.stop.signal;
    draft.spec.stop.grace = part.spec.stop.grace;
    let disk = draft.spec.resources.disk;
    draft.spec.resources = part.spec.resources;
    draft.spec.resources.disk = disk;
    draft.spec.limits = part.spec.limits;
    part.spec
        .secrets
        .into_iter()
        .for_each(|secret| draft.add_secret(secret.name));
    let mut hooks: Vec<(String, Vec<String>, Item)> = Vec::new();
    for part in parts {
        add_part(draft, part, &mut hooks, notes);
    }
    for moment in ["prestart", "poststart", "poststop"] {
        let of: Vec<_> = hooks.iter().filter(|(hook, _, _)| hook == moment).collect();
        if of.len() > 1 {
            notes.changed(
                &of[0].2,
                "hooks",
                "a job has one hook of a kind: a shell runs the commands in turn",
            );
        }
        let commands = of.iter().map(|(_, words, _)| words.clone()).collect();
        let hook = check::in_turn(commands).map(|words| Hook {
            command: CommandLine(words),
            timeout: Millis::minutes(30),
        });
        let place = match moment {
            "prestart" => &mut draft.spec.hooks.pre_start,
            "poststart" => &mut draft.spec.hooks.post_start,
            _ => &mut draft.spec.hooks.post_stop,
        };
        *place = hook;
    }
}

/// A task that is not the main one: a hook, or a program beside the command.
fn add_part(
    draft: &mut Draft,
    part: Part,
    hooks: &mut Vec<(String, Vec<String>, Item)>,
    notes: &mut Notes,
) {
    let Part {
        draft: mut part,
        item,
        hook,
    } = part;
    let start = notes.list.len();
    settle::prepare(&mut part, notes);
    if let Some((reference, at)) = &part.image
        && draft.image.as_ref().map(|(main, _)| main) != Some(reference)
    {
        notes.lost(
            at,
            "image",
            format!("it runs in the job's own root: {reference} has to be part of it"),
        );
    }
    part.spec
        .secrets
        .iter()
        .for_each(|secret| draft.add_secret(secret.name.clone()));
    match hook {
        Some((moment, false)) => {
            let words = check::hook_words(&part, draft, notes);
            notes.retag(start, "hooks");
            hooks.push((moment, words, item));
        }
        _ => {
            part.fill_env();
            let resources = &mut draft.spec.resources;
            resources.cpu = resources.cpu + part.spec.resources.cpu;
            resources.memory = resources.memory + part.spec.resources.memory;
            check::add_limits(&mut draft.spec.limits, &part.spec.resources);
            notes.changed(
                &item,
                "sidecars",
                "its cores and memory are added to those of the job, which it shares",
            );
            draft.spec.sidecars.push(Sidecar {
                name: part.spec.name.clone(),
                command: part.spec.command.clone(),
                env: part.spec.env.clone(),
                volumes: Vec::new(),
            });
        }
    }
}

fn read(
    group: &mut Draft,
    item: Item,
    volumes: &[(String, Item)],
    names: &Names<'_>,
    addresses: &mut Addresses,
    notes: &mut Notes,
) -> Part {
    let name = item
        .get("Name")
        .map(|name| nearest_name(name.text()))
        .unwrap_or_default();
    let name: Name = name.parse().unwrap_or(group.spec.name.clone());
    let mut draft = Draft::new(name, item.clone());
    let mut fields = Fields::open(item.clone(), notes);
    let driver = fields
        .scalar("Driver", notes)
        .map(|driver| driver.text().to_owned())
        .unwrap_or_default();
    for (key, item) in fields
        .take("Env")
        .map(|item| item.entries())
        .unwrap_or_default()
    {
        let value = filled(&item, "env", names, notes);
        draft.set_env(&key, value, item);
    }
    if let Some(config) = fields.fields("Config", notes) {
        read_config(&mut draft, &driver, config, names, notes);
    }
    read_resources(&mut draft, group, &mut fields, notes);
    if let Some(map) = item.at(&["Config", "port_map"]) {
        number_ports(group, &map, notes);
    }
    if let Some(user) = fields
        .scalar("User", notes)
        .filter(|user| !user.text().is_empty())
    {
        draft.spec.user = check::user(&user, notes);
    }
    if let Some((grace, item)) = millis(&mut fields, "KillTimeout", "stop", notes) {
        match grace {
            Millis(5000) => notes.ignored(&item, "it says no more than what Nomad fills in"),
            grace => draft.spec.stop.grace = grace,
        }
    }
    if let Some(signal) = fields
        .scalar("KillSignal", notes)
        .filter(|signal| !signal.text().is_empty())
    {
        match check::signal(signal.text()) {
            Some(known) => draft.spec.stop.signal = known,
            None => notes.lost(
                &signal,
                "stop",
                format!(
                    "'{}': a task is asked to end by {}",
                    signal.text(),
                    check::SIGNALS
                ),
            ),
        }
    }
    if let Some((delay, _)) = millis(&mut fields, "ShutdownDelay", "stop", notes) {
        group.spec.stop.drain = group.spec.stop.drain.max(delay);
    }
    for (key, item) in fields
        .take("Meta")
        .map(|item| item.entries())
        .unwrap_or_default()
    {
        check::label(group, &key, item.text(), &item, notes);
    }
    for item in fields.list("Constraints", notes) {
        placement::constraint(group, &item, notes);
    }
    for item in fields.list("Affinities", notes) {
        placement::affinity(&item, notes);
    }
    for item in fields.list("Services", notes) {
        network::service(group, item, names.shared, addresses, notes);
    }
    for item in fields.list("Templates", notes) {
        read_template(&mut draft, item, names, notes);
    }
    for item in fields.list("VolumeMounts", notes) {
        read_mount(group, item, volumes, notes);
    }
    let hook = read_lifecycle(&mut fields, notes);
    close(fields, TASK, notes);
    Part { draft, item, hook }
}

fn read_lifecycle(fields: &mut Fields, notes: &mut Notes) -> Option<(String, bool)> {
    let mut lifecycle = fields.fields("Lifecycle", notes)?;
    let hook = lifecycle
        .scalar("Hook", notes)
        .map(|hook| hook.text().to_owned())
        .filter(|hook| !hook.is_empty());
    let sidecar = lifecycle.take("Sidecar");
    let is_sidecar = sidecar
        .as_ref()
        .is_some_and(|item| item.truth() == Some(true));
    if let Some(sidecar) = sidecar.filter(|_| !is_sidecar) {
        notes.ignored(
            &sidecar,
            "it ends before the command starts, or begins after it has ended",
        );
    }
    lifecycle.close(&[], notes);
    hook.map(|hook| (hook, is_sidecar))
}

fn words(item: Option<Item>, names: &Names<'_>, notes: &mut Notes) -> Vec<String> {
    let Some(item) = item else { return Vec::new() };
    let items = if item.is_list() {
        item.items()
    } else {
        vec![item]
    };
    items
        .iter()
        .map(|word| filled(word, "command", names, notes))
        .collect()
}

fn read_config(
    draft: &mut Draft,
    driver: &str,
    mut config: Fields,
    names: &Names<'_>,
    notes: &mut Notes,
) {
    let item = config.item.clone();
    draft.launch.item = ["command", "args", "jar_path"]
        .iter()
        .find_map(|key| item.get(key))
        .or(Some(item));
    let command = config
        .scalar("command", notes)
        .map(|command| filled(&command, "command", names, notes));
    let arguments = words(config.take("args"), names, notes);
    match driver {
        "docker" | "podman" | "containerd-driver" => {
            if let Some(image) = config.scalar("image", notes) {
                let name = image.text().trim_start_matches("docker://").to_owned();
                draft.spec.image = Some(Image::Oci(OciImage {
                    reference: full_reference(&name),
                }));
                draft.image = Some((name, image));
            }
            let entrypoint = words(config.take("entrypoint"), names, notes);
            if !entrypoint.is_empty() {
                draft.launch.entrypoint = Some(entrypoint);
            }
            config.take("port_map");
            let mut all: Vec<String> = command.into_iter().collect();
            all.extend(arguments);
            if !all.is_empty() {
                draft.launch.arguments = Some(all);
            }
            if let Some(folder) = config
                .scalar("work_dir", notes)
                .or_else(|| config.scalar("working_dir", notes))
            {
                draft.spec.workdir = check::absolute(&folder, "workdir", notes);
            }
            if config
                .item
                .get("init")
                .is_some_and(|item| item.truth() == Some(true))
            {
                config.take("init");
                draft.spec.init = true;
            }
            close(config, CONTAINER, notes);
        }
        "java" => {
            let mut all = vec!["java".to_owned()];
            all.extend(words(config.take("jvm_options"), names, notes));
            if let Some(path) = config.scalar("class_path", notes) {
                all.extend(["-cp".to_owned(), filled(&path, "command", names, notes)]);
            }
            if let Some(jar) = config.scalar("jar_path", notes) {
                all.extend(["-jar".to_owned(), filled(&jar, "command", names, notes)]);
            }
            all.extend(
                config
                    .scalar("class", notes)
                    .map(|class| class.text().to_owned()),
            );
            all.extend(arguments);
            draft.launch.entrypoint = Some(all);
            close(
                config,
                &[("*", Fate::Lost("every task runs in Twill's own sandbox"))],
                notes,
            );
        }
        driver => {
            if !["exec", "raw_exec", "exec2"].contains(&driver) {
                notes.decide(
                    &config.item,
                    "command",
                    format!(
                        "what the driver '{driver}' starts: Twill starts a program by its name"
                    ),
                );
            }
            let mut all: Vec<String> = command.into_iter().collect();
            all.extend(arguments);
            draft.launch.entrypoint = (!all.is_empty()).then_some(all);
            close(
                config,
                &[("*", Fate::Lost("every task runs in Twill's own sandbox"))],
                notes,
            );
        }
    }
}

/// The numbers that ports have within a container, as older jobs give them.
fn number_ports(group: &mut Draft, map: &Item, notes: &mut Notes) {
    let maps = if map.is_list() {
        map.items()
    } else {
        vec![map.clone()]
    };
    for (label, item) in maps.iter().flat_map(Item::entries) {
        let (Some(number), Ok(name)) = (item.number::<u16>(), nearest_name(&label).parse::<Name>())
        else {
            notes.lost(
                &item,
                "ports",
                format!("the number of the port '{label}' is none"),
            );
            continue;
        };
        if !group.spec.ports.contains(&name) {
            group.spec.ports.push(name.clone());
        }
        group.listens.retain(|listen| listen.name != name);
        group.listens.push(Listen { name, number, item });
    }
}

/// The speed that a core is taken to have, for shares that are given in its cycles.
const CORE_MHZ: u64 = 2500;

fn read_resources(draft: &mut Draft, group: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(mut resources) = fields.fields("Resources", notes) else {
        return;
    };
    let cores = count(&mut resources, "Cores", notes);
    if let Some((mhz, item)) = count(&mut resources, "CPU", notes) {
        let share = Cores((mhz * 1000).div_ceil(CORE_MHZ).div_ceil(10) * 10);
        draft.spec.resources.cpu = share;
        if cores.is_none() {
            notes.changed(
                &item,
                "resources",
                format!(
                    "{mhz} MHz are taken as {share} cores of {} GHz",
                    CORE_MHZ as f64 / 1000.0
                ),
            );
        }
    }
    if let Some((cores, _)) = cores {
        draft.spec.resources.cpu = Cores(cores * 1000);
        draft.spec.resources.whole_cores = true;
    }
    let least = count(&mut resources, "MemoryMB", notes);
    let most = count(&mut resources, "MemoryMaxMB", notes);
    let wanted = check::Wanted {
        memory_request: most
            .is_some()
            .then(|| least.clone().map(|(mb, item)| (Bytes::mib(mb), item)))
            .flatten(),
        memory_limit: most.or(least).map(|(mb, item)| (Bytes::mib(mb), item)),
        ..Default::default()
    };
    wanted.fill(draft, notes);
    if let Some((disk, _)) = count(&mut resources, "DiskMB", notes) {
        group.spec.resources.disk = Bytes::mib(disk);
    }
    for item in resources.list("Networks", notes) {
        network::ports(group, item, notes);
    }
    close(
        resources,
        &[
            (
                "Devices",
                Fate::Lost(
                    "Twill gives out no devices; keep to machines that have them: Requires(labels={…})",
                ),
            ),
            (
                "IOPS",
                Fate::Lost("the disk's time is shared by Resources(io_weight=…)"),
            ),
            (
                "NUMA",
                Fate::Lost("for cores of its own: Resources(cpu=1, whole_cores=True)"),
            ),
            ("SecretsMB", Fate::Ignored("secrets are files in memory")),
        ],
        notes,
    );
}

/// A template: its variables where it is one of variables, otherwise a file that the spec cannot write.
fn read_template(draft: &mut Draft, item: Item, names: &Names<'_>, notes: &mut Notes) {
    let is_env = item
        .get("Envvars")
        .is_some_and(|item| item.truth() == Some(true));
    let Some(text) = item
        .get("EmbeddedTmpl")
        .filter(|text| is_env && !text.text().is_empty())
    else {
        let path = item
            .get("DestPath")
            .map(|path| path.text().to_owned())
            .unwrap_or_default();
        notes.lost(&item, "packages", format!("the file {path} is not written: put it into a folder of the repository, and have the program read addresses and ports from variables"));
        return;
    };
    let mut fields = Fields::open(item.clone(), notes);
    fields.take("EmbeddedTmpl");
    fields.take("Envvars");
    close(
        fields,
        &[
            ("DestPath", Fate::Ignored("its variables are in the spec")),
            (
                "Change*",
                Fate::Ignored("a change of a spec starts its tasks again"),
            ),
            ("*", Fate::Lost("the variables of a job are in its spec")),
        ],
        notes,
    );
    for (key, value) in crate::dotenv::read(text.text()) {
        match value.contains("{{") || key.contains("{{") {
            true => notes.decide(
                &text,
                "env",
                format!("the value of {key}: it came from a template"),
            ),
            false => {
                let item = text.clone();
                let value = filled(
                    &Item {
                        node: crate::document::Node::new(
                            item.place,
                            crate::document::Value::Quoted(value),
                        )
                        .into(),
                        ..item.clone()
                    },
                    "env",
                    names,
                    notes,
                );
                draft.set_env(&key, value, item);
            }
        }
    }
}

fn read_mount(group: &mut Draft, item: Item, volumes: &[(String, Item)], notes: &mut Notes) {
    let mut mount = Fields::open(item.clone(), notes);
    let mut text = |key: &str| {
        mount
            .scalar(key, notes)
            .map(|item| item.text().to_owned())
            .unwrap_or_default()
    };
    let (name, path) = (text("Volume"), text("Destination"));
    close(
        mount,
        &[
            ("ReadOnly", Fate::Lost("a task may write to its volumes")),
            ("*", Fate::Ignored("a task's mounts are its own")),
        ],
        notes,
    );
    let known = volumes.iter().any(|(known, _)| *known == name);
    let parsed = nearest_name(&name)
        .parse::<Name>()
        .ok()
        .zip(check::volume_path(&path));
    match parsed {
        Some((name, path)) if known => {
            let overlaps = group.spec.volumes.iter().any(|volume| {
                volume.name == name
                    || path.0.starts_with(&volume.path.0)
                    || volume.path.0.starts_with(&path.0)
            });
            if !overlaps {
                notes.changed(
                    &item,
                    "volumes",
                    "the volume begins empty and holds 1 GiB unless it is given a size",
                );
                group.spec.volumes.push(Volume {
                    name,
                    path,
                    size: Bytes::gib(1),
                });
            }
        }
        _ => notes.lost(
            &item,
            "volumes",
            format!("the group has no volume '{name}' for '{path}'"),
        ),
    }
}
