//! The job spec: every field that an author may set, declared once.

use std::collections::{BTreeMap, BTreeSet};

use crate::*;

spec! {
    /// A job: one command, run as a number of identical tasks.
    pub struct JobSpec as "Job" {
        /// The job's name, unique within its namespace: lower-case letters, digits and `-`.
        name: Name => recreate;
        /// Keeps the jobs of one team or environment apart from those of others.
        namespace: Name = DEFAULT_NAMESPACE.parse().expect("the default namespace is a name") => recreate;
        /// What kind of job it is: a service runs until it is stopped, a batch job until it has succeeded.
        kind: Kind = Kind::Service => recreate;
        /// The program and its arguments, as a list or as one text that is split at blanks; no shell reads it.
        /// May hold `{port:NAME}`, `{task:index}` and `{service:JOB:PORT}`.
        command: CommandLine => restart;
        /// Environment variables; values may hold the same templates as the command. Nothing is inherited
        /// from the machine but a plain PATH.
        env: BTreeMap<EnvName, String> = BTreeMap::new() => restart;
        /// The user that the task runs as. The default has no rights on the machine at all.
        user: String = "nobody".to_owned() => restart;
        /// Folders that the task needs; the first is mounted read-only as its working directory.
        packages: Vec<Package> = Vec::new() => restart;
        /// How many tasks run at the same time.
        replicas: u32 = 1 => scale;
        /// What one task may use.
        resources: Resources = Resources::default() => in_place;
        /// How the limits of running tasks follow their measured use.
        limits: Limits = Limits::default() => in_place;
        /// Names of the TCP ports that each task listens on; the numbers are given out per task.
        ports: Vec<PortName> = Vec::new() => restart;
        /// How to tell that a task serves. Without checks a task counts as healthy while it runs.
        health: Vec<HealthCheck> = Vec::new() => in_place;
        /// How a new version replaces the old one.
        rollout: Rollout = Rollout::default() => none;
        /// What happens when a task ends that should not.
        restart: Restart = Restart::default() => none;
        /// How a task is asked to end.
        stop: Stop = Stop::default() => none;
        /// Jobs of the same namespace that must be healthy before a task of this one starts.
        depends_on: Vec<Name> = Vec::new() => none;
        /// The team that answers for the job.
        owner: String = String::new() => none;
        /// Free text pairs for tools and people; nothing in Twill reads them.
        labels: BTreeMap<EnvName, String> = BTreeMap::new() => none;
    }
    check check_job;
}

choice! {
    /// What kind of job it is.
    pub enum Kind {
        /// Runs until it is stopped; a task that ends is started again.
        Service = "service",
        /// Runs until each task has ended with exit code 0.
        Batch = "batch",
    }
}

spec! {
    /// What one task may use. A machine gives out no more than it has.
    pub struct Resources {
        /// Cores a task can count on; idle cores may be borrowed.
        cpu as "cpu_millicores": Cores = Cores::milli(100) => in_place;
        /// The most memory a task may hold; a task that needs more is restarted.
        memory as "memory_bytes": Bytes = Bytes::mib(64) => in_place;
        /// Scratch space kept free for the task.
        disk as "disk_bytes": Bytes = Bytes::gib(1) => by(disk_effect);
        /// How many processes and threads a task may have.
        pids: u32 = 512 => in_place;
    }
    check check_resources;
}

choice! {
    /// What is done with learned limits.
    pub enum LimitMode {
        /// Nothing is learned; the limits are the request.
        Off = "off",
        /// Use is recorded and shown.
        Observe = "observe",
        /// Running tasks get the learned limits.
        Auto = "auto",
    }
}

spec! {
    /// How the limits of running tasks follow their measured use.
    pub struct Limits {
        /// Whether use is recorded, and whether running tasks get the limits learned from it.
        mode: LimitMode = LimitMode::Observe => in_place;
        /// The learned CPU limit never falls below this.
        cpu_min as "cpu_min_millicores": Cores = Cores::milli(10) => in_place;
        /// The learned CPU limit never rises above this; `None` means the request.
        cpu_max as "cpu_max_millicores": Option<Cores> = None => in_place;
        /// The learned memory limit never falls below this.
        memory_min as "memory_min_bytes": Bytes = Bytes::mib(16) => in_place;
        /// The learned memory limit never rises above this; `None` means the request.
        memory_max as "memory_max_bytes": Option<Bytes> = None => in_place;
        /// How much history is needed before limits change or are suggested.
        history_min as "history_min_ms": Millis = Millis::hours(24) => in_place;
        /// How far back the limits look.
        window as "window_ms": Millis = Millis::hours(168) => in_place;
    }
    check check_limits;
}

spec! {
    /// A folder that the task sees read-only, content-addressed: the task restarts only when a file in it changed.
    pub struct Package {
        /// The folder, from the folder of the spec; with a leading `//` from the repository's root.
        path: RepoPath => restart;
        /// The hash of the folder at the evaluated revision.
        digest: Digest = Digest::default() => restart, resolved;
    }
    python "
    @staticmethod
    def folder(path: str) -> Package:
        \"\"\"A folder of the repository, at the revision that is evaluated.\"\"\"
        return Package(path=path)
";
}

one_of! {
    /// How to tell that a task serves.
    pub enum HealthCheck {
        /// An HTTP request.
        Http(HttpCheck) = "http",
        /// A TCP connection.
        Tcp(TcpCheck) = "tcp",
        /// A command in the task's sandbox.
        Command(CommandCheck) = "command",
    }
}

spec! {
    /// Healthy when a GET request is answered with a status from 200 to 399.
    pub struct HttpCheck {
        /// The name of the port to ask.
        port: PortName => in_place;
        /// The path to ask for.
        path: String = "/".to_owned() => in_place;
        /// The time between two checks.
        every as "every_ms": Millis = Millis::seconds(5) => in_place;
        /// The time an answer may take.
        timeout as "timeout_ms": Millis = Millis::seconds(2) => in_place;
        /// How many checks in a row must fail before a healthy task counts as unhealthy.
        failures: u32 = 3 => in_place;
    }
    check check_http;
}

spec! {
    /// Healthy when a connection is accepted.
    pub struct TcpCheck {
        /// The name of the port to connect to.
        port: PortName => in_place;
        /// The time between two checks.
        every as "every_ms": Millis = Millis::seconds(5) => in_place;
        /// The time a connection may take.
        timeout as "timeout_ms": Millis = Millis::seconds(2) => in_place;
        /// How many checks in a row must fail before a healthy task counts as unhealthy.
        failures: u32 = 3 => in_place;
    }
    check check_tcp;
}

spec! {
    /// Healthy when a command, run in the task's sandbox, ends with exit code 0.
    pub struct CommandCheck {
        /// The program and its arguments.
        command: CommandLine => in_place;
        /// The time between two checks.
        every as "every_ms": Millis = Millis::seconds(5) => in_place;
        /// The time the command may take.
        timeout as "timeout_ms": Millis = Millis::seconds(2) => in_place;
        /// How many checks in a row must fail before a healthy task counts as unhealthy.
        failures: u32 = 3 => in_place;
    }
    check check_command;
}

spec! {
    /// How a new version replaces the old one: stage by stage, each only after the one before it is healthy.
    pub struct Rollout {
        /// How far each stage goes: a number of tasks, or a share such as "10%".
        stages: Box<[Stage]> = Box::from([Stage::Tasks(1), Stage::Percent(100)]) => none;
        /// How many tasks may be down at the same time because of the update.
        max_unavailable: u32 = 1 => none;
        /// How long a new task must be healthy before it counts.
        healthy_for as "healthy_for_ms": Millis = Millis::seconds(5) => none;
        /// How long a new task may take to become healthy; after that the update halts and the rest keeps its version.
        deadline as "deadline_ms": Millis = Millis::minutes(5) => none;
    }
    check check_rollout;
}

spec! {
    /// What happens when a task ends that should not. The wait doubles with each failure in a row.
    pub struct Restart {
        /// How often a batch task is tried again; services are started again without end.
        attempts: u32 = 3 => none;
        /// The wait before the first restart.
        delay as "delay_ms": Millis = Millis::seconds(1) => none;
        /// The longest wait.
        delay_max as "delay_max_ms": Millis = Millis::minutes(1) => none;
        /// A task that ran this long starts counting its failures anew.
        reset_after as "reset_after_ms": Millis = Millis::minutes(10) => none;
    }
    check check_restart;
}

choice! {
    /// A signal that asks a task to end.
    pub enum Signal {
        /// The usual request.
        Term = "SIGTERM",
        /// As from a keyboard.
        Int = "SIGINT",
        /// nginx ends gracefully on this one.
        Quit = "SIGQUIT",
        /// A closed terminal.
        Hup = "SIGHUP",
    }
}

spec! {
    /// How a task is asked to end.
    pub struct Stop {
        /// The time between leaving service discovery and the signal, for requests still under way to others.
        drain as "drain_ms": Millis = Millis::seconds(1) => none;
        /// The signal that asks.
        signal: Signal = Signal::Term => none;
        /// The time a task has to end by itself before it is killed.
        grace as "grace_ms": Millis = Millis::seconds(10) => none;
    }
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

default_from_schema!(Resources, Limits, Rollout, Restart, Stop);

impl Keyed for Package {
    fn key(&self) -> String {
        self.path.0.clone()
    }
}

impl Package {
    /// The last part of its path: the task finds it at `/packages/NAME`.
    pub fn name(&self) -> &str {
        self.path.0.rsplit('/').next().unwrap_or(&self.path.0)
    }
}

impl Keyed for HealthCheck {
    fn key(&self) -> String {
        match self {
            HealthCheck::Http(check) => format!("http:{}{}", check.port, check.path),
            HealthCheck::Tcp(check) => format!("tcp:{}", check.port),
            HealthCheck::Command(check) => format!("command:{}", check.command.0.join(" ")),
        }
    }
}

impl HealthCheck {
    pub fn every(&self) -> Millis {
        match self {
            HealthCheck::Http(check) => check.every,
            HealthCheck::Tcp(check) => check.every,
            HealthCheck::Command(check) => check.every,
        }
    }

    pub fn timeout(&self) -> Millis {
        match self {
            HealthCheck::Http(check) => check.timeout,
            HealthCheck::Tcp(check) => check.timeout,
            HealthCheck::Command(check) => check.timeout,
        }
    }

    pub fn failures(&self) -> u32 {
        match self {
            HealthCheck::Http(check) => check.failures,
            HealthCheck::Tcp(check) => check.failures,
            HealthCheck::Command(check) => check.failures,
        }
    }

    fn port(&self) -> Option<&PortName> {
        match self {
            HealthCheck::Http(check) => Some(&check.port),
            HealthCheck::Tcp(check) => Some(&check.port),
            HealthCheck::Command(_) => None,
        }
    }
}

impl Limits {
    /// The bounds of the learned CPU limit, lowest first.
    pub fn cpu_bounds(&self, request: Cores) -> (Cores, Cores) {
        let highest = self.cpu_max.unwrap_or(request);
        (self.cpu_min.min(highest), highest)
    }

    /// The bounds of the learned memory limit, lowest first.
    pub fn memory_bounds(&self, request: Bytes) -> (Bytes, Bytes) {
        let highest = self.memory_max.unwrap_or(request);
        (self.memory_min.min(highest), highest)
    }
}

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
                TemplateValue::Port(_) | TemplateValue::TaskIndex => None,
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

/// Less scratch space than before cannot be taken from a running task.
fn disk_effect(old: &Bytes, new: &Bytes) -> Effect {
    match new < old {
        true => Effect::Restart,
        false => Effect::InPlace,
    }
}

/// The smallest memory limit under which a program can start at all.
const MEMORY_MIN: Bytes = Bytes::mib(4);

fn check_resources(resources: &Resources, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if resources.memory < MEMORY_MIN {
        let at = at.field("memory_bytes");
        let hint = Some("sizes are in bytes: write 256 * MiB".to_owned());
        return decoder.bad_value(
            &at,
            format!(
                "{} is too little to start a program; {MEMORY_MIN} is the least",
                resources.memory
            ),
            hint,
        );
    }
    if resources.cpu == Cores::ZERO {
        return decoder.bad_value(
            &at.field("cpu_millicores"),
            "a task needs at least 0.001 cores".to_owned(),
            None,
        );
    }
    if resources.pids == 0 {
        return decoder.bad_value(
            &at.field("pids"),
            "a task needs at least one process".to_owned(),
            None,
        );
    }
    Some(())
}

fn check_limits(limits: &Limits, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if limits
        .memory_max
        .is_some_and(|most| most < limits.memory_min)
    {
        let message = format!("memory_max is below memory_min ({})", limits.memory_min);
        return decoder.bad_value(&at.field("memory_max_bytes"), message, None);
    }
    if limits.cpu_max.is_some_and(|most| most < limits.cpu_min) {
        let message = format!("cpu_max is below cpu_min ({})", limits.cpu_min);
        return decoder.bad_value(&at.field("cpu_max_millicores"), message, None);
    }
    Some(())
}

fn check_http(check: &HttpCheck, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if !check.path.starts_with('/') || check.path.contains(char::is_whitespace) {
        let message = format!("'{}' is not a path to ask for", check.path);
        return decoder.bad_value(
            &at.field("path"),
            message,
            Some("begin it with '/'".to_owned()),
        );
    }
    check_times(check.every, check.timeout, check.failures, at, decoder)
}

fn check_tcp(check: &TcpCheck, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    check_times(check.every, check.timeout, check.failures, at, decoder)
}

fn check_command(check: &CommandCheck, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    check_times(check.every, check.timeout, check.failures, at, decoder)
}

fn check_times(
    every: Millis,
    timeout: Millis,
    failures: u32,
    at: &FieldPath,
    decoder: &mut Decoder,
) -> Option<()> {
    if every < Millis(50) {
        let hint = Some("times are in seconds: write 5 * SECOND".to_owned());
        return decoder.bad_value(
            &at.field("every_ms"),
            format!("{every} is too often; 50ms is the least"),
            hint,
        );
    }
    if timeout == Millis::ZERO {
        return decoder.bad_value(
            &at.field("timeout_ms"),
            "a check needs time to be answered".to_owned(),
            None,
        );
    }
    if failures == 0 {
        return decoder.bad_value(
            &at.field("failures"),
            "at least one failure must be seen".to_owned(),
            None,
        );
    }
    Some(())
}

fn check_rollout(rollout: &Rollout, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if rollout.max_unavailable == 0 {
        let message = "with max_unavailable=0 no task could ever be replaced".to_owned();
        return decoder.bad_value(
            &at.field("max_unavailable"),
            message,
            Some("1 is the least".to_owned()),
        );
    }
    Some(())
}

fn check_restart(restart: &Restart, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if restart.delay == Millis::ZERO || restart.delay_max < restart.delay {
        let message = format!(
            "the waits before restarts go from {} to {}",
            restart.delay, restart.delay_max
        );
        let hint = Some("delay must be above 0 and at most delay_max".to_owned());
        return decoder.bad_value(&at.field("delay_ms"), message, hint);
    }
    Some(())
}

fn check_job(job: &JobSpec, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    check_packages(job, at, decoder)?;
    check_ports(job, at, decoder)?;
    check_templates(job, at, decoder)?;
    if job.depends_on.contains(&job.name) {
        return decoder.bad_value(
            &at.field("depends_on"),
            format!("'{}' cannot wait for itself", job.name),
            None,
        );
    }
    Some(())
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
    let command = job.command.0.iter().map(|text| (at.field("command"), text));
    let env = job
        .env
        .iter()
        .map(|(key, text)| (at.field("env").field(&key.0), text));
    for (path, text) in command.chain(env) {
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(cause) => return decoder.bad_value(&path, cause.to_string(), None),
        };
        for value in template.values() {
            if let TemplateValue::Port(port) = value
                && !job.ports.contains(port)
            {
                let hint = Some(port_hint(job, port));
                return decoder.bad_value(&path, format!("the job has no port '{port}'"), hint);
            }
        }
    }
    Some(())
}
