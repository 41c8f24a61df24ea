//! One service of a compose file.

use tw_model::{
    Bytes, CommandCheck, CommandLine, Cores, HealthCheck, Hook, HttpCheck, Image, Kind, Millis,
    Name, OciImage, OnFailure, Signal, Stage,
};

use super::dockerfile::Built;
use super::{Project, build, pairs, storage, words};
use crate::draft::{Draft, PortMention, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::images::full_reference;
use crate::note::Notes;
use crate::quantity;
use crate::{check, dotenv, placement};

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

const DEPLOY: Fates = &[
    (
        "endpoint_mode",
        Fate::Ignored("callers are given a healthy task by {service:JOB:PORT}"),
    ),
    ("labels", Fate::Ignored("only tools of Docker read them")),
    (
        "rollback_config",
        Fate::Lost("an update that fails goes back all at once: Rollout(on_failure=\"rollback\")"),
    ),
    ("x-*", Fate::Ignored("an extension")),
];

const HEALTH: Fates = &[
    (
        "start_period",
        Fate::Lost(
            "a new task has Rollout(deadline=…) to become healthy; failures count from its first success",
        ),
    ),
    (
        "start_interval",
        Fate::Lost("a check has one interval: every=…"),
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
    read_ports(&mut draft, &mut fields, built.as_ref(), notes);
    read_hosts(&draft, &mut fields, project);
    read_dependencies(&mut draft, &mut fields, notes);
    read_health(&mut draft, &mut fields, notes);
    read_resources(&mut draft, &mut fields, notes);
    read_restart(&mut draft, &mut fields, is_awaited, notes);
    read_deploy(&mut draft, &mut fields, notes);
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

fn read_ports(
    draft: &mut Draft,
    fields: &mut Fields,
    built: Option<&(Built, Item)>,
    notes: &mut Notes,
) {
    let mut mentions = Vec::new();
    for item in fields.list("ports", notes) {
        match item.is_map() {
            true => long_port(&item, &mut mentions, notes),
            false => short_port(&item, &mut mentions, notes),
        }
    }
    for item in fields.list("expose", notes) {
        short_port(&item, &mut mentions, notes);
    }
    if let Some((built, item)) = built {
        let exposed = |number: &u16| PortMention {
            number: *number,
            name: None,
            item: item.clone(),
        };
        mentions.extend(built.ports.iter().map(exposed));
    }
    draft.name_ports(mentions);
}

const PUBLISHED: &str = "published on the machine: jobs find each other by {service:JOB:PORT}, callers from outside need a proxy in front";

fn long_port(item: &Item, mentions: &mut Vec<PortMention>, notes: &mut Notes) {
    let mut port = Fields::open(item.clone(), notes);
    let target = port.number::<u16>("target", notes);
    let name = port
        .scalar("name", notes)
        .map(|item| item.text().to_owned());
    let application = port
        .scalar("app_protocol", notes)
        .map(|item| item.text().to_owned());
    if let Some(published) = port.take("published") {
        notes.lost(&published, "ports", PUBLISHED);
    }
    if let Some(protocol) = port.take("protocol")
        && protocol.text() == "udp"
    {
        notes.lost(&protocol, "ports", "a port of a job is a TCP port");
        return;
    }
    if let Some((number, item)) = target {
        mentions.push(PortMention {
            number,
            name: name.or(application),
            item,
        });
    }
    port.close(
        &[
            ("host_ip", Fate::Lost(PUBLISHED)),
            ("mode", Fate::Ignored("callers are given a healthy task")),
        ],
        notes,
    );
}

/// `[[IP:]PUBLISHED:]TARGET[/PROTOCOL]`, each number perhaps a range.
fn short_port(item: &Item, mentions: &mut Vec<PortMention>, notes: &mut Notes) {
    let text = item.text();
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = match address.rsplit_once(':') {
        Some((published, target)) => (Some(published), target),
        None => (None, address),
    };
    if protocol.eq_ignore_ascii_case("udp") {
        notes.lost(
            item,
            "ports",
            format!("{text}: a port of a job is a TCP port"),
        );
        return;
    }
    if published.is_some() {
        notes.lost(item, "ports", PUBLISHED);
    }
    let (first, last) = target.split_once('-').unwrap_or((target, target));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if last >= first && last - first < 100 => {
            let mention = |number| PortMention {
                number,
                name: None,
                item: item.clone(),
            };
            mentions.extend((first..=last).map(mention));
        }
        _ => notes.lost(item, "ports", format!("'{text}' is not a port")),
    }
}

fn read_hosts(draft: &Draft, fields: &mut Fields, project: &mut Project<'_>) {
    let job = draft.name().clone();
    for key in ["container_name", "hostname"] {
        if let Some(item) = fields.item.get(key) {
            project.addresses.direct(item.text(), &job);
        }
    }
    let networks = fields
        .item
        .get("networks")
        .map(|item| item.entries())
        .unwrap_or_default();
    for alias in networks
        .iter()
        .filter_map(|(_, network)| network.get("aliases"))
        .flat_map(|item| item.items())
    {
        project.addresses.direct(alias.text(), &job);
    }
    for link in fields
        .item
        .get("links")
        .map(|item| item.items())
        .unwrap_or_default()
    {
        if let Some((service, alias)) = link.text().split_once(':')
            && let Ok(linked) = nearest_name(service).parse()
        {
            project.addresses.direct(alias, &linked);
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

fn read_health(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let Some(mut health) = fields.fields("healthcheck", notes) else {
        return;
    };
    let is_disabled = health
        .take("disable")
        .is_some_and(|item| item.truth() == Some(true));
    let Some(test) = health.take("test") else {
        if is_disabled {
            notes.ignored(&health.item, "Twill takes no check from an image");
        } else if !health.item.entries().is_empty() {
            notes.lost(
                &health.item,
                "health",
                "the check is in the image: write it as health=[CommandCheck(command=…)]",
            );
        }
        return;
    };
    let words = match test.is_scalar() {
        true => vec!["CMD-SHELL".to_owned(), test.text().to_owned()],
        false => test
            .items()
            .iter()
            .map(|item| item.text().to_owned())
            .collect(),
    };
    let command = match words.split_first() {
        _ if is_disabled => None,
        Some((kind, rest)) if kind == "CMD" => Some(rest.to_vec()),
        Some((kind, rest)) if kind == "CMD-SHELL" => {
            Some(vec!["sh".to_owned(), "-c".to_owned(), rest.join(" ")])
        }
        _ => None,
    };
    let mut millis = |key: &str| duration(&mut health, key, "health", notes);
    let (every, timeout) = (millis("interval"), millis("timeout"));
    let failures = health
        .number::<u32>("retries", notes)
        .map(|(number, _)| number);
    match command.filter(|command| !command.is_empty()) {
        Some(command) => {
            let timing = check::Timing {
                every,
                timeout,
                failures,
            };
            draft.spec.health.push(timed(&command, draft, timing));
            if let HealthCheck::Command(_) = draft.spec.health[0]
                && let Some(listen) = draft.listens.iter().find(|listen| {
                    command
                        .iter()
                        .any(|word| check::names_port(word, listen.number))
                })
            {
                let message = format!(
                    "the check asks port {}: the number is in the variable {} of a task",
                    listen.number,
                    check::port_variable(&listen.name)
                );
                notes.decide(&test, "health", message);
            }
        }
        None => notes.ignored(&test, "Twill takes no check from an image"),
    }
    health.close(HEALTH, notes);
}

/// A request that a shell would make becomes a check of the port, where it is certain that this is the same.
fn timed(command: &[String], draft: &Draft, timing: check::Timing) -> HealthCheck {
    let request = check::http_request(command)
        .and_then(|(number, path)| Some((draft.port(number)?.clone(), path)));
    match request {
        Some((port, path)) => HealthCheck::Http(timing.http(HttpCheck {
            port,
            path,
            every: Millis::seconds(5),
            timeout: Millis::seconds(2),
            failures: 3,
        })),
        None => HealthCheck::Command(timing.command(CommandCheck {
            command: CommandLine(command.to_vec()),
            every: Millis::seconds(5),
            timeout: Millis::seconds(2),
            failures: 3,
        })),
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

fn bytes(fields: &mut Fields, key: &str, notes: &mut Notes) -> Option<(Bytes, Item)> {
    let item = fields.scalar(key, notes)?;
    match quantity::compose_bytes(item.text()) {
        Some(bytes) => Some((bytes, item)),
        None => {
            notes.lost(
                &item,
                "resources",
                format!("'{}' is not a size", item.text()),
            );
            None
        }
    }
}

fn cores(fields: &mut Fields, key: &str, notes: &mut Notes) -> Option<(Cores, Item)> {
    let item = fields.scalar(key, notes)?;
    match quantity::cores(item.text()) {
        Some(cores) => Some((cores, item)),
        None => {
            notes.lost(
                &item,
                "resources",
                format!("'{}' is not a number of cores", item.text()),
            );
            None
        }
    }
}

fn read_resources(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let mut wanted = check::Wanted {
        cpu_limit: cores(fields, "cpus", notes),
        memory_limit: bytes(fields, "mem_limit", notes),
        memory_request: bytes(fields, "mem_reservation", notes),
        ..Default::default()
    };
    let pids = fields.number::<i64>("pids_limit", notes);
    let swap = bytes_or_unlimited(fields, notes);
    if let Some(deploy) = fields.item.get("deploy")
        && let Some(resources) = deploy.get("resources")
    {
        read_deploy_resources(draft, resources, &mut wanted, notes);
    }
    if let (Some((total, item)), Some((memory, _))) = (swap, &wanted.memory_limit) {
        // Compose counts memory and swap together.
        let swap = total.saturating_sub(*memory);
        draft.spec.resources.swap = swap;
        if swap == Bytes(0) {
            notes.ignored(&item, "a task does not swap");
        }
    }
    if let Some((pids, item)) = pids {
        set_pids(draft, pids, &item, notes);
    }
    wanted.fill(draft, notes);
}

fn bytes_or_unlimited(fields: &mut Fields, notes: &mut Notes) -> Option<(Bytes, Item)> {
    if fields
        .item
        .get("memswap_limit")
        .is_some_and(|item| item.text() == "-1")
    {
        let item = fields.take("memswap_limit")?;
        notes.lost(&item, "resources", "swap has a bound: Resources(swap=…)");
        return None;
    }
    if !fields
        .item
        .entries()
        .iter()
        .any(|(key, _)| key == "mem_limit")
    {
        let item = fields.take("memswap_limit")?;
        notes.lost(
            &item,
            "resources",
            "without a limit of the memory it says nothing",
        );
        return None;
    }
    bytes(fields, "memswap_limit", notes)
}

fn set_pids(draft: &mut Draft, pids: i64, item: &Item, notes: &mut Notes) {
    match u32::try_from(pids) {
        Ok(pids) if pids > 0 => draft.spec.resources.pids = pids,
        _ => notes.lost(
            item,
            "resources",
            "the number of processes has a bound: Resources(pids=…)",
        ),
    }
}

fn read_deploy_resources(
    draft: &mut Draft,
    item: Item,
    wanted: &mut check::Wanted,
    notes: &mut Notes,
) {
    let mut resources = Fields::open(item, notes);
    for key in ["limits", "reservations"] {
        let Some(mut part) = resources.fields(key, notes) else {
            continue;
        };
        let (cpu, memory) = (
            cores(&mut part, "cpus", notes),
            bytes(&mut part, "memory", notes),
        );
        match key {
            "limits" => {
                wanted.cpu_limit = cpu.or(wanted.cpu_limit.take());
                wanted.memory_limit = memory.or(wanted.memory_limit.take());
                if let Some((pids, item)) = part.number::<i64>("pids", notes) {
                    set_pids(draft, pids, &item, notes);
                }
            }
            _ => {
                wanted.cpu_request = cpu;
                wanted.memory_request = memory.or(wanted.memory_request.take());
            }
        }
        part.close(
            &[
                ("devices", Fate::Lost("Twill gives out no devices; keep to machines that have them: Requires(labels={…})")),
                ("generic_resources", Fate::Lost("keep to machines that have them: Requires(labels={…})")),
            ],
            notes,
        );
    }
    resources.close(&[], notes);
}

fn read_restart(draft: &mut Draft, fields: &mut Fields, is_awaited: bool, notes: &mut Notes) {
    let item = fields.scalar("restart", notes);
    let serves = !draft.spec.ports.is_empty() || !draft.spec.health.is_empty();
    if is_awaited {
        draft.spec.kind = Kind::Batch;
    }
    let Some(item) = item else { return };
    let (policy, attempts) = item.text().split_once(':').unwrap_or((item.text(), ""));
    match policy {
        "always" | "unless-stopped" if draft.spec.kind == Kind::Service => {
            notes.ignored(&item, "a service is always started again");
        }
        "no" | "false" if !serves || is_awaited => {
            draft.spec.kind = Kind::Batch;
            draft.spec.restart.attempts = 0;
        }
        "on-failure" if !serves && (is_awaited || !attempts.is_empty()) => {
            draft.spec.kind = Kind::Batch;
            if let Ok(attempts) = attempts.parse() {
                draft.spec.restart.attempts = attempts;
            }
        }
        "on-failure" => notes.changed(
            &item,
            "restart",
            "a service is started again however it ends; what ends by itself is kind=\"batch\"",
        ),
        _ => notes.changed(
            &item,
            "restart",
            "a service is started again whenever it ends; what ends by itself is kind=\"batch\"",
        ),
    }
}

fn read_deploy(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    if let Some((scale, item)) = fields.number::<u32>("scale", notes) {
        set_replicas(draft, scale, &item, notes);
    }
    let Some(mut deploy) = fields.fields("deploy", notes) else {
        return;
    };
    deploy.take("resources");
    if let Some((replicas, item)) = deploy.number::<u32>("replicas", notes) {
        set_replicas(draft, replicas, &item, notes);
    }
    if let Some(mode) = deploy.scalar("mode", notes) {
        match mode.text() {
            "replicated" => notes.ignored(&mode, "a job has as many tasks as replicas says"),
            "global" => {
                draft.spec.kind = Kind::Daemon;
                draft.spec.replicas = 1;
            }
            "replicated-job" => draft.spec.kind = Kind::Batch,
            _ => notes.lost(&mode, "kind", format!("'{}' has no counterpart; kind=\"daemon\" runs on every machine, kind=\"batch\" to its end", mode.text())),
        }
    }
    if let Some(policy) = deploy.fields("restart_policy", notes) {
        read_restart_policy(draft, policy, notes);
    }
    if let Some(update) = deploy.fields("update_config", notes) {
        read_update(draft, update, notes);
    }
    if let Some(placement) = deploy.fields("placement", notes) {
        placement::compose(draft, placement, notes);
    }
    deploy.close(DEPLOY, notes);
}

fn set_replicas(draft: &mut Draft, replicas: u32, item: &Item, notes: &mut Notes) {
    if draft.spec.kind == Kind::Daemon {
        notes.ignored(item, "a daemon runs once on each machine");
    } else {
        draft.spec.replicas = replicas;
    }
}

fn read_restart_policy(draft: &mut Draft, mut policy: Fields, notes: &mut Notes) {
    if let Some(condition) = policy.scalar("condition", notes) {
        let serves = !draft.spec.ports.is_empty() || !draft.spec.health.is_empty();
        match condition.text() {
            "none" | "on-failure" if !serves => {
                draft.spec.kind = Kind::Batch;
                if condition.text() == "none" {
                    draft.spec.restart.attempts = 0;
                }
            }
            "any" => notes.ignored(&condition, "a service is always started again"),
            _ => notes.changed(&condition, "restart", "a service is started again whenever it ends; what ends by itself is kind=\"batch\""),
        }
    }
    if let Some(delay) = duration(&mut policy, "delay", "restart", notes)
        && delay > Millis::ZERO
    {
        draft.spec.restart.delay = delay;
        draft.spec.restart.delay_max = draft.spec.restart.delay_max.max(delay);
    }
    if let Some((attempts, item)) = policy.number::<u32>("max_attempts", notes) {
        match draft.spec.kind {
            Kind::Batch => draft.spec.restart.attempts = attempts,
            _ => notes.lost(
                &item,
                "restart",
                "a service is started again without end, each time after a longer wait",
            ),
        }
    }
    if let Some(window) = duration(&mut policy, "window", "restart", notes)
        && window > Millis::ZERO
    {
        draft.spec.restart.reset_after = window;
    }
    policy.close(&[], notes);
}

fn read_update(draft: &mut Draft, mut update: Fields, notes: &mut Notes) {
    let rollout = &mut draft.spec.rollout;
    let order = update.scalar("order", notes);
    let starts_first = order
        .as_ref()
        .is_some_and(|item| item.text() == "start-first");
    if let Some((parallelism, item)) = update.number::<u32>("parallelism", notes) {
        match (parallelism, starts_first) {
            (0, _) => {
                rollout.stages = Box::from([Stage::Percent(100)]);
                rollout.max_unavailable = draft.spec.replicas.max(1);
                notes.changed(
                    &item,
                    "rollout",
                    "all tasks at once are one stage of \"100%\"",
                );
            }
            (count, true) => rollout.max_surge = count,
            (count, false) => rollout.max_unavailable = count,
        }
    } else if starts_first {
        rollout.max_surge = 1;
    }
    if let Some(delay) = duration(&mut update, "delay", "rollout", notes) {
        rollout.bake = delay;
    }
    if let Some(monitor) = duration(&mut update, "monitor", "rollout", notes) {
        rollout.healthy_for = monitor;
    }
    if let Some(action) = update.scalar("failure_action", notes) {
        match action.text() {
            "rollback" => rollout.on_failure = OnFailure::Rollback,
            "pause" => notes.ignored(&action, "an update that fails halts"),
            _ => notes.lost(
                &action,
                "rollout",
                "an update that fails halts or goes back: Rollout(on_failure=\"rollback\")",
            ),
        }
    }
    update.close(
        &[(
            "max_failure_ratio",
            Fate::Lost("failures are counted: Rollout(failures_max=…)"),
        )],
        notes,
    );
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
