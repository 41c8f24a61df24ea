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

/// What a kept child may call, on its socket alone: nothing that changes what memory it has, nor anything else that would
/// stay. Besides, it may end.
const ALLOWED_TO_KEPT: &[libc::c_long] = &[libc::SYS_sendmsg, libc::SYS_recvfrom];
const ALLOWED_AT_THE_END: &[libc::c_long] = &[libc::SYS_exit, libc::SYS_exit_group];

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
        let mut program = compiled(rules()?)?;
        for instruction in &mut program {
            if instruction.k == RET_TRACE | PLACEHOLDER {
                instruction.k = RET_USER_NOTIF;
            }
        }
        Ok(Filter(program))
    }

    /// The filter of kept children: whoever traces one is told of every other call, which is not made.
    pub(crate) fn of_kept() -> anyhow::Result<Filter> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in ALLOWED_TO_KEPT {
            rules.insert(*call, vec![SeccompRule::new(vec![on(SOCKET)?])?]);
        }
        rules.extend(ALLOWED_AT_THE_END.iter().map(|call| (*call, Vec::new())));
        Ok(Filter(compiled(rules)?))
    }

    /// Applies the filter to the calling process for good, where nobody asks to be told of calls.
    pub(crate) fn apply_traced(&self) -> io::Result<()> {
        self.install(0).map(drop)
    }

    /// Applies the filter to the calling process for good. Returns the descriptor on which whoever holds it
    /// is told of every other call, and decides what comes of it.
    pub(crate) fn apply(&self) -> io::Result<OwnedFd> {
        let descriptor = self.install(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        // SAFETY: the kernel has just made this descriptor for this process.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Returns what the kernel does: with a listener its descriptor, otherwise zero.
    fn install(&self, flags: libc::c_ulong) -> io::Result<RawFd> {
        let program = libc::sock_fprog {
            len: self.0.len() as libc::c_ushort,
            filter: self.0.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the program is a complete one whose instructions outlive the call; `sock_filter` of the
        // crate has the kernel's layout.
        let returned = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        };
        if returned < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(returned as RawFd)
    }
}

/// The program that allows what the rules say.
fn compiled(rules: BTreeMap<i64, Vec<SeccompRule>>) -> anyhow::Result<BpfProgram> {
    let architecture = std::env::consts::ARCH
        .try_into()
        .context("seccomp on this processor")?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trace(PLACEHOLDER),
        SeccompAction::Allow,
        architecture,
    )?;
    Ok(filter.try_into()?)
}

/// That the first argument is this descriptor.
fn on(descriptor: RawFd) -> anyhow::Result<SeccompCondition> {
    Ok(SeccompCondition::new(
        0,
        Dword,
        SeccompCmpOp::Eq,
        descriptor as u64,
    )?)
}

fn rules() -> anyhow::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
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
