//! One service of a compose file.

mod deploy;
mod health;
mod ports;
mod resources;

use tw_model::{CommandLine, Hook, Image, Millis, Name, OciImage, Signal};

use super::{Project, build, pairs, storage, words};
use crate::draft::{Draft, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::images::full_reference;
use crate::note::Notes;
use crate::quantity;
use crate::{check, dotenv};

const NETWORKS: &str = "tasks find each other by {service:JOB:PORT}, whatever network they were on";

const SANDBOX: &str = "a task has no rights on its machine, and none can be given to it";

const SERVICE: Fates = &[
    (
        "annotations",
        Fate::Ignored("only tools of Docker read them"),
    ),
    (
        "attach",
        Fate::Ignored("logs are kept for every task: `tw logs`"),
    ),
    (
        "blkio_config",
        Fate::Lost("the disk's time is shared by Resources(io_weight=…)"),
    ),
    (
        "build",
        Fate::Lost("build the image and push it, then name it: image=OciImage(reference=…)"),
    ),
    ("cap_add", Fate::Lost(SANDBOX)),
    ("cap_drop", Fate::Ignored("a task has no capabilities")),
    ("cgroup*", Fate::Lost("each task has a cgroup of its own")),
    (
        "container_name",
        Fate::Ignored("tasks are named after their job"),
    ),
    (
        "cpu_count",
        Fate::Lost("give the cores a task can count on: Resources(cpu=…)"),
    ),
    (
        "cpu_percent",
        Fate::Lost("give the cores a task can count on: Resources(cpu=…)"),
    ),
    (
        "cpu_*",
        Fate::Lost("give the cores a task can count on: Resources(cpu=…)"),
    ),
    (
        "cpuset",
        Fate::Lost("for cores of its own: Resources(cpu=1, whole_cores=True)"),
    ),
    ("credential_spec", Fate::Lost("Twill runs on Linux")),
    (
        "develop",
        Fate::Ignored("it is for development with Compose alone"),
    ),
    ("device_cgroup_rules", Fate::Lost(SANDBOX)),
    ("devices", Fate::Lost(SANDBOX)),
    ("dns*", Fate::Lost("a task has the resolver of its machine")),
    (
        "domainname",
        Fate::Lost("a task has the host name JOB-INDEX"),
    ),
    (
        "driver_opts",
        Fate::Ignored("only networks of Docker read them"),
    ),
    (
        "external_links",
        Fate::Lost("find other jobs by {service:JOB:PORT}"),
    ),
    (
        "extra_hosts",
        Fate::Lost("a task has the hosts file of its machine"),
    ),
    (
        "gpus",
        Fate::Lost(
            "Twill gives out no GPUs; keep to machines that have them: Requires(labels={…})",
        ),
    ),
    ("group_add", Fate::Lost("a task has the groups of its user")),
    (
        "hostname",
        Fate::Ignored("a task has the host name JOB-INDEX"),
    ),
    (
        "ipc",
        Fate::Lost("each task has an IPC namespace of its own"),
    ),
    ("isolation", Fate::Lost("Twill runs on Linux")),
    ("label_file", Fate::Lost("write its lines into labels={…}")),
    (
        "links",
        Fate::Ignored("other jobs are found by {service:JOB:PORT}"),
    ),
    (
        "logging",
        Fate::Ignored("output is kept, compressed and bounded, for every task: `tw logs`"),
    ),
    (
        "mac_address",
        Fate::Lost("a task has no network card of its own"),
    ),
    (
        "mem_swappiness",
        Fate::Lost("a task swaps no more than Resources(swap=…)"),
    ),
    (
        "models",
        Fate::Lost("Twill knows nothing of models; run the one that serves them as a job"),
    ),
    (
        "network_mode",
        Fate::IgnoredIf(&["host", "bridge"], NETWORKS),
    ),
    ("networks", Fate::Ignored(NETWORKS)),
    (
        "oom_kill_disable",
        Fate::Lost("a task that needs more than its memory is restarted"),
    ),
    (
        "oom_score_adj",
        Fate::Lost("a task that needs more than its memory is restarted"),
    ),
    (
        "pid",
        Fate::Lost("each task has a process namespace of its own"),
    ),
    (
        "platform",
        Fate::IgnoredIf(
            &["linux/amd64", "linux"],
            "keep to machines of another kind with Requires(labels={…})",
        ),
    ),
    (
        "post_stop",
        Fate::Lost("write it as hooks=Hooks(post_stop=Hook(command=…))"),
    ),
    ("privileged", Fate::IgnoredIf(&["false"], SANDBOX)),
    (
        "profiles",
        Fate::Lost(
            "the job is always part of the spec; put it into a file of its own to leave it out",
        ),
    ),
    (
        "provider",
        Fate::Lost(
            "Twill runs programs on machines; what a provider gives has to be there already",
        ),
    ),
    (
        "pull_policy",
        Fate::Ignored("an image is fetched where it is missing"),
    ),
    (
        "pull_refresh_after",
        Fate::Ignored("an image is fetched where it is missing"),
    ),
    (
        "read_only",
        Fate::IgnoredIf(
            &["true"],
            "the root of a task is read-only; what it writes goes to /tmp or to a volume",
        ),
    ),
    (
        "runtime",
        Fate::Lost("every task runs in Twill's own sandbox"),
    ),
    ("security_opt", Fate::IgnoredIf(&[], SANDBOX)),
    (
        "shm_size",
        Fate::Lost("the size of /dev/shm is the same for every task"),
    ),
    (
        "stdin_open",
        Fate::Ignored("a task reads nothing from a terminal; `tw exec` gives one"),
    ),
    (
        "storage_opt",
        Fate::Lost("scratch space is Resources(disk=…)"),
    ),
    (
        "sysctls",
        Fate::Lost("settings of the kernel belong to the machine: Requires(profile=…)"),
    ),
    (
        "tty",
        Fate::Ignored("a task has no terminal; `tw exec` gives one"),
    ),
    (
        "ulimits",
        Fate::Lost(
            "the number of processes is Resources(pids=…); other limits are those of the machine",
        ),
    ),
    ("use_api_socket", Fate::Lost(SANDBOX)),
    (
        "userns_mode",
        Fate::Lost("each task has a user namespace of its own"),
    ),
    ("uts", Fate::Lost("a task has the host name JOB-INDEX")),
    (
        "volumes_from",
        Fate::Lost("a volume belongs to one job; name its folders in each job that needs them"),
    ),
    (
        "x-*",
        Fate::Ignored("an extension: what uses it by an alias has it"),
    ),
];

/// Services that others wait for to end well: they are batch jobs.
pub(super) fn completed(services: &[(String, Item)]) -> Vec<String> {
    let awaited = |item: &Item| {
        let dependencies = item
            .get("depends_on")
            .map(|item| item.entries())
            .unwrap_or_default();
        dependencies
            .into_iter()
            .filter(|(_, item)| {
                item.get("condition")
                    .is_some_and(|item| item.text() == "service_completed_successfully")
            })
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    services
        .iter()
        .flat_map(|(_, item)| awaited(item))
        .collect()
}

/// Reads one service.
pub(super) fn read(
    job: Name,
    item: Item,
    is_awaited: bool,
    project: &mut Project<'_>,
    notes: &mut Notes,
) -> Draft {
    let mut draft = Draft::new(job, item.clone());
    let built = build::dockerfile(&item, project);
    let mut fields = Fields::open(item, notes);
    read_image(&mut draft, &mut fields, notes);
    read_launch(&mut draft, &mut fields, notes);
    if let Some((built, build)) = &built {
        build::complete_launch(&mut draft, built, build, notes);
    }
    read_env(&mut draft, &mut fields, project, notes);
    ports::read_ports(&mut draft, &mut fields, built.as_ref(), notes);
    ports::read_hosts(&draft, &mut fields, project);
    read_dependencies(&mut draft, &mut fields, notes);
    health::read_health(&mut draft, &mut fields, notes);
    resources::read_resources(&mut draft, &mut fields, notes);
    deploy::read_restart(&mut draft, &mut fields, is_awaited, notes);
    deploy::read_deploy(&mut draft, &mut fields, notes);
    read_stop(&mut draft, &mut fields, notes);
    read_hooks(&mut draft, &mut fields, notes);
    read_rest(&mut draft, &mut fields, notes);
    storage::read(&mut draft, &mut fields, project, notes);
    fields.close(SERVICE, notes);
    draft
}

fn read_image(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(image) = fields.scalar("image", notes) else {
        return;
    };
    let reference = full_reference(image.text());
    draft.spec.image = Some(Image::Oci(OciImage { reference }));
    draft.image = Some((image.text().to_owned(), image));
    if let Some(build) = fields.take("build") {
        notes.changed(
            &build,
            "image",
            "the image is not built here: build it and push it under its name",
        );
    }
}

fn read_launch(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    for (key, is_entrypoint) in [("entrypoint", true), ("command", false)] {
        let Some(item) = fields.take(key) else {
            continue;
        };
        let words = words(&item, notes);
        // An empty list takes the image's own away.
        match is_entrypoint {
            true => draft.launch.entrypoint = Some(words),
            false if words.is_empty() => notes.ignored(&item, "it is empty"),
            false => draft.launch.arguments = Some(words),
        }
        draft.launch.item = Some(item);
    }
    if draft.launch.entrypoint.as_ref().is_some_and(Vec::is_empty) {
        draft.launch.entrypoint = None;
    }
}

fn read_env(draft: &mut Draft, fields: &mut Fields, project: &Project<'_>, notes: &mut Notes) {
    if let Some(item) = fields.take("env_file") {
        let files = if item.is_list() {
            item.items()
        } else {
            vec![item]
        };
        for file in files {
            let path = file.get("path").unwrap_or(file.clone());
            match project.surroundings.read(path.text()) {
                Some(text) => {
                    for (key, value) in dotenv::read(&text) {
                        draft.set_env(&key, value, path.clone());
                    }
                }
                None => notes.decide(
                    &path,
                    "env",
                    format!(
                        "the variables of {}, which is not at hand: write them here",
                        path.text()
                    ),
                ),
            }
        }
    }
    let Some(environment) = fields.take("environment") else {
        return;
    };
    for (key, value, item) in pairs(&environment) {
        match value {
            Some(value) => draft.set_env(&key, value, item),
            None if environment.is_map() && !item.node.is_null() => {
                notes.lost(&item, "env", "a variable holds a text");
            }
            None => notes.decide(&item, "env", format!("the value of {key}: it came from the environment of `docker compose`, and a spec reads none")),
        }
    }
}

fn read_dependencies(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(item) = fields.take("depends_on") else {
        return;
    };
    let named: Vec<(String, Item)> = match item.is_list() {
        true => item
            .items()
            .into_iter()
            .map(|item| (item.text().to_owned(), item))
            .collect(),
        false => item.entries(),
    };
    for (name, item) in named {
        let Ok(job) = nearest_name(&name).parse::<Name>() else {
            continue;
        };
        if !draft.spec.depends_on.contains(&job) && job != draft.spec.name {
            draft.spec.depends_on.push(job);
        }
        if !item.is_map() {
            continue;
        }
        let mut dependency = Fields::open(item, notes);
        if let Some(condition) = dependency.take("condition") {
            match condition.text() {
                "service_started" => notes.changed(
                    &condition,
                    "depends_on",
                    format!("waits until {name} is healthy, not only started"),
                ),
                "service_healthy" => {}
                "service_completed_successfully" => {
                    notes.changed(
                        &condition,
                        "depends_on",
                        format!("{name} is a batch job, and this job waits until it is done"),
                    );
                }
                other => notes.lost(
                    &condition,
                    "depends_on",
                    format!("'{other}' is no condition of Compose"),
                ),
            }
        }
        dependency.close(
            &[
                (
                    "restart",
                    Fate::IgnoredIf(
                        &["false"],
                        "a job does not start again because another one did",
                    ),
                ),
                (
                    "required",
                    Fate::IgnoredIf(&["true"], "a job waits for all it names"),
                ),
            ],
            notes,
        );
    }
}

/// Takes a duration; anything else is noted.
fn duration(fields: &mut Fields, key: &str, field: &str, notes: &mut Notes) -> Option<Millis> {
    let item = fields.scalar(key, notes)?;
    let millis = quantity::duration(item.text());
    if millis.is_none() {
        notes.lost(&item, field, format!("'{}' is not a duration", item.text()));
    }
    millis
}

fn read_stop(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    if let Some(signal) = fields.scalar("stop_signal", notes) {
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
    if let Some(grace) = duration(fields, "stop_grace_period", "stop", notes) {
        draft.spec.stop.grace = grace;
    }
    if draft.spec.stop.signal == Signal::Term && draft.spec.stop.grace == Millis::ZERO {
        draft.spec.stop.grace = Millis::seconds(1);
    }
}

fn read_hooks(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    for key in ["post_start", "pre_stop"] {
        let items = fields.list(key, notes);
        let several = items.len() > 1;
        let mut scripts = Vec::new();
        for item in &items {
            let mut hook = Fields::open(item.clone(), notes);
            if let Some(command) = hook.take("command") {
                scripts.push(words(&command, notes));
            }
            hook.close(
                &[
                    ("user", Fate::Lost("a hook runs as the job's user")),
                    ("privileged", Fate::IgnoredIf(&["false"], SANDBOX)),
                    ("working_dir", Fate::Lost("a hook runs in the job's folder")),
                    (
                        "environment",
                        Fate::Lost("a hook has the job's environment"),
                    ),
                ],
                notes,
            );
        }
        let command = check::in_turn(scripts);
        if several && let Some(item) = items.first() {
            notes.changed(
                item,
                "hooks",
                "a job has one hook of a kind: a shell runs the commands in turn",
            );
        }
        let hook = command.map(|command| Hook {
            command: CommandLine(command),
            timeout: Millis::seconds(30),
        });
        match key {
            "post_start" => draft.spec.hooks.post_start = hook,
            _ => draft.spec.hooks.pre_stop = hook,
        }
    }
}

/// What one line each does.
fn read_rest(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    if let Some(user) = fields.scalar("user", notes) {
        draft.spec.user = check::user(&user, notes);
    }
    if let Some(folder) = fields.scalar("working_dir", notes) {
        draft.spec.workdir = check::absolute(&folder, "workdir", notes);
    }
    if let Some(init) = fields.scalar("init", notes) {
        draft.spec.init = init.truth() == Some(true);
        if !draft.spec.init {
            notes.ignored(&init, "there is no init unless a job asks for one");
        }
    }
    if let Some(labels) = fields.take("labels") {
        for (key, value, item) in pairs(&labels) {
            check::label(
                draft,
                &key,
                value.as_deref().unwrap_or_default(),
                &item,
                notes,
            );
        }
    }
}
