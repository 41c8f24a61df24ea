//! How a task runs: from its assignment to what its helper is told.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use tw_api::Assignment;
use tw_model::{Code, CommandLine, Hook, JobId, JobSpec, Name, PortName, Template, TemplateValue};

use super::folder::RUN;
use super::{Agent, HELPERS_LEAF, root};
use crate::cgroup::{Limits, TreeKind};
use crate::helper::hook::{HookSet, HookSpec};
use crate::helper::protocol::PROTO;
use crate::helper::record::{LaunchRecord, SIDECARS_FOLDER, StopRule};
use crate::helper::sidecar::SidecarSpec;
use crate::log::LogLimits;
use crate::sandbox::{Bind, CommandSpec, SandboxSpec, UserMode, user};

/// Where packages are in a task.
const PACKAGES: &str = "/packages";

/// The size of a task's shared memory.
const SHM_BYTES_MAX: u64 = 64 << 20;

/// Why a task cannot be started.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
        }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(cause: anyhow::Error) -> Refusal {
        Refusal::new(Code::TaskStartFailed, format!("{cause:#}"))
    }
}

/// The limits that the spec asks for.
pub(super) fn limits(spec: &JobSpec) -> Limits {
    Limits {
        cpu_millicores: spec.resources.cpu.0,
        cpu_quota_millicores: spec.limits.cpu_max.map(|cores| cores.0),
        memory_bytes_max: spec.resources.memory.0,
        pids_max: u64::from(spec.resources.pids),
        swap_bytes_max: spec.resources.swap.0,
        io_weight: spec.resources.io_weight,
    }
}

/// What the helper of a task is told. `packages` are the unpacked folders, in the spec's order.
pub(super) fn record(
    agent: &Agent,
    assignment: &Assignment,
    folder: &Path,
    packages: &[PathBuf],
) -> Result<LaunchRecord, Refusal> {
    let (task, spec) = (&assignment.task, &assignment.spec);
    check_ports(assignment)?;
    let names: Vec<String> = spec
        .packages
        .iter()
        .map(|package| format!("{PACKAGES}/{}", package.name()))
        .collect();
    let root = root::of(agent, spec)?;
    let mut binds = root.binds;
    binds.push(Bind {
        source: agent.endpoints.run_folder(spec, folder.join(RUN)),
        target: "/run/twill".into(),
        is_writable: false,
        is_optional: false,
        is_of_host: false,
    });
    binds.extend(packages.iter().zip(&names).map(|(source, target)| Bind {
        source: source.clone(),
        target: target.into(),
        is_writable: false,
        is_optional: false,
        is_of_host: false,
    }));
    let shared = binds.clone();
    let volumes = volumes(agent, assignment, &root.base)?;
    binds.extend(volumes.iter().map(|(_, bind)| bind.clone()));
    let argv = words(agent, assignment, &spec.command)?;
    let command = CommandSpec {
        argv,
        env: environment(agent, assignment, root.path)?,
        user: spec.user.clone(),
        workdir: match &spec.workdir {
            Some(folder) => PathBuf::from(&folder.0),
            None => names.first().map_or("/tmp", String::as_str).into(),
        },
    };
    let sandbox = SandboxSpec {
        hostname: format!("{}-{}", task.id.job.name, task.id.index),
        command,
        base: root.base,
        folder: folder.to_owned(),
        binds,
        secrets: spec
            .secrets
            .iter()
            .map(|secret| secret.name.to_string())
            .collect(),
        shm_bytes_max: SHM_BYTES_MAX,
        is_root_writable: root.is_writable,
        has_own_root: root.is_copied,
        users: agent.users,
        pids_max: (agent.tree.kind() == TreeKind::Processes)
            .then_some(u64::from(spec.resources.pids)),
    };
    let sidecars = spec
        .sidecars
        .iter()
        .map(|sidecar| {
            let chosen = volumes
                .iter()
                .filter(|(name, _)| sidecar.volumes.contains(name));
            let chosen = chosen.map(|(_, bind)| bind.clone());
            let mut sandbox = sandbox.clone();
            sandbox.binds = shared.iter().cloned().chain(chosen).collect();
            sandbox.folder = folder.join(SIDECARS_FOLDER).join(sidecar.name.as_str());
            sandbox.command.argv = words(agent, assignment, &sidecar.command)?;
            for (name, value) in &sidecar.env {
                let value = render(agent, assignment, value)?;
                sandbox.command.env.insert(name.0.clone(), value);
            }
            Ok(SidecarSpec {
                name: sidecar.name.to_string(),
                sandbox,
                log: LogLimits::default(),
            })
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    Ok(LaunchRecord {
        // Known once all of it is.
        proto: PROTO,
        task: task.id.to_string(),
        tree: agent.config.tree(),
        leaf: task.id.folder_name(),
        helpers_leaf: HELPERS_LEAF.to_owned(),
        limits: Limits {
            memory_bytes_max: agent.resources.memory_at_start(spec).0,
            ..limits(spec)
        },
        cores: Vec::new(),
        sandbox,
        log: LogLimits::default(),
        stop: StopRule {
            signal: signal_number(spec.stop.signal),
            grace_ms: spec.stop.grace.0,
        },
        hooks: hooks(agent, assignment)?,
        sidecars,
        term: None,
    })
}

/// A command with its templates filled in.
fn words(
    agent: &Agent,
    assignment: &Assignment,
    command: &CommandLine,
) -> Result<Vec<String>, Refusal> {
    let words = command.0.iter();
    words.map(|word| render(agent, assignment, word)).collect()
}

fn hooks(agent: &Agent, assignment: &Assignment) -> Result<HookSet, Refusal> {
    let hook = |hook: &Option<Hook>| {
        let hook = hook.as_ref().map(|hook| {
            Ok::<_, Refusal>(HookSpec {
                argv: words(agent, assignment, &hook.command)?,
                timeout_ms: hook.timeout.0,
            })
        });
        hook.transpose()
    };
    let hooks = &assignment.spec.hooks;
    Ok(HookSet {
        pre_start: hook(&hooks.pre_start)?,
        post_start: hook(&hooks.post_start)?,
        pre_stop: hook(&hooks.pre_stop)?,
        post_stop: hook(&hooks.post_stop)?,
    })
}

/// The task's volumes, made where they are not there yet.
fn volumes(
    agent: &Agent,
    assignment: &Assignment,
    base: &Path,
) -> Result<Vec<(Name, Bind)>, Refusal> {
    let (task, spec) = (&assignment.task, &assignment.spec);
    if spec.volumes.is_empty() {
        return Ok(Vec::new());
    }
    let account = user::look_up(base, &spec.user)
        .map_err(|error| Refusal::from(anyhow::Error::from(error)))?;
    let owner = match agent.users {
        // All that such a task writes belongs to the agent's user.
        UserMode::Single => user::Account::of_this_process(),
        UserMode::Shared | UserMode::Mapped => account,
    };
    let made = spec.volumes.iter().map(|volume| {
        let source = agent
            .volumes
            .prepare(&task.id, volume, owner, task.version)
            .map_err(|error| Refusal::new(Code::TaskStartFailed, crate::error::chain(&error)))?;
        let bind = Bind {
            source,
            target: volume.path.0.clone().into(),
            is_writable: true,
            is_optional: false,
            is_of_host: false,
        };
        Ok((volume.name.clone(), bind))
    });
    made.collect()
}

/// Whether every service that the command and the environment name has an address.
pub(super) fn knows_services(agent: &Agent, assignment: &Assignment) -> bool {
    let texts = assignment
        .spec
        .texts()
        .filter_map(|text| Template::parse(text).ok());
    let values: Vec<TemplateValue> = texts
        .flat_map(|text| text.values().cloned().collect::<Vec<_>>())
        .collect();
    values.iter().all(|value| match value {
        TemplateValue::Service { job, port } => service(agent, assignment, job, port).is_some(),
        _ => true,
    })
}

fn service(agent: &Agent, assignment: &Assignment, job: &Name, port: &PortName) -> Option<String> {
    let task = &assignment.task;
    let job = JobId::new(task.id.job.namespace.clone(), job.clone());
    agent.endpoints.pick(&job, port, task.id.index)
}

fn environment(
    agent: &Agent,
    assignment: &Assignment,
    path: String,
) -> Result<BTreeMap<String, String>, Refusal> {
    let task = &assignment.task;
    let own = [
        ("PATH", path),
        ("HOME", "/tmp".to_owned()),
        ("TW_TASK", task.id.to_string()),
        ("TW_JOB", task.id.job.to_string()),
        ("TW_INDEX", task.id.index.to_string()),
        ("TW_INCARNATION", task.id.incarnation.to_string()),
    ];
    let mut env: BTreeMap<String, String> = own
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for (name, port) in &task.ports {
        let name = name.as_str().to_ascii_uppercase().replace('-', "_");
        env.insert(format!("PORT_{name}"), port.to_string());
    }
    for (name, value) in &assignment.spec.env {
        env.insert(name.0.clone(), render(agent, assignment, value)?);
    }
    Ok(env)
}

fn render(agent: &Agent, assignment: &Assignment, text: &str) -> Result<String, Refusal> {
    let task = &assignment.task;
    let template = Template::parse(text)
        .map_err(|cause| Refusal::new(Code::TaskStartFailed, cause.to_string()))?;
    let bind = |value: &TemplateValue| match value {
        TemplateValue::Port(name) => task.ports.get(name).map(u16::to_string),
        TemplateValue::TaskIndex => Some(task.id.index.to_string()),
        TemplateValue::RepoRevision => Some(assignment.revision.clone()),
        TemplateValue::Service { job, port } => service(agent, assignment, job, port),
        TemplateValue::ImageCommand | TemplateValue::ImageEntrypoint => None,
    };
    template.render(bind).map_err(|value| {
        let message = match &value {
            TemplateValue::Service { job, .. } => {
                format!("{value} has no value: no healthy task of '{job}' has that port; add depends_on=[\"{job}\"] to wait for one")
            }
            _ => format!("{value} has no value for this task"),
        };
        Refusal::new(Code::TaskStartFailed, message)
    })
}

/// Refuses ports that something else listens on already.
fn check_ports(assignment: &Assignment) -> Result<(), Refusal> {
    for (name, port) in &assignment.task.ports {
        if let Err(cause) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)) {
            let message =
                format!("port {port}, given for '{name}', cannot be listened on: {cause}");
            return Err(Refusal::new(Code::TaskPortInUse, message));
        }
    }
    Ok(())
}

/// The kernel's number of a signal.
pub(super) fn signal_number(signal: tw_model::Signal) -> i32 {
    match signal {
        tw_model::Signal::Term => libc::SIGTERM,
        tw_model::Signal::Int => libc::SIGINT,
        tw_model::Signal::Quit => libc::SIGQUIT,
        tw_model::Signal::Hup => libc::SIGHUP,
        tw_model::Signal::Usr1 => libc::SIGUSR1,
        tw_model::Signal::Usr2 => libc::SIGUSR2,
    }
}
