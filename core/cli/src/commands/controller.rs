//! `tw controller`

use std::net::SocketAddr;
use std::process::ExitCode;

use crate::context::{Context, SOCKET};

/// Run a controller in the foreground
///
/// It keeps its store in the state folder and listens on a socket there; `tw dev` starts one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also listen on this loopback address, for callers with the token in STATE/controller.token
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// How long a machine may be silent before its tasks are placed elsewhere, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    lost_after: f64,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let state_dir = context.state_dir()?;
    std::fs::create_dir_all(&state_dir)?;
    crate::log::start("info");
    let socket = state_dir.join(SOCKET);
    let mut config = tw_controller::ControllerConfig::new(state_dir, socket);
    config.listen = args.listen;
    config.lost_after = std::time::Duration::from_secs_f64(args.lost_after.clamp(1.0, 3600.0));
    tw_controller::run(config, shutdown()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Completes when the process is asked to end.
async fn shutdown() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
