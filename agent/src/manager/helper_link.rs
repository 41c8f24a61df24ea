//! The agent's connection to a task's helper.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::failpoint;
use crate::helper::lock;
use crate::helper::protocol::{Hello, PROTO, PROTO_OLDEST, Reply, Request};
use crate::helper::record::{LAUNCH_FILE, SOCKET_FILE};
use crate::helper::spare::{HandedOver, SparePool};

/// How long a helper may take to say hello after its socket is there: as long as a sandbox may take to make.
const HELLO_WITHIN: Duration = Duration::from_secs(30);

/// How long a helper may take from its spawn to its lock on the folder.
const LOCKS_WITHIN: Duration = Duration::from_secs(2);

/// How long after a spare was taken the next is made. While that one's launcher joins groups of cgroup v1, the kernel lets no
/// process fork, and a start forks several: so it has the time to be through.
const REFILL_AFTER: Duration = Duration::from_millis(20);

pub(super) struct HelperLink {
    lines: Lines<BufReader<OwnedReadHalf>>,
    requests: OwnedWriteHalf,
    /// What the helper speaks.
    pub(super) proto: u32,
}

impl HelperLink {
    pub(super) async fn connect(folder: &Path) -> io::Result<HelperLink> {
        // A socket's path may have 107 bytes; the way through a descriptor is always short.
        let directory = File::open(folder)?;
        let stream = UnixStream::connect(format!(
            "/proc/self/fd/{}/{SOCKET_FILE}",
            directory.as_raw_fd()
        ))
        .await?;
        let (read, requests) = stream.into_split();
        let mut link = HelperLink {
            lines: BufReader::new(read).lines(),
            requests,
            proto: 1,
        };
        let hello = tokio::time::timeout(HELLO_WITHIN, link.lines.next_line()).await??;
        let hello: Hello = serde_json::from_str(&hello.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        link.proto = hello.proto;
        if hello.proto >= 2 {
            link.send(&Request::Agent { proto: PROTO }).await?;
        }
        match hello.proto >= PROTO_OLDEST {
            true => Ok(link),
            false => Err(io::Error::other(format!(
                "the helper speaks protocol {}, this agent {PROTO_OLDEST} and later",
                hello.proto
            ))),
        }
    }

    /// The helper's next word; none when it has gone. May be cancelled without loss.
    pub(super) async fn next(&mut self) -> io::Result<Option<Reply>> {
        match self.lines.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
            None => Ok(None),
        }
    }

    pub(super) async fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.requests.write_all(&line).await
    }
}

/// Connects to the helper that an earlier agent started; none when no helper lives. One that is still
/// starting is waited for.
pub(super) async fn find(folder: &Path) -> Option<HelperLink> {
    let deadline = tokio::time::Instant::now() + HELLO_WITHIN;
    while tokio::time::Instant::now() < deadline {
        if let Ok(link) = HelperLink::connect(folder).await {
            return Some(link);
        }
        // A helper that was spawned a moment ago may not hold its lock yet. Whoever takes the task's end
        // down does that under the lock, so that it cannot begin after.
        if !launched_just_now(folder) && lock(folder).is_ok() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

fn launched_just_now(folder: &Path) -> bool {
    let written = std::fs::metadata(folder.join(LAUNCH_FILE)).and_then(|found| found.modified());
    written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LOCKS_WITHIN))
}

/// Gives the task in `folder`, with its secrets, to a helper and connects to it; it outlives this process.
pub(super) async fn start(
    spares: &Arc<SparePool>,
    folder: &Path,
    secrets: Option<BorrowedFd<'_>>,
) -> io::Result<HelperLink> {
    let HandedOver {
        pid,
        process,
        listening,
    } = spares.start(folder, secrets)?;
    clean_up_after(pid, process, Arc::clone(spares))?;
    failpoint::reach("agent.helper_spawned");
    refill_soon(Arc::clone(spares));
    listening.set_nonblocking(true)?;
    // End of file means that it will not listen; connecting says why.
    let _listens = UnixStream::from_std(listening)?.read_u8().await;
    let link = HelperLink::connect(folder).await;
    failpoint::reach("agent.helper_connected");
    link
}

/// Replaces a spare that was taken, once the start that took it is likely to be over.
fn refill_soon(spares: Arc<SparePool>) {
    tokio::spawn(async move {
        tokio::time::sleep(REFILL_AFTER).await;
        let refilled = tokio::task::spawn_blocking(move || spares.refill()).await;
        if let Ok(Err(cause)) = refilled {
            tracing::warn!(%cause, "cannot start spare helpers");
        }
    });
}

/// Removes, when the helper has ended, what it had reserved and has not given to its task.
fn clean_up_after(pid: i32, process: OwnedFd, spares: Arc<SparePool>) -> io::Result<()> {
    // SAFETY: the descriptor belongs to the registration and is closed after it, when both are dropped.
    let ended = unsafe { AsyncFd::register(process)? };
    tokio::spawn(async move {
        let _readable = ended.readable().await;
        let removed = tokio::task::spawn_blocking(move || spares.remove_cgroups_of(pid)).await;
        if let Ok(Err(cause)) = removed {
            tracing::warn!(%cause, "cannot remove what a helper has reserved");
        }
    });
    Ok(())
}
