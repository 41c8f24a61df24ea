//! The short list of system calls a sealed child may make.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::seal::{NOTES_IN, NOTES_OUT, SOCKET, WATCH};

/// Calls that only compute, or end.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls that are allowed on one descriptor, their first argument.
const ALLOWED_ON: &[(libc::c_long, RawFd)] = &[
    (libc::SYS_sendmsg, SOCKET),
    (libc::SYS_recvfrom, SOCKET),
    (libc::SYS_read, NOTES_OUT),
    (libc::SYS_write, NOTES_IN),
    // Closed before a spec runs, and nothing can take its place: no call that opens or copies is on the list.
    (libc::SYS_sendmsg, WATCH),
];

/// Calls that are allowed as long as they make no memory executable: their third argument is the protection.
const ALLOWED_WITHOUT_EXEC: &[libc::c_long] = &[libc::SYS_mmap, libc::SYS_mprotect];

/// What stands for "ask the supervisor" until the program is complete: the crate has no name for it.
const PLACEHOLDER: u32 = 0x7477;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// A compiled filter, which may be applied to any number of processes.
pub(crate) struct Filter(BpfProgram);

impl Filter {
    pub(crate) fn new() -> anyhow::Result<Filter> {
        let architecture = std::env::consts::ARCH
            .try_into()
            .context("seccomp on this processor")?;
        let filter = SeccompFilter::new(
            rules()?,
            SeccompAction::Trace(PLACEHOLDER),
            SeccompAction::Allow,
            architecture,
        )?;
        let mut program: BpfProgram = filter.try_into()?;
        for instruction in &mut program {
            if instruction.k == RET_TRACE | PLACEHOLDER {
                instruction.k = RET_USER_NOTIF;
            }
        }
        Ok(Filter(program))
    }

    /// Applies the filter to the calling process for good. Returns the descriptor on which whoever holds it
    /// is told of every other call, and decides what comes of it.
    pub(crate) fn apply(&self) -> io::Result<OwnedFd> {
        let program = libc::sock_fprog {
            len: self.0.len() as libc::c_ushort,
            filter: self.0.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the program is a complete one whose instructions outlive the call; `sock_filter` of the
        // crate has the kernel's layout.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for this process.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
    }
}

fn rules() -> anyhow::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let on =
        |descriptor: RawFd| SeccompCondition::new(0, Dword, SeccompCmpOp::Eq, descriptor as u64);
    for (call, descriptor) in ALLOWED_ON {
        let rule = SeccompRule::new(vec![on(*descriptor)?])?;
        rules.entry(*call).or_default().push(rule);
    }
    for call in ALLOWED_WITHOUT_EXEC {
        let exec = libc::PROT_EXEC as u64;
        let no_exec = SeccompCondition::new(2, Dword, SeccompCmpOp::MaskedEq(exec), 0)?;
        rules.insert(*call, vec![SeccompRule::new(vec![no_exec])?]);
    }
    let above_notes = SeccompCondition::new(0, Dword, SeccompCmpOp::Ge, WATCH as u64)?;
    rules.insert(libc::SYS_close, vec![SeccompRule::new(vec![above_notes])?]);
    Ok(rules)
}
