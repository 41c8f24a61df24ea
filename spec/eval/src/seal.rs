//! Seals a child: another user, limits, no clock, Landlock, and a short list of system calls.
//!
//! A call that is not on the list is not made. The kernel stops the child and tells the zygote, which holds the
//! other end of the filter: nothing that happens in the child can take that back. See [`crate::watch`].
//!
//! A child that is kept has a shorter list, and is traced: see [`crate::kept`].
//!
//! Descriptors of a sealed child: 3 is its socket, with `send` and `recv` and nothing else; 0 to 2 are a pipe to
//! itself, which a signal handler fills with the interpreter's account of where it was.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::Context;
use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreated, RulesetStatus, Scope,
};
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, getpid, getppid, setgroups, setresgid, setresuid};

use crate::clock::{self, KernelPages};
use crate::filter::Filter;
use crate::message::Limits;
use crate::{faults, watch};

/// The pipe of a child to itself, in the places of standard input and error.
pub(crate) const NOTES_OUT: RawFd = 0;
pub(crate) const NOTES_IN: RawFd = 2;
const NOTES_IN_TOO: RawFd = 1;
/// Where a child finds its socket.
pub(crate) const SOCKET: RawFd = 3;
/// Where a child briefly holds the socket to the zygote's watch; the filter's other end comes after it.
pub(crate) const WATCH: RawFd = 4;

/// The limit of descriptors. The kernel holds against it all that processes of the same user have on the way to each
/// other, and a child's filter goes that way to the zygote: a limit of the few descriptors that a child has would fail it
/// whenever some others are being sealed. What keeps descriptors from being made is the filter.
const DESCRIPTORS_MAX: u64 = 4096;

/// Processor time past the limit after which the kernel kills, whatever the child's handlers do.
const CPU_GRACE_S: u64 = 2;

/// How far the stack of a kept child may grow. All of that is looked through after each job.
pub(crate) const KEPT_STACK_BYTES: u64 = 8 << 20;

/// Who a child is when the zygote is root.
const NOBODY: u32 = 65_534;

/// What every child is sealed with, made once in the zygote.
pub(crate) struct Seal {
    filter: Filter,
    filter_of_kept: Filter,
    clock: KernelPages,
    landlock: Option<RulesetCreated>,
}

impl Seal {
    pub(crate) fn new() -> anyhow::Result<Seal> {
        Ok(Seal {
            filter: Filter::new()?,
            filter_of_kept: Filter::of_kept()?,
            clock: KernelPages::find().context("/proc/self/maps")?,
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
        watch: &OwnedFd,
        socket: &OwnedFd,
        limits: &Limits,
    ) -> anyhow::Result<()> {
        let child = getpid();
        let Seal {
            filter,
            clock,
            landlock,
            ..
        } = self;
        become_another(zygote)?;
        prctl::set_dumpable(false)?;
        restrict(limits, landlock)?;
        arrange_descriptors(socket, Some(watch))?;
        faults::catch(limits.cpu_ms).context("signal handlers")?;
        clock::stop(clock).context("the clock")?;
        let notifications = filter.apply().context("seccomp")?;
        watch::hand_over(WATCH, child, notifications).context("the zygote's watch")
    }

    /// As [`Seal::close`], of a child that is traced and does one job after the other. Whatever it is not allowed to do
    /// stops it, and so does each signal: there are no handlers. What its processor time may be is left to its deadline.
    ///
    /// Without root it can be read by processes of the same user, as it must be by the zygote.
    pub(crate) fn close_kept(
        self,
        zygote: nix::unistd::Pid,
        socket: &OwnedFd,
        limits: &Limits,
    ) -> anyhow::Result<()> {
        let Seal {
            filter_of_kept,
            clock,
            landlock,
            ..
        } = self;
        become_another(zygote)?;
        restrict(limits, landlock)?;
        let (soft, hard) = getrlimit(Resource::RLIMIT_STACK)?;
        setrlimit(Resource::RLIMIT_STACK, soft.min(KEPT_STACK_BYTES), hard)?;
        arrange_descriptors(socket, None)?;
        // Pages that the kernel makes into a large one behind the child's back could be written to without a fault.
        prctl::set_thp_disable(true).context("large pages")?;
        clock::stop(clock).context("the clock")?;
        filter_of_kept.apply_traced().context("seccomp")
    }
}

/// Gives up root and the wish to outlive the zygote.
fn become_another(zygote: nix::unistd::Pid) -> anyhow::Result<()> {
    become_nobody().context("nobody")?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != zygote {
        anyhow::bail!("the zygote is gone");
    }
    Ok(())
}

fn restrict(limits: &Limits, landlock: Option<RulesetCreated>) -> anyhow::Result<()> {
    limit(limits)?;
    prctl::set_no_new_privs()?;
    if let Some(rules) = landlock {
        let status = rules.restrict_self().context("Landlock")?;
        if status.ruleset == RulesetStatus::NotEnforced {
            anyhow::bail!("the kernel did not enforce Landlock");
        }
    }
    Ok(())
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

/// Gives up root, where there is any to give up.
fn become_nobody() -> nix::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

fn limit(limits: &Limits) -> nix::Result<()> {
    let cpu_s = limits.cpu_ms.div_ceil(1000) + CPU_GRACE_S;
    for (resource, limit) in [
        (Resource::RLIMIT_AS, limits.memory_bytes),
        (Resource::RLIMIT_CPU, cpu_s),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Leaves the child its socket, a pipe to itself, and for a moment the way to the zygote's watch, if it needs that.
fn arrange_descriptors(socket: &OwnedFd, watch: Option<&OwnedFd>) -> anyhow::Result<()> {
    // Far above the places to be filled, so that filling one does not close another.
    let socket = above(socket).context("the socket")?;
    let watch = watch.map(above).transpose().context("the watch")?;
    let (notes_out, notes_in) = nix::unistd::pipe2(OFlag::O_NONBLOCK).context("pipe2")?;
    let (notes_out, notes_in) = (moved_up(notes_out)?, moved_up(notes_in)?);
    let kept = [
        (socket, SOCKET),
        (notes_out, NOTES_OUT),
        (notes_in, NOTES_IN),
        (notes_in, NOTES_IN_TOO),
    ];
    let watch = watch.map(|watch| (watch, WATCH));
    let first_closed = if watch.is_some() { WATCH + 1 } else { WATCH };
    for (held, place) in kept.into_iter().chain(watch) {
        // SAFETY: the places belong to nobody in the child, which uses nothing the zygote held there.
        if unsafe { libc::dup2(held, place) } < 0 {
            return Err(std::io::Error::last_os_error()).context("dup2");
        }
    }
    // SAFETY: closes descriptors of this process; the owners of those were made in the zygote and are never
    // used nor dropped in the child, which leaves through `_exit`.
    if unsafe { libc::syscall(libc::SYS_close_range, first_closed as u32, u32::MAX, 0) } != 0 {
        return Err(std::io::Error::last_os_error()).context("close_range");
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let descriptors = hard.min(DESCRIPTORS_MAX);
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    Ok(())
}

/// As [`above`], closing the original.
fn moved_up(descriptor: OwnedFd) -> anyhow::Result<RawFd> {
    above(&descriptor)
}

/// A copy of a descriptor in the upper half of what is possible.
fn above(descriptor: &OwnedFd) -> anyhow::Result<RawFd> {
    /// More than a zygote has of itself.
    const HIGH: libc::c_int = 512;
    // SAFETY: a plain system call on a descriptor that is open.
    let copy = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH) };
    if copy < 0 {
        return Err(std::io::Error::last_os_error()).context("fcntl");
    }
    Ok(copy)
}
