//! `tw controller`

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tw_scheduler::{ConfirmRule, StopLimits};

use crate::context::{Context, SOCKET};

/// Run a controller in the foreground
///
/// It keeps its store in the state folder and listens on a socket there; `tw dev` starts one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also listen on this loopback address, for callers with the token in STATE/controller.token
    #[arg(long, env = "TW_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// How long a machine may be silent before its tasks are placed elsewhere, in seconds [default: 10]
    #[arg(long, env = "TW_LOST_AFTER", value_name = "SECONDS")]
    lost_after: Option<f64>,
    /// How many tasks may be stopped at once, and how many a second after that, of one job and of all together
    /// [default: 100,20,300,50]
    #[arg(long, value_name = "JOB,JOB/S,ALL,ALL/S")]
    stop_limits: Option<StopLimits>,
    /// A change that ends a larger share of all tasks has to be confirmed [default: 30%]
    #[arg(long, value_name = "PERCENT")]
    confirm_share: Option<ConfirmRule>,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let state_dir = context.state_dir()?;
    std::fs::create_dir_all(&state_dir)?;
    crate::log::start("info");
    let socket = state_dir.join(SOCKET);
    let mut config = tw_controller::ControllerConfig::new(state_dir, socket);
    let file = context.config();
    config.listen = args.listen.or(file.listen);
    config.repositories = file.repositories.clone();
    let lost_after = args
        .lost_after
        .map(|seconds| Duration::from_secs_f64(seconds.clamp(1.0, 3600.0)));
    if let Some(lost_after) = lost_after.or(file.lost_after) {
        config.lost_after = lost_after;
    }
    config.stop_limits = args.stop_limits.or(file.stop_limits).unwrap_or_default();
    config.confirm = args.confirm_share.or(file.confirm).unwrap_or_default();
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
