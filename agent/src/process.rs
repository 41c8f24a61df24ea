//! Who a process is. A pid is used again; boot id, cgroup id, pidfd inode and start time together are not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::kernel_file;

/// Which process of which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub boot_id: String,
    pub pid: i32,
    /// Inode of a pidfd of it: unique since boot on kernels with pidfs (6.9), one for all before.
    pub pidfd_inode: u64,
    /// Clock ticks between boot and its start.
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// Looks at a process of the calling process's pid namespace.
    pub fn of_pid(pid: i32) -> io::Result<ProcessIdentity> {
        let handle = open(pid)?;
        ProcessIdentity::of_handle(pid, &handle)
    }

    fn of_handle(pid: i32, handle: &OwnedFd) -> io::Result<ProcessIdentity> {
        Ok(ProcessIdentity {
            boot_id: boot_id()?,
            pid,
            pidfd_inode: rustix::fs::fstat(handle.as_fd())?.st_ino,
            start_ticks: start_ticks(pid)?,
        })
    }

    /// The calling process.
    pub fn of_self() -> io::Result<ProcessIdentity> {
        ProcessIdentity::of_pid(std::process::id().cast_signed())
    }

    /// A handle on exactly this process; none when it has gone, whoever has its pid now.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let handle = match open(self.pid) {
            Ok(handle) => handle,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match ProcessIdentity::of_handle(self.pid, &handle) {
            Ok(found) => Ok((found == *self).then_some(handle)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(&self) -> io::Result<bool> {
        let Some(handle) = self.open()? else {
            return Ok(false);
        };
        let mut polled = [rustix::event::PollFd::new(
            &handle,
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(rustix::event::poll(&mut polled, Some(&now))? == 0)
    }
}

/// The wall clock, in microseconds since 1970.
pub fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}

/// The time since boot in milliseconds, the machine's sleep included. Nobody can set it.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

/// Names this boot of this kernel.
pub fn boot_id() -> io::Result<String> {
    // A process does not outlive the boot.
    static READ: OnceLock<String> = OnceLock::new();
    if let Some(id) = READ.get() {
        return Ok(id.clone());
    }
    let text = kernel_file::read("/proc/sys/kernel/random/boot_id")?;
    Ok(READ.get_or_init(|| text.trim().to_owned()).clone())
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other(format!("{pid} is not a pid")))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Field 22 of `/proc/PID/stat`, counted behind the command's name, which may hold anything.
fn start_ticks(pid: i32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = kernel_file::read(&path)?;
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields);
    let ticks = fields.and_then(|fields| fields.split(' ').nth(19)?.parse().ok());
    ticks.ok_or_else(|| io::Error::other(format!("{path} holds no start time")))
}
