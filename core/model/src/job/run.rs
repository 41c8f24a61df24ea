//! What a task runs: its packages, root, runtimes, secrets, companions and hooks.

use std::collections::BTreeMap;

use crate::*;

choice! {
    /// What kind of job it is.
    pub enum Kind {
        /// Runs until it is stopped; a task that ends is started again.
        Service = "service",
        /// Runs until each task has ended with exit code 0.
        Batch = "batch",
        /// As a service, with one task on each machine that satisfies what it requires.
        Daemon = "daemon",
    }
}

spec! {
    /// A folder that the task sees read-only, content-addressed: the task restarts only when a file in it changed.
    pub struct Package {
        /// The folder, from the folder of the spec; with a leading `//` from the repository's root.
        /// Example: `path="app"`
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
    /// What the task sees as its root file system.
    pub enum Image {
        /// A folder on the machines.
        Folder(FolderImage) = "folder",
        /// A tar archive in the repository.
        Archive(ArchiveImage) = "archive",
        /// An image of a registry.
        Oci(OciImage) = "oci",
    }
}

spec! {
    /// A folder on the machines as the root file system, read-only to the task.
    pub struct FolderImage {
        /// The folder; each machine that runs the task must have it.
        /// Example: `path="/srv/images/debian-12"`
        path: AbsolutePath => restart;
    }
}

spec! {
    /// A tar archive in the repository as the root file system; gzip, xz and zstd are seen by themselves.
    pub struct ArchiveImage {
        /// The file, from the folder of the spec; with a leading `//` from the repository's root.
        /// Example: `path="//images/base.tar.zst"`
        path: RepoPath => restart;
        /// The hash of the file at the evaluated revision.
        digest: Digest = Digest::default() => restart, resolved;
    }
}

spec! {
    /// An image of a registry as the root file system. This release fetches none: a plan refuses the job. Written to an archive,
    /// as `docker export` does, it is an `ArchiveImage`.
    pub struct OciImage {
        /// Its name, with a tag or better a digest.
        /// Example: `reference="docker.io/library/redis:7.2"`
        reference: String => restart;
    }
}

spec! {
    /// A platform runtime that the machines keep side by side in several versions, mounted read-only at
    /// `/runtimes/NAME` with its `bin` on the PATH, so that a package holds the application alone.
    pub struct Runtime {
        /// Its name.
        /// Example: `name="python"`
        name: Name => restart;
        /// Its version, as the machines name it.
        /// Example: `version="3.11"`
        version: String => restart;
    }
    check check_runtime;
}

spec! {
    /// A secret that the task reads as a file in memory, at `/secrets/NAME`, as do its hooks and sidecars. Its value
    /// is set with `tw secret set` and is never in a spec, an environment or a log; a new one is read at the next start.
    pub struct Secret {
        /// Its name in the job's namespace.
        /// Example: `name="database-password"`
        name: Name => restart;
    }
}

spec! {
    /// A program that runs beside the command, in a sandbox of its own and within the same limits, and ends with it.
    pub struct Sidecar {
        /// Its name; its output is kept apart under it.
        /// Example: `name="proxy"`
        name: Name => restart;
        /// The program and its arguments.
        /// Example: `command=["./proxy", "--to", "{port:http}"]`
        command: CommandLine => restart;
        /// Environment variables beside those of the job.
        /// Example: `env={"MODE": "tls"}`
        env: BTreeMap<EnvName, String> = BTreeMap::new() => restart;
        /// Which of the job's volumes it sees.
        /// Example: `volumes=["data"]`
        volumes: Vec<Name> = Vec::new() => restart;
    }
}

spec! {
    /// A command at a certain moment in the life of a task, in the task's sandbox.
    pub struct Hook {
        /// The program and its arguments.
        /// Example: `command=["./migrate", "--check"]`
        command: CommandLine => restart;
        /// How long it may take; then it is killed and has failed.
        /// Example: `timeout=2 * MINUTE`
        timeout as "timeout_ms": Millis = Millis::seconds(30) => restart;
    }
    check check_hook;
}

spec! {
    /// Commands of one's own around the life of a task.
    pub struct Hooks {
        /// Before the command; where it fails, the task has failed to start.
        /// Example: `pre_start=Hook(command="./migrate")`
        pre_start: Option<Hook> = None => restart;
        /// Once the command runs; the task is not healthy before it has ended well.
        /// Example: `post_start=Hook(command="./warm-up")`
        post_start: Option<Hook> = None => restart;
        /// Before the stop signal.
        /// Example: `pre_stop=Hook(command="./leave-cluster")`
        pre_stop: Option<Hook> = None => restart;
        /// After the command has ended, however it ended.
        /// Example: `post_stop=Hook(command="./clean-up")`
        post_stop: Option<Hook> = None => restart;
    }
}

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

impl Keyed for Runtime {
    fn key(&self) -> String {
        self.name.to_string()
    }
}

impl Secret {
    /// The most that a value may have.
    pub const BYTES_MAX: usize = 64 << 10;
}

impl Keyed for Secret {
    fn key(&self) -> String {
        self.name.to_string()
    }
}

impl Keyed for Sidecar {
    fn key(&self) -> String {
        self.name.to_string()
    }
}

impl Hooks {
    /// The hooks that are there, each under its name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Hook)> {
        let Hooks {
            pre_start,
            post_start,
            pre_stop,
            post_stop,
        } = self;
        [
            ("pre_start", pre_start),
            ("post_start", post_start),
            ("pre_stop", pre_stop),
            ("post_stop", post_stop),
        ]
        .into_iter()
        .filter_map(|(name, hook)| Some((name, hook.as_ref()?)))
    }
}

fn check_runtime(runtime: &Runtime, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-+_".contains(c);
    match runtime
        .version
        .starts_with(|c: char| c.is_ascii_alphanumeric())
        && runtime.version.chars().all(plain)
    {
        true => Some(()),
        false => decoder.bad_value(
            &at.field("version"),
            format!("'{}' is not a version", runtime.version),
            Some("for example \"3.11\"".to_owned()),
        ),
    }
}

fn check_hook(hook: &Hook, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    match hook.timeout {
        Millis::ZERO => decoder.bad_value(
            &at.field("timeout_ms"),
            "a hook needs time to run".to_owned(),
            Some("times are in seconds: write 30 * SECOND".to_owned()),
        ),
        _ => Some(()),
    }
}
