//! What an agent is told when it starts, and what it finds out of its machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tw_api::ApiEndpoint;
use tw_model::{Bytes, Capacity, Cores, LIBEXEC, MachineFacts, MachineId, companion_places};

use crate::cgroup::{CgroupTree, TreePath};
use crate::helper::{ALONE, UNDECIDED, record};
use crate::sandbox::UserMode;
use crate::sandbox::features::Features;

/// What was last found out of a sandbox in the state folder.
const FEATURES_FILE: &str = "features.json";

/// How an agent runs.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub name: MachineId,
    /// Everything the agent keeps lies here.
    pub state: PathBuf,
    pub controller: ControllerAddress,
    /// The agent's subtree in every cgroup hierarchy.
    pub cgroup: String,
    /// What tasks may be given; none means what the machine has.
    pub cpu: Option<Cores>,
    pub memory: Option<Bytes>,
    pub disk: Option<Bytes>,
    /// Network bandwidth; none means that of the fastest interface.
    pub bandwidth: Option<Bytes>,
    pub place: Place,
    /// Holds platform runtimes as `NAME/VERSION`.
    pub runtimes: PathBuf,
    /// Where tasks of this machine are reached.
    pub address: String,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The first and the last port that tasks may be given.
    pub ports: (u16, u16),
}

/// What an operator says of a machine, for jobs that are particular about where they run.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub rack: String,
    pub cluster: String,
    pub datacenter: String,
    pub region: String,
    /// The host profile.
    pub profile: String,
    pub labels: BTreeMap<String, String>,
}

/// Where the controller is.
#[derive(Clone, Debug)]
pub enum ControllerAddress {
    Unix(PathBuf),
    Tcp {
        address: SocketAddr,
        token_file: PathBuf,
    },
}

impl ControllerAddress {
    /// Reads the token, where one is needed.
    pub fn endpoint(&self) -> anyhow::Result<ApiEndpoint> {
        match self {
            ControllerAddress::Unix(path) => Ok(ApiEndpoint::Unix(path.clone())),
            ControllerAddress::Tcp {
                address,
                token_file,
            } => {
                let token = std::fs::read_to_string(token_file).with_context(|| {
                    format!("cannot read the token in {}", token_file.display())
                })?;
                Ok(ApiEndpoint::Tcp {
                    address: *address,
                    token: token.trim().to_owned(),
                })
            }
        }
    }
}

impl AgentConfig {
    /// Where the agent's leaves are: the machine's cgroups, or where its user has none, notes in its own folder.
    pub(super) fn tree(&self) -> TreePath {
        super::ordinary::tree_of(&self.state, &self.cgroup)
    }

    pub(super) fn tasks_folder(&self) -> PathBuf {
        self.state.join("tasks")
    }

    pub(super) fn capacity(&self) -> anyhow::Result<Capacity> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        Ok(Capacity {
            cpu: self.cpu.unwrap_or(Cores::milli(cores * 1000)),
            memory: match self.memory {
                Some(memory) => memory,
                None => memory_total()?,
            },
            disk: match self.disk {
                Some(disk) => disk,
                None => disk_free(&self.state)?,
            },
            bandwidth: self.bandwidth.unwrap_or_else(bandwidth),
            port_first: self.ports.0,
            port_last: self.ports.1,
        })
    }

    pub(super) fn facts(
        &self,
        tree: &dyn CgroupTree,
        users: UserMode,
        bounds_disk: bool,
    ) -> MachineFacts {
        let mut enforces: Vec<String> = tree.enforces().into_iter().map(str::to_owned).collect();
        if users != UserMode::Shared {
            enforces.push("user-namespace".to_owned());
        }
        if bounds_disk {
            enforces.extend(["disk", "volume-size"].map(str::to_owned));
        }
        MachineFacts {
            address: self.address.clone(),
            os: os_name().unwrap_or_default(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            rack: self.place.rack.clone(),
            cluster: self.place.cluster.clone(),
            datacenter: self.place.datacenter.clone(),
            region: self.place.region.clone(),
            profile: self.place.profile.clone(),
            labels: self.place.labels.clone(),
            enforces,
        }
    }
}

/// Finds out what a sandbox can have in `state`, and notes it for the day on which that cannot be found out.
pub(super) fn features(helper: &Path, state: &Path) -> anyhow::Result<Features> {
    let found = find_features(helper, state)?;
    let last = record::read::<Features>(state, FEATURES_FILE).unwrap_or_default();
    if last.as_ref() != Some(&found)
        && let Err(cause) = record::write_durably(state, FEATURES_FILE, &found)
    {
        tracing::warn!(cause = %crate::error::chain(&cause), "what a sandbox can have here is not written down");
    }
    Ok(found)
}

/// Asks a process of its own what a sandbox can have in `state`. Where that cannot be found out now, as the disk is full,
/// it is what was found out last: no task gets less because of the moment in which its agent began anew.
pub(super) fn find_features(helper: &Path, state: &Path) -> anyhow::Result<Features> {
    let is_root = nix::unistd::geteuid().is_root();
    let words: &[&str] = match is_root {
        true => &["probe"],
        false => &[ALONE, "probe-alone"],
    };
    let said = std::process::Command::new(helper)
        .args(words)
        .arg(state)
        .output()
        .with_context(|| format!("cannot run {}", helper.display()))?;
    if let Ok(found) = serde_json::from_slice(&said.stdout) {
        return Ok(found);
    }
    let words = String::from_utf8_lossy(&said.stderr);
    let words = words.trim().trim_start_matches("tw-helper: ");
    // One that was killed has found nothing out either.
    let code = said.status.code();
    let is_undecided = code.is_none_or(|code| code == i32::from(UNDECIDED));
    let last = record::read::<Features>(state, FEATURES_FILE).unwrap_or_default();
    // The folder may have been another user's.
    let last = last.filter(|last| (last.users != UserMode::Single) == is_root);
    match last.filter(|_| is_undecided) {
        Some(last) => {
            tracing::warn!(
                cause = words,
                "tasks get the sandbox that was found to be possible last"
            );
            Ok(last)
        }
        None => anyhow::bail!("no sandbox can be made here: {words}"),
    }
}

fn memory_total() -> anyhow::Result<Bytes> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .context("/proc/meminfo has no MemTotal")?;
    let kib: u64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .context("MemTotal is not a number")?;
    Ok(Bytes(kib * 1024))
}

fn disk_free(folder: &Path) -> anyhow::Result<Bytes> {
    let found = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot measure the disk of {}", folder.display()))?;
    Ok(Bytes(found.f_bavail * found.f_frsize))
}

/// What the fastest interface can send; 0 where none says, as virtual ones often do not.
fn bandwidth() -> Bytes {
    let interfaces = std::fs::read_dir("/sys/class/net");
    let speeds = interfaces
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let megabits = std::fs::read_to_string(entry.path().join("speed")).ok()?;
            megabits.trim().parse::<u64>().ok()
        });
    Bytes(speeds.max().unwrap_or(0) * 1_000_000 / 8)
}

/// `debian-12`, from the fields that every distribution has.
fn os_name() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let id = field("ID")?;
    Some(field("VERSION_ID").map_or(id.clone(), |version| format!("{id}-{version}")))
}

/// `tw-helper`, where companions of this program are looked for.
pub(super) fn helper_program() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let libexec = std::env::var_os(LIBEXEC).map(PathBuf::from);
    let places = companion_places(&here, libexec.as_deref(), "tw-helper");
    let found = places.into_iter().find(|program| program.is_file());
    found.with_context(|| {
        format!(
            "tw-helper is not beside {}; install it there, or name its folder in TW_LIBEXEC",
            here.display()
        )
    })
}
