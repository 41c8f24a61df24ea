//! Seals a child: limits, no new privileges, Landlock, and a short list of system calls.
//!
//! A call that is not on the list ends the child at once, so no `except` in a spec can hide it. The kernel
//! raises SIGSYS instead of making the call; the handler sends one frame that names the call, and exits.
//! After the seal the handler cannot be replaced, for `rt_sigaction` is not on the list.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};

use anyhow::Context;
use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreated, RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{dup2_raw, getppid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::message::Request;

/// Where a child finds its socket.
pub(crate) const SOCKET: RawFd = 3;

/// Seconds of processor time between the signal that names the line and the one that kills.
const CPU_GRACE_S: u64 = 1;

/// Calls that only compute, or speak on the one socket that is open.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
];

/// Calls that are allowed as long as they make no memory executable: their third argument is the protection.
const ALLOWED_WITHOUT_EXEC: &[libc::c_long] = &[libc::SYS_mmap, libc::SYS_mprotect];

/// What every child is sealed with, made once in the zygote.
pub(crate) struct Seal {
    program: BpfProgram,
    landlock: Option<RulesetCreated>,
}

impl Seal {
    pub(crate) fn new() -> anyhow::Result<Seal> {
        Ok(Seal {
            program: program()?,
            landlock: landlock_rules(),
        })
    }

    /// Whether the kernel enforces Landlock.
    pub(crate) fn has_landlock(&self) -> bool {
        self.landlock.is_some()
    }

    /// Seals the calling process for good. `socket` becomes descriptor 3; every other descriptor is closed.
    pub(crate) fn close(
        self,
        zygote: nix::unistd::Pid,
        socket: OwnedFd,
        request: &Request,
    ) -> anyhow::Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != zygote {
            anyhow::bail!("the zygote is gone");
        }
        name_denied_calls()?;
        limit(request)?;
        prctl::set_no_new_privs()?;
        if let Some(rules) = self.landlock {
            let status = rules.restrict_self().context("Landlock")?;
            if status.ruleset == RulesetStatus::NotEnforced {
                anyhow::bail!("the kernel did not enforce Landlock");
            }
        }
        keep_only(socket)?;
        seccompiler::apply_filter(&self.program).context("seccomp")?;
        Ok(())
    }
}

fn program() -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    for call in ALLOWED_WITHOUT_EXEC {
        let exec = libc::PROT_EXEC as u64;
        let no_exec =
            SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(exec), 0)?;
        rules.insert(*call, vec![SeccompRule::new(vec![no_exec])?]);
    }
    let architecture = std::env::consts::ARCH
        .try_into()
        .context("seccomp on this processor")?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        architecture,
    )?;
    Ok(filter.try_into()?)
}

/// Makes a rule set that handles everything and allows nothing; none where the kernel has no Landlock.
fn landlock_rules() -> Option<RulesetCreated> {
    const NEWEST: ABI = ABI::V6;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(|rules| rules.create())
        .ok()?;
    let descriptor: Option<OwnedFd> = rules.try_clone().ok()?.into();
    descriptor.map(|_| rules)
}

fn limit(request: &Request) -> nix::Result<()> {
    setrlimit(
        Resource::RLIMIT_AS,
        request.memory_bytes,
        request.memory_bytes,
    )?;
    setrlimit(
        Resource::RLIMIT_CPU,
        request.cpu_s,
        request.cpu_s + CPU_GRACE_S,
    )?;
    for none in [
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_NPROC,
    ] {
        setrlimit(none, 0, 0)?;
    }
    Ok(())
}

/// Leaves the child one descriptor, its socket, and no room for another.
fn keep_only(socket: OwnedFd) -> anyhow::Result<()> {
    // SAFETY: descriptor 3 is about to be owned by the child's host module alone; whatever the zygote
    // held there is not used in the child any more.
    let kept = unsafe { dup2_raw(&socket, SOCKET) }?;
    std::mem::forget(kept);
    // Closed with all others below, unless it stood there already.
    std::mem::forget(socket);
    for (first, last) in [(0, SOCKET as u32 - 1), (SOCKET as u32 + 1, u32::MAX)] {
        // SAFETY: closes descriptors of this process; the owners of those were made in the zygote and are
        // never used nor dropped in the child, which leaves through `_exit`.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            return Err(std::io::Error::last_os_error()).context("close_range");
        }
    }
    setrlimit(
        Resource::RLIMIT_NOFILE,
        SOCKET as u64 + 1,
        SOCKET as u64 + 1,
    )?;
    Ok(())
}

fn name_denied_calls() -> nix::Result<()> {
    let action = SigAction::new(
        SigHandler::SigAction(on_denied_call),
        SaFlags::SA_SIGINFO,
        SigSet::all(),
    );
    // SAFETY: the handler calls nothing but `write` and `_exit`, which are safe in a handler.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

/// Sends `{"denied":NNNN}` as a frame and ends the process.
extern "C" fn on_denied_call(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    /// Where `si_syscall` stands in a `siginfo_t` of a 64-bit kernel: after three ints, padding and an address.
    const CALL_OFFSET: usize = 24;
    let mut frame = *b"\0\0\0\x0f{\"denied\":    }";
    // SAFETY: the kernel hands over a complete siginfo, and for SIGSYS this field is in it.
    let mut call = unsafe {
        info.cast::<u8>()
            .add(CALL_OFFSET)
            .cast::<i32>()
            .read_unaligned()
    };
    for digit in frame[14..18].iter_mut().rev() {
        *digit = b'0' + (call % 10) as u8;
        call /= 10;
        if call == 0 {
            break;
        }
    }
    // SAFETY: writes from a buffer of this function to the child's own socket, then ends the process.
    unsafe {
        libc::write(SOCKET, frame.as_ptr().cast(), frame.len());
        libc::_exit(71)
    }
}
