//! Where callers come in: a Unix socket, and perhaps a port of this machine.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::error::RunError;

/// A listening Unix socket; its file goes with it.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens, in place of a socket on which nobody answers any more. Only the owner may connect.
    pub(crate) async fn bind(path: &Path) -> Result<Socket, RunError> {
        let io = |action| RunError::io(action, path);
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = path
            .file_name()
            .ok_or_else(|| io("listening at")(ErrorKind::InvalidInput.into()))?;
        fs::create_dir_all(folder).map_err(RunError::io("creating", folder))?;
        // Through the folder's descriptor, so that a path may be longer than a socket's address.
        let folder = File::open(folder).map_err(RunError::io("opening", folder))?;
        let short =
            PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).join(name);

        match UnixStream::connect(&short).await {
            Ok(_) => return Err(RunError::SocketInUse { path: path.into() }),
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) if cause.kind() == ErrorKind::ConnectionRefused => {
                tracing::info!(path = %path.display(), "replacing a socket that nobody answers on");
                fs::remove_file(&short).map_err(io("removing"))?;
            }
            Err(cause) => return Err(io("looking at")(cause)),
        }
        let listener = UnixListener::bind(&short).map_err(io("listening at"))?;
        fs::set_permissions(&short, Permissions::from_mode(0o600)).map_err(io("protecting"))?;
        Ok(Socket {
            listener,
            path: path.into(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_file(&self.path) {
            tracing::debug!(%cause, path = %self.path.display(), "the socket's file had gone");
        }
    }
}

/// Listens on a port that only this machine can reach.
pub(crate) async fn bind_loopback(address: SocketAddr) -> Result<TcpListener, RunError> {
    if !address.ip().is_loopback() {
        return Err(RunError::NotLoopback { address });
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_replaced_only_when_nobody_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(90)).join("y".repeat(90));
        let first = Socket::bind(&path).await.unwrap();
        assert!(matches!(
            Socket::bind(&path).await,
            Err(RunError::SocketInUse { .. })
        ));
        // As after a kill: the file stays and nobody listens.
        let stale = folder.path().join("stale");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        drop(Socket::bind(&stale).await.unwrap());
        assert!(!stale.exists());
        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_this_machine_is_listened_to() {
        let refused = bind_loopback("0.0.0.0:0".parse().unwrap()).await;
        assert!(matches!(refused, Err(RunError::NotLoopback { .. })));
    }
}
