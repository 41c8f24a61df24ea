//! The one wrapper around `clone3`, which no library here offers with a cgroup and a pidfd.
//!
//! A copy of a process costs several times a process that shares its maker's memory: page tables are copied, each page
//! that either side writes is copied, and all of it is torn down again. So the short-lived steps of a start share
//! memory ([`share_memory`]), one at a time, each on a stack of its own.

use std::arch::asm;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

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

/// The stack of a process that shares memory with another: more than the deepest start takes.
const STACK_BYTES: usize = 256 << 10;

/// A stack with a page below it that nobody can touch, so that one that overflows ends its process.
#[derive(Debug)]
pub(super) struct Stack {
    lowest: *mut libc::c_void,
}

/// The largest page of the machines that this runs on.
const GUARD_BYTES: usize = 64 << 10;

impl Stack {
    pub(super) fn new() -> io::Result<Stack> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let lowest = unsafe {
            libc::mmap(
                ptr::null_mut(),
                GUARD_BYTES + STACK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        if lowest == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack { lowest };
        // SAFETY: the guard is the lower part of the mapping that was just made.
        match unsafe { libc::mprotect(lowest, GUARD_BYTES, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One past its highest byte, as aligned as a page.
    fn top(&self) -> u64 {
        (self.lowest.addr() + GUARD_BYTES + STACK_BYTES) as u64
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and whoever ran on it has ended or has a memory of its own by now.
        unsafe { libc::munmap(self.lowest, GUARD_BYTES + STACK_BYTES) };
    }
}

/// Starts `work` in a new process that shares the calling process's memory, but none of its descriptors unless the
/// flags say so, on `stack`; answers its pid. With CLONE_VFORK the caller waits until the child has begun another
/// program or has ended.
///
/// # Safety
/// The process must have one thread only. While both run, one of the two may only make plain system calls and end with
/// `_exit`, as the two would not see each other's locks; and the caller must neither change nor free `stack` or what
/// `work` uses. `work` must end with `_exit` or `exec`.
pub(super) unsafe fn share_memory<F: FnOnce() -> Never>(
    request: &CloneRequest<'_>,
    stack: &Stack,
    work: F,
) -> io::Result<i32> {
    /// Runs on the new stack.
    unsafe extern "C" fn begin<F: FnOnce() -> Never>(work: *mut ManuallyDrop<F>) -> ! {
        // SAFETY: the maker has left the closure there for this process alone, and does not use it again.
        let work = unsafe { ManuallyDrop::take(&mut *work) };
        match work() {}
    }
    let is_sibling = request.flags & libc::CLONE_PARENT as u64 != 0;
    let signal = if is_sibling { 0 } else { libc::SIGCHLD as u64 };
    let flags = request.flags | libc::CLONE_VM as u64;
    // The newer call for what the older one cannot do: a system call filter may refuse it.
    let args = request.cgroup.map(|directory| libc::clone_args {
        flags: flags | CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: signal,
        stack: stack.top() - STACK_BYTES as u64,
        stack_size: STACK_BYTES as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: directory.as_raw_fd() as u64,
    });
    let (call, first, second) = match &args {
        Some(args) => (
            libc::SYS_clone3,
            ptr::from_ref(args).addr() as u64,
            size_of::<libc::clone_args>() as u64,
        ),
        None => (libc::SYS_clone, flags | signal, stack.top()),
    };
    // In memory that outlives this call, as the caller may go on before the child has taken it.
    let work = Box::into_raw(Box::new(ManuallyDrop::new(work)));
    let entry: unsafe extern "C" fn(*mut ManuallyDrop<F>) -> ! = begin::<F>;
    let pid: i64;
    // SAFETY: the arguments are those of the call, and `args` lives through it. The child begins behind the call with
    // its stack pointer at the top of a stack that nobody else uses, calls `entry` with `work`, and never comes back,
    // so that nothing of the calling function's frame is touched there.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {work}",
            "call {entry}",
            "ud2",
            "2:",
            work = in(reg) work,
            entry = in(reg) entry,
            inout("rax") call => pid,
            in("rdi") first,
            in("rsi") second,
            in("rdx") 0u64,
            in("r10") 0u64,
            in("r8") 0u64,
            out("rcx") _,
            out("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, {work}",
            "blr {entry}",
            "brk 1",
            "2:",
            work = in(reg) work,
            entry = in(reg) entry,
            inout("x0") first => pid,
            in("x1") second,
            in("x2") 0u64,
            in("x3") 0u64,
            in("x4") 0u64,
            in("x8") call,
        );
    }
    match pid {
        error @ ..0 => Err(io::Error::from_raw_os_error(-error as i32)),
        pid => Ok(pid as i32),
    }
}

/// What a process that does not come back answers.
pub(super) enum Never {}

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
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}
