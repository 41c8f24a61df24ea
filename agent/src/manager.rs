//! The running agent: its managers, and how they work together.
//!
//! [`heartbeat`] speaks with the controller and hands assignments to [`task`], which keeps one actor a task.
//! An actor asks [`package`] for what the task needs, [`launch`] for how it runs and [`volume`] for its
//! folder, starts a helper, and follows it to the task's end; [`health`] tells it how the task does,
//! [`resource`] measures and limits it, [`report`] carries what happened until it is acknowledged.

mod ailment;
mod btrfs;
mod clean;
mod config;
mod cores;
mod disk;
mod endpoints;
mod folder;
mod health;
mod heartbeat;
mod helper_link;
mod launch;
mod lease;
mod metrics;
pub mod ordinary;
mod package;
mod report;
mod resource;
mod root;
mod secret;
mod session;
mod state;
mod strain;
mod task;
pub mod upgrade;
pub mod volume;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use tw_api::Client;

pub use clean::clean;
pub use config::{AgentConfig, ControllerAddress, Place};

use crate::cgroup::CgroupTree;
use crate::helper::make_tasks_folder;
use crate::helper::spare::{SparePool, SpareRequest};
use crate::sandbox::{UserMode, base};
use cores::WholeCores;
use endpoints::Endpoints;
use lease::Grants;
use package::{Packages, Unpacking};
use report::Reports;
use resource::Resources;
use task::Tasks;
use volume::Volumes;

/// The cgroup leaf that all helpers of an agent share.
const HELPERS_LEAF: &str = "helpers";

/// Helpers that wait for tasks.
const SPARES: usize = 4;

/// How long nothing may come of a controller that is connected: it answers at once, and its stream says something each 5 s. One
/// whose machine or network has gone would be waited for without end.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What every part of the agent may use.
struct Agent {
    config: AgentConfig,
    client: Client,
    tree: Arc<dyn CgroupTree>,
    /// The skeleton of every task's root.
    base: PathBuf,
    /// Whether tasks have user namespaces.
    users: UserMode,
    /// The program `tw-helper`.
    helper: PathBuf,
    spares: Arc<SparePool>,
    reports: Reports,
    counts: metrics::Counts,
    /// What the controller has granted to failover tasks.
    grants: Grants,
    /// The mark of the state folder.
    mark: String,
    packages: Packages,
    volumes: Volumes,
    resources: Resources,
    cores: WholeCores,
    endpoints: Endpoints,
    tasks: Tasks,
    /// Those who read files of tasks for health checks.
    file_readers: health::Readers,
}

/// Refuses what [`run`] would refuse of this program and the state folder, and leaves nothing changed.
pub fn check_run(config: &AgentConfig) -> anyhow::Result<()> {
    state::check(&config.state, &config.name)?;
    let helper = config::helper_program()?;
    // A folder that is not there yet is made by whoever runs in it.
    if config.state.is_dir() {
        config::find_features(&helper, &config.state)?;
    }
    Ok(())
}

/// Runs the agent until `shutdown` completes. Tasks go on without it; the next agent adopts them.
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.state)
        .with_context(|| format!("cannot make {}", config.state.display()))?;
    let is_root = nix::unistd::geteuid().is_root();
    anyhow::ensure!(
        is_root || matches!(config.controller, ControllerAddress::Unix(_)),
        "an agent without root takes tasks from a controller of its own user only (unix:PATH): what others send would run as you; run it as root"
    );
    let _lock = lock(&config)?;
    ordinary::make_ready(&config.tree())?;
    let mark = state::claim(&config.state, &config.name)?;
    let tasks = config.tasks_folder();
    make_tasks_folder(&tasks).with_context(|| format!("cannot make {}", tasks.display()))?;
    let tree: Arc<dyn CgroupTree> = Arc::from(config.tree().open()?);
    tree.create(HELPERS_LEAF)?;
    let client = Client::new(config.controller.endpoint()?).with_silence_max(SILENCE_MAX);
    let base = base::prepare(&config.state.join("base"))?;
    let helper = config::helper_program()?;
    let features = config::features(&helper, &config.state)?;
    let users = features.users;
    if let Some(reason) = &features.users_reason {
        tracing::warn!(reason, "tasks share the user numbers of this machine");
    }
    let request = SpareRequest {
        tree: config.tree(),
        helpers_leaf: HELPERS_LEAF.to_owned(),
        users,
    };
    let agent = Arc::new(Agent {
        users,
        base,
        spares: Arc::new(SparePool::new(helper.clone(), request, SPARES)),
        volumes: Volumes::open(&config.state.join("volumes"))?,
        packages: Packages::open(
            &config.state.join("packages"),
            client.clone(),
            Unpacking {
                helper: helper.clone(),
                users,
            },
        )?,
        cores: WholeCores::open(Arc::clone(&tree))?,
        resources: Resources::open(&config.state.join("history.db"), Arc::clone(&tree))?,
        reports: Reports::default(),
        counts: metrics::Counts::default(),
        grants: Grants::default(),
        mark,
        endpoints: Endpoints::open(config.state.join("run"))?,
        helper,
        tasks: Tasks::default(),
        file_readers: health::Readers::default(),
        client,
        tree,
        config,
    });
    task::adopt(&agent)?;
    agent
        .spares
        .refill()
        .context("cannot start spare helpers")?;
    upgrade::record_ready(&agent.config.state);
    tracing::info!(machine = %agent.config.name, tasks = agent.tasks.len(), "the agent is ready");
    let metrics = async {
        match agent.config.metrics {
            Some(address) => metrics::serve(Arc::clone(&agent), address).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        () = heartbeat::run(&agent) => Ok(()),
        () = resource::run(&agent) => Ok(()),
        failed = metrics => failed,
    };
    agent.spares.close();
    tracing::info!("the agent ends; its tasks go on");
    ended
}

/// One agent a state folder.
fn lock(config: &AgentConfig) -> anyhow::Result<Flock<File>> {
    let path = config.state.join("agent.lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!(
            "another agent runs in {}; end it, or use another --state",
            config.state.display()
        )
    })?;
    // For whoever asks this agent to make room for a newer one.
    let pid = std::process::id().to_string();
    // Not cut off first: a full disk would not give back what the number takes.
    let written = locked
        .write_all_at(pid.as_bytes(), 0)
        .and_then(|()| locked.set_len(pid.len() as u64));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(locked)
}
