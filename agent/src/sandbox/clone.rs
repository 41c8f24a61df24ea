//! The one wrapper around `clone3`, which no library here offers with a cgroup and a pidfd.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// From linux/sched.h; libc's constant does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of the clone the caller woke up on.
pub(super) enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// How to clone.
pub(super) struct CloneRequest<'fd> {
    /// CLONE_NEW… and CLONE_PARENT.
    pub(super) flags: u64,
    /// The cgroup2 directory the child is born in.
    pub(super) cgroup: Option<BorrowedFd<'fd>>,
}

/// Splits the calling process as `fork` does, with `request`'s namespaces and cgroup.
///
/// # Safety
/// The process must have one thread only: the child is a copy of the calling thread and nothing else, so a
/// lock held by another thread would stay locked for ever. The child must end with `_exit` or `exec`.
pub(super) unsafe fn clone3(request: &CloneRequest<'_>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let into_cgroup = request.cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
    let is_sibling = request.flags & libc::CLONE_PARENT as u64 != 0;
    let mut args = libc::clone_args {
        flags: request.flags | libc::CLONE_PIDFD as u64 | into_cgroup,
        pidfd: (&raw mut pidfd).addr() as u64,
        child_tid: 0,
        parent_tid: 0,
        // The kernel takes the launcher's own exit signal for a sibling and refuses any other.
        exit_signal: if is_sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: request
            .cgroup
            .map_or(0, |directory| directory.as_raw_fd() as u64),
    };
    // SAFETY: `args` is a valid clone_args of the size given; without CLONE_VM the child runs on its own
    // copy of this stack, so no memory is shared; the caller vouches for there being one thread.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: pid as i32,
            // SAFETY: with CLONE_PIDFD the kernel has stored a new descriptor there, which nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Which side of a [`fork`] the caller woke up on.
#[derive(Debug)]
pub enum Fork {
    /// The child's pid and a pidfd of it.
    Parent {
        pid: i32,
        process: OwnedFd,
    },
    Child,
}

/// Splits the calling process, with a handle on the child that no other process can be mistaken for.
///
/// # Safety
/// The process must have one thread only.
pub unsafe fn fork() -> io::Result<Fork> {
    let request = CloneRequest {
        flags: 0,
        cgroup: None,
    };
    // SAFETY: the caller vouches for one thread.
    Ok(match unsafe { clone3(&request) }? {
        Cloned::Parent { pid, pidfd } => Fork::Parent {
            pid,
            process: pidfd,
        },
        Cloned::Child => Fork::Child,
    })
}

/// Ends the calling process at once, running no destructor and flushing nothing of the parent's.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}
