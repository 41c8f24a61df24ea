//! The service: owns the store and the scheduler's state, and serves people, agents and pages.
//!
//! One task, the driver, decides; everything that leaves is read from rows that are durable. Agents and
//! people come in over a Unix socket, or over a port of this machine with a token.

mod app;
mod caller;
mod clock;
mod config;
mod control;
mod driver;
mod error;
mod follow;
mod hub;
mod listen;
mod pages;
mod pass;
mod random;
mod registry;
mod reply;
mod routes;
mod scale;
mod secrets;
mod server;
mod sessions;
mod status;
mod token;
mod usage;
mod view;

use std::fs::{DirBuilder, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Plans, as `/v1/plan` answers them.
pub mod plan {
    pub use tw_scheduler::{Destruction, Drift, DriftKind, JobPlan, Plan, TaskCounts, Verdict};
}

pub use config::{ControllerConfig, RepositoryConfig, token_path};
pub use error::{RecordsError, RunError};

use app::{App, Stopping};
use driver::Core;
use follow::{Follow, Followers};
use hub::Hub;
use listen::Socket;
use pass::{Door, Passes};
use registry::Registry;
use scale::Scales;
use secrets::Secrets;
use sessions::Sessions;
use token::Token;
use usage::UsageLog;
use view::View;

/// The time between two looks for packages that are not needed.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// How long a package stays that no version names: between its upload and the apply, or for the next one.
const PACKAGE_UNUSED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Runs a controller until `shutdown` completes, or until it cannot go on.
///
/// Needs a runtime with timers and I/O. Dropping the future stops everything at once; what was acknowledged
/// is durable.
pub async fn run(
    config: ControllerConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    Controller::start(config).await?.run(shutdown).await
}

/// A controller that has recovered and listens, and does not answer yet.
pub struct Controller {
    socket: Socket,
    tcp: Option<TcpListener>,
    /// A port for browsers that is opened later.
    doors: mpsc::Receiver<TcpListener>,
    hub: Arc<Hub>,
    core: Core,
    app: Arc<App>,
    followers: Followers,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Controller {
    /// Opens the state folder, recovers, and begins to listen.
    ///
    /// Refuses a damaged store, rows of a newer release, a folder or socket in use, and addresses that
    /// other machines could reach.
    pub async fn start(config: ControllerConfig) -> Result<Controller, RunError> {
        make_private(&config.state_dir)?;
        let store = driver::open_store(&config).await?;
        let hub = Arc::new(Hub::new());
        let (driver, core) = driver::start(&config, store, Arc::clone(&hub)).await?;
        let registry = Registry::open(config.packages_path(), config.package_bytes_max)?;
        let registry = Arc::new(registry);
        let secrets = Arc::new(Secrets::open(config.secrets_path())?);
        let (follow, followers) = Follow::new(
            &config,
            driver.clone(),
            Arc::clone(&hub),
            Arc::clone(&registry),
            Arc::clone(&secrets),
        );
        let usage = UsageLog::open(&config.history_path())?;
        let token = Token::load(&config.token_path())?;
        let tcp = match config.listen {
            Some(address) => Some(listen::bind_loopback(address).await?),
            None => None,
        };
        let (door, doors) = Door::new(tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()));
        let socket = Socket::bind(&config.socket).await?;
        let (stop, stopping) = Stopping::channel();
        let app = Arc::new(App {
            sessions: Sessions::new(Arc::clone(&hub), config.dial_timeout),
            hub: Arc::clone(&hub),
            driver,
            registry,
            secrets,
            usage,
            follow,
            passes: Passes::default(),
            door,
            token,
            heartbeat_every: config.heartbeat_every,
            stopping,
        });
        tracing::info!(socket = %config.socket.display(), "the controller is ready");
        Ok(Controller {
            socket,
            tcp,
            doors,
            hub,
            core,
            app,
            followers,
            stop,
        })
    }

    /// The TCP address that is listened on; where port 0 was asked for, the port that was found.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Serves until `shutdown` completes, or until the store can no longer be used.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let Controller {
            socket,
            tcp,
            doors,
            hub,
            core,
            app,
            followers,
            stop,
        } = self;
        let stopping = app.stopping.clone();
        let sweeper = sweep(Arc::clone(&app.registry), Arc::clone(&hub));
        let control = control::run(Arc::clone(&app));
        let scales = Scales::new(Arc::clone(&hub), app.driver.clone(), app.usage.clone());
        let router = routes::router(app);
        let server = server::serve(&socket.listener, tcp, doors, router, stopping);
        let stop = async {
            shutdown.await;
            tracing::info!("the controller stops");
            // Nobody may be listening any more.
            let _ = stop.send(true);
            hub.close();
        };
        tokio::select! {
            // Requests under way still get their answers: the core goes on until the server has ended.
            _ = futures_util::future::join(server, stop) => Ok(()),
            ended = core.run() => ended,
            () = sweeper => Ok(()),
            () = followers.run() => Ok(()),
            () = control => Ok(()),
            () = scales.run() => Ok(()),
        }
    }
}

/// Removes packages that are not needed any more, for ever.
async fn sweep(registry: Arc<Registry>, hub: Arc<Hub>) {
    loop {
        let named = hub.read(View::packages);
        let registry = Arc::clone(&registry);
        let swept =
            tokio::task::spawn_blocking(move || registry.sweep(&named, PACKAGE_UNUSED_FOR)).await;
        match swept {
            Ok(Ok(0)) => {}
            Ok(Ok(removed)) => tracing::info!(removed, "removed packages that nobody needs"),
            Ok(Err(cause)) => tracing::warn!(%cause, "packages cannot be removed"),
            Err(cause) => tracing::error!(%cause, "removing packages failed"),
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// Makes the state folder, which only its owner may enter.
fn make_private(folder: &Path) -> Result<(), RunError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(RunError::io("creating", folder))?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))
        .map_err(RunError::io("protecting", folder))
}
