//! The job spec: every field that an author may set, declared once.

mod capacity;
mod health;
mod placement;
mod run;
mod schedule;
mod storage;
mod support;
mod update;

use std::collections::{BTreeMap, BTreeSet};

use crate::*;

pub use capacity::*;
pub use health::*;
pub use placement::*;
pub use run::*;
pub use schedule::*;
pub use storage::*;
pub use support::{FIELDS_WITHOUT_SUPPORT, without_support};
pub use update::*;

spec! {
    /// A job: one command, run as a number of identical tasks.
    pub struct JobSpec as "Job" {
        /// The job's name, unique within its namespace: lower-case letters, digits and `-`.
        /// Example: `name="web"`
        name: Name => recreate;
        /// Keeps the jobs of one team or environment apart from those of others.
        /// Example: `namespace="staging"`
        namespace: Name = DEFAULT_NAMESPACE.parse().expect("the default namespace is a name") => recreate;
        /// What kind of job it is: a service runs until it is stopped, a batch job until it has succeeded, a daemon once
        /// on each machine that satisfies what it requires.
        /// Example: `kind="batch"`
        kind: Kind = Kind::Service => recreate;

        /// The program and its arguments, as a list or as one text that is split at blanks; no shell reads it.
        /// May hold `{port:NAME}`, `{task:index}`, `{service:JOB:PORT}` and `{repo:revision}`; with an image of a registry
        /// also `{image:command}`, what that starts by itself, and `{image:entrypoint}`, for other arguments.
        /// Example: `command=["./server", "--port", "{port:http}"]`
        command: CommandLine => restart;
        /// Environment variables; values may hold the same templates as the command. Nothing is inherited
        /// from the machine but a plain PATH: what a task sees is in its spec.
        /// Example: `env={"LOG_LEVEL": "info"}`
        env: BTreeMap<EnvName, String> = BTreeMap::new() => restart;
        /// The user that the task runs as. The default has no rights on the machine at all.
        /// Example: `user="www-data"`
        user: String = "nobody".to_owned() => restart;
        /// The folder in which the command starts; by default that of the first package, or `/tmp`.
        /// Example: `workdir="/srv"`
        workdir: Option<AbsolutePath> = None => restart;
        /// Folders that the task needs; the first is mounted read-only as its working directory.
        /// Example: `packages=[Package.folder("app")]`
        packages: Vec<Package> = Vec::new() => restart;
        /// What the task sees as its root file system; by default the programs and libraries of its machine, which is
        /// the least to set up and ties the task to what is installed there.
        /// Example: `image=FolderImage(path="/srv/images/debian-12")`
        image: Option<Image> = None => restart;
        /// Platform runtimes that the task needs.
        /// Example: `runtimes=[Runtime(name="python", version="3.11")]`
        runtimes: Vec<Runtime> = Vec::new() => restart;
        /// Secrets that the task reads.
        /// Example: `secrets=[Secret(name="database-password")]`
        secrets: Vec<Secret> = Vec::new() => restart;
        /// Programs that run beside the command.
        /// Example: `sidecars=[Sidecar(name="proxy", command="./proxy")]`
        sidecars: Vec<Sidecar> = Vec::new() => restart;
        /// Commands around the life of each task.
        /// Example: `hooks=Hooks(pre_start=Hook(command="./migrate"))`
        hooks: Hooks = Hooks::default() => restart;
        /// Whether a small init runs as process 1 of the task and collects what its children leave behind; for commands
        /// that start others and do not wait for them.
        /// Example: `init=True`
        init: bool = false => restart;

        /// How many tasks run at the same time.
        /// Example: `replicas=3`
        replicas: u32 = 1 => scale;
        /// What one task may use.
        /// Example: `resources=Resources(cpu=0.5, memory=256 * MiB)`
        resources: Resources = Resources::default() => in_place;
        /// How the limits of running tasks follow their measured use.
        /// Example: `limits=Limits(mode="auto")`
        limits: Limits = Limits::default() => in_place;
        /// Lets the number of tasks follow the load; without it, it is `replicas`.
        /// Example: `autoscale=Autoscale(min=2, max=20)`
        autoscale: Option<Autoscale> = None => none;

        /// What a machine must have to run a task.
        /// Example: `requires=Requires(os="debian", kernel=">=6.1")`
        requires: Requires = Requires::default() => in_place;
        /// How the tasks are spread over racks, clusters, data centres or regions; they are kept on different machines
        /// where there is room, with or without it.
        /// Example: `spread=[Spread(over="rack", at_least=2)]`
        spread: Vec<Spread> = Vec::new() => in_place;
        /// Jobs near to whose tasks these should run.
        /// Example: `affinity=[Affinity(job="redis", within="rack")]`
        affinity: Vec<Affinity> = Vec::new() => in_place;
        /// Jobs apart from whose tasks these should run.
        /// Example: `anti_affinity=[Affinity(job="batch-sort", required=True)]`
        anti_affinity: Vec<Affinity> = Vec::new() => in_place;
        /// Whether the tasks use so much network that no two of them should be behind one rack's switch.
        /// Example: `bandwidth_heavy=True`
        bandwidth_heavy: bool = false => in_place;
        /// Who goes first where there is not room for all, from 0 to 100; a job may displace others of lower priority.
        /// Half-way by default, with room on both sides.
        /// Example: `priority=80`
        priority: u32 = 50 => none;
        /// The allowance that the job is charged to: a plan that would go above what the cluster's operators have set for
        /// it is refused. Nothing that runs is stopped for it.
        /// Example: `allowance="shop-team"`
        allowance: Option<Name> = None => none;

        /// When a batch job runs; without it, once.
        /// Example: `schedule=Schedule(cron="30 2 * * *")`
        schedule: Option<Schedule> = None => none;
        /// How many tasks of a batch job may run at the same time; by default all.
        /// Example: `parallelism=10`
        parallelism: Option<u32> = None => none;
        /// How long one try of a batch task may take before it is stopped and counts as failed.
        /// Example: `timeout=2 * HOUR`
        timeout as "timeout_ms": Option<Millis> = None => none;
        /// Jobs of the same namespace that must be healthy before a task of this one starts.
        /// Example: `depends_on=["redis"]`
        depends_on: Vec<Name> = Vec::new() => none;

        /// How a new version replaces the old one.
        /// Example: `rollout=Rollout(stages=[1, "10%", "100%"])`
        rollout: Rollout = Rollout::default() => none;
        /// What happens when a task ends that should not.
        /// Example: `restart=Restart(delay=5 * SECOND)`
        restart: Restart = Restart::default() => none;
        /// How a task is asked to end.
        /// Example: `stop=Stop(grace=30 * SECOND)`
        stop: Stop = Stop::default() => none;
        /// Gives the application a say in restarts, updates, moves and maintenance of its tasks.
        /// Example: `task_control=TaskControl(port="control")`
        task_control: Option<TaskControl> = None => none;
        /// Whether there must never be two running tasks of one index, not even while a machine is out of reach: the
        /// index then waits until the old task has surely ended.
        /// Example: `at_most_one=True`
        at_most_one: bool = false => restart;
        /// Lets an at-most-one task that is out of reach end itself after a time, so that another can start.
        /// Example: `failover=Failover(within=1 * MINUTE)`
        failover: Option<Failover> = None => restart;
        /// What becomes of a task whose machine goes into maintenance.
        /// Example: `maintenance=Maintenance(endure=15 * MINUTE)`
        maintenance: Maintenance = Maintenance::default() => none;

        /// Names of the TCP ports that each task listens on; the numbers are given out per task.
        /// Example: `ports=["http"]`
        ports: Vec<PortName> = Vec::new() => restart;
        /// How to tell that a task serves. Without checks a task counts as healthy while it runs.
        /// Example: `health=[HttpCheck(port="http", path="/healthz")]`
        health: Vec<HealthCheck> = Vec::new() => in_place;
        /// The team that answers for the job.
        /// Example: `owner="shop-team"`
        owner: String = String::new() => none;
        /// Free text pairs for tools and people; nothing in Twill reads them.
        /// Example: `labels={"tier": "frontend"}`
        labels: BTreeMap<EnvName, String> = BTreeMap::new() => none;

        /// Folders that outlive the task.
        /// Example: `volumes=[Volume(name="data", path="/var/lib/app", size=10 * GiB)]`
        volumes: Vec<Volume> = Vec::new() => restart;
    }
    check check_job;
}

macro_rules! default_from_schema {
    ($($name:ident),*) => {
        $(impl Default for $name {
            fn default() -> $name {
                serde_json::from_value(serde_json::json!({})).expect("every field of the struct has a default")
            }
        })*
    };
}

default_from_schema!(
    Resources,
    Limits,
    Rollout,
    Restart,
    Stop,
    Hooks,
    Requires,
    Maintenance
);

impl JobSpec {
    pub fn id(&self) -> JobId {
        JobId::new(self.namespace.clone(), self.name.clone())
    }

    /// Other jobs that its tasks need to find: named in templates or in `depends_on`.
    pub fn services(&self) -> BTreeSet<JobId> {
        let templates = self.texts().filter_map(|text| Template::parse(text).ok());
        let named = templates
            .flat_map(|template| template.values().cloned().collect::<Vec<_>>())
            .filter_map(|value| match value {
                TemplateValue::Service { job, .. } => Some(job),
                _ => None,
            });
        let jobs = named.chain(self.depends_on.iter().cloned());
        jobs.map(|job| JobId::new(self.namespace.clone(), job))
            .collect()
    }

    /// The texts that may hold templates.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.command
            .0
            .iter()
            .chain(self.env.values())
            .chain(
                self.sidecars
                    .iter()
                    .flat_map(|sidecar| sidecar.command.0.iter().chain(sidecar.env.values())),
            )
            .chain(self.hooks.all().flat_map(|(_, hook)| &hook.command.0))
            .map(String::as_str)
    }

    /// Reads a job from what its author wrote. Problems and places are left in `decoder`.
    pub fn from_author(value: &serde_json::Value, decoder: &mut Decoder) -> Option<JobSpec> {
        <JobSpec as SpecType>::from_author(value, &FieldPath::root(), decoder)
    }

    /// The tables of all structs of the spec language, inner ones first.
    pub fn tables() -> Vec<StructInfo> {
        let mut tables = Vec::new();
        <JobSpec as SpecType>::describe(&mut tables);
        tables
    }
}

fn check_job(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    check_packages(job, at, decoder)?;
    check_ports(job, at, decoder)?;
    check_templates(job, at, decoder)?;
    check_volumes(job, at, decoder)?;
    check_kind(job, at, decoder)?;
    if job.priority > 100 {
        return decoder.bad_value(
            &at.field("priority"),
            format!("{} is above 100, the highest priority", job.priority),
            None,
        );
    }
    if job.failover.is_some() && !job.at_most_one {
        return decoder.bad_value(
            &at.field("failover"),
            "only an at-most-one job fails over; any other is replaced at once".to_owned(),
            Some("leave it out, or add at_most_one=True".to_owned()),
        );
    }
    check_surge(job, at, decoder)?;
    if let Some((index, message)) = job.spread_against_region() {
        return decoder.bad_value(
            &at.field("spread").item(job.spread[index].key()),
            message,
            Some(
                "leave requires.region out, or spread over a part of it, such as \"datacenter\""
                    .to_owned(),
            ),
        );
    }
    if job.depends_on.contains(&job.name) {
        return decoder.bad_value(
            &at.field("depends_on"),
            format!("'{}' cannot wait for itself", job.name),
            None,
        );
    }
    Some(())
}

fn check_surge(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    match job.against_surge().filter(|_| job.rollout.max_surge > 0) {
        None => Some(()),
        Some(message) => decoder.bad_value(
            &at.field("rollout").field("max_surge"),
            message.to_owned(),
            Some("leave max_surge out".to_owned()),
        ),
    }
}

/// A task finds its packages by the last part of their paths.
fn check_packages(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    let mut names = BTreeSet::new();
    let twice = job
        .packages
        .iter()
        .find(|package| !names.insert(package.name()));
    let Some(package) = twice else {
        return Some(());
    };
    let path = at.field("packages").item(package.key());
    let message = format!("two packages would both be at /packages/{}", package.name());
    decoder.bad_value(&path, message, Some("rename one of the folders".to_owned()))
}

fn check_ports(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    let unknown = job
        .health
        .iter()
        .find(|check| check.port().is_some_and(|port| !job.ports.contains(port)));
    let Some((check, port)) = unknown.and_then(|check| Some((check, check.port()?))) else {
        return Some(());
    };
    let path = at.field("health").item(check.key()).field("port");
    decoder.bad_value(
        &path,
        format!("the job has no port '{port}'"),
        Some(port_hint(job, port)),
    )
}

fn port_hint(job: &JobSpec, port: &PortName) -> String {
    let names: Vec<&str> = job.ports.iter().map(Name::as_str).collect();
    match nearest(port.as_str(), &names) {
        Some(name) => format!("did you mean '{name}'?"),
        None => format!("declare it: ports=[\"{port}\"]"),
    }
}

fn check_templates(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    let commands = |path: FieldPath, words: &'_ CommandLine| -> Vec<(FieldPath, String)> {
        words
            .0
            .iter()
            .map(|text| (path.clone(), text.clone()))
            .collect()
    };
    let values =
        |path: FieldPath, env: &'_ BTreeMap<EnvName, String>| -> Vec<(FieldPath, String)> {
            env.iter()
                .map(|(key, text)| (path.field(&key.0), text.clone()))
                .collect()
        };
    let mut texts = commands(at.field("command"), &job.command);
    texts.extend(values(at.field("env"), &job.env));
    for sidecar in &job.sidecars {
        let at = at.field("sidecars").item(sidecar.key());
        texts.extend(commands(at.field("command"), &sidecar.command));
        texts.extend(values(at.field("env"), &sidecar.env));
    }
    for (name, hook) in job.hooks.all() {
        texts.extend(commands(
            at.field("hooks").field(name).field("command"),
            &hook.command,
        ));
    }
    texts
        .into_iter()
        .try_for_each(|(path, text)| check_template(job, &path, &text, decoder))
}

fn check_template(
    job: &JobSpec,
    path: &FieldPath,
    text: &str,
    decoder: &mut Decoder,
) -> Option<()> {
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(cause) => return decoder.bad_value(path, cause.to_string(), Some(cause.hint())),
    };
    let of_image = |value: &&TemplateValue| {
        matches!(
            value,
            TemplateValue::ImageCommand | TemplateValue::ImageEntrypoint
        )
    };
    if let Some(value) = template.values().find(of_image) {
        if !matches!(job.image, Some(Image::Oci(_))) {
            let hint = "write the program, or add image=OciImage(reference=…)".to_owned();
            let message =
                format!("{value} needs an image of a registry, which says what it starts");
            return decoder.bad_value(path, message, Some(hint));
        }
        if text != value.to_string() {
            let message =
                format!("{value} stands for several words, so it has to be one by itself");
            return decoder.bad_value(path, message, None);
        }
    }
    let unknown = template.values().find_map(|value| match value {
        TemplateValue::Port(port) if !job.ports.contains(port) => Some(port),
        _ => None,
    });
    match unknown {
        Some(port) => {
            let hint = Some(port_hint(job, port));
            decoder.bad_value(path, format!("the job has no port '{port}'"), hint)
        }
        None => Some(()),
    }
}

/// Volumes do not hide one another, and sidecars share only those that are there.
fn check_volumes(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    for (index, volume) in job.volumes.iter().enumerate() {
        let hides = |other: &&Volume| {
            let (a, b) = (&volume.path.0, &other.path.0);
            a == b || a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/"))
        };
        if let Some(other) = job.volumes[..index].iter().find(hides) {
            return decoder.bad_value(
                &at.field("volumes").item(volume.key()).field("path"),
                format!(
                    "{} and {} of volume '{}' overlap",
                    volume.path.0, other.path.0, other.name
                ),
                Some("give each volume a folder of its own".to_owned()),
            );
        }
    }
    let names: Vec<&str> = job
        .volumes
        .iter()
        .map(|volume| volume.name.as_str())
        .collect();
    let unknown = job.sidecars.iter().find_map(|sidecar| {
        let name = sidecar
            .volumes
            .iter()
            .find(|name| !names.contains(&name.as_str()))?;
        Some((sidecar, name))
    });
    let Some((sidecar, name)) = unknown else {
        return Some(());
    };
    decoder.bad_value(
        &at.field("sidecars").item(sidecar.key()).field("volumes"),
        format!("the job has no volume '{name}'"),
        nearest(name.as_str(), &names).map(|near| format!("did you mean '{near}'?")),
    )
}

/// Fields that mean something for one kind of job only.
fn check_kind(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    let batch_only = [
        ("schedule", job.schedule.is_some()),
        ("parallelism", job.parallelism.is_some()),
        ("timeout_ms", job.timeout.is_some()),
    ];
    let misplaced = batch_only
        .into_iter()
        .find(|(_, is_set)| *is_set && job.kind != Kind::Batch);
    if let Some((field, _)) = misplaced {
        return decoder.bad_value(
            &at.field(field),
            format!(
                "only a batch job can have this; this one is a {}",
                job.kind.as_str()
            ),
            Some("add kind=\"batch\", or leave it out".to_owned()),
        );
    }
    if job.parallelism == Some(0) {
        return decoder.bad_value(
            &at.field("parallelism"),
            "with parallelism=0 no task could ever start".to_owned(),
            None,
        );
    }
    if job.kind == Kind::Daemon && job.replicas != 1 {
        return decoder.bad_value(
            &at.field("replicas"),
            "a daemon has one task on each machine, however many there are".to_owned(),
            Some("leave replicas out".to_owned()),
        );
    }
    if job.kind != Kind::Service && job.autoscale.is_some() {
        return decoder.bad_value(
            &at.field("autoscale"),
            format!(
                "only a service can follow its load; this one is a {}",
                job.kind.as_str()
            ),
            None,
        );
    }
    check_followed_metric(job, at, decoder)
}

/// What the number of tasks follows is read by a check.
fn check_followed_metric(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    let followed = job
        .autoscale
        .as_ref()
        .and_then(|scale| scale.metric.as_ref());
    let Some(metric) = followed else {
        return Some(());
    };
    let reads = |check: &HealthCheck| matches!(check, HealthCheck::Metric(check) if check.metric == *metric);
    if job.health.iter().any(reads) {
        return Some(());
    }
    decoder.bad_value(
        &at.field("autoscale").field("metric"),
        format!("no check of this job reads '{metric}'"),
        Some(format!(
            "add a MetricCheck(metric=\"{metric}\", …) to health"
        )),
    )
}

impl JobSpec {
    /// Why an update can run no tasks beyond the wanted number, where that is so: they are only of use where any task does
    /// the work of any other.
    pub fn against_surge(&self) -> Option<&'static str> {
        match () {
            () if self.at_most_one => Some("the tasks of an at-most-one job have no doubles"),
            () if !self.volumes.is_empty() => {
                Some("a new task would not find the volumes of another")
            }
            () if self.kind != Kind::Service => {
                Some("only services have tasks beyond the wanted number")
            }
            () => None,
        }
    }

    /// How many tasks the job is to have: `replicas`, or what it was scaled to where the number follows the load.
    pub fn tasks(&self, scaled: Option<u32>) -> u32 {
        match &self.autoscale {
            None => self.replicas,
            Some(autoscale) => autoscale.within(scaled.unwrap_or(self.replicas)),
        }
    }
}
